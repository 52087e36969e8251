"""The first objects of a cluster: written once, whatever is interrupted."""

from __future__ import annotations

import json
import stat

import pytest
from minicommon.clock import VirtualClock
from minicommon.errors import UnavailableError
from minicommon.identity.tokens import parse
from minicommon.settings import EtcdSettings
from minimanager.bootstrap import bootstrap
from minimanager.ca.sealer import ClusterSealer
from minimanager.codec import decode
from minimanager.domain.objects import Cluster, Network, Node, NodeRole
from minimanager.store.envelope import KEY_BYTES, Envelope
from minimanager.store.keys import Keys, Kind, ObjectKey
from minimanager.store.memory import MemoryStore
from minimanager.store.writer import Writer
from support.manager import Home, make_home


async def run(home: Home, store: MemoryStore) -> bool:
    clock = VirtualClock()
    keys = Keys(home.settings.cluster_id)
    sealer = ClusterSealer(Envelope(b"k" * KEY_BYTES, home.settings.cluster_id))
    return await bootstrap(
        home.paths.bootstrap,
        home.settings,
        store=store,
        writer=Writer(store, keys),
        sealer=sealer,
        clock=clock,
    )


async def objects(home: Home, store: MemoryStore) -> dict[Kind, object]:
    keys = Keys(home.settings.cluster_id)
    found: dict[Kind, object] = {}
    for item in (await store.list(keys.prefix)).items:
        key = keys.parse(item.key)
        if isinstance(key, ObjectKey):
            found[key.kind] = decode(key.kind, item.value, item.mod_revision)
    return found


async def test_a_cluster_its_network_and_its_first_node_are_one_transaction() -> None:
    store = MemoryStore()
    with make_home(EtcdSettings(("memory",))) as home:
        assert await run(home, store)
        assert not home.paths.bootstrap.exists()
        found = await objects(home, store)
        cluster, network, node = found[Kind.CLUSTER], found[Kind.NETWORK], found[Kind.NODE]
        assert isinstance(cluster, Cluster)
        assert isinstance(network, Network)
        assert isinstance(node, Node)
        assert cluster.meta.version == network.meta.version == node.meta.version
        assert (network.spec.name, network.subnet, network.gateway, network.vni) == (
            "ingress",
            "10.0.0.0/24",
            "10.0.0.1",
            4096,
        )
        assert (node.id, node.spec.role, node.ingress_address) == (
            home.settings.node_id,
            NodeRole.MANAGER,
            "10.0.0.2",
        )
        keys = Keys(home.settings.cluster_id)
        claim = await store.get(keys.address(network.id, "10.0.0.2"))
        assert claim is not None
        assert claim.value.decode() == node.id


async def test_tokens_and_the_root_key_are_sealed() -> None:
    store = MemoryStore()
    with make_home(EtcdSettings(("memory",))) as home:
        await run(home, store)
        cluster = (await objects(home, store))[Kind.CLUSTER]
        assert isinstance(cluster, Cluster)
        sealer = ClusterSealer(Envelope(b"k" * KEY_BYTES, home.settings.cluster_id))
        worker = sealer.token_text(NodeRole.WORKER, cluster)
        assert parse(worker).is_of(home.root.certificate_pem)
        assert worker != sealer.token_text(NodeRole.MANAGER, cluster)
        stored = b"".join(item.value for item in (await store.list("/")).items)
        assert worker.encode() not in stored
        assert b"PRIVATE KEY" not in stored


async def test_a_crash_before_the_file_is_removed_changes_nothing() -> None:
    store = MemoryStore()
    with make_home(EtcdSettings(("memory",))) as home:
        kept = home.paths.bootstrap.read_text()
        await run(home, store)
        before = await objects(home, store)
        home.paths.bootstrap.write_text(kept)
        assert not await run(home, store)
        assert await objects(home, store) == before
        assert not home.paths.bootstrap.exists()


async def test_a_store_that_does_not_answer_leaves_the_file_for_the_next_try() -> None:
    store = MemoryStore()
    store.set_available(False)
    with make_home(EtcdSettings(("memory",))) as home:
        with pytest.raises(UnavailableError):
            await run(home, store)
        assert home.paths.bootstrap.exists()
        assert stat.S_IMODE(home.paths.bootstrap.stat().st_mode) == 0o600
        store.set_available(True)
        assert await run(home, store)


async def test_a_file_of_another_version_is_an_error_that_names_it() -> None:
    store = MemoryStore()
    with make_home(EtcdSettings(("memory",))) as home:
        raw = json.loads(home.paths.bootstrap.read_text())
        del raw["subnet_size"]
        home.paths.bootstrap.write_text(json.dumps(raw))
        with pytest.raises(ValueError, match=r"bootstrap\.json: expected the fields"):
            await run(home, store)
