"""Whether a network may be created, and with which subnet, gateway and number.

`validate_network` looks at the specification alone, `place_network` at the networks that there are. The rules and the
words are those of Swarm and of the engine where they have any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from minicommon.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError

from minimanager.domain.addresses import (
    LAST_VNI,
    MAX_SUBNET_SIZE,
    MIN_SUBNET_SIZE,
    gateway,
    next_subnet,
    next_vni,
)
from minimanager.domain.names import check_name
from minimanager.domain.objects import Cluster, Network, NetworkSpec
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.validate import check_labels

DRIVER = "overlay"

MTU_OPTION = "com.docker.network.driver.mtu"
VNI_OPTION = "com.docker.network.driver.overlay.vxlanid_list"
ENCRYPTED_OPTION = "encrypted"

DEFAULT_MTU = 1450
"""What an Ethernet of 1500 leaves beside the 50 bytes of VXLAN."""

DEFAULT_ENCRYPTED_MTU = 1370
"""The same through WireGuard, whose interfaces have 1420."""

MIN_MTU, MAX_MTU = 576, 65_485
"""What every IPv4 host must take (RFC 791), and the largest packet without VXLAN's 50 bytes."""

_PREDEFINED = ("bridge", "host", "none")
"""Names that mean something to `docker run --network`."""

_TRUE, _FALSE = ("", "1", "t", "true"), ("0", "f", "false")


def validate_network(spec: NetworkSpec) -> NetworkSpec:
    """The specification in normal form: what options say is in the fields. Raises InvalidArgumentError."""
    check_name(spec.name)
    if spec.name in _PREDEFINED:
        raise InvalidArgumentError(f"operation is not permitted on predefined {spec.name} network")
    check_labels(spec.labels)
    driver = spec.driver or DRIVER
    if driver != DRIVER:
        raise InvalidArgumentError(f"driver: only {DRIVER!r} networks span the nodes, not {driver!r}")
    if spec.ingress:
        _check_ingress(spec)
    encrypted = _encrypted(spec)
    subnet = _subnet(spec)
    return replace(
        spec,
        driver=driver,
        encrypted=encrypted,
        mtu=_mtu(spec, encrypted),
        subnet=str(subnet) if subnet is not None else "",
        gateway=_gateway(spec, subnet),
        ip_range=_ip_range(spec, subnet),
    )


def place_network(snapshot: Snapshot, spec: NetworkSpec) -> tuple[IPv4Network, IPv4Address, int]:
    """The subnet, the gateway and the VXLAN identifier of a new network.

    Raises AlreadyExistsError for a name or an identifier that another has, and for a second ingress network,
    FailedPreconditionError for a subnet that overlaps another's or holds a node's address, ResourceExhaustedError when
    the pools are used up.
    """
    networks = snapshot.networks.values()
    for other in networks:
        if other.spec.name == spec.name and not other.removing:
            raise AlreadyExistsError(f"network with name {spec.name} already exists")
        if spec.ingress and other.spec.ingress:
            raise AlreadyExistsError(f"ingress network ({other.spec.name}) is already present")
    subnet = IPv4Network(spec.subnet) if spec.subnet else _free_subnet(snapshot)
    if spec.subnet:
        _check_overlap(snapshot, subnet)
    router = IPv4Address(spec.gateway) if spec.gateway else gateway(subnet)
    return subnet, router, _vni(spec, networks)


def _check_ingress(spec: NetworkSpec) -> None:
    if spec.attachable:
        raise InvalidArgumentError("ingress network cannot be attachable")
    if spec.internal:
        raise InvalidArgumentError("ingress network cannot be internal")
    if _encrypted(spec):
        raise InvalidArgumentError("ingress network cannot be encrypted")


def _encrypted(spec: NetworkSpec) -> bool:
    text = spec.options.get(ENCRYPTED_OPTION)
    if text is None:
        return spec.encrypted
    if text.lower() not in (*_TRUE, *_FALSE):
        raise InvalidArgumentError(f"options: {ENCRYPTED_OPTION} must be true or false, not {text!r}")
    return text.lower() in _TRUE


