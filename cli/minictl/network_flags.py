"""The flags that put a service on networks, and say what its name stands for there."""

from __future__ import annotations

from minictl import values
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from miniproto.v1.objects_pb2 import ServiceSpec

    from minictl.flags import Parsed

ENDPOINT_MODES = ("vip", "dnsrr")
"""At the place of their numbers in the API."""


def _network(text: str) -> tuple[str, list[str]]:
    """`backend`, or `name=backend,alias=db,alias=store`: the network, and the aliases on it."""
    if "=" not in text:
        return text, []
    network, aliases = "", []
    for field in text.split(","):
        key, separator, value = field.partition("=")
        key = key.strip().lower()
        if not separator or not value.strip():
            raise ValueError(f"invalid field {field} must be a key=value pair")
        if key == "name":
            network = value.strip()
        elif key == "alias":
            aliases.append(value.strip())
        elif key == "driver-opt":
            raise ValueError("invalid field key driver-opt: this version has no options of a single endpoint")
        else:
            raise ValueError(f"invalid field key {key}")
    if not network:
        raise ValueError("network name is required: name=NETWORK[,alias=NAME...]")
    return network, aliases


_NETWORK = values.Kind("network", _network, repeat=True)


def _endpoint_mode(default: str) -> Flag:
    return Flag("endpoint-mode", "Endpoint mode (vip or dnsrr)", kind=values.STRING, shown=default)


CREATE_FLAGS = (
    _endpoint_mode('"vip"'),
    Flag("network", "Network attachments", kind=_NETWORK),
)

UPDATE_FLAGS = (
    _endpoint_mode(""),
    Flag("network-add", "Add a network", kind=_NETWORK),
    Flag("network-rm", "Remove a network", kind=values.LIST),
)


def apply_new(spec: ServiceSpec, parsed: Parsed) -> None:
    """Put what was asked for into a new spec; the networks are named as they were given. Raises CliError."""
    for network, aliases in parsed["network"]:
        _attach(spec, network, aliases)
    apply_mode(spec, parsed)


def apply_mode(spec: ServiceSpec, parsed: Parsed) -> None:
    """Raises CliError."""
    if parsed.changed("endpoint-mode"):
        mode = parsed["endpoint-mode"]
        if mode not in ENDPOINT_MODES:
            raise CliError(f"invalid endpoint mode {values.quote(mode)}: must be vip or dnsrr")
        number: Any = ENDPOINT_MODES.index(mode)
        spec.endpoint_mode = number


def apply_change(spec: ServiceSpec, parsed: Parsed, find: Callable[[str], str]) -> None:
    """Leave networks and join others; `find` gives the id of the network that is meant. Raises CliError."""
    uses = spec.task.networks
    removed = {find(ref) for ref in parsed["network-rm"]}
    kept = [(use.network, list(use.aliases)) for use in uses if use.network not in removed]
    for ref, aliases in parsed["network-add"]:
        network = find(ref)
        if any(network == other for other, _ in kept):
            raise CliError(f"service is already attached to network {ref}")
        kept.append((network, aliases))
    spec.task.ClearField("networks")
    for network, aliases in kept:
        _attach(spec, network, aliases)


def _attach(spec: ServiceSpec, network: str, aliases: list[str]) -> None:
    from minictl.client import messages

    spec.task.networks.append(messages.NetworkUse(network=network, aliases=aliases))
