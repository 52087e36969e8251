"""The flags for what a container may have of its node. A node gives it only if its owner allows that there."""

from __future__ import annotations

from minictl import values
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from miniproto.v1.objects_pb2 import ContainerSpec, ServiceSpec

    from minictl.flags import Parsed


def _device(text: str) -> tuple[str, str, str]:
    """`/dev/fuse`, `/dev/sdc:/dev/xvdc`, `/dev/sdc:/dev/xvdc:rw`, `/dev/sdc:rw`."""
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"invalid device specification: {text}")
    source, target, permissions = parts[0], parts[0], "rwm"
    if len(parts) == 2 and not parts[1].startswith("/"):
        permissions = parts[1]
    elif len(parts) > 1:
        target, permissions = parts[1], parts[2] if len(parts) == 3 else permissions
    if not permissions or set(permissions) - set("rwm"):
        raise ValueError(f"invalid device mode: {permissions}: must be of r, w and m")
    return source, target, permissions


def _security(text: str) -> tuple[str, bool]:
    """(field of the API, value)."""
    name, _, value = text.replace(":", "=", 1).partition("=")
    match name, value:
        case ("no-new-privileges", "" | "true"):
            return "no_new_privileges", True
        case ("no-new-privileges", "false"):
            return "no_new_privileges", False
        case ("seccomp", "unconfined"):
            return "seccomp_unconfined", True
        case ("seccomp", "builtin"):
            return "seccomp_unconfined", False
    raise ValueError(
        f"invalid --security-opt: {values.quote(text)}: must be no-new-privileges[=true|false] or "
        "seccomp=unconfined|builtin"
    )


_DEVICE = values.Kind("list", _device, repeat=True)

_COMMON = (
    Flag("pid", 'PID namespace to use ("host", "" for one of its own)', kind=values.STRING),
    Flag("privileged", "Give extended privileges to the containers, on nodes that allow it"),
    Flag("security-opt", "Security Options", kind=values.Kind("list", _security, repeat=True)),
)

CREATE_FLAGS = (
    *_COMMON,
    Flag("device", "Add a device of the node to the containers, on nodes that allow it", kind=_DEVICE),
)

UPDATE_FLAGS = (
    *_COMMON,
    Flag("device-add", "Add or update a device of the node", kind=_DEVICE),
    Flag("device-rm", "Remove a device by its path in the container", kind=values.LIST),
)


def apply_new(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` was given. Raises CliError."""
    _set_devices(spec.task.container, parsed["device"])
    _apply_common(spec.task.container, parsed)


def apply_change(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service update` was given. Raises CliError."""
    container = spec.task.container
    if parsed.changed("device-add", "device-rm"):
        found = {item.target: (item.source, item.target, item.permissions) for item in container.devices}
        found |= {device[1]: device for device in parsed["device-add"]}
        _set_devices(
            container, [found[target] for target in sorted(found) if target not in parsed["device-rm"]]
        )
    _apply_common(container, parsed)


def _set_devices(container: ContainerSpec, devices: Iterable[tuple[str, str, str]]) -> None:
    from minictl.client import messages

    container.ClearField("devices")
    container.devices.extend(
        [messages.Device(source=source, target=target, permissions=mode) for source, target, mode in devices]
    )


def _apply_common(container: ContainerSpec, parsed: Parsed) -> None:
    if parsed.changed("pid"):
        if parsed["pid"] not in ("host", ""):
            raise CliError(f'--pid: must be "host" or empty, not {values.quote(parsed["pid"])}')
        container.host_pid = parsed["pid"] == "host"
    if parsed.changed("privileged"):
        container.privileged = parsed["privileged"]
    for field, value in parsed["security-opt"]:
        setattr(container, field, value)
