"""The audit journal: a record of every change and every try, readable by admins, kept over restarts, bounded."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import grpc
import pytest
from minicommon.clock import SECOND
from minicommon.identity.names import Caller
from minicommon.identity.requests import new_request
from minicommon.rpc.audit import Record
from minimanager.audit.journal import FileJournal, Query
from miniproto.v1 import control_pb2, join_pb2, objects_pb2, security_pb2
from support.manager import Client, InProcess


def web() -> control_pb2.CreateServiceRequest:
    return control_pb2.CreateServiceRequest(
        spec=objects_pb2.ServiceSpec(
            name="web",
            task=objects_pb2.TaskSpec(
                container=objects_pb2.ContainerSpec(image="w:1", env=["PASSWORD=canary"])
            ),
        )
    )


async def records(client: Client, **fields: object) -> list[security_pb2.AuditRecord]:
    answer = await client.audit.List(security_pb2.ListAuditRequest(**fields))  # type: ignore[arg-type]
    assert not answer.warnings
    return list(answer.records)


async def test_every_change_and_every_refusal_is_recorded_and_no_read(
    manager: InProcess, local: Client
) -> None:
    await local.services.Create(web())
    viewer = await manager.member(Caller.VIEWER, "alice")
    await viewer.services.List(control_pb2.ListRequest())
    with pytest.raises(grpc.aio.AioRpcError):
        await viewer.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
    with pytest.raises(grpc.aio.AioRpcError):
        await local.services.Scale(control_pb2.ScaleServiceRequest(ref="nope", replicas=1))
    found = [(r.caller, r.name, r.method, r.object, r.result) for r in await records(local)]
    assert found == [
        ("local", "", "Services/Create", "web", "OK"),
        ("viewer", "alice", "Services/Remove", "web", "PERMISSION_DENIED"),
        ("local", "", "Services/Scale", "nope", "NOT_FOUND"),
    ]
    first, refused, failed = await records(local)
    assert first.address == "unix"
    assert refused.address.startswith("127.0.0.1:")
    assert refused.manager == manager.home.settings.node_id
    assert failed.error == "service nope not found"
    assert 0 <= failed.duration_ns < 60 * SECOND


async def test_what_was_sent_is_not_in_it(manager: InProcess, local: Client) -> None:
    await local.services.Create(web())
    token = await local.clusters.JoinToken(control_pb2.JoinTokenRequest(rotate=True))
    request = join_pb2.IssueCertificateRequest(
        csr_pem=new_request().csr_pem, token=token.token, hostname="core-02"
    )
    await (await manager.joiner()).join.IssueCertificate(request)
    text = (manager.home.paths.audit_dir / "audit.jsonl").read_text()
    assert "canary" not in text
    assert "SWMTKN" not in text
    joined = json.loads(text.splitlines()[-1])
    assert (joined["caller"], joined["method"], joined["object"]) == (
        "anyone",
        "Join/IssueCertificate",
        "core-02",
    )


async def test_filters(manager: InProcess, local: Client) -> None:
    admin = await manager.member(Caller.ADMIN, "alice")
    await admin.services.Create(web())
    await local.services.Scale(control_pb2.ScaleServiceRequest(ref="web", replicas=3))
    await admin.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
    everything = await records(local)
    assert len(everything) == 3
    assert [r.method for r in await records(local, name="alice")] == ["Services/Create", "Services/Remove"]
    assert [r.method for r in await records(local, name="local")] == ["Services/Scale"]
    assert [r.method for r in await records(local, method="remove")] == ["Services/Remove"]
    assert [r.method for r in await records(local, limit=1)] == ["Services/Remove"]
    since = everything[1].at_ns
    assert [r.method for r in await records(local, since_ns=since)] == ["Services/Scale", "Services/Remove"]
    assert [r.method for r in await records(local, until_ns=since)] == ["Services/Create"]


async def test_only_admins_read_it(manager: InProcess) -> None:
    assert await records(await manager.member(Caller.ADMIN)) == []
    for caller in (Caller.WORKER, Caller.VIEWER, Caller.OPERATOR):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await records(await manager.member(caller))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def record(number: int) -> Record:
    return Record(number, "local", "", "unix", "Services/Scale", f"s{number}", "OK", "", 1)


def sizes_in(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


async def test_the_journal_is_bounded_and_survives_a_restart_and_half_a_line(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, manager="m", file_bytes=2000, older_files=2)
    for number in range(100):
        journal.write(record(number))
    sizes = sizes_in(tmp_path)
    assert sorted(sizes) == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    assert sum(sizes.values()) < 3 * 2300
    kept = [each.at_ns for each in journal.read(Query(), limit=1000)]
    assert kept == list(range(kept[0], 100))
    journal.close()
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"at_ns": 5, "cal')
    again = FileJournal(tmp_path, manager="m", file_bytes=100_000)
    again.write(record(100))
    assert [each.at_ns for each in again.read(Query(), limit=2)] == [99, 100]
    assert os.stat(tmp_path / "audit.jsonl").st_mode & 0o777 == 0o600
    again.close()


async def test_reading_the_newest_takes_no_memory_for_the_others(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, manager="m")
    for number in range(20_000):
        journal.write(record(number))
    tracemalloc.start()
    try:
        found = journal.read(Query(), limit=10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        journal.close()
    assert [each.at_ns for each in found] == list(range(19_990, 20_000))
    assert peak < 1 << 20  # all of them would take ten times that


async def test_a_journal_that_cannot_be_written_does_not_fail_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    FileJournal(tmp_path, manager="m").write(record(1))
    assert "An audit record could not be written." in caplog.text
