"""From a request to running tasks, over real gRPC, with scripted agents in the place of workers."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from minicommon.clock import SECOND, VirtualClock
from minicommon.identity.names import Caller
from miniproto.v1 import control_pb2, dispatcher_pb2, join_pb2, objects_pb2
from support.manager import Client, manager_in_process
from support.scripted_agent import PATIENCE, ScriptedAgent


def spec(name: str = "web", *, replicas: int = 1, port: int = 0) -> objects_pb2.ServiceSpec:
    ports = [objects_pb2.PortConfig(target_port=80, published_port=port)] if port else []
    return objects_pb2.ServiceSpec(
        name=name,
        replicas=replicas,
        task=objects_pb2.TaskSpec(container=objects_pb2.ContainerSpec(image="whoami:1")),
        ports=ports,
    )


async def create(client: Client, wanted: objects_pb2.ServiceSpec) -> control_pb2.Created:
    return await client.services.Create(control_pb2.CreateServiceRequest(spec=wanted))


async def test_a_service_comes_to_run_and_answers_on_its_port() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        node_id, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel) as agent:
            created = await create(local, spec(replicas=3, port=4567))
            progress = await local.running(created.id, 3)
            assert {task.task.node_id for task in progress.tasks} == {node_id}
            assert sorted(task.task.slot for task in progress.tasks) == [1, 2, 3]
            await agent.until(lambda: (port := agent.port(4567)) is not None and len(port.backends) == 3)
            addresses = {backend.address for backend in agent.port(4567).backends}  # type: ignore[union-attr]
            assert len(addresses) == 3
            listed = await local.services.List(control_pb2.ListRequest())
            assert [(view.service.spec.name, view.running, view.desired) for view in listed.services] == [
                ("web", 3, 3)
            ]


async def test_scaling_down_and_removing() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        _, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel) as agent:
            created = await create(local, spec(replicas=4, port=4567))
            await local.running(created.id, 4)
            await local.services.Scale(control_pb2.ScaleServiceRequest(ref="web", replicas=1))
            await local.running("web", 1)
            watch = aiter(local.tasks.WatchService(control_pb2.WatchServiceRequest(ref=created.id)))
            assert not (await anext(watch)).removed
            await local.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
            again = await create(local, spec(port=4567))  # its name and port are free at once
            assert again.id != created.id
            async with asyncio.timeout(PATIENCE):
                *_, last = [progress async for progress in watch]
            assert last.removed
            await local.running(again.id, 1)
            await agent.until(lambda: (port := agent.port(4567)) is not None and len(port.backends) == 1)


async def test_a_reader_sees_its_own_write_with_min_revision() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        created = await create(local, spec())
        view = await local.services.Get(control_pb2.GetRequest(ref="web", min_revision=created.revision))
        assert view.service.id == created.id
        assert view.service.meta.version <= created.revision


async def test_a_revision_of_the_future_is_not_waited_for_without_end() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await local.services.List(control_pb2.ListRequest(min_revision=10**9), timeout=1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_failed_task_is_replaced() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        _, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel) as agent:
            wanted = spec()
            wanted.task.restart.delay_ns = 1_000_000
            created = await create(local, wanted)
            first = (await local.running(created.id, 1)).tasks[0].task.id
            await agent.report(
                first, objects_pb2.TASK_STATE_FAILED, error="task: non-zero exit (1)", exit_code=1
            )
            await agent.until(lambda: bool(agent.wanted()) and first not in agent.wanted())
            await local.running(created.id, 1)
            failed = await local.tasks.Get(control_pb2.GetRequest(ref=first))
            assert (failed.state, failed.error) == (
                objects_pb2.TASK_STATE_FAILED,
                "task: non-zero exit (1)",
            )


async def heard(client: Client, agent: ScriptedAgent, node_id: str) -> None:
    """Have the agent send something whose arrival can be seen."""
    description = objects_pb2.NodeDescription(hostname="heard")
    await agent.send(dispatcher_pb2.WorkerMessage(description=description))
    async with asyncio.timeout(PATIENCE):
        while True:
            view = await client.nodes.Get(control_pb2.GetRequest(ref=node_id))
            if view.status.description.hostname == "heard":
                return


async def test_tasks_of_a_silent_node_move_to_another() -> None:
    clock = VirtualClock()
    async with manager_in_process(clock=clock) as manager:
        local = await manager.local()
        first_id, first = await manager.join_worker()
        async with ScriptedAgent(first.channel) as silent:
            wanted = spec()
            wanted.task.restart.SetInParent()  # a policy of zeros: no delay
            created = await create(local, wanted)
            await local.running(created.id, 1)
            second_id, second = await manager.join_worker()
            async with ScriptedAgent(second.channel, address="10.77.0.13") as living:
                clock.advance(14 * SECOND)
                await heard(local, living, second_id)
                clock.advance(1 * SECOND)
                await silent.until(lambda: silent.error is not None)
                assert silent.error is not None
                assert silent.error.details() == "heartbeat failure"
                await living.until(lambda: bool(living.wanted()))
                progress = await local.running(created.id, 1)
                wanted_on = {
                    view.task.node_id
                    for view in progress.tasks
                    if view.task.desired_state == objects_pb2.TASK_STATE_RUNNING
                }
                assert wanted_on == {second_id}
                view = await local.nodes.Get(control_pb2.GetRequest(ref=first_id))
                assert view.status.state == objects_pb2.NODE_STATE_DOWN
                assert view.status.message == "heartbeat failure"


async def test_a_node_that_comes_back_is_told_to_stop_what_was_replaced() -> None:
    clock = VirtualClock()
    async with manager_in_process(clock=clock) as manager:
        local = await manager.local()
        first_id, first = await manager.join_worker()
        async with ScriptedAgent(first.channel) as lost:
            wanted = spec()
            wanted.task.restart.SetInParent()  # a policy of zeros: no delay
            created = await create(local, wanted)
            await local.running(created.id, 1)
            (stale,) = lost.wanted()
        async with asyncio.timeout(PATIENCE):
            view = await local.nodes.Get(control_pb2.GetRequest(ref=first_id))
            while view.status.state != objects_pb2.NODE_STATE_DOWN:
                clock.advance(3 * SECOND)
                view = await local.nodes.Get(control_pb2.GetRequest(ref=first_id))
        second_id, second = await manager.join_worker()
        async with ScriptedAgent(second.channel, address="10.77.0.13") as living:
            await living.until(lambda: bool(living.wanted()))
            await local.running(created.id, 1)
            async with ScriptedAgent(first.channel) as back:
                await back.until(lambda: stale not in back.tasks())  # it was told, has stopped, and said so
                told = [
                    change.assignment.task.desired_state
                    for update in back.sets
                    for change in update.changes
                    if change.assignment.task.id == stale
                ]
                assert told == [objects_pb2.TASK_STATE_SHUTDOWN]
                progress = await local.running(created.id, 1)
                assert {view.task.node_id for view in progress.tasks if view.task.id != stale} == {second_id}


async def test_a_node_whose_connection_was_cut_is_down_after_a_short_grace() -> None:
    clock = VirtualClock()
    async with manager_in_process(clock=clock) as manager:
        local = await manager.local()
        node_id, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel):
            pass
        clock.advance(2 * SECOND)
        async with ScriptedAgent(channel.channel):  # back in time
            view = await local.nodes.Get(control_pb2.GetRequest(ref=node_id))
            assert view.status.state == objects_pb2.NODE_STATE_READY
        async with asyncio.timeout(PATIENCE):
            while view.status.state != objects_pb2.NODE_STATE_DOWN:
                clock.advance(3 * SECOND)
                view = await local.nodes.Get(control_pb2.GetRequest(ref=node_id))
        assert view.status.message == "the node's connection was lost"


async def _once(client: Client, clock: VirtualClock, node_id: str, state: int) -> objects_pb2.NodeStatus:
    """The node's status once it is in `state`; time runs meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while True:
            view = await client.nodes.Get(control_pb2.GetRequest(ref=node_id))
            if view.status.state == state:
                return view.status
            clock.advance(SECOND)


