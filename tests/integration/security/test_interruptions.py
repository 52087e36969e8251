"""A manager that is killed in the middle of a change of its root or of its keys: the one after it ends the change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import grpc
import pytest
from minicommon.identity import tokens
from minicommon.identity.keyring import KeyringError, KeyringFile, node_holder, parse_unlock, unlock_holder
from minicommon.identity.peer import identity_of
from minicommon.rpc.channel import unix_channel
from minimanager.store.api import Store
from minimanager.store.envelope import Envelope, sealed_key_id
from minimanager.store.keys import Keys
from miniproto.v1 import control_pb2, objects_pb2, security_pb2, security_pb2_grpc
from support.etcd import connected, running_etcd
from support.following_node import FollowingNode, manager_node
from support.manager import Client, ManagerProcess, manager_process
from support.secret_site import make_secret

PATIENCE = 60.0
SECRETS = 60

Found = Mapping[str, bytes]


@pytest.fixture
async def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[ManagerProcess, Store]]:
    """A manager, and the store behind it."""
    monkeypatch.setenv("MINI_TEST_DRAIN_SECONDS", "0")
    async with (
        running_etcd(tmp_path / "etcd") as etcd,
        manager_process(etcd.settings) as process,
        connected(etcd) as store,
    ):
        yield process, store


async def seen(store: Store, condition: Callable[[Found], bool]) -> None:
    """Return as soon as what is stored is so."""
    async with asyncio.timeout(PATIENCE):
        listed = await store.list("/")
        found = {item.key: item.value for item in listed.items}
        if condition(found):
            return
        async for batch in store.watch("/", after=listed.revision):
            for event in batch.events:
                if event.value is None:
                    found.pop(event.key, None)
                else:
                    found[event.key] = event.value.value
            if condition(found):
                return


def cluster_in(found: Found, process: ManagerProcess) -> objects_pb2.Cluster:
    cluster_id = process.home.settings.cluster_id
    return objects_pb2.Cluster.FromString(found[f"/mini/{cluster_id}/cluster/{cluster_id}"])


# --- the cluster key ---


async def test_a_change_of_the_cluster_key_survives_a_kill_at_each_of_its_steps(
    site: tuple[ManagerProcess, Store],
) -> None:
    process, store = site
    local = await process.local()
    for number in range(SECRETS):
        await make_secret(local, f"s{number}", b"content of %d" % number)
    keys = Keys(process.home.settings.cluster_id)
    steps: list[Callable[[Found], bool]] = [
        lambda found: bool(cluster_in(found, process).sealed_next_key),
        lambda found: any(key.startswith(keys.key_holders) for key in found),
        lambda found: cluster_in(found, process).key_id == 1,
        lambda found: any(sealed_key_id(value) == 1 for key, value in found.items() if keys.sealed in key),
        lambda found: not cluster_in(found, process).sealed_next_key,
    ]
    await local.keys.Rotate(security_pb2.RotateEncryptionKeyRequest())
    for step in steps:
        await seen(store, step)
        process.kill()
        await process.start()
    async for status in (await process.local()).keys.Watch(security_pb2.EncryptionStatusRequest()):
        if not status.rotating:
            break
    assert status.key_id == 1

    # all that is sealed is under the new key, which alone is on the disk, and opens
    paths = process.home.paths
    keyring = KeyringFile(paths.cluster_key).open(node_holder(paths.node_key.read_bytes()))
    assert set(keyring.cluster_keys) == {1}
    envelope = Envelope(keyring.cluster_keys[1], process.home.settings.cluster_id, key_id=1)
    sealed = {item.key: item.value for item in (await store.list(keys.sealed)).items}
    assert len(sealed) == SECRETS
    opened = {envelope.open(key.removeprefix(keys.sealed), value) for key, value in sealed.items()}
    assert opened == {b"content of %d" % number for number in range(SECRETS)}
    token = await (await process.local()).clusters.JoinToken(control_pb2.JoinTokenRequest())
    assert tokens.parse(token.token).is_of(process.home.root.certificate_pem)


# --- the root ---


@contextlib.asynccontextmanager
async def coming_back(node: FollowingNode) -> AsyncIterator[None]:
    """The node has a session whenever there is a manager."""

    async def run() -> None:
        while True:
            with contextlib.suppress(Exception):
                await node.run()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def info_that(
    local: Client, condition: Callable[[security_pb2.RootInfo], bool]
) -> security_pb2.RootInfo:
    watch = local.root.Watch(security_pb2.GetRootRequest(), timeout=PATIENCE)
    try:
        async for info in watch:
            if condition(info):
                return info
    finally:
        watch.cancel()
    raise AssertionError("the manager ended the watch")


async def test_a_change_of_the_root_survives_a_kill_at_each_of_its_steps(
    site: tuple[ManagerProcess, Store],
) -> None:
    process, store = site
    local = await process.local()
    node = manager_node(process)
    async with coming_back(node):
        before = await info_that(local, lambda info: not info.waiting)
        await local.root.Rotate(security_pb2.RotateRootRequest())
        cluster_id = process.home.settings.cluster_id
        status_key = f"/mini/{cluster_id}/node-status/{process.home.settings.node_id}"

        def certified(found: Found) -> bool:
            status = objects_pb2.NodeStatus.FromString(found[status_key])
            wanted = cluster_in(found, process).root_rotation.issuer
            return not wanted or status.certificate_issuer == wanted

        steps: list[Callable[[Found], bool]] = [
            lambda found: cluster_in(found, process).root_rotation.issuer != "",
            certified,
            lambda found: cluster_in(found, process).root_rotation.issuer == "",
        ]
        for step in steps:
            await seen(store, step)
            process.kill()
            await process.start()
        after = await info_that(
            await process.local(), lambda info: not info.rotating and not info.waiting and info.trusting == 1
        )
    assert after.digest != before.digest
    assert node.files.trusted_roots() == after.root_ca_pem
    shown = process.home.paths.node_certificate.read_bytes()
    assert identity_of(shown).node_id == process.home.settings.node_id
    token = await (await process.local()).clusters.JoinToken(control_pb2.JoinTokenRequest())
    assert tokens.parse(token.token).is_of(after.root_ca_pem)


# --- the unlock key ---


async def unlock_key(local: Client, *, rotate: bool = False) -> str:
    return (await local.keys.UnlockKey(security_pb2.GetUnlockKeyRequest(rotate=rotate))).key


async def unlocked(process: ManagerProcess, key: str) -> Client:
    """Start the locked manager and give it the key."""
    process.spawn()
    locked = process.home.paths.locked
    await _until(locked.exists)
    async with unix_channel(process.home.paths.manager_socket) as channel:
        lock = security_pb2_grpc.LockStub(channel)
        await lock.Unlock(security_pb2.UnlockRequest(key=key), timeout=PATIENCE, wait_for_ready=True)
    await _until(lambda: not locked.exists())
    await process.until_serving()
    return await process.local()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def confirm(local: Client, key: str) -> None:
    await local.keys.UnlockKey(security_pb2.GetUnlockKeyRequest(confirm=key))


def opens(process: ManagerProcess, key: str) -> bool:
    """Whether the manager's disk opens with it."""
    try:
        KeyringFile(process.home.paths.cluster_key).open(unlock_holder(parse_unlock(key)))
    except KeyringError:
        return False
    return True


