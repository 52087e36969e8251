"""The flags of `service create` and `service update`: which there are, and what they do to a service's spec."""

from __future__ import annotations

from minictl import (
    container_flags,
    dependency_flags,
    disconnect_flags,
    health_flags,
    mode_flags,
    network_flags,
    placement_flags,
    privilege_flags,
    resource_flags,
    secret_flags,
    update_flags,
    values,
)
from minictl.errors import CliError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from miniproto.v1.objects_pb2 import ContainerSpec, ServiceSpec

    from minictl.flags import Parsed
    from minictl.ports import Port

SECOND = 1_000_000_000
"""Nanoseconds."""

RESTART_DELAY_NS = 5 * SECOND
STOP_GRACE_PERIOD_NS = 10 * SECOND
"""SwarmKit's defaults (`api/defaults/service.go`)."""

CONDITIONS = ("any", "on-failure", "none")
"""At the place of their numbers in the API."""

_UNITS = "(ns|us|ms|s|m|h)"


def _progress(text: str) -> str:
    if text not in ("auto", "plain"):
        raise ValueError(f'must be "auto" or "plain", not {values.quote(text)}')
    return text


PROGRESS = Flag(
    "progress",
    'How to show progress ("auto", "plain"); plain also tells how long each step of a stop took',
    kind=values.Kind("string", _progress),
    shown='"auto"',
)

COMMON_FLAGS = (
    Flag("cap-add", "Add Linux capabilities", kind=values.LIST),
    Flag("cap-drop", "Drop Linux capabilities", kind=values.LIST),
    Flag("detach", "Exit immediately instead of waiting for the service to converge", short="d"),
    Flag(
        "drain-timeout",
        f"Time for open connections to end before a container is stopped {_UNITS} (0 = none) (default 2s)",
        kind=values.DURATION,
    ),
    Flag("entrypoint", "Overwrite the default ENTRYPOINT of the image", kind=values.COMMAND),
    Flag("hostname", "Container hostname", kind=values.STRING),
    PROGRESS,
    Flag("no-resolve-image", "Do not query the registry to resolve image digest and supported platforms"),
    Flag("quiet", "Suppress progress output", short="q"),
    Flag("read-only", "Mount the container's root filesystem as read only"),
    Flag("restart-max-attempts", "Maximum number of restarts before giving up", kind=values.UINT),
    Flag("restart-window", f"Window used to evaluate the restart policy {_UNITS}", kind=values.DURATION),
    Flag("stop-signal", "Signal to stop the container", kind=values.STRING),
    Flag("user", "Username or UID (format: <name|uid>[:<group|gid>])", short="u", kind=values.STRING),
    Flag("with-registry-auth", "Send registry authentication details to swarm agents"),
    Flag("workdir", "Working directory inside the container", short="w", kind=values.STRING),
)


def _with_default(default: bool) -> tuple[Flag, ...]:
    """Flags that `create` shows with a default and `update` without."""
    condition, delay, grace = ('"any"', "5s", "10s") if default else ("", "", "")
    return (
        Flag(
            "restart-condition",
            'Restart when condition is met ("none", "on-failure", "any")',
            kind=values.STRING,
            shown=condition,
        ),
        Flag("restart-delay", f"Delay between restart attempts {_UNITS}", kind=values.DURATION, shown=delay),
        Flag(
            "stop-grace-period",
            f"Time to wait before force killing a container {_UNITS}",
            kind=values.DURATION,
            shown=grace,
        ),
    )


_WINDOWS = "is for Windows containers: the nodes of this cluster run Linux ones"


_LATER = (*(Flag(name, "", kind=values.STRING, why=_WINDOWS) for name in ("credential-spec", "isolation")),)
"""Docker's flags that are refused by name."""

CREATE_FLAGS = (
    *COMMON_FLAGS,
    *mode_flags.CREATE_FLAGS,
    *network_flags.CREATE_FLAGS,
    *placement_flags.CREATE_FLAGS,
    *dependency_flags.CREATE_FLAGS,
    *disconnect_flags.FLAGS,
    *container_flags.CREATE_FLAGS,
    *privilege_flags.CREATE_FLAGS,
    *resource_flags.CREATE_FLAGS,
    *secret_flags.CREATE_FLAGS,
    *health_flags.FLAGS,
    *update_flags.FLAGS,
    *_with_default(True),
    Flag("container-label", "Container labels", kind=values.LABEL),
    Flag("env", "Set environment variables", short="e", kind=values.ENV),
    Flag("env-file", "Read in a file of environment variables", kind=values.LIST),
    Flag("group", "Set one or more supplementary user groups for the container", kind=values.LIST),
    Flag("label", "Service labels", short="l", kind=values.LABEL),
    Flag("name", "Service name", kind=values.STRING),
    Flag("publish", "Publish a port as a node port", short="p", kind=values.PORT),
    *_LATER,
)

