"""The protobuf wire format, driven by the generated table in `schema`.

Importing `google.protobuf` and the generated modules costs more than everything else that `minictl service ls` does;
this codec reads the few messages a command needs at a fraction of that. A message class is made when it is first asked
for. The objects behave as protobuf's own do, as far as the CLI uses them, and are typed by protobuf's stubs (see
`messages`); tests compare the two byte by byte.

Model of a message: `_values` holds what was set or read. A sub-message that is only looked at is kept there too, but it
is not written unless it has content or was present on the wire.
"""

# ruff: noqa: N802  the names are protobuf's

from __future__ import annotations

from minictl.client.schema import ENUMS, MESSAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar

_VARINT = 0
_FIXED64 = 1
_BYTES = 2
_FIXED32 = 5

_MASK64 = (1 << 64) - 1
_SIGNED = ("int64", "int32", "enum")
_DEFAULTS: dict[str, object] = {"string": "", "bytes": b"", "bool": False}


class Malformed(ValueError):  # noqa: N818  the wire's fault, turned into a MiniError by the channel
    """The bytes are not a message of the expected type."""


class Field:
    """One field of a message: `kind` is a scalar's name, "enum", "message" or "map"."""

    __slots__ = ("entry", "kind", "message", "name", "number", "optional", "repeated")

    def __init__(self, text: str) -> None:
        """From a line of the schema: number, name and type; `*` repeated, `?` optional, `@` enum, `k>v` map."""
        number, self.name, kind = text.split(" ")
        self.number = int(number)
        self.repeated = kind[0] == "*"
        self.optional = kind[0] == "?"
        kind = kind.lstrip("*?")
        self.message = ""
        self.entry: tuple[Field, Field] | None = None
        if ">" in kind:
            key, value = kind.split(">")
            self.entry = (Field(f"1 key {key}"), Field(f"2 value {value}"))
            kind = "map"
        elif kind[0] == "@":
            kind = "enum"
        elif kind[0].isupper():
            self.message, kind = kind, "message"
        self.kind = kind

    def default(self) -> Any:
        """A new empty value for a field that is not set."""
        if self.kind == "map":
            return {}
        if self.repeated:
            return []
        if self.message:
            return message_class(self.message)()
        return _DEFAULTS.get(self.kind, 0)


