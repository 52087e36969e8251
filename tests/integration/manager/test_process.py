"""The real `mini-manager` on a real etcd with mutual TLS: what it writes survives it, and so do its nodes."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from miniproto.v1 import control_pb2, objects_pb2, security_pb2
from support.etcd import EtcdProcess, make_pki, running_etcd
from support.manager import ManagerProcess, manager_process
from support.scripted_agent import ScriptedAgent
from support.secret_site import make_secret


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    async with running_etcd(tmp_path / "etcd", pki=make_pki(tmp_path / "pki")) as process:
        yield process


@pytest.fixture
async def manager(etcd: EtcdProcess) -> AsyncIterator[ManagerProcess]:
    async with manager_process(etcd.settings) as process:
        yield process


def web(replicas: int = 2) -> control_pb2.CreateServiceRequest:
    return control_pb2.CreateServiceRequest(
        spec=objects_pb2.ServiceSpec(
            name="web",
            replicas=replicas,
            task=objects_pb2.TaskSpec(container=objects_pb2.ContainerSpec(image="whoami:1")),
            ports=[objects_pb2.PortConfig(target_port=4567, published_port=4567)],
        )
    )


async def test_a_service_runs_and_a_restart_of_the_manager_keeps_everything(manager: ManagerProcess) -> None:
    local = await manager.local()
    node_id, channel = await manager.join_worker()
    async with ScriptedAgent(channel.channel) as agent:
        created = await local.services.Create(web())
        before = await local.running(created.id, 2)
        assert await manager.stop() == 0
        await agent.until(lambda: agent.error is not None)

    await manager.start()
    after = await local.running("web", 2)
    assert [task.task for task in after.tasks] == [task.task for task in before.tasks]
    view = await local.nodes.Get(control_pb2.GetRequest(ref=node_id))
    assert view.status.state == objects_pb2.NODE_STATE_READY  # it has time to come back
    async with ScriptedAgent(channel.channel) as agent:
        assert set(agent.tasks()) == {task.task.id for task in before.tasks}
        assert agent.sets[0].complete


async def test_killing_the_manager_loses_no_write_that_was_answered(manager: ManagerProcess) -> None:
    local = await manager.local()
    created = await local.services.Create(web())
    manager.kill()
    await manager.start()
    view = await local.services.Get(control_pb2.GetRequest(ref="web"), wait_for_ready=True)
    assert view.service.id == created.id
    assert not manager.home.paths.bootstrap.exists()


async def test_two_writers_of_one_version_one_wins(manager: ManagerProcess) -> None:
    local = await manager.local()
    await local.services.Create(web())
    service = (await local.services.Get(control_pb2.GetRequest(ref="web"))).service
    service.spec.labels["round"] = "1"
    update = control_pb2.UpdateServiceRequest(ref="web", version=service.meta.version, spec=service.spec)
    outcomes = await asyncio.gather(
        *(asyncio.ensure_future(local.services.Update(update)) for _ in range(8)), return_exceptions=True
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, control_pb2.Changed)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert len(won) == 1
    assert {error.code() for error in lost} == {grpc.StatusCode.ABORTED}
    assert all((error.details() or "").startswith("update out of sequence") for error in lost)


async def test_scaling_at_once_from_many_sides_always_works(manager: ManagerProcess) -> None:
    local = await manager.local()
    await local.services.Create(web(replicas=0))
    wanted = [control_pb2.ScaleServiceRequest(ref="web", replicas=count) for count in range(1, 9)]
    await asyncio.gather(*(asyncio.ensure_future(local.services.Scale(each)) for each in wanted))
    view = await local.services.Get(control_pb2.GetRequest(ref="web"))
    assert view.service.spec.replicas in range(1, 9)


async def test_of_many_creates_of_one_name_one_wins(manager: ManagerProcess) -> None:
    local = await manager.local()
    outcomes = await asyncio.gather(
        *(asyncio.ensure_future(local.services.Create(web(0))) for _ in range(8)), return_exceptions=True
    )
    lost = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert len(lost) == 7
    assert {(error.code(), error.details()) for error in lost} == {
        (
            grpc.StatusCode.ALREADY_EXISTS,
            "name conflicts with an existing object: service web already exists",
        )
    }


async def test_the_socket_is_roots_alone_and_the_log_tells_the_version_and_no_secret(
    manager: ManagerProcess,
) -> None:
    local = await manager.local()
    token = await local.clusters.JoinToken(control_pb2.JoinTokenRequest())
    info = await local.clusters.Get(control_pb2.GetClusterRequest())
    assert stat.S_IMODE(manager.home.paths.manager_socket.stat().st_mode) == 0o600
    assert info.etcd.version.startswith("3.")
    assert f"Connected to etcd. version={info.etcd.version}" in manager.log
    assert token.token not in manager.log
    assert "PRIVATE KEY" not in manager.log


async def test_a_frozen_etcd_is_said_to_be_unavailable_and_comes_back(
    manager: ManagerProcess, etcd: EtcdProcess
) -> None:
    local = await manager.local()
    etcd.freeze()
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await local.services.Create(web(0), timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        info = await local.clusters.Get(control_pb2.GetClusterRequest(), timeout=30)
        assert not info.etcd.healthy
        assert info.etcd.message
        assert (await local.nodes.List(control_pb2.ListRequest(), timeout=30)).nodes  # reads go on
    finally:
        etcd.thaw()
    again = web(0)
    again.spec.name = "again"
    again.spec.ports[0].published_port = 4568
    assert (await local.services.Create(again)).id


async def test_reflection_lists_the_services(manager: ManagerProcess) -> None:
    local = await manager.local()
    stub = reflection_pb2_grpc.ServerReflectionStub(local.channel)

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answers = [answer async for answer in stub.ServerReflectionInfo(requests())]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"mini.v1.Services", "mini.v1.Dispatcher", "grpc.health.v1.Health"} <= names


async def test_a_clean_stop_ends_streams_with_a_reason_and_does_not_wait_for_them(
    manager: ManagerProcess,
) -> None:
    local = await manager.local()
    await local.services.Create(web(0))
    await make_secret(local, "key", b"x")
    watches: list[AsyncIterator[object]] = [
        aiter(local.tasks.WatchService(control_pb2.WatchServiceRequest(ref="web"))),
        aiter(local.secrets.Watch(control_pb2.GetRequest(ref="key"))),
        aiter(local.root.Watch(security_pb2.GetRootRequest())),
        aiter(local.keys.Watch(security_pb2.EncryptionStatusRequest())),
    ]
    for watch in watches:
        await anext(watch)
    stopping = asyncio.create_task(manager.stop())
    for watch in watches:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(watch)
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the manager is stopping",
        )
    assert await stopping == 0
    assert "Manager stopped." in manager.log


async def test_a_second_manager_on_the_same_ports_says_so_and_gives_up(manager: ManagerProcess) -> None:
    paths = manager.home.paths
    (paths.run_dir / "other").mkdir()
    result = await run_manager("--data-dir", str(paths.data_dir), "--run-dir", str(paths.run_dir / "other"))
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{manager.control_port}" in result.stderr
    assert "Traceback" not in result.stderr


async def test_without_settings_it_names_the_file_that_is_missing(tmp_path: Path) -> None:
    result = await run_manager("--data-dir", str(tmp_path), "--run-dir", str(tmp_path))
    assert result.returncode == 1
    assert str(tmp_path / "swarm" / "manager.json") in result.stderr
    assert "Traceback" not in result.stderr


async def run_manager(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A manager that is expected to end by itself."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "minimanager.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