@pytest.fixture
async def locking(site: tuple[ManagerProcess, Store]) -> str:
    """The unlock key of the manager, which needs it from now on."""
    local = await site[0].local()
    await set_autolock(local, on=True)
    key = await unlock_key(local)
    await confirm(local, key)
    return key


async def set_autolock(local: Client, *, on: bool) -> None:
    cluster = (await local.clusters.Get(control_pb2.GetClusterRequest())).cluster
    cluster.spec.autolock = on
    await local.clusters.Update(
        control_pb2.UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec)
    )


def opens_by_itself(process: ManagerProcess) -> bool:
    """Whether what lies on the disk is enough."""
    paths = process.home.paths
    try:
        KeyringFile(paths.cluster_key).open(node_holder(paths.node_key.read_bytes()))
    except KeyringError:
        return False
    return True


async def test_autolock_that_was_cut_off_while_it_was_turned_on(
    site: tuple[ManagerProcess, Store],
) -> None:
    """Killed before the disk, before the key was shown, and before the disk again: open until the key is known."""
    process, store = site
    local = await process.local()
    disk = KeyringFile(process.home.paths.cluster_key)
    with disk.exclusive():  # the manager cannot write its disk
        turning = asyncio.ensure_future(set_autolock(local, on=True))
        await seen(store, lambda found: bool(cluster_in(found, process).sealed_unlock_key))
        process.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await turning
    await process.start()
    local = await process.local()
    assert opens_by_itself(process)
    unseen = await unlock_key(local)  # a client that dies with it
    process.kill()
    await process.start()
    local = await process.local()

    # one that is changed before anybody had it leaves no former one, which nobody has either
    key = await unlock_key(local, rotate=True)
    assert (opens_by_itself(process), opens(process, key)) == (True, False)
    with pytest.raises(grpc.aio.AioRpcError, match="confirm: is not the present unlock key"):
        await confirm(local, unseen)
    with disk.exclusive():
        confirming = asyncio.ensure_future(confirm(local, key))
        await seen(store, lambda found: not cluster_in(found, process).unlock_key_pending)
        process.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await confirming
    await process.start()
    await confirm(await process.local(), key)  # again is no error
    assert (opens_by_itself(process), opens(process, key), opens(process, unseen)) == (False, True, False)
    process.kill()
    assert await unlock_key(await unlocked(process, key)) == key


