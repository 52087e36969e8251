"""`swarm init`: decide everything, write it to a staging directory, start etcd and the manager, and be a member then.

Nothing is written before the whole request has been checked against this machine, and a failure after that removes
what was written and ends what was started.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

from minicommon.clock import SECOND
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minicommon.ids import new_id
from minicommon.settings import Bootstrap, EtcdSettings, ManagerSettings
from miniproto.v1 import node_pb2 as pb

from miniworker.node.addresses import HostAddresses, choose_advertised, split_port
from miniworker.node.config import ListenAddress, parse_listen

HOUR = 3600 * SECOND
DEFAULT_CERTIFICATE_LIFETIME_NS = 2160 * HOUR
"""90 days, as Swarm."""
SHORTEST_CERTIFICATE_LIFETIME_NS = HOUR
"""swarmkit `ca/config.go`, MinNodeCertExpiration."""
DEFAULT_HEARTBEAT_NS = 2 * SECOND
DEFAULT_TASK_HISTORY = 5
DEFAULT_POOLS = ("10.0.0.0/8",)
DEFAULT_SUBNET_SIZE = 24
LARGEST_SUBNET_SIZE = 29
"""A prefix longer than this leaves no addresses for tasks."""


@dataclass(frozen=True, slots=True)
class ClusterChoices:
    """What the first manager puts into the cluster object."""

    pools: tuple[str, ...]
    subnet_size: int
    task_history_limit: int
    heartbeat_period_ns: int
    certificate_lifetime_ns: int
    availability: int
    autolock: bool = False


@dataclass(frozen=True, slots=True)
class ExternalEtcd:
    endpoints: tuple[str, ...]
    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class InitPlan:
    """A checked request."""

    node_id: str
    cluster_id: str
    hostname: str
    advertise_host: str
    listen: ListenAddress
    choices: ClusterChoices
    external_etcd: ExternalEtcd | None

    @property
    def control_address(self) -> str:
        return f"{self.advertise_host}:{self.listen.ports.control}"

    @property
    def join_address(self) -> str:
        return f"{self.advertise_host}:{self.listen.ports.join}"


def plan_init(
    request: pb.InitRequest, *, hostname: str, default_listen: str, host: HostAddresses
) -> InitPlan:
    """Check the request and fill in what it leaves open. Raises MiniError."""
    if request.force_new_cluster:
        raise FailedPreconditionError(
            "--force-new-cluster is reserved: this version has clusters of one manager, whose state survives restarts"
        )
    listen = parse_listen(request.listen_address or default_listen)
    given, port = split_port(request.advertise_address, field="advertise address")
    advertised = choose_advertised(given, host)
    if not host.has(advertised):
        here = ", ".join(item.address for item in host.addresses)
        raise InvalidArgumentError(
            f"advertise address {advertised} is not an address of this machine ({here}), and etcd has to listen on it"
        )
    if port is not None and port != listen.ports.join:
        raise InvalidArgumentError(
            f"advertise address: its port {port} must be the listen address's, {listen.ports.join}"
        )
    return InitPlan(
        node_id=new_id(),
        cluster_id=new_id(),
        hostname=hostname,
        advertise_host=advertised,
        listen=listen,
        choices=_choices(request),
        external_etcd=_external_etcd(request),
    )


def _choices(request: pb.InitRequest) -> ClusterChoices:
    lifetime = request.certificate_lifetime_ns or DEFAULT_CERTIFICATE_LIFETIME_NS
    if lifetime < SHORTEST_CERTIFICATE_LIFETIME_NS:
        raise InvalidArgumentError("minimum certificate expiry time is: 1h0m0s")
    if request.heartbeat_period_ns < 0:
        raise InvalidArgumentError("heartbeat time period cannot be a negative duration")
    pools = tuple(request.default_address_pools) or DEFAULT_POOLS
    subnet_size = request.subnet_size or DEFAULT_SUBNET_SIZE
    _check_pools(pools, subnet_size)
    return ClusterChoices(
        pools=pools,
        subnet_size=subnet_size,
        task_history_limit=(
            request.task_history_limit if request.HasField("task_history_limit") else DEFAULT_TASK_HISTORY
        ),
        heartbeat_period_ns=request.heartbeat_period_ns or DEFAULT_HEARTBEAT_NS,
        certificate_lifetime_ns=lifetime,
        availability=request.availability,
        autolock=request.autolock,
    )


def _check_pools(pools: tuple[str, ...], subnet_size: int) -> None:
    networks: list[IPv4Network] = []
    for pool in pools:
        try:
            network = ip_network(pool)
        except ValueError as error:
            raise InvalidArgumentError(
                f"default address pool: expected an IPv4 CIDR, got {pool!r} ({error})"
            ) from error
        if not isinstance(network, IPv4Network):
            raise InvalidArgumentError(f"default address pool: expected an IPv4 CIDR, got {pool!r}")
        if not network.prefixlen <= subnet_size <= LARGEST_SUBNET_SIZE:
            raise InvalidArgumentError(
                f"default address pool mask length: expected {network.prefixlen}-{LARGEST_SUBNET_SIZE} "
                f"for the pool {pool}, got {subnet_size}"
            )
        for other in networks:
            if network.overlaps(other):
                raise InvalidArgumentError(f"default address pools {other} and {network} overlap")
        networks.append(network)


def _external_etcd(request: pb.InitRequest) -> ExternalEtcd | None:
    endpoints = tuple(request.etcd_endpoints)
    material = (request.etcd_ca_pem, request.etcd_certificate_pem, request.etcd_key_pem)
    if not endpoints:
        if any(material):
            raise InvalidArgumentError("etcd certificates were given without --etcd-endpoints")
        return None
    for endpoint in endpoints:
        if not endpoint.startswith(("http://", "https://")):
            raise InvalidArgumentError(f"etcd endpoints: expected http(s)://HOST:PORT, got {endpoint!r}")
        if endpoint.startswith("https://") and not request.etcd_ca_pem:
            raise InvalidArgumentError(f"etcd endpoint {endpoint} needs its CA certificate")
    if bool(request.etcd_certificate_pem) != bool(request.etcd_key_pem):
        raise InvalidArgumentError("etcd: a client certificate needs its key, and a key its certificate")
    return ExternalEtcd(endpoints, *material)


def check_ports_free(plan: InitPlan) -> None:
    """Raises FailedPreconditionError naming the port that another process listens on."""
    ports = plan.listen.ports
    wanted = [(plan.listen.host, ports.join), (plan.listen.host, ports.control)]
    if plan.external_etcd is None:
        wanted += [(plan.advertise_host, ports.etcd_client), (plan.advertise_host, ports.etcd_peer)]
    for host, port in wanted:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise FailedPreconditionError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def manager_settings(plan: InitPlan, etcd: EtcdSettings) -> ManagerSettings:
    return ManagerSettings(
        node_id=plan.node_id,
        cluster_id=plan.cluster_id,
        hostname=plan.hostname,
        advertise_host=plan.advertise_host,
        listen_host=plan.listen.host,
        etcd=etcd,
        join_port=plan.listen.ports.join,
        control_port=plan.listen.ports.control,
    )


def bootstrap(plan: InitPlan, *, root_ca_pem: bytes, root_key_pem: bytes) -> Bootstrap:
    choices = plan.choices
    return Bootstrap(
        root_ca_pem=root_ca_pem,
        root_key_pem=root_key_pem,
        default_address_pools=choices.pools,
        subnet_size=choices.subnet_size,
        task_history_limit=choices.task_history_limit,
        heartbeat_period_ns=choices.heartbeat_period_ns,
        certificate_lifetime_ns=choices.certificate_lifetime_ns,
        availability=choices.availability,
        autolock=choices.autolock,
    )
