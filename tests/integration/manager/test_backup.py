"""Backups through the API of a manager, and what is found in them when they are not what they should be."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from minicommon.backup_file import Backup, BackupError, read_backup
from minicommon.identity.names import Caller
from minimanager.backup.verifying import examine_in, scratch_etcd
from minimanager.store.keys import Keys
from minimanager.store.memory import MemoryStore
from miniproto.v1 import backup_pb2, backup_pb2_grpc, control_pb2, objects_pb2, secrets_pb2, security_pb2
from support.manager import Client, InProcess, manager_in_process

PASSPHRASE = b"correct horse"


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as manager:
        yield manager


async def filled(client: Client) -> None:
    """A secret, a config, a network and a service with ports."""
    secret = secrets_pb2.CreateSecretRequest(spec=objects_pb2.SecretSpec(name="token"), data=b"s3cret")
    await client.secrets.Create(secret)
    config = secrets_pb2.CreateConfigRequest(spec=objects_pb2.ConfigSpec(name="settings"), data=b"a=b")
    await client.configs.Create(config)
    spec = objects_pb2.ServiceSpec(name="web", replicas=2)
    spec.task.container.image = "whoami:1"
    spec.ports.add(target_port=80, published_port=8080)
    await client.services.Create(control_pb2.CreateServiceRequest(spec=spec))


async def backed_up(client: Client, passphrase: bytes = PASSPHRASE) -> bytes:
    stub = backup_pb2_grpc.BackupsStub(client.channel)
    request = backup_pb2.CreateBackupRequest(passphrase=passphrase)
    return b"".join([chunk.data async for chunk in stub.Create(request)])


def read(data: bytes, key: str = PASSPHRASE.decode()) -> Backup:
    return read_backup(io.BytesIO(data), key)


async def test_an_admin_gets_a_backup_that_is_good_in_a_real_etcd(manager: InProcess) -> None:
    await filled(await manager.local())
    data = await backed_up(await manager.member(Caller.ADMIN))
    assert b"s3cret" not in data
    backup = read(data)
    assert backup.manifest.node_id == manager.home.settings.node_id
    keys = Keys(backup.manifest.cluster_id)
    assert not {entry.key for entry in backup.entries} & {keys.leader, keys.barrier}
    async with scratch_etcd() as store:
        report = await examine_in(store, backup)
    assert report.problems == ()
    assert (report.objects["services"], report.objects["secrets"], report.objects["configs"]) == (1, 1, 1)


@pytest.mark.parametrize("caller", [Caller.VIEWER, Caller.OPERATOR, Caller.WORKER, Caller.MANAGER])
async def test_nobody_else_may(manager: InProcess, caller: Caller) -> None:
    client = await manager.member(caller, manager.home.settings.node_id if caller is Caller.MANAGER else "")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await backed_up(client)
    assert refused.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


async def test_it_is_recorded_without_the_passphrase(manager: InProcess) -> None:
    client = await manager.local()
    await backed_up(client)
    answer = await client.audit.List(security_pb2.ListAuditRequest(method="Backups/Create"))
    assert [record.result for record in answer.records] == ["OK"]
    assert PASSPHRASE.decode() not in str(answer)


async def test_without_a_secret_there_is_none(manager: InProcess) -> None:
    client = await manager.local()
    for passphrase, problem in (
        (b"", "the swarm has no unlock key"),
        (b"short", "must have 8 to 1024 bytes"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=problem):
            await backed_up(client, passphrase)


async def test_the_unlock_key_seals_where_there_is_one(manager: InProcess) -> None:
    client = await manager.local()
    cluster = (await client.clusters.Get(control_pb2.GetClusterRequest())).cluster
    cluster.spec.autolock = True
    await client.clusters.Update(
        control_pb2.UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec)
    )
    key = (await client.keys.UnlockKey(security_pb2.GetUnlockKeyRequest())).key
    with pytest.raises(grpc.aio.AioRpcError, match="nobody has seen the swarm's unlock key yet"):
        await backed_up(client, b"")
    await client.keys.UnlockKey(security_pb2.GetUnlockKeyRequest(confirm=key))
    data = await backed_up(client, b"")
    assert read(data, key).manifest.cluster_id == cluster.id
    with pytest.raises(BackupError, match="unlock key is not the one"):
        read(data, "SWMKEY-1-" + "A" * 43)


def _flipped(value: bytes) -> bytes:
    return value[:-1] + bytes((value[-1] ^ 1,))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (lambda key, value: None if "/sealed/" in key and "/secret/" in key else value, "no such content"),
        (lambda key, value: _flipped(value) if "/sealed/" in key else value, "does not open"),
        (lambda key, value: None if "/name/service/web" in key else value, "has no claim"),
        (lambda key, value: None if "/port/tcp/8080" in key else value, "has no claim"),
        (lambda key, value: b"\xff" if "/service/" in key and "/name/" not in key else value, "service"),
    ],
    ids=["content gone", "content altered", "name gone", "port gone", "object damaged"],
)
async def test_what_is_wrong_is_named(
    manager: InProcess, broken: Callable[[str, bytes], bytes | None], problem: str
) -> None:
    client = await manager.local()
    await filled(client)
    backup = read(await backed_up(client))
    entries = [
        backup_pb2.BackupEntry(key=each.key, value=value)
        for each in backup.entries
        if (value := broken(each.key, each.value)) is not None
    ]
    report = await examine_in(MemoryStore(), Backup(backup.manifest, tuple(entries)))
    assert any(problem in each for each in report.problems), report.problems


async def test_a_manifest_of_another_cluster(manager: InProcess) -> None:
    backup = read(await backed_up(await manager.local()))
    other = backup_pb2.BackupManifest()
    other.CopyFrom(backup.manifest)
    other.cluster_id = "other"
    with pytest.raises(BackupError, match="keys of something else"):
        await examine_in(MemoryStore(), Backup(other, backup.entries))
    other.CopyFrom(backup.manifest)
    other.cluster_keys[0] = b"x" * 32
    report = await examine_in(MemoryStore(), Backup(other, backup.entries))
    assert any("root-key" in each for each in report.problems)
