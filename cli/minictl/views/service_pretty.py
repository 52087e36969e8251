"""`service inspect --pretty`, in Docker's layout: the sections of what a service has."""

from __future__ import annotations

from minicommon import units

from minictl import dependency_flags, disconnect_flags
from minictl.network_flags import ENDPOINT_MODES
from minictl.views import common, mode, rollout
from minictl.views.container import surroundings_lines
from minictl.views.uses import uses_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from miniproto.v1.control_pb2 import ServiceView
    from miniproto.v1.objects_pb2 import (
        ContainerSpec,
        Network,
        Placement,
        PortConfig,
        Resources,
        ServiceSpec,
        TaskSpec,
    )


def render(view: ServiceView, networks: Mapping[str, Network] | None = None, *, now_ns: int = 0) -> str:
    """The whole text, which begins and ends with a newline; `networks`, by id, are those with names to show."""
    service = view.service
    lines = ["", f"ID:\t\t{service.id}", *_head(service.spec), *rollout.pretty(view, now_ns)]
    if depends_on := dependency_flags.to_json(service.spec):
        lines += ["Depends On:", *(f" {each['Service']} ({each['Condition']})" for each in depends_on)]
    lines += _placement(service.spec.placement)
    lines += _container(service.spec.task.container)
    lines += _resources(service.spec.task.resources)
    lines += _log_driver(service.spec.task)
    if policy := disconnect_flags.shown(service.spec.task):
        lines.append(f"On Disconnect:\t{policy}")
    lines += _networks(service.spec, networks or {})
    lines.append(f"Endpoint Mode:\t{ENDPOINT_MODES[service.spec.endpoint_mode]}")
    if service.ports:
        lines.append("Ports:")
        for port in service.ports:
            lines += _port(port)
        lines[-1] += " "
    return "\n".join(lines) + "\n"


def _head(spec: ServiceSpec) -> list[str]:
    lines = [f"Name:\t\t{spec.name}"]
    if spec.labels:
        lines.append("Labels:")
        lines += [f" {key}={value}" if value else f" {key}" for key, value in sorted(spec.labels.items())]
    return lines + mode.pretty(spec)


def _placement(placement: Placement) -> list[str]:
    lines = ["Placement:"]
    if placement.constraints:
        lines.append(f" Constraints:\t[{' '.join(placement.constraints)}]")
    if placement.spread_over:
        lines.append(f" Preferences:\t[{' '.join(placement.spread_over)}]")
    if placement.max_replicas:
        lines.append(f" Max Replicas Per Node:\t{placement.max_replicas}")
    if placement.strategy:
        lines.append(f" Strategy:\t{common.strategy_name(placement.strategy)}")
    if placement.affinity:
        lines.append(f" Affinity:\t[{' '.join(placement.affinity)}]")
    if placement.anti_affinity:
        lines.append(f" Anti-Affinity:\t[{' '.join(placement.anti_affinity)}]")
    return lines


def _container(container: ContainerSpec) -> list[str]:
    lines = ["ContainerSpec:", f" Image:\t\t{container.image}"]
    if container.args:
        lines.append(" Args:\t\t" + "".join(f"{argument} " for argument in container.args))
    if container.env:
        lines.append(" Env:\t\t" + "".join(f"{variable} " for variable in container.env))
    if container.dir:
        lines.append(f" Dir:\t\t{container.dir}")
    if container.user:
        lines.append(f" User: {container.user}")
    lines += surroundings_lines(container)
    lines += uses_lines(container)
    if container.cap_add or container.cap_drop:
        lines.append("Capabilities:")
        lines += [f" Add: {', '.join(container.cap_add)}"] if container.cap_add else []
        lines += [f" Drop: {', '.join(container.cap_drop)}"] if container.cap_drop else []
    return lines


def _resources(resources: Resources) -> list[str]:
    lines: list[str] = []
    reservations, limits = resources.reservations, resources.limits
    if reservations.nano_cpus or reservations.memory_bytes or reservations.generic:
        lines += [" Reservations:", *_amounts(reservations.nano_cpus, reservations.memory_bytes)]
        lines += [f"  {each.kind}:\t\t{each.count}" for each in reservations.generic]
    if limits.nano_cpus or limits.memory_bytes:
        lines += [" Limits:", *_amounts(limits.nano_cpus, limits.memory_bytes)]
    if lines or limits.pids:
        lines.insert(0, "Resources:")
    if limits.pids:
        lines.append(f"  PIDs:\t\t{limits.pids}")
    given = limits.HasField("swappiness") and limits.swappiness.percent >= 0
    swap = [f" Swap:\t\t{_swap_text(limits.swap_bytes)}"] if limits.swap_bytes else []
    swap += [f" Swappiness:\t{limits.swappiness.percent}"] if given else []
    return [*(lines or (["Resources:"] if swap else [])), *swap]


def _swap_text(swap_bytes: int) -> str:
    return "unlimited" if swap_bytes < 0 else units.bytes_size(swap_bytes)


def _log_driver(task: TaskSpec) -> list[str]:
    driver = task.log_driver
    if not driver.name and not driver.options:
        return []
    return [
        f"Log Driver:\t{driver.name}",
        *(f" {name}={value}" for name, value in sorted(driver.options.items())),
    ]


def _amounts(nano_cpus: int, memory_bytes: int) -> list[str]:
    lines = []
    if nano_cpus:
        lines.append(f"  CPU:\t\t{nano_cpus / 1e9:g}")
    if memory_bytes:
        lines.append(f"  Memory:\t{units.bytes_size(memory_bytes)}")
    return lines


def _networks(spec: ServiceSpec, networks: Mapping[str, Network]) -> list[str]:
    known = [networks.get(use.network) for use in spec.task.networks]
    names = [
        use.network if network is None else network.spec.name
        for use, network in zip(spec.task.networks, known, strict=True)
    ]
    return [f"Networks: {' '.join(names)} "] if names else []


def _port(port: PortConfig) -> list[str]:
    shown = common.port_json(port)
    return [
        f" PublishedPort = {shown.get('PublishedPort', 0)}",
        f"  Protocol = {shown['Protocol']}",
        f"  TargetPort = {shown['TargetPort']}",
        f"  PublishMode = {shown['PublishMode']}",
        *(
            f"  {name} = {str(shown[name]).lower()}"
            for name in ("HostIP", "Local", "Sticky", "ProxyProtocol")
            if name in shown
        ),
    ]
