"""Services in a list, and as Docker's JSON."""

from __future__ import annotations

from minictl import dependency_flags, disconnect_flags
from minictl.network_flags import ENDPOINT_MODES
from minictl.output.listing import Layout
from minictl.views import common, mode, rollout
from minictl.views.container import surroundings_json
from minictl.views.uses import uses_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from miniproto.v1.control_pb2 import ServiceView
    from miniproto.v1.objects_pb2 import (
        ContainerSpec,
        Network,
        NetworkUse,
        Placement,
        PortConfig,
        ResourceLimits,
        ServiceSpec,
        TaskSpec,
    )

LAYOUT = Layout(
    {
        "ID": "ID",
        "Name": "NAME",
        "Mode": "MODE",
        "Replicas": "REPLICAS",
        "Image": "IMAGE",
        "Ports": "PORTS",
    },
    ("ID", "Name", "Mode", "Replicas", "Image", "Ports"),
)


def rows(views: Iterable[ServiceView]) -> list[dict[str, Any]]:
    """One row per service, in the natural order of their names."""
    ordered = sorted(views, key=lambda view: common.natural_key(view.service.spec.name))
    return [
        {
            "ID": view.service.id[: common.SHORT_ID],
            "Image": common.familiar_image(view.service.spec.task.container.image),
            "Mode": mode.name(view.service.spec),
            "Name": view.service.spec.name,
            "Ports": port_ranges(view.service.ports),
            "Replicas": mode.replicas(view),
        }
        for view in ordered
    ]


def port_ranges(ports: Iterable[PortConfig]) -> str:
    """Published ingress ports; neighbors are put together: "*:80-81->80-81/tcp, *:53->53/udp"."""
    from minictl.ports import MODE_NAMES

    shown = [port for port in ports if MODE_NAMES[port.publish_mode] == "ingress"]
    addresses = sorted({port.host_ip for port in shown})
    return ", ".join(
        text
        for address in addresses
        for text in _ranges(address or "*", [port for port in shown if port.host_ip == address])
    )


def _ranges(address: str, ports: Iterable[PortConfig]) -> list[str]:
    from minictl.ports import PROTOCOL_NAMES

    runs: list[list[int]] = []
    for port in sorted(ports, key=lambda port: (port.protocol, port.published_port)):
        published, target = port.published_port, port.target_port
        if runs:
            protocol, first, last, first_target, last_target = runs[-1]
            is_range = last_target != first_target
            follows = published - last <= 1 and target - last_target <= 1
            if protocol == port.protocol and follows and not (is_range and target <= last_target):
                runs[-1] = [protocol, first, published, first_target, target]
                continue
        runs.append([port.protocol, published, published, target, target])
    return [
        f"{address}:{_span(first, last)}->{_span(first_target, last_target)}/{PROTOCOL_NAMES[protocol]}"
        for protocol, first, last, first_target, last_target in runs
    ]


def _span(first: int, last: int) -> str:
    return f"{first}-{last}" if last > first else str(first)


def to_json(view: ServiceView, networks: Mapping[str, Network] | None = None) -> dict[str, Any]:
    """The service as `docker service inspect` prints it; `networks`, by id, say how long their prefixes are."""
    service = view.service
    spec = spec_json(service.spec)
    endpoint: dict[str, Any] = {"Spec": spec["EndpointSpec"]}
    if service.ports:
        endpoint["Ports"] = [common.port_json(port) for port in service.ports]
    if service.virtual_addresses:
        endpoint["VirtualIPs"] = [
            {"NetworkID": each.network_id, "Addr": each.address + _prefix(each.network_id, networks or {})}
            for each in service.virtual_addresses
        ]
    shown = {"ID": service.id, **common.meta(service.meta), "Spec": spec, "Endpoint": endpoint}
    return {**shown, **rollout.status_json(view), **mode.job_status_json(service)}


def _prefix(network_id: str, networks: Mapping[str, Network]) -> str:
    """ "/24"."""
    network = networks.get(network_id)
    return "" if network is None else "/" + network.subnet.partition("/")[2]


