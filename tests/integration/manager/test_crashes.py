"""Loss of power during writes, and an etcd that is full: nothing acknowledged is lost, and both can be mended."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from random import Random

import grpc
import pytest
from minicommon.errors import ResourceExhaustedError
from minimanager.store.api import Put
from minimanager.store.etcd.client import EtcdStore
from miniproto.v1 import control_pb2, objects_pb2
from support.crashes import Crashes
from support.etcd import connected, make_pki, running_etcd
from support.manager import Client, manager_process
from support.scripted_agent import ScriptedAgent

ROUNDS = 2
"""`scripts/soak.py` makes as many as it is told."""

QUOTA_BYTES = 8 << 20


async def test_no_acknowledged_write_is_lost_with_the_power(tmp_path: Path) -> None:
    async with (
        running_etcd(tmp_path / "etcd", pki=make_pki(tmp_path / "pki")) as etcd,
        manager_process(etcd.settings) as manager,
    ):
        crashes = Crashes(etcd, manager, Random(6))
        for _ in range(ROUNDS):
            await crashes.round()
        assert len(crashes.acknowledged) > ROUNDS


def web(name: str) -> control_pb2.CreateServiceRequest:
    container = objects_pb2.ContainerSpec(image="whoami:1")
    return control_pb2.CreateServiceRequest(
        spec=objects_pb2.ServiceSpec(name=name, replicas=1, task=objects_pb2.TaskSpec(container=container))
    )


async def names(client: Client) -> list[str]:
    listed = await client.services.List(control_pb2.ListRequest(), wait_for_ready=True)
    return [view.service.spec.name for view in listed.services]


async def fill(store: EtcdStore) -> None:
    """Write one key again and again: what takes the space is history. Raises ResourceExhaustedError."""
    while True:
        await store.txn([], [Put("/filler", b"x" * (1 << 20))])


async def refused(store: EtcdStore, client: Client) -> grpc.aio.AioRpcError:
    """Fill it until a service is refused: the manager may give space back in between."""
    for number in itertools.count():
        with pytest.raises(ResourceExhaustedError):
            await fill(store)
        try:
            await client.services.Create(web(f"between{number}"))
        except grpc.aio.AioRpcError as error:
            return error
    raise AssertionError("counting has ended")


async def created_at_last(client: Client, name: str) -> control_pb2.Created:
    """Try until it is not refused any more."""
    while True:
        try:
            return await client.services.Create(web(name), wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            await asyncio.sleep(0.2)  # nothing tells when there is space


async def test_a_full_etcd_refuses_writes_serves_reads_and_is_mended(tmp_path: Path) -> None:
    """Nobody but the manager mends it."""
    async with (
        running_etcd(tmp_path / "etcd", pki=make_pki(tmp_path / "pki"), quota_bytes=QUOTA_BYTES) as etcd,
        manager_process(etcd.settings) as manager,
        connected(etcd) as store,
    ):
        local = await manager.local()
        _, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel) as agent:
            created = await local.services.Create(web("before"))
            await local.running(created.id, 1)
            error = await refused(store, local)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "etcd's database is full" in (error.details() or "")
            assert "before" in await names(local)
            await agent.report(
                agent.wanted()[0], objects_pb2.TASK_STATE_FAILED, error="task: non-zero exit (1)"
            )
        await manager.stop()
        await manager.start()  # with a full database, unless space has been given back by now
        assert "before" in await names(local)
        async with asyncio.timeout(60):
            after = await created_at_last(local, "after")
        async with ScriptedAgent(channel.channel):
            await local.running(after.id, 1)
        assert "etcd's space was given back." in manager.log
