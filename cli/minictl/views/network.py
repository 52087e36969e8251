"""Networks in a list, and as Docker's JSON."""

from __future__ import annotations

from minictl.output.listing import Layout
from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

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
            "Internal": "false",
            "Labels": ",".join(f"{key}={value}" for key, value in sorted(network.spec.labels.items())),
            "Name": network.spec.name,
            "Scope": "swarm",
        }
        for network in ordered
    ]


def to_json(network: Network) -> dict[str, Any]:
    """The network as `docker network inspect` prints it."""
    spec = network.spec
    options = {"com.docker.network.driver.overlay.vxlanid_list": str(network.vni)}
    if spec.mtu:
        options["com.docker.network.driver.mtu"] = str(spec.mtu)
    return {
        "Name": spec.name,
        "Id": network.id,
        "Created": common.timestamp(network.meta.created_at_ns),
        "Scope": "swarm",
        "Driver": spec.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": network.subnet, "Gateway": network.gateway}],
        },
        "Internal": False,
        "Attachable": False,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": options,
        "Labels": dict(sorted(spec.labels.items())),
    }
