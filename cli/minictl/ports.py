"""`--publish`: Docker's short form `[published:]target[/protocol]`, with ranges, and the long form in fields.

The long form also has what Docker has not: `host_ip`, `local`, `sticky` and `proxy_protocol`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROTOCOLS = {"tcp": 0, "udp": 1}
_MODES = {"ingress": 0, "host": 1}
MODE_NAMES = ("ingress", "host")
PROTOCOL_NAMES = ("tcp", "udp")
LOCALITY_NAMES = ("any", "prefer", "only")
"""At the place of their numbers in the API, as the others."""

_PROXY_PROTOCOLS = {"v2": 2, "2": 2}


class Port:
    """One port to publish; the numbers of `protocol` and `mode` are those of the API. `published` 0: chosen for us."""

    __slots__ = (
        "host_ip",
        "locality",
        "mode",
        "protocol",
        "proxy_protocol",
        "published",
        "sticky",
        "target",
    )

    def __init__(
        self,
        target: int,
        published: int,
        protocol: int,
        mode: int,
        *,
        host_ip: str = "",
        locality: int = 0,
        sticky: bool = False,
        proxy_protocol: int = 0,
    ) -> None:
        self.target = target
        self.published = published
        self.protocol: Any = protocol
        self.mode: Any = mode
        self.host_ip = host_ip
        self.locality: Any = locality
        self.sticky = sticky
        self.proxy_protocol = proxy_protocol

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Port) and self.key() + self.options() == other.key() + other.options()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Port{self.key() + self.options()}"

    def key(self) -> tuple[int, int, int, int]:
        """What makes it the same port, however it is served."""
        return self.target, self.published, self.protocol, self.mode

    def options(self) -> tuple[str, int, bool, int]:
        """How it is served."""
        return self.host_ip, self.locality, self.sticky, self.proxy_protocol


def parse_publish(text: str) -> list[Port]:
    """The ports that a value of the flag asks for. Raises ValueError in Docker's words."""
    return [_long(text)] if "=" in text else _short(text)


def _long(text: str) -> Port:
    target = published = 0
    protocol, mode = "tcp", "ingress"
    options: dict[str, Any] = {}
    for field in text.split(","):
        name, separator, value = field.partition("=")
        name = name.strip().lower()
        value = value.strip().lower()
        if name == "sticky" and not separator:
            value = "true"
        elif not separator or not name:
            raise ValueError(f"invalid field: {field}")
        if name == "protocol":
            protocol = value
            _check_protocol(protocol)
        elif name == "mode":
            mode = value
            if mode not in _MODES:
                raise ValueError(f"invalid publish mode value ({mode}): must be either 'ingress' or 'host'")
        elif name == "target":
            target = _number(value, "target")
        elif name == "published":
            published = _number(value, "published")
        elif name in _OPTIONS:
            options.update(_OPTIONS[name](value))
        else:
            raise ValueError(f"invalid field key: {name}")
    if not target:
        raise ValueError("missing mandatory field 'target'")
    return Port(target, published, _PROTOCOLS[protocol], _MODES[mode], **options)


def _locality(value: str) -> dict[str, Any]:
    if value not in LOCALITY_NAMES:
        raise ValueError(f"invalid local value ({value}): must be any, prefer or only")
    return {"locality": LOCALITY_NAMES.index(value)}


def _sticky(value: str) -> dict[str, Any]:
    from minictl.values import parse_bool

    try:
        return {"sticky": parse_bool(value)}
    except ValueError:
        raise ValueError(f"invalid sticky value ({value}): must be true or false") from None


def _proxy_protocol(value: str) -> dict[str, Any]:
    if value not in _PROXY_PROTOCOLS:
        raise ValueError(f"invalid proxy_protocol value ({value}): must be v2")
    return {"proxy_protocol": _PROXY_PROTOCOLS[value]}


_OPTIONS = {
    "host_ip": lambda value: {"host_ip": value},
    "local": _locality,
    "sticky": _sticky,
    "proxy_protocol": _proxy_protocol,
}


def _check_protocol(protocol: str) -> None:
    if protocol == "sctp":
        raise ValueError("invalid protocol value 'sctp': this version publishes tcp and udp")
    if protocol not in _PROTOCOLS:
        raise ValueError(f"invalid protocol value '{protocol}'")


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"invalid {name} port ({text}): value must be an integer: invalid syntax")
    if not 0 < int(text) < 65536:
        raise ValueError(f"invalid {name} port ({text}): must be between 1 and 65535")
    return int(text)


def _short(text: str) -> list[Port]:
    ports, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    published, colon, target = ports.rpartition(":")
    if ":" in published:
        address, _, number = published.rpartition(":")
        long = f"target={target},published={number},host_ip={address}"
        raise ValueError(f"hostip is not supported in the short form: write {long}")
    if not target:
        raise ValueError(f"no port specified: {published}{colon}<empty>")
    if protocol not in _PROTOCOLS:
        if protocol == "sctp":
            _check_protocol(protocol)
        raise ValueError(f"invalid proto: {protocol}")
    targets = _range(target, "containerPort")
    publisheds = _range(published, "hostPort") if published else None
    if publisheds is None:
        return [Port(port, 0, _PROTOCOLS[protocol], 0) for port in targets]
    if len(targets) == 1:
        return [Port(targets[0], outside, _PROTOCOLS[protocol], 0) for outside in publisheds]
    if len(publisheds) != len(targets):
        raise ValueError(f"invalid ranges specified for container and host Ports: {target} and {published}")
    pairs = zip(targets, publisheds, strict=True)
    return [Port(port, outside, _PROTOCOLS[protocol], 0) for port, outside in pairs]


def _range(text: str, what: str) -> range:
    first, dash, last = text.partition("-")
    if not dash:
        last = first
    numbers = []
    for part in (first, last):
        if not (part.isascii() and part.isdigit()) or not 0 < int(part) < 65536:
            raise ValueError(f"invalid {what}: {text}")
        numbers.append(int(part))
    if numbers[1] < numbers[0]:
        raise ValueError(f"invalid {what}: {text}")
    return range(numbers[0], numbers[1] + 1)
