"""Entries back in a store: repeatable, the cluster last, and without the managers that are no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from minicommon.clock import VirtualClock
from minicommon.errors import FailedPreconditionError
from minicommon.settings import EtcdSettings, ManagerSettings
from minimanager import codec
from minimanager.backup.restoring import load, only_manager, restore
from minimanager.domain.objects import Cluster, Node, NodeRole, NodeSpec, NodeStatus, Object, RemovedNode
from minimanager.store.api import Put
from minimanager.store.keys import Keys, Kind
from minimanager.store.memory import MemoryStore
from miniproto.v1 import backup_pb2 as pb

KEYS = Keys("c")
OWN = Node(id="m1", spec=NodeSpec(role=NodeRole.MANAGER))
OTHER = Node(id="m2", spec=NodeSpec(name="second", role=NodeRole.MANAGER), certificate_expires_at_ns=77)
WORKER = Node(id="w1")
CLUSTER = Cluster(id="c", removed_nodes=(RemovedNode("x", 5),))
SETTINGS = ManagerSettings(
    node_id="m1",
    cluster_id="c",
    hostname="one",
    advertise_host="127.0.0.1",
    listen_host="127.0.0.1",
    etcd=EtcdSettings(("memory",)),
)


def entries(*objects: Object) -> list[pb.BackupEntry]:
    made = [pb.BackupEntry(key=KEYS.of(each), value=codec.encode(each)) for each in objects]
    return [
        *made,
        pb.BackupEntry(key=KEYS.name(Kind.NODE, "second"), value=b"m2"),
        pb.BackupEntry(key=KEYS.address("n", "10.0.0.2"), value=b"m2"),
        pb.BackupEntry(key=KEYS.address("n", "10.0.0.3"), value=b"w1"),
        pb.BackupEntry(key=KEYS.ledger_head, value=b"m2"),
    ]


WHOLE = entries(CLUSTER, OWN, OTHER, WORKER, NodeStatus(id="m2"), NodeStatus(id="w1"))


def test_other_managers_go_with_all_that_is_theirs() -> None:
    puts = list(only_manager(WHOLE, KEYS, node_id="m1", now_ns=9))
    assert {put.key for put in puts} == {
        KEYS.of(CLUSTER),
        KEYS.of(OWN),
        KEYS.of(WORKER),
        KEYS.object(Kind.NODE_STATUS, "w1"),
        KEYS.address("n", "10.0.0.3"),
        KEYS.ledger_head,
    }
    cluster = codec.decode(Kind.CLUSTER, puts[-1].value, 0)
    assert cluster == replace(CLUSTER, removed_nodes=(RemovedNode("x", 5), RemovedNode("m2", 77)))


@pytest.mark.parametrize("missing", [CLUSTER, OWN], ids=["cluster", "own node"])
def test_a_backup_of_something_else(missing: Object) -> None:
    rest = [each for each in WHOLE if each.key != KEYS.of(missing)]
    with pytest.raises(FailedPreconditionError, match="no cluster, or not the manager that made it"):
        list(only_manager(rest, KEYS, node_id="m1", now_ns=9))


async def test_a_manager_that_died_over_it_begins_again(tmp_path: Path) -> None:
    """Whatever part was written: the next start writes all, and the one after nothing."""
    puts = list(only_manager(WHOLE, KEYS, node_id="m1", now_ns=9))
    for done in range(len(puts)):
        store, clock = MemoryStore(), VirtualClock()
        await load(store, puts[:done])
        path = tmp_path / "restore.pb"
        path.write_bytes(pb.BackupEntries(entries=WHOLE).SerializeToString())
        assert await restore(path, SETTINGS, store=store, keys=KEYS, clock=clock)
        assert not path.exists()
        listed = await store.list("/mini/")
        assert {item.key for item in listed.items} == {put.key for put in puts}
        assert not await restore(path, SETTINGS, store=store, keys=KEYS, clock=clock)


async def test_a_cluster_that_is_there_is_left_alone(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.txn((), (Put(KEYS.of(CLUSTER), codec.encode(CLUSTER)),))
    path = tmp_path / "restore.pb"
    path.write_bytes(b"\xff")
    assert not await restore(path, SETTINGS, store=store, keys=KEYS, clock=VirtualClock())
    assert not path.exists()


async def test_much_is_written_in_parts() -> None:
    store = MemoryStore()
    await load(store, (Put(f"/mini/c/x/{number}", b"v" * 30_000) for number in range(1300)))
    assert len((await store.list("/mini/c/x/")).items) == 1300
    assert (await store.list("/mini/c/x/")).revision > 1300 * 30_000 // (1024 * 1024)