def spec_json(spec: ServiceSpec) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"Mode": ENDPOINT_MODES[spec.endpoint_mode]}
    if spec.ports:
        endpoint["Ports"] = [common.port_json(port) for port in spec.ports]
    return {
        "Name": spec.name,
        "Labels": dict(sorted(spec.labels.items())),
        "TaskTemplate": {**task_json(spec.task), "Placement": placement_json(spec.placement)},
        "Mode": mode.to_json(spec),
        **rollout.configs_json(spec),
        **_set(DependsOn=dependency_flags.to_json(spec)),
        "EndpointSpec": endpoint,
    }


def task_json(task: TaskSpec) -> dict[str, Any]:
    """A task template, with what is set of its resources."""
    limits, reservations = task.resources.limits, task.resources.reservations
    resources = {
        "Limits": _set(NanoCPUs=limits.nano_cpus, MemoryBytes=limits.memory_bytes, Pids=limits.pids),
        "Reservations": _set(
            NanoCPUs=reservations.nano_cpus,
            MemoryBytes=reservations.memory_bytes,
            GenericResources=common.generic_json(reservations.generic),
        ),
    }
    restart = task.restart
    policy = {
        "Condition": common.condition_name(restart.condition),
        "Delay": restart.delay_ns,
        "MaxAttempts": restart.max_attempts,
        **_set(Window=restart.window_ns),
    }
    return {
        "ContainerSpec": container_json(task.container),
        "Resources": {
            **{name: value for name, value in resources.items() if value},
            **_set(SwapBytes=limits.swap_bytes),
            **_swappiness(limits),
        },
        "RestartPolicy": policy,
        "Placement": {},
        **_set(OnDisconnect=disconnect_flags.shown(task)),
        **_set(Networks=[network_use_json(use) for use in task.networks]),
        "ForceUpdate": task.force_update,
        **_set(
            LogDriver=_set(Name=task.log_driver.name, Options=dict(sorted(task.log_driver.options.items())))
        ),
        "Runtime": "container",
    }


def network_use_json(use: NetworkUse) -> dict[str, Any]:
    return {"Target": use.network, **_set(Aliases=list(use.aliases))}


def _swappiness(limits: ResourceLimits) -> dict[str, int]:
    """0 is a setting, and so shown; -1 is none."""
    given = limits.HasField("swappiness") and limits.swappiness.percent >= 0
    return {"MemorySwappiness": limits.swappiness.percent} if given else {}


def placement_json(placement: Placement) -> dict[str, Any]:
    """Docker's, and beside them what Docker has not got, where it is set."""
    return _set(
        Constraints=list(placement.constraints),
        Preferences=[{"Spread": {"SpreadDescriptor": key}} for key in placement.spread_over],
        MaxReplicas=placement.max_replicas,
        Platforms=[_set(Architecture=each.architecture, OS=each.os) for each in placement.platforms],
        Strategy=common.strategy_name(placement.strategy) if placement.strategy else "",
        Affinity=list(placement.affinity),
        AntiAffinity=list(placement.anti_affinity),
    )


def container_json(container: ContainerSpec) -> dict[str, Any]:
    return {
        "Image": container.image,
        **_set(
            Labels=dict(sorted(container.labels.items())),
            Command=list(container.command),
            Args=list(container.args),
            Hostname=container.hostname,
            Env=list(container.env),
            Dir=container.dir,
            User=container.user,
            Groups=list(container.groups),
            StopSignal=container.stop_signal,
            ReadOnly=container.read_only,
            StopGracePeriod=container.stop_grace_period_ns,
            CapabilityAdd=list(container.cap_add),
            CapabilityDrop=list(container.cap_drop),
        ),
        **surroundings_json(container),
        **uses_json(container),
    }


def _set(**values: Any) -> dict[str, Any]:
    """Only what is not empty or zero, as Go's omitempty."""
    return {name: value for name, value in values.items() if value}
