"""The flags for what a container is given besides its program: mounts, files of /etc, limits, a terminal."""

from __future__ import annotations

from minictl import values
from minictl.flags import Flag
from minictl.mounts import parse_mount, parse_tmpfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.objects_pb2 import ContainerSpec, ServiceSpec

    from minictl.flags import Parsed


def _swap(text: str) -> int:
    from minicommon.units import parse_bytes

    return -1 if text.strip() == "-1" else parse_bytes(text)


def _ulimit(text: str) -> tuple[str, int, int]:
    """`nofile=64:128`, `nofile=64`."""
    name, separator, rest = text.partition("=")
    if not separator:
        raise ValueError(f"invalid ulimit argument: {text}")
    soft, colon, hard = rest.partition(":")
    first = values.parse_int(soft)
    return name, first, values.parse_int(hard) if colon else first


def _host(text: str) -> tuple[str, str]:
    """`name:address` or `name=address`."""
    place = next((index for index, char in enumerate(text) if char in ":="), -1)
    name, address = text[:place], text[place + 1 :]
    if place < 1 or not address:
        raise ValueError(f"bad format for add-host: {values.quote(text)}")
    return name, address.removeprefix("[").removesuffix("]")


def _sysctl(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ValueError(f"invalid sysctl: {text}: must be NAME=VALUE")
    return name, value


_MOUNT = values.Kind("mount", parse_mount, repeat=True)
_TMPFS = values.Kind("list", parse_tmpfs, repeat=True)
_ULIMIT = values.Kind("ulimit", _ulimit, repeat=True)
_HOST = values.Kind("list", _host, repeat=True)
_SYSCTL = values.Kind("list", _sysctl, repeat=True)

_COMMON = (
    Flag("init", "Use an init inside each service container to forward signals and reap processes"),
    Flag("memory-swap", "Swap Bytes (-1 for unlimited)", kind=values.Kind("bytes", _swap)),
    Flag("oom-score-adj", "Tune host's OOM preferences (-1000 to 1000)", kind=values.INT),
    Flag("shm-size", "Size of /dev/shm", kind=values.MEMORY),
    Flag("tty", "Allocate a pseudo-TTY", short="t"),
)

CREATE_FLAGS = (
    *_COMMON,
    Flag("dns", "Set custom DNS servers", kind=values.LIST),
    Flag("dns-option", "Set DNS options", kind=values.LIST),
    Flag("dns-search", "Set custom DNS search domains", kind=values.LIST),
    Flag("host", "Set one or more custom host-to-IP mappings (host:ip)", kind=_HOST),
    Flag("mount", "Attach a filesystem mount to the service", kind=_MOUNT),
    Flag("sysctl", "Sysctl options", kind=_SYSCTL),
    Flag("tmpfs", "Mount a tmpfs directory", kind=_TMPFS),
    Flag("ulimit", "Ulimit options", kind=_ULIMIT, shown="[]"),
)

UPDATE_FLAGS = (
    *_COMMON,
    Flag("dns-add", "Add or update a custom DNS server", kind=values.LIST),
    Flag("dns-option-add", "Add or update a DNS option", kind=values.LIST),
    Flag("dns-option-rm", "Remove a DNS option", kind=values.LIST),
    Flag("dns-rm", "Remove a custom DNS server", kind=values.LIST),
    Flag("dns-search-add", "Add or update a custom DNS search domain", kind=values.LIST),
    Flag("dns-search-rm", "Remove a DNS search domain", kind=values.LIST),
    Flag("host-add", 'Add a custom host-to-IP mapping ("host:ip")', kind=_HOST),
    Flag("host-rm", 'Remove a custom host-to-IP mapping ("host:ip")', kind=_HOST),
    Flag("mount-add", "Add or update a mount on a service", kind=_MOUNT),
    Flag("mount-rm", "Remove a mount by its target path", kind=values.LIST),
    Flag("sysctl-add", "Add or update a Sysctl option", kind=_SYSCTL),
    Flag("sysctl-rm", "Remove a Sysctl option", kind=values.LIST),
    Flag("ulimit-add", "Add or update a ulimit option", kind=_ULIMIT, shown="[]"),
    Flag("ulimit-rm", "Remove a ulimit option", kind=values.LIST),
)


def apply_new(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` was given."""
    container = spec.task.container
    dns = container.dns
    if parsed.changed("dns", "dns-option", "dns-search"):
        dns.nameservers[:] = parsed["dns"]
        dns.options[:] = parsed["dns-option"]
        dns.search[:] = parsed["dns-search"]
    _set_hosts(container, parsed["host"])
    _set_mounts(container, [*parsed["mount"], *parsed["tmpfs"]])
    for name, value in parsed["sysctl"]:
        container.sysctls[name] = value
    _set_ulimits(container, parsed["ulimit"])
    _apply_common(spec, parsed)


def apply_change(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service update` was given; lists are kept sorted, as Docker does."""
    container = spec.task.container
    for flag, field in (("dns", "nameservers"), ("dns-option", "options"), ("dns-search", "search")):
        if parsed.changed(f"{flag}-add", f"{flag}-rm"):
            present: Any = getattr(container.dns, field)
            present[:] = sorted({*present, *parsed[f"{flag}-add"]} - set(parsed[f"{flag}-rm"]))
    if parsed.changed("host-add", "host-rm"):
        _change_hosts(container, parsed)
    if parsed.changed("mount-add", "mount-rm"):
        _change_mounts(container, parsed)
    for name in parsed["sysctl-rm"]:
        container.sysctls.pop(name, None)
    for name, value in parsed["sysctl-add"]:
        container.sysctls[name] = value
    if parsed.changed("ulimit-add", "ulimit-rm"):
        found = {item.name: (item.name, item.soft, item.hard) for item in container.ulimits}
        found = {name: item for name, item in found.items() if name not in parsed["ulimit-rm"]}
        found |= {item[0]: item for item in parsed["ulimit-add"]}
        _set_ulimits(container, [found[name] for name in sorted(found)])
    _apply_common(spec, parsed)


def _change_hosts(container: ContainerSpec, parsed: Parsed) -> None:
    removed = parsed["host-rm"]
    kept = [(item.name, item.address) for item in container.hosts]
    kept = [item for item in kept if item not in removed]
    _set_hosts(container, [*kept, *(item for item in parsed["host-add"] if item not in kept)])


def _change_mounts(container: ContainerSpec, parsed: Parsed) -> None:
    """An added mount takes the place of the one at the same target."""
    from minictl.client import messages

    found = {mount.target: mount for mount in container.mounts}
    found |= {fields["target"]: messages.Mount(**fields) for fields in parsed["mount-add"]}
    kept = [found[target] for target in sorted(found) if target not in parsed["mount-rm"]]
    container.ClearField("mounts")
    container.mounts.extend(kept)


def _set_hosts(container: ContainerSpec, hosts: Iterable[tuple[str, str]]) -> None:
    from minictl.client import messages

    container.ClearField("hosts")
    container.hosts.extend([messages.HostEntry(name=name, address=address) for name, address in hosts])


def _set_mounts(container: ContainerSpec, mounts: Iterable[dict[str, Any]]) -> None:
    from minictl.client import messages

    container.mounts.extend([messages.Mount(**fields) for fields in mounts])


def _set_ulimits(container: ContainerSpec, ulimits: Iterable[tuple[str, int, int]]) -> None:
    from minictl.client import messages

    container.ClearField("ulimits")
    container.ulimits.extend(
        [messages.Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in ulimits]
    )


def _apply_common(spec: ServiceSpec, parsed: Parsed) -> None:
    container = spec.task.container
    for flag, target, field in (
        ("init", container, "init"),
        ("memory-swap", spec.task.resources.limits, "swap_bytes"),
        ("oom-score-adj", container, "oom_score_adj"),
        ("shm-size", container, "shm_size_bytes"),
        ("tty", container, "tty"),
    ):
        if parsed.changed(flag):
            setattr(target, field, parsed[flag])
