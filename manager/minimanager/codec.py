"""Domain values to protobuf and back.

The dataclasses of `minimanager.domain.objects` and the messages of `miniproto/v1/objects.proto` have the same names
and fields; a test compares the two. So nothing here knows a single class: each pair is compiled once, by reflection,
into one encoder and one decoder, and after that a conversion looks nothing up.

What is absent in a message has the dataclass's default when it is a message itself (a service spec without a restart
policy restarts as Swarm does) and is zero or empty when it is a scalar, for which proto3 cannot tell the difference.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import IntEnum
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from minicommon.errors import InvalidArgumentError, MiniError
from miniproto.v1 import objects_pb2

from minimanager.domain import objects
from minimanager.domain.objects import Object
from minimanager.store.keys import CLASSES, Kind

_Convert = Callable[[Any], Any]
_Class = Any
"""A dataclass of `domain.objects`. (Not `type[Any]`: typeshed does not count that as hashable.)"""

_SHARED: Final = frozenset({objects.TaskSpec})
"""Values that thousands of objects have in common: decoded once, then shared, which is faster and far smaller."""

_SHARED_VALUES: Final = 4096
"""How many distinct shared values are kept at most, per class."""


class CorruptError(MiniError):
    """Stored bytes are not what this version writes: they were damaged, or a later version wrote them."""


def encode(obj: Object) -> bytes:
    """The bytes that the store keeps; `meta.version` is 0 in them, since the store itself knows it."""
    message = _to_message(obj)
    message.meta.version = 0
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def decode(kind: Kind, data: bytes, version: int) -> Object:
    """The object in `data`, with `version`, the revision of its last change, in its `meta`.

    Raises CorruptError.
    """
    cls: _Class = CLASSES[kind]
    message = _message_class(cls)()
    try:
        message.ParseFromString(data)
        message.meta.version = version
        decoded: Object = _decoder(cls)(message)
    except (DecodeError, InvalidArgumentError) as error:
        raise CorruptError(f"{kind.value}: the stored bytes cannot be read: {error}") from error
    return decoded


def to_proto(value: Any) -> Any:
    """The message for a dataclass of `domain.objects`, nested ones such as `ServiceSpec` too."""
    return _to_message(value)


def from_proto(message: Any) -> Any:
    """The dataclass for a message of `objects.proto`.

    Raises InvalidArgumentError, naming the field, for the number of an enum that does not exist. Fields unknown to
    us are not looked at: a request goes through `refuse_unknown_fields` first.
    """
    return _decoder(dataclass_of(message.DESCRIPTOR.name))(message)


def with_version(obj: Any, version: int) -> Any:
    """`obj` as it is after it was written at `version`."""
    return replace(obj, meta=replace(obj.meta, version=version))


def refuse_unknown_fields(message: Message) -> None:
    """Raise InvalidArgumentError when a message, or one inside it, has a field that its definition lacks.

    Whoever sends one expects something that this version would silently not do.
    """
    _refuse_unknown(message, message.DESCRIPTOR.name)


def _refuse_unknown(message: Message, where: str) -> None:
    unknown: Any = UnknownFieldSet(message)  # its type stub forgets that it can be iterated over
    numbers = sorted({field.field_number for field in unknown})
    if numbers:
        raise InvalidArgumentError(f"{where}: unknown field number {', '.join(map(str, numbers))}")
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for index, inner in _inner_messages(field, value):
                _refuse_unknown(inner, f"{where}.{field.name}{index}")


def _inner_messages(field: FieldDescriptor, value: Any) -> list[tuple[str, Message]]:
    if not field.is_repeated:
        return [("", value)]
    if isinstance(value, Mapping):
        return [(f"[{key}]", item) for key, item in value.items() if isinstance(item, Message)]
    return [(f"[{index}]", item) for index, item in enumerate(value)]


# --- the pairs ---


def dataclass_of(message_name: str) -> _Class:
    """The dataclass that mirrors a message of `objects.proto`. Raises KeyError when there is none."""
    found = vars(objects)[message_name]
    if not isinstance(found, type) or not is_dataclass(found):
        raise KeyError(message_name)
    return found


def _message_class(cls: _Class) -> Any:
    return getattr(objects_pb2, cls.__name__)


def _to_message(value: Any) -> Any:
    return _message_class(_class(value))(**_encoder(_class(value))(value))


def _is_nested(hint: Any) -> bool:
    return is_dataclass(hint)


def _class(value: Any) -> _Class:
    return type(value)


# --- dataclass -> the keyword arguments of the message ---


@cache
def _encoder(cls: _Class) -> Callable[[Any], dict[str, Any]]:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    read = _reader(names)
    converters = [(name, convert) for name in names if (convert := _encode_field(hints[name]))]

    def encode_value(value: Any) -> dict[str, Any]:
        found = dict(zip(names, read(value), strict=True))
        for name, convert in converters:
            found[name] = convert(found[name])
        return found

    return encode_value


def _encode_field(hint: Any) -> _Convert | None:
    """How a field of this type is converted; None: the value itself will do."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = _encode_field(typing.get_args(hint)[0])
        return None if item is None else lambda values: [item(value) for value in values]
    if origin is not None:
        return dict  # a mapping of text to text: protobuf takes no other mapping than a dict
    return _encoder(hint) if _is_nested(hint) else None


# --- message -> dataclass ---


@cache
def _decoder(cls: _Class) -> _Convert:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    read = _reader(names)
    converters = [
        (index, convert)
        for index, name in enumerate(names)
        if (convert := _decode_field(hints[name], f"{cls.__name__}.{name}"))
    ]
    nested = [(index, name, hints[name]) for index, name in enumerate(names) if _is_nested(hints[name])]
    absent = {index: hint() for index, _, hint in nested}

    def decode_message(message: Any) -> Any:
        found = list(read(message))
        for index, convert in converters:
            found[index] = convert(found[index])
        for index, name, _ in nested:
            if not message.HasField(name):
                found[index] = absent[index]
        return cls(*found)

    return _shared(cls, decode_message) if cls in _SHARED else decode_message


def _decode_field(hint: Any, where: str) -> _Convert | None:
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = _decode_field(typing.get_args(hint)[0], where)
        return tuple if item is None else lambda values: tuple([item(value) for value in values])
    if origin is not None:
        return _mapping
    if _is_nested(hint):
        return _decoder(hint)
    return _enum(hint, where) if isinstance(hint, type) and issubclass(hint, IntEnum) else None


def _mapping(value: Any) -> Mapping[str, str]:
    return types.MappingProxyType(dict(value))


def _enum(cls: type[IntEnum], where: str) -> _Convert:
    members = {int(member): member for member in cls}

    def member(number: int) -> IntEnum:
        found = members.get(number)
        if found is None:
            allowed = ", ".join(f"{value} ({name.name})" for value, name in members.items())
            raise InvalidArgumentError(f"{where}: must be one of {allowed}, got {number}")
        return found

    return member


def _shared(cls: _Class, decode_message: _Convert) -> _Convert:
    parse = _message_class(cls).FromString

    @lru_cache(_SHARED_VALUES)
    def by_bytes(data: bytes) -> Any:
        return decode_message(parse(data))

    return lambda message: by_bytes(message.SerializeToString(deterministic=True))


def _reader(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Reads the attributes `names`, always as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    one = attrgetter(*names)
    return lambda value: (one(value),)