def _mtu(spec: NetworkSpec, encrypted: bool) -> int:
    text = spec.options.get(MTU_OPTION, "")
    if text and not _is_number(text):
        raise InvalidArgumentError(f"options: {MTU_OPTION} must be a number, not {text!r}")
    mtu = int(text) if text else spec.mtu
    if not mtu:
        return DEFAULT_ENCRYPTED_MTU if encrypted else DEFAULT_MTU
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise InvalidArgumentError(f"mtu: must be {MIN_MTU} to {MAX_MTU}, not {mtu}")
    return mtu


def _subnet(spec: NetworkSpec) -> IPv4Network | None:
    if not spec.subnet:
        return None
    subnet = _network("subnet", spec.subnet)
    if not MIN_SUBNET_SIZE <= subnet.prefixlen <= MAX_SUBNET_SIZE:
        raise InvalidArgumentError(
            f"subnet: must be a /{MIN_SUBNET_SIZE} to a /{MAX_SUBNET_SIZE}, not a /{subnet.prefixlen}"
        )
    if subnet.is_loopback or subnet.is_multicast or subnet.is_reserved or subnet.is_link_local:
        raise InvalidArgumentError(f"subnet: must have addresses that hosts can have, not {subnet}")
    return subnet


def _network(field: str, text: str) -> IPv4Network:
    try:
        network = IPv4Network(text, strict=False)
    except ValueError as error:
        raise InvalidArgumentError(
            f"{field}: must be an IPv4 network such as 10.1.0.0/24, not {text!r}"
        ) from error
    address = text.partition("/")[0]
    if str(network.network_address) != address:
        raise InvalidArgumentError(f"invalid {field} {text}: it should be {network}")
    return network


def _gateway(spec: NetworkSpec, subnet: IPv4Network | None) -> str:
    if not spec.gateway:
        return ""
    try:
        router = IPv4Address(spec.gateway)
    except ValueError as error:
        raise InvalidArgumentError(f"gateway: must be an IPv4 address, not {spec.gateway!r}") from error
    if subnet is None or router not in subnet:
        raise InvalidArgumentError(f"no matching subnet for gateway {router}")
    if router in (subnet.network_address, subnet.broadcast_address):
        raise InvalidArgumentError(f"gateway: must be a host's address of {subnet}, not {router}")
    return str(router)


def _ip_range(spec: NetworkSpec, subnet: IPv4Network | None) -> str:
    if not spec.ip_range:
        return ""
    part = _network("ip-range", spec.ip_range)
    if subnet is None or not part.subnet_of(subnet):
        raise InvalidArgumentError(f"no matching subnet for range {part}")
    return str(part)


def _check_overlap(snapshot: Snapshot, subnet: IPv4Network) -> None:
    for other in snapshot.networks.values():
        if subnet.overlaps(IPv4Network(other.subnet)):
            raise FailedPreconditionError(
                "invalid pool request: Pool overlaps with other one on this address space: "
                f"{subnet} and {other.subnet} of network {other.spec.name}"
            )
    for status in snapshot.node_statuses.values():
        if status.address and IPv4Address(status.address) in subnet:
            name = status.description.hostname or status.id
            raise FailedPreconditionError(f"subnet: {subnet} has the address {status.address} of node {name}")


def _free_subnet(snapshot: Snapshot) -> IPv4Network:
    cluster = snapshot.cluster or Cluster("")
    pools = [IPv4Network(pool) for pool in cluster.default_address_pools]
    used = [IPv4Network(network.subnet) for network in snapshot.networks.values()]
    used += [IPv4Network(each.address) for each in snapshot.node_statuses.values() if each.address]
    return next_subnet(pools, cluster.subnet_size, used)


def _vni(spec: NetworkSpec, networks: Iterable[Network]) -> int:
    owners = {network.vni: network for network in networks}
    text = spec.options.get(VNI_OPTION, "")
    if not text:
        return next_vni(owners)
    if not _is_number(text) or not 1 <= int(text) <= LAST_VNI:
        raise InvalidArgumentError(
            f"options: {VNI_OPTION} must be one number of 1 to {LAST_VNI}, not {text!r}"
        )
    vni = int(text)
    if vni in owners:
        raise AlreadyExistsError(f"options: {VNI_OPTION}: {vni} is that of network {owners[vni].spec.name}")
    return vni


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
