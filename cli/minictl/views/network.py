"""Networks in a list, and as Docker's JSON."""

from __future__ import annotations

from minictl.output.listing import Layout
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from miniproto.v1.control_pb2 import NetworkServiceView, NetworkView
    from miniproto.v1.objects_pb2 import Network

LAYOUT = Layout(
    {
        "ID": "NETWORK ID",
        "Name": "NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "IPv4": "IPV4",
        "IPv6": "IPV6",
        "Internal": "INTERNAL",
        "Labels": "LABELS",
        "CreatedAt": "CREATED AT",
    },
    ("ID", "Name", "Driver", "Scope"),
)


def rows(networks: Iterable[Network], *, truncate: bool) -> list[dict[str, Any]]:
    """One row per network, in the natural order of their names."""
    ordered = sorted(networks, key=lambda network: common.natural_key(network.spec.name))
    return [
        {
            "CreatedAt": common.local_time(network.meta.created_at_ns).replace(" utc", " UTC"),
            "Driver": network.spec.driver,
            "ID": network.id[: common.SHORT_ID] if truncate else network.id,
            "IPv4": "true",
            "IPv6": "false",
            "Internal": "true" if network.spec.internal else "false",
            "Labels": ",".join(f"{key}={value}" for key, value in sorted(network.spec.labels.items())),
            "Name": network.spec.name,
            "Scope": "swarm",
        }
        for network in ordered
    ]


def to_json(view: NetworkView, *, verbose: bool = False) -> dict[str, Any]:
    """The network as `docker network inspect` prints it.

    Docker lists the containers of one node; these are those of all. `verbose` adds the services.
    """
    network = view.network
    spec = network.spec
    config = {"Subnet": network.subnet, "Gateway": network.gateway}
    if spec.ip_range:
        config["IPRange"] = spec.ip_range
    shown: dict[str, Any] = {
        "Name": spec.name,
        "Id": network.id,
        "Created": common.timestamp(network.meta.created_at_ns),
        "Scope": "swarm",
        "Driver": spec.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": [config]},
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": _containers(view),
        "Options": _options(network),
        "Labels": dict(sorted(spec.labels.items())),
    }
    if view.peers:
        shown["Peers"] = [{"Name": peer.hostname, "IP": peer.address} for peer in view.peers]
    if verbose:
        ordered = sorted(view.services, key=lambda service: common.natural_key(service.name))
        shown["Services"] = {service.name: _service(service) for service in ordered}
    return shown


def _options(network: Network) -> dict[str, str]:
    """Those that were given, and what became of those that were not."""
    options = {"com.docker.network.driver.overlay.vxlanid_list": str(network.vni)}
    if network.spec.mtu:
        options["com.docker.network.driver.mtu"] = str(network.spec.mtu)
    if network.spec.encrypted:
        options["encrypted"] = ""
    return dict(sorted({**options, **network.spec.options}.items()))


def _containers(view: NetworkView) -> dict[str, Any]:
    size = view.network.subnet.partition("/")[2]
    tasks = [task for service in view.services for task in service.tasks if task.container_id]
    return {
        task.container_id: {
            "Name": task.name,
            "EndpointID": task.task_id,
            "MacAddress": _mac_address(task.address),
            "IPv4Address": f"{task.address}/{size}",
            "IPv6Address": "",
        }
        for task in sorted(tasks, key=lambda task: common.natural_key(task.name))
    }


def _mac_address(address: str) -> str:
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def _service(service: NetworkServiceView) -> dict[str, Any]:
    return {
        "VIP": service.virtual_address,
        "Aliases": list(service.aliases),
        "Ports": [common.port_json(port) for port in service.ports],
        "Tasks": [
            {
                "Name": task.name,
                "EndpointID": task.task_id,
                "EndpointIP": task.address,
                "Info": {"Host IP": task.node_address},
            }
            for task in service.tasks
        ],
    }