async def test_a_node_that_flaps_is_not_ready_before_it_has_held_its_connection() -> None:
    clock = VirtualClock()
    async with manager_in_process(clock=clock) as manager:
        local = await manager.local()
        node_id, channel = await manager.join_worker()
        for _ in range(2):
            async with ScriptedAgent(channel.channel):
                view = await local.nodes.Get(control_pb2.GetRequest(ref=node_id))
                assert view.status.state == objects_pb2.NODE_STATE_READY
            await _once(local, clock, node_id, objects_pb2.NODE_STATE_DOWN)
        created = await create(local, spec())
        async with ScriptedAgent(channel.channel) as back:
            view = await local.nodes.Get(control_pb2.GetRequest(ref=node_id))
            assert view.status.state == objects_pb2.NODE_STATE_DOWN
            assert view.status.message == "was lost 2 times in a row: must hold its connection for 15 s"
            clock.advance(8 * SECOND)
            await heard(local, back, node_id)
            assert not back.wanted()
            await _once(local, clock, node_id, objects_pb2.NODE_STATE_READY)
            await local.running(created.id, 1)


async def test_heartbeats_are_answered() -> None:
    async with manager_in_process() as manager:
        _, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel) as agent:
            await agent.beat()
            await agent.until(lambda: agent.answers == 1)