UPDATE_FLAGS = (
    *COMMON_FLAGS,
    *mode_flags.COMMON_FLAGS,
    *network_flags.UPDATE_FLAGS,
    *placement_flags.UPDATE_FLAGS,
    *dependency_flags.UPDATE_FLAGS,
    *disconnect_flags.FLAGS,
    *container_flags.UPDATE_FLAGS,
    *privilege_flags.UPDATE_FLAGS,
    *resource_flags.UPDATE_FLAGS,
    *secret_flags.UPDATE_FLAGS,
    *health_flags.FLAGS,
    *update_flags.FLAGS,
    *_with_default(False),
    Flag("args", "Service command args", kind=values.COMMAND),
    Flag("container-label-add", "Add or update a container label", kind=values.LABEL),
    Flag("container-label-rm", "Remove a container label by its key", kind=values.LIST),
    Flag("env-add", "Add or update an environment variable", kind=values.ENV),
    Flag("env-rm", "Remove an environment variable", kind=values.LIST),
    Flag("force", "Force update even if no changes require it"),
    Flag("group-add", "Add an additional supplementary user group to the container", kind=values.LIST),
    Flag(
        "group-rm", "Remove a previously added supplementary user group from the container", kind=values.LIST
    ),
    Flag("image", "Service image tag", kind=values.STRING),
    Flag("label-add", "Add or update a service label", kind=values.LABEL),
    Flag("label-rm", "Remove a label by its key", kind=values.LIST),
    Flag("publish-add", "Add or update a published port", kind=values.PORT),
    Flag("publish-rm", "Remove a published port by its target port", kind=values.PORT),
    *_LATER,
    Flag("rollback", "Rollback to previous specification"),
)


def new_spec(parsed: Parsed, environment: Mapping[str, str]) -> ServiceSpec:
    """The spec that `service create` asks for; defaults are spelled out. Raises CliError."""
    from minictl import keyvalues, names
    from minictl.client import messages

    image, *args = parsed.arguments
    spec = messages.ServiceSpec(
        name=parsed["name"] or names.random_name(),
        labels=keyvalues.labels(parsed["label"]),
    )
    container = spec.task.container
    container.image = image
    container.args.extend(args)
    for key, value in keyvalues.labels(parsed["container-label"]).items():
        container.labels[key] = value
    container.groups.extend(parsed["group"])
    container.stop_grace_period_ns = STOP_GRACE_PERIOD_NS
    spec.task.restart.delay_ns = RESTART_DELAY_NS
    variables = [item for path in parsed["env-file"] for item in keyvalues.read_env_file(path, environment)]
    variables += keyvalues.resolve_env(parsed["env"], environment)
    container.env.extend(keyvalues.last_of_each(variables))
    _set_ports(spec, [port for group in parsed["publish"] for port in group])
    mode_flags.apply_new(spec, parsed)
    network_flags.apply_new(spec, parsed)
    placement_flags.apply_new(spec, parsed)
    dependency_flags.apply_new(spec, parsed)
    disconnect_flags.apply(spec, parsed)
    container_flags.apply_new(spec, parsed)
    privilege_flags.apply_new(spec, parsed)
    resource_flags.apply_new(spec, parsed)
    secret_flags.apply_new(spec, parsed)
    _apply_common(spec, parsed)
    return spec


def change_spec(spec: ServiceSpec, parsed: Parsed, environment: Mapping[str, str]) -> None:
    """Apply the flags of `service update`; what was not given stays. Raises CliError."""
    from minictl import keyvalues

    container = spec.task.container
    if parsed.changed("image"):
        container.image = parsed["image"]
    if parsed.changed("args"):
        container.args[:] = parsed["args"]
    if parsed["force"]:
        spec.task.force_update += 1
    _change_labels(spec.labels, parsed["label-add"], parsed["label-rm"])
    _change_labels(container.labels, parsed["container-label-add"], parsed["container-label-rm"])
    if parsed.changed("env-add", "env-rm"):
        added = keyvalues.resolve_env(parsed["env-add"], environment)
        kept = sorted(keyvalues.last_of_each([*container.env, *added]))
        container.env[:] = [item for item in kept if item.partition("=")[0] not in parsed["env-rm"]]
    if parsed.changed("group-add", "group-rm"):
        groups = {*container.groups, *parsed["group-add"]} - set(parsed["group-rm"])
        container.groups[:] = sorted(groups)
    if parsed.changed("publish-add", "publish-rm"):
        _change_ports(spec, parsed)
    mode_flags.apply_change(spec, parsed)
    network_flags.apply_mode(spec, parsed)
    placement_flags.apply_change(spec, parsed)
    dependency_flags.apply_change(spec, parsed)
    disconnect_flags.apply(spec, parsed)
    container_flags.apply_change(spec, parsed)
    privilege_flags.apply_change(spec, parsed)
    resource_flags.apply_change(spec, parsed)
    secret_flags.apply_change(spec, parsed)
    _apply_common(spec, parsed)


