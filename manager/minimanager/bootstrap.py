"""The first objects of a new cluster, from what `swarm init` decided.

The node daemon leaves `bootstrap.json` behind; the manager that finds it writes the cluster, its ingress network and
its own node in one transaction and removes the file. A crash in between is harmless: the transaction happens once,
and a file without use is removed at the next start.
"""

from __future__ import annotations

import logging
from ipaddress import IPv4Network
from pathlib import Path

from minicommon.clock import Clock
from minicommon.errors import ConflictError
from minicommon.identity.keyring import new_unlock_key
from minicommon.ids import new_id
from minicommon.log import fields
from minicommon.settings import Bootstrap, ManagerSettings, read_json

from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.addresses import AddressPool, gateway, next_subnet, next_vni, parse_pools
from minimanager.domain.objects import (
    Availability,
    Cluster,
    ClusterSpec,
    Meta,
    Network,
    NetworkSpec,
    Node,
    NodeRole,
    NodeSpec,
)
from minimanager.store.api import Store
from minimanager.store.keys import Kind
from minimanager.store.writer import Writer

logger = logging.getLogger(__name__)

INGRESS_NAME = "ingress"
"""The name that Swarm gives to the network of the published ports."""


async def bootstrap(
    path: Path,
    settings: ManagerSettings,
    *,
    store: Store,
    writer: Writer,
    sealer: ClusterSealer,
    clock: Clock,
) -> bool:
    """Create the cluster that the file at `path` asks for, unless it exists. Whether it was created.

    Raises ValueError when the file is not what it should be.
    """
    if not path.exists():  # noqa: ASYNC240  once, at the start
        return False
    created = False
    if await store.get(writer.keys.object(Kind.CLUSTER, settings.cluster_id)) is None:
        wanted = read_json(path, Bootstrap)
        created = await _create(wanted, settings, writer, sealer, clock)
    path.unlink(missing_ok=True)  # noqa: ASYNC240
    if created:
        logger.info(
            "Cluster created.", extra=fields(cluster_id=settings.cluster_id, node_id=settings.node_id)
        )
    return created


async def _create(
    wanted: Bootstrap, settings: ManagerSettings, writer: Writer, sealer: ClusterSealer, clock: Clock
) -> bool:
    now_ns = clock.now_ns()
    meta = Meta(created_at_ns=now_ns, updated_at_ns=now_ns)
    network, subnet = _ingress(wanted, meta)
    address = str(AddressPool(subnet, ()).take())
    node = Node(
        id=settings.node_id,
        meta=meta,
        spec=NodeSpec(role=NodeRole.MANAGER, availability=Availability(wanted.availability)),
        ingress_address=address,
    )
    transaction = writer.begin().create(_cluster(wanted, settings, meta, sealer)).create(network).create(node)
    transaction.claim(writer.keys.name(Kind.NETWORK, network.spec.name), network.id)
    transaction.claim(writer.keys.address(network.id, address), node.id)
    try:
        await writer.commit(transaction)
    except ConflictError:
        return False  # an earlier attempt, whose answer was lost, had worked
    return True


def _cluster(wanted: Bootstrap, settings: ManagerSettings, meta: Meta, sealer: ClusterSealer) -> Cluster:
    return Cluster(
        id=settings.cluster_id,
        meta=meta,
        spec=ClusterSpec(
            task_history_limit=wanted.task_history_limit,
            heartbeat_period_ns=wanted.heartbeat_period_ns,
            certificate_lifetime_ns=wanted.certificate_lifetime_ns,
            autolock=wanted.autolock,
        ),
        root_ca_pem=wanted.root_ca_pem,
        sealed_root_key=sealer.root_key(wanted.root_key_pem),
        worker_token=sealer.join_token(NodeRole.WORKER, wanted.root_ca_pem),
        manager_token=sealer.join_token(NodeRole.MANAGER, wanted.root_ca_pem),
        sealed_unlock_key=sealer.unlock_key(new_unlock_key()) if wanted.autolock else b"",
        unlock_key_pending=wanted.autolock,
        default_address_pools=wanted.default_address_pools,
        subnet_size=wanted.subnet_size,
    )


def _ingress(wanted: Bootstrap, meta: Meta) -> tuple[Network, IPv4Network]:
    pools = parse_pools(wanted.default_address_pools, wanted.subnet_size)
    subnet = next_subnet(pools, wanted.subnet_size, ())
    network = Network(
        id=new_id(),
        meta=meta,
        spec=NetworkSpec(name=INGRESS_NAME, ingress=True),
        subnet=str(subnet),
        gateway=str(gateway(subnet)),
        vni=next_vni(()),
    )
    return network, subnet