async def test_an_agent_that_says_goodbye_has_as_long_as_a_silent_one_to_come_back() -> None:
    clock = VirtualClock()
    async with manager_in_process(clock=clock) as manager:
        local = await manager.local()
        node_id, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel) as agent:
            await agent.send(dispatcher_pb2.WorkerMessage(goodbye=dispatcher_pb2.Goodbye()))
            await agent.finished()
        clock.advance(14 * SECOND)
        async with ScriptedAgent(channel.channel):
            view = await local.nodes.Get(control_pb2.GetRequest(ref=node_id))
            assert view.status.state == objects_pb2.NODE_STATE_READY


async def test_a_removed_node_loses_its_session_and_its_access() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        node_id, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel) as agent:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await local.nodes.Remove(control_pb2.RemoveNodeRequest(ref=node_id))
            assert refused.value.details() == f"node {node_id} is not down and can't be removed"
            await local.nodes.Remove(control_pb2.RemoveNodeRequest(ref=node_id, force=True))
            await agent.until(lambda: agent.error is not None)
            with pytest.raises(grpc.aio.AioRpcError) as denied:
                await channel.membership.Leave(join_pb2.LeaveRequest())
            assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_newer_session_of_a_node_ends_the_older() -> None:
    async with manager_in_process() as manager:
        node_id, first = await manager.join_worker()
        second = await manager.member(Caller.WORKER, node_id)
        async with ScriptedAgent(first.channel) as older, ScriptedAgent(second.channel) as newer:
            await older.until(lambda: older.error is not None)
            assert older.error is not None
            assert older.error.code() is grpc.StatusCode.ABORTED
            assert newer.error is None
            assert newer.welcome is not None
            assert newer.welcome.heartbeat_period_ns == 5 * SECOND


async def test_a_node_that_leaves_is_down_at_once_and_can_be_removed() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        node_id, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel):
            await channel.membership.Leave(join_pb2.LeaveRequest())
        view = await local.nodes.Get(control_pb2.GetRequest(ref=node_id))
        assert view.status.state == objects_pb2.NODE_STATE_DOWN
        await local.nodes.Remove(control_pb2.RemoveNodeRequest(ref=node_id))
        listed = await local.nodes.List(control_pb2.ListRequest())
        assert [each.node.id for each in listed.nodes] == [manager.home.settings.node_id]


async def test_the_cluster_says_who_leads_and_what_it_stands_on() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        info = await local.clusters.Get(control_pb2.GetClusterRequest())
        assert [(each.node_id, each.leader) for each in info.managers] == [
            (manager.home.settings.node_id, True)
        ]
        assert info.etcd.healthy
        assert not info.cluster.sealed_root_key
        assert not info.cluster.worker_token.sealed
        networks = await local.networks.List(control_pb2.ListRequest())
        assert [(n.spec.name, n.subnet, n.gateway, n.vni) for n in networks.networks] == [
            ("ingress", "10.0.0.0/24", "10.0.0.1", 4096)
        ]


async def test_a_rotated_token_is_void() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        role = objects_pb2.NODE_ROLE_WORKER
        old = await local.clusters.JoinToken(control_pb2.JoinTokenRequest(role=role))
        new = await local.clusters.JoinToken(control_pb2.JoinTokenRequest(role=role, rotate=True))
        again = await local.clusters.JoinToken(control_pb2.JoinTokenRequest(role=role))
        assert old.token != new.token == again.token
        joiner = await manager.joiner()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await joiner.join.IssueCertificate(
                join_pb2.IssueCertificateRequest(csr_pem=b"x", token=old.token)
            )
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