def _change_labels(labels: Any, added: Iterable[str], removed: Iterable[str]) -> None:
    from minictl import keyvalues

    for key, value in keyvalues.labels(added).items():
        labels[key] = value
    for key in removed:
        labels.pop(key, None)


def _set_ports(spec: ServiceSpec, ports: Iterable[Port]) -> None:
    from minictl.client import messages

    spec.ClearField("ports")
    for port in ports:
        spec.ports.append(
            messages.PortConfig(
                protocol=port.protocol,
                target_port=port.target,
                published_port=port.published,
                publish_mode=port.mode,
                host_ip=port.host_ip,
                locality=port.locality,
                sticky=port.sticky,
                proxy_protocol=port.proxy_protocol,
            )
        )


def _change_ports(spec: ServiceSpec, parsed: Parsed) -> None:
    """Added ports replace the same ones; removal goes by target port, protocol and mode."""
    from minictl.ports import Port

    present = [
        Port(
            port.target_port,
            port.published_port,
            port.protocol,
            port.publish_mode,
            host_ip=port.host_ip,
            locality=port.locality,
            sticky=port.sticky,
            proxy_protocol=port.proxy_protocol,
        )
        for port in spec.ports
    ]
    added = [port for group in parsed["publish-add"] for port in group]
    removed = [(port.target, port.protocol, port.mode) for group in parsed["publish-rm"] for port in group]
    replaced = [port.key() for port in added]
    kept = [
        port
        for port in present
        if (port.target, port.protocol, port.mode) not in removed and port.key() not in replaced
    ]
    _set_ports(spec, sorted(kept + added, key=lambda port: port.published))


def _apply_common(spec: ServiceSpec, parsed: Parsed) -> None:
    container = spec.task.container
    _apply_container(container, parsed)
    health_flags.apply(spec, parsed)
    update_flags.apply(spec, parsed)
    restart = spec.task.restart
    for flag, field in (
        ("restart-delay", "delay_ns"),
        ("restart-max-attempts", "max_attempts"),
        ("restart-window", "window_ns"),
    ):
        if parsed.changed(flag):
            setattr(restart, field, parsed[flag])
    if parsed.changed("restart-condition"):
        condition = parsed["restart-condition"]
        if condition not in CONDITIONS:
            raise CliError(f'invalid restart condition "{condition}": must be "none", "on-failure" or "any"')
        number: Any = CONDITIONS.index(condition)
        restart.condition = number


def _apply_container(container: ContainerSpec, parsed: Parsed) -> None:
    for flag, field in (
        ("hostname", "hostname"),
        ("user", "user"),
        ("workdir", "dir"),
        ("stop-signal", "stop_signal"),
        ("stop-grace-period", "stop_grace_period_ns"),
        ("read-only", "read_only"),
    ):
        if parsed.changed(flag):
            setattr(container, field, parsed[flag])
    if parsed.changed("drain-timeout"):
        container.drain_timeout_ns = parsed["drain-timeout"] or -1
    if parsed.changed("entrypoint"):
        container.command[:] = parsed["entrypoint"]
    if parsed.changed("cap-add", "cap-drop"):
        added, dropped = merge_capabilities(container, parsed)
        container.cap_add[:] = added
        container.cap_drop[:] = dropped


def merge_capabilities(container: ContainerSpec, parsed: Parsed) -> tuple[list[str], list[str]]:
    """Docker's rule: what is added is no longer dropped, and the other way round; `RESET` forgets what there was."""
    added, dropped = set(container.cap_add), set(container.cap_drop)
    now_added = {capability(name) for name in parsed["cap-add"]}
    now_dropped = {capability(name) for name in parsed["cap-drop"]}
    if "RESET" in now_added:
        added.clear()
    if "RESET" in now_dropped:
        dropped.clear()
    now_added.discard("RESET")
    now_dropped.discard("RESET")
    if "ALL" in now_added:
        now_added = {"ALL"}
    if "ALL" in now_dropped:
        now_dropped = {"ALL"}
    return sorted((added - now_dropped) | now_added), sorted(
        (dropped - now_added) | (now_dropped - now_added)
    )


def capability(name: str) -> str:
    """`net_admin` and `CAP_NET_ADMIN` are the same; `ALL` and `RESET` are no capabilities."""
    name = name.strip().upper()
    return name if name in ("ALL", "RESET") or name.startswith("CAP_") else f"CAP_{name}"