async def test_autolock_that_was_cut_off_while_it_was_turned_off(
    site: tuple[ManagerProcess, Store], locking: str
) -> None:
    """Killed before the disk: the key opens once more, and is then needed no longer."""
    process, store = site
    local = await process.local()
    with KeyringFile(process.home.paths.cluster_key).exclusive():
        turning = asyncio.ensure_future(set_autolock(local, on=False))
        await seen(store, lambda found: not cluster_in(found, process).sealed_unlock_key)
        process.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await turning
    await unlocked(process, locking)
    await _until(lambda: opens_by_itself(process))
    assert not opens(process, locking)
    process.kill()
    await process.start()
    assert not await unlock_key(await process.local())


async def test_a_change_of_the_unlock_key_that_was_cut_off_before_the_disk(
    site: tuple[ManagerProcess, Store], locking: str
) -> None:
    """Written to the cluster, not yet to the disk, told to nobody: the old key opens, then the new one is had."""
    process, store = site
    local = await process.local()
    present = {item.key: item.value for item in (await store.list("/")).items}
    sealed_before = cluster_in(present, process).sealed_unlock_key
    with KeyringFile(process.home.paths.cluster_key).exclusive():  # the manager cannot write its disk
        rotating = asyncio.ensure_future(unlock_key(local, rotate=True))
        await seen(store, lambda found: cluster_in(found, process).sealed_unlock_key != sealed_before)
        process.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await rotating
    local = await unlocked(process, locking)
    new = await unlock_key(local)
    assert new != locking
    await confirm(local, new)
    assert (opens(process, locking), opens(process, new)) == (False, True)
    process.kill()
    assert await unlock_key(await unlocked(process, new)) == new


async def test_a_new_unlock_key_that_nobody_has_seen_locks_nobody_out(
    site: tuple[ManagerProcess, Store], locking: str
) -> None:
    """Killed when it is on the disk, before anybody was told: twice, and the one that is known still opens."""
    process, _ = site
    local = await process.local()
    for _ in range(2):
        unseen = await unlock_key(local, rotate=True)
        assert (opens(process, locking), opens(process, unseen)) == (True, True)
        process.kill()
        local = await unlocked(process, locking)
    shown = await unlock_key(local)
    with pytest.raises(grpc.aio.AioRpcError, match="confirm: is not the present unlock key"):
        await confirm(local, locking)
    await confirm(local, shown)
    assert (opens(process, locking), opens(process, shown)) == (False, True)
