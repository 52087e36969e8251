"""What several kinds of objects show alike."""

from __future__ import annotations

from itertools import groupby

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.objects_pb2 import GenericResource, Meta, PortConfig

SHORT_ID = 12
"""Characters of an id in a list."""


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC, with as many decimals as there are: "2026-11-23T20:15:00.5Z"."""
    import time

    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{rest:09}".rstrip("0") + "Z" if rest else f"{text}Z"


def local_time(nanoseconds: int) -> str:
    """As Go prints a time.Time that was decoded from UTC: "2026-11-23 20:15:00.5 +0000 utc"."""
    return timestamp(nanoseconds).removesuffix("Z").replace("T", " ") + " +0000 utc"


def meta(value: Meta) -> dict[str, Any]:
    """The head of an inspected object, after its ID."""
    return {
        "Version": {"Index": value.version},
        "CreatedAt": timestamp(value.created_at_ns),
        "UpdatedAt": timestamp(value.updated_at_ns),
    }


def state_name(number: int) -> str:
    """A task state in Docker's words: "running"."""
    from minictl.client import messages

    return _label(messages.TaskState, number, "TASK_STATE_")


def node_state_name(number: int) -> str:
    from minictl.client import messages

    return _label(messages.NodeState, number, "NODE_STATE_")


def availability_name(number: int) -> str:
    from minictl.client import messages

    return _label(messages.Availability, number, "AVAILABILITY_")


def role_name(number: int) -> str:
    from minictl.client import messages

    return _label(messages.NodeRole, number, "NODE_ROLE_")


def condition_name(number: int) -> str:
    """ "any", "on-failure", "none"."""
    from minictl.client import messages

    return _label(messages.RestartCondition, number, "RESTART_CONDITION_").replace("_", "-")


def strategy_name(number: int) -> str:
    from minictl.client import messages

    return _label(messages.PlacementStrategy, number, "PLACEMENT_STRATEGY_")


def _label(enum: Any, number: int, prefix: str) -> str:
    """A newer daemon may know a number that we do not: show the number."""
    try:
        return str(enum.Name(number)).removeprefix(prefix).lower()
    except ValueError:
        return str(number)


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:].lower()


def familiar_image(image: str) -> str:
    """An image reference as Docker shows it: without the default registry, without the digest beside a tag."""
    name, _, digest = image.partition("@")
    for prefix in ("docker.io/library/", "docker.io/", "index.docker.io/library/", "index.docker.io/"):
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    tagged = ":" in name.rpartition("/")[2]
    return name if tagged or not digest else f"{name}@{digest}"


def generic_json(resources: Iterable[GenericResource]) -> list[dict[str, Any]]:
    """Docker's form: one entry per name of a named resource, one for a number of the others."""
    shown: list[dict[str, Any]] = []
    for each in resources:
        shown += [{"NamedResourceSpec": {"Kind": each.kind, "Value": name}} for name in each.ids]
        if not each.ids:
            shown.append({"DiscreteResourceSpec": {"Kind": each.kind, "Value": each.count}})
    return shown


def generic_text(resources: Iterable[GenericResource]) -> str:
    """`GPU=UUID1,UUID2 SSD=3`."""
    return " ".join(f"{each.kind}={','.join(each.ids) or each.count}" for each in resources)


def port_json(port: PortConfig) -> dict[str, Any]:
    """Docker's fields, and those of the options that are set and that Docker has not got."""
    from minictl.ports import LOCALITY_NAMES, MODE_NAMES, PROTOCOL_NAMES

    shown: dict[str, Any] = {"Protocol": PROTOCOL_NAMES[port.protocol], "TargetPort": port.target_port}
    if port.published_port:
        shown["PublishedPort"] = port.published_port
    shown["PublishMode"] = MODE_NAMES[port.publish_mode]
    options = {
        "HostIP": port.host_ip,
        "Local": LOCALITY_NAMES[port.locality] if port.locality else "",
        "Sticky": port.sticky,
        "ProxyProtocol": f"v{port.proxy_protocol}" if port.proxy_protocol else "",
    }
    return {**shown, **{name: value for name, value in options.items() if value}}


def ports_text(ports: Iterable[PortConfig]) -> str:
    """Ports as `ps` shows them: "*:8080->80/tcp"."""
    from minictl.ports import PROTOCOL_NAMES

    return ",".join(
        f"*:{port.published_port}->{port.target_port}/{PROTOCOL_NAMES[port.protocol]}" for port in ports
    )


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """A sort key that puts "web.2" before "web.10"."""
    runs = groupby(text, key=lambda char: "0" <= char <= "9")
    return [
        (0, int(run), "") if digits else (1, 0, run)
        for digits, run in ((key, "".join(part)) for key, part in runs)
    ]