class Message:
    """Base of the classes that `message_class` makes."""

    __slots__ = ("_present", "_values")
    _by_name: ClassVar[dict[str, Field]] = {}
    _by_number: ClassVar[dict[int, Field]] = {}

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_present", False)
        for name, value in values.items():
            if value is not None:
                self._assign(self._field(name), value)

    # --- attributes ---

    @classmethod
    def _field(cls, name: str) -> Field:
        field = cls._by_name.get(name)
        if field is None:
            raise AttributeError(f"{cls.__name__} has no field {name!r}")
        return field

    def __getattr__(self, name: str) -> Any:
        values = self._values
        if name in values:
            return values[name]
        field = self._field(name)
        value = field.default()
        if field.repeated or field.kind in ("map", "message"):
            values[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        field = self._field(name)
        if field.repeated or field.kind in ("map", "message"):
            raise AttributeError(f"{type(self).__name__}.{name} cannot be assigned; change it in place")
        self._values[name] = value
        object.__setattr__(
            self, "_present", True
        )  # a zero that is set is not a field that is not, as in protobuf

    def _assign(self, field: Field, value: Any) -> None:
        if field.repeated:
            target = field.default()
            target.extend(value)
            self._values[field.name] = target
        elif field.kind == "map":
            self._values[field.name] = dict(value)
        elif field.kind == "message":
            copy = type(value).FromString(value.SerializeToString())
            object.__setattr__(copy, "_present", True)
            self._values[field.name] = copy
        else:
            self._values[field.name] = value

    def HasField(self, name: str) -> bool:
        """Whether a message or optional field is set."""
        value = self._values.get(name)
        if isinstance(value, Message):
            return value._present or bool(value.SerializeToString())
        return name in self._values

    def ClearField(self, name: str) -> None:
        self._values.pop(name, None)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.SerializeToString() == other.SerializeToString()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"{type(self).__name__}({shown})"

    # --- the wire ---

    def SerializeToString(self) -> bytes:
        out = bytearray()
        for field in self._by_number.values():
            value = self._values.get(field.name)
            if value is not None:
                _write_field(out, field, value)
        return bytes(out)

    @classmethod
    def FromString(cls, data: bytes) -> Any:
        """The message that `data` spells. Raises Malformed."""
        message = cls()
        values = message._values
        by_number = cls._by_number
        for number, wire, raw in _records(memoryview(data)):
            field = by_number.get(number)
            if field is not None:
                _read_field(values, field, wire, raw)
        return message


_classes: dict[str, type[Message]] = {}


def message_class(name: str) -> type[Message]:
    """The class of the message that the schema calls `name`. Raises KeyError when there is none."""
    made = _classes.get(name)
    if made is None:
        fields = [Field(text) for text in MESSAGES[name].split(";") if text]
        body = {
            "__slots__": (),
            "_by_name": {field.name: field for field in fields},
            "_by_number": {field.number: field for field in fields},
        }
        made = _classes[name] = type(name, (Message,), body)
    return made


class Enum:
    """An enum's names by number, as protobuf's wrapper offers them."""

    __slots__ = ("_names",)

    def __init__(self, name: str) -> None:
        self._names = {number: label for label, number in ENUMS[name]}

    def Name(self, number: int) -> str:
        """The label of `number`. Raises ValueError when this version knows none."""
        try:
            return self._names[number]
        except KeyError:
            raise ValueError(f"unknown enum number {number}") from None


# --- writing ---


def _write_varint(out: bytearray, value: int) -> None:
    value &= _MASK64
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_bytes(out: bytearray, number: int, data: bytes) -> None:
    _write_varint(out, number << 3 | _BYTES)
    _write_varint(out, len(data))
    out += data


def _write_field(out: bytearray, field: Field, value: Any) -> None:
    if field.kind == "map":
        assert field.entry is not None
        for key, item in value.items():
            entry = bytearray()
            _write_scalar(entry, field.entry[0], key)
            _write_single(entry, field.entry[1], item)
            _write_bytes(out, field.number, bytes(entry))
    elif not field.repeated:
        if field.kind == "message":
            data = value.SerializeToString()
            if data or value._present:
                _write_bytes(out, field.number, data)
        elif value or field.optional:
            _write_scalar(out, field, value)
    elif field.kind in ("message", "string", "bytes"):
        for item in value:
            _write_single(out, field, item)
    elif value:
        packed = bytearray()
        for item in value:
            _write_varint(packed, int(item))
        _write_bytes(out, field.number, bytes(packed))


def _write_single(out: bytearray, field: Field, value: Any) -> None:
    if field.kind == "message":
        _write_bytes(out, field.number, value.SerializeToString())
    else:
        _write_scalar(out, field, value)


def _write_scalar(out: bytearray, field: Field, value: Any) -> None:
    if field.kind == "string":
        _write_bytes(out, field.number, value.encode())
    elif field.kind == "bytes":
        _write_bytes(out, field.number, value)
    else:
        _write_varint(out, field.number << 3 | _VARINT)
        _write_varint(out, int(value))


# --- reading ---


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & _MASK64, at
            shift += 7
            if shift > 63:
                raise Malformed("a number longer than 64 bits")
    except IndexError:
        raise Malformed("the message ends in the middle of a number") from None


def _records(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        raw: int | memoryview
        if wire == _VARINT:
            raw, at = _varint(data, at)
        else:
            if wire == _BYTES:
                size, at = _varint(data, at)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise Malformed(f"wire type {wire}")
            raw = data[at : at + size]
            at += size
            if at > end:
                raise Malformed("the message ends in the middle of a field")
        yield tag >> 3, wire, raw


def _read_field(values: dict[str, Any], field: Field, wire: int, raw: Any) -> None:
    if field.kind == "map":
        assert field.entry is not None
        entry = {part.number: part.default() for part in field.entry}
        for number, part_wire, part in _records(raw):
            if number in entry:
                entry[number] = _single(field.entry[number - 1], part_wire, part)
        values.setdefault(field.name, {})[entry[1]] = entry[2]
    elif not field.repeated:
        values[field.name] = _single(field, wire, raw)
    else:
        items = values.get(field.name)
        if items is None:
            items = values[field.name] = field.default()
        if wire == _BYTES and field.kind not in ("message", "string", "bytes"):
            at = 0
            while at < len(raw):
                number, at = _varint(raw, at)
                items.append(_number(field.kind, number))
        else:
            items.append(_single(field, wire, raw))


def _single(field: Field, wire: int, raw: Any) -> Any:
    if wire == _VARINT and field.kind not in ("message", "string", "bytes"):
        return _number(field.kind, raw)
    if wire != _BYTES or field.kind not in ("message", "string", "bytes"):
        raise Malformed(f"field {field.name} has wire type {wire}")
    if field.kind == "string":
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"field {field.name} is not UTF-8") from None
    if field.kind == "bytes":
        return bytes(raw)
    message = message_class(field.message).FromString(raw)
    object.__setattr__(message, "_present", True)
    return message


def _number(kind: str, value: int) -> int | bool:
    if kind == "bool":
        return value != 0
    if kind == "uint32":
        return value & 0xFFFFFFFF
    if kind in ("int32", "enum"):
        value &= 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value
    if kind == "int64" and value >> 63:
        return value - (1 << 64)
    return value
