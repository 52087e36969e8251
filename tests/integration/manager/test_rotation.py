"""Rotation of a secret: services move to the new version under their own policies, or go back; old contents go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from minicommon.clock import SECOND, VirtualClock
from miniproto.v1 import control_pb2, dispatcher_pb2, objects_pb2, secrets_pb2
from support.manager import Client, InProcess, manager_in_process
from support.scripted_agent import PATIENCE, ScriptedAgent
from support.secret_site import Ref, Use, make_secret, make_service, service_spec

COMPLETED, REVERTED = objects_pb2.ROTATION_STATE_COMPLETED, objects_pb2.ROTATION_STATE_REVERTED
ROLLING = objects_pb2.ROTATION_STATE_ROLLING
KEY = (Use(secret="key"),)


async def secret(client: Client, until: Callable[[objects_pb2.Secret], bool]) -> objects_pb2.Secret:
    """The secret `key` once it is so."""
    watch = client.secrets.Watch(Ref(ref="key"), timeout=PATIENCE)
    try:
        async for shown in watch:
            if until(shown):
                return shown
    finally:
        watch.cancel()
    raise AssertionError("the manager ended the watch")


async def rotate(
    client: Client, data: bytes = b"second", *, grace_ns: int = 0
) -> secrets_pb2.RotateSecretResponse:
    request = secrets_pb2.RotateSecretRequest(ref="key", data=data, grace_ns=grace_ns)
    return await client.secrets.Rotate(request)


def versions(spec: objects_pb2.ServiceSpec) -> list[int]:
    return [use.version for use in spec.task.container.secrets]


async def service(client: Client, ref: str = "web") -> objects_pb2.Service:
    return (await client.services.Get(Ref(ref=ref))).service


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as running:
        client = await running.local()
        node = (await client.nodes.Get(Ref(ref="self"))).node
        node.spec.availability = objects_pb2.AVAILABILITY_DRAIN
        await client.nodes.Update(
            control_pb2.UpdateNodeRequest(ref="self", version=node.meta.version, spec=node.spec)
        )
        await make_secret(client, "key", b"first")
        yield running


@pytest.fixture
async def client(manager: InProcess) -> Client:
    return await manager.local()


async def contents(manager: InProcess) -> int:
    listed = await manager.store.list(manager.manager.core.keys.sealed)
    return len(listed.items)


async def test_services_move_and_the_old_content_goes(manager: InProcess, client: Client) -> None:
    _, worker = await manager.join_worker()
    async with ScriptedAgent(worker.channel) as agent:
        for name in ("web", "api"):
            await client.running(await make_service(client, service_spec(name, secrets=KEY, replicas=2)), 2)
        await client.running(await make_service(client, service_spec("other")), 1)
        other = await service(client, "other")
        response = await rotate(client)
        assert (response.version, list(response.services)) == (2, ["api", "web"])
        shown = await secret(client, lambda each: each.rotation.state == COMPLETED)
        assert (shown.version, shown.rotation.old_version, shown.rotation.new_version) == (2, 1, 2)
        assert versions((await service(client)).spec) == [2]
        assert (await service(client, "other")).spec_version == other.spec_version
        who = await client.secrets.Who(Ref(ref="key"))
        assert {holder.version for holder in who.holders} == {2}
        shown = await secret(client, lambda each: len(each.versions) == 1)
        assert [each.number for each in shown.versions] == [2]
        assert await contents(manager) == 1
        assert {f"secret/{shown.id}/2"} == {key for key in agent.assigned if key.startswith("secret/")}


async def test_the_old_content_is_kept_for_the_grace() -> None:
    clock = VirtualClock()
    async with manager_in_process(clock=clock) as manager:
        client = await manager.local()
        await make_secret(client, "key", b"first")
        await rotate(client, grace_ns=600 * SECOND)
        shown = await secret(client, lambda each: bool(each.versions[0].remove_at_ns))
        assert shown.versions[0].remove_at_ns == clock.now_ns() + 600 * SECOND
        clock.advance(599 * SECOND)
        assert len((await client.secrets.Get(Ref(ref="key"))).versions) == 2
        clock.advance(2 * SECOND)
        assert [each.number for each in (await secret(client, lambda s: len(s.versions) == 1)).versions] == [
            2
        ]
        assert await contents(manager) == 1


async def test_a_service_may_go_back_within_the_grace(manager: InProcess, client: Client) -> None:
    _, worker = await manager.join_worker()
    async with ScriptedAgent(worker.channel):
        await client.running(await make_service(client, service_spec(secrets=KEY)), 1)
        await rotate(client, grace_ns=600 * SECOND)
        await secret(client, lambda each: bool(each.versions[0].remove_at_ns))
        await client.services.RollBack(control_pb2.RollBackServiceRequest(ref="web"))
        shown = await secret(client, lambda each: not each.versions[0].remove_at_ns)
        assert versions((await service(client)).spec) == [1]
        assert shown.version == 2  # for those who begin to use it


async def test_after_the_grace_a_rollback_keeps_the_new_content(manager: InProcess, client: Client) -> None:
    _, worker = await manager.join_worker()
    async with ScriptedAgent(worker.channel):
        await client.running(await make_service(client, service_spec(secrets=KEY)), 1)
        await rotate(client)
        await secret(client, lambda each: len(each.versions) == 1)
        present = await service(client)
        present.spec.task.container.image = "whoami:2"
        await client.services.Update(
            control_pb2.UpdateServiceRequest(ref="web", version=present.meta.version, spec=present.spec)
        )
        await client.services.RollBack(control_pb2.RollBackServiceRequest(ref="web", revision=1))
        spec = (await service(client)).spec
        assert (versions(spec), spec.task.container.image) == ([2], "whoami:1")


class Failing(ScriptedAgent):
    """Tasks with the new version fail as soon as they should run."""

    async def _oblige(self, task: dispatcher_pb2.AssignedTask) -> None:
        container = task.spec.container
        new = any(use.version == 2 for use in container.secrets)
        if new and task.desired_state == objects_pb2.TASK_STATE_RUNNING:
            await self.report(task.id, objects_pb2.TASK_STATE_FAILED, error="no such password")
        else:
            await super()._oblige(task)


@pytest.mark.parametrize("action", [objects_pb2.FAILURE_ACTION_PAUSE, objects_pb2.FAILURE_ACTION_ROLLBACK])
async def test_a_rotation_that_fails_goes_back(
    action: objects_pb2.FailureAction.ValueType, manager: InProcess, client: Client
) -> None:
    """Whatever the service's own policy says of a failed update; the other services go back with it."""
    _, worker = await manager.join_worker()
    async with Failing(worker.channel):
        spec = service_spec(secrets=KEY, replicas=2)
        spec.update.failure_action = action
        await client.running(await make_service(client, spec), 2)
        calm = service_spec("calm", secrets=KEY)
        calm.update.failure_action = objects_pb2.FAILURE_ACTION_CONTINUE
        await client.running(await make_service(client, calm), 1)
        before = (await service(client)).spec_version
        await rotate(client)
        shown = await secret(client, lambda each: each.rotation.state == REVERTED and len(each.versions) == 1)
        assert (shown.version, [each.number for each in shown.versions]) == (1, [1])
        assert "service web" in shown.rotation.message
        for name in ("web", "calm"):
            assert versions((await service(client, name)).spec) == [1]
        assert (await service(client)).spec_version == before
        await client.running("web", 2)
        assert await contents(manager) == 1
        again = await rotate(client, b"third")
        assert again.version == 3  # the number of the one that failed is not used again


async def test_one_rotation_at_a_time(client: Client) -> None:
    await make_service(client, service_spec(secrets=KEY))  # without a worker it stays where it is
    await rotate(client)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rotate(client, b"third")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "is being rotated from version 1 to 2" in (caught.value.details() or "")
    assert (await client.secrets.Get(Ref(ref="key"))).rotation.state == ROLLING


async def test_a_removed_service_holds_no_rotation_up(client: Client) -> None:
    await make_service(client, service_spec(secrets=KEY))
    await rotate(client)
    await client.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
    await secret(client, lambda each: each.rotation.state == COMPLETED and len(each.versions) == 1)
    await client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref="key"))


async def test_a_job_is_not_run_again_for_a_new_content(manager: InProcess, client: Client) -> None:
    _, worker = await manager.join_worker()
    async with ScriptedAgent(worker.channel):
        spec = service_spec("job", secrets=KEY)
        spec.mode = objects_pb2.SERVICE_MODE_REPLICATED_JOB
        spec.ClearField("update")
        spec.ClearField("rollback")
        await make_service(client, spec)
        before = await service(client, "job")
        response = await rotate(client)
        assert not response.services
        assert (await service(client, "job")).spec_version == before.spec_version
        changed = await service(client, "job")
        await client.services.Update(
            control_pb2.UpdateServiceRequest(ref="job", version=changed.meta.version, spec=changed.spec)
        )
        assert versions((await service(client, "job")).spec) == [2]  # its next iteration has it


async def test_a_watch_tells_each_change_once_and_ends_with_the_secret(
    manager: InProcess, client: Client
) -> None:
    watch = aiter(client.secrets.Watch(Ref(ref="key"), timeout=PATIENCE))
    assert (await anext(watch)).version == 1
    await make_secret(client, "other", b"not of this one")
    await rotate(client)
    shown = [await anext(watch)]
    while shown[-1].rotation.state != COMPLETED or len(shown[-1].versions) > 1:
        shown.append(await anext(watch))
    assert [each.version for each in shown] == [2] * len(shown)
    told = [each.meta.version for each in shown]
    assert told == sorted(set(told))
    await client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref="key"))
    with pytest.raises(grpc.aio.AioRpcError, match="secret key was removed") as caught:
        await anext(watch)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_new_leader_goes_on_with_it(manager: InProcess, client: Client) -> None:
    """All that the keeper knows is in the store."""
    await make_service(client, service_spec(secrets=KEY))
    await rotate(client)
    core = manager.manager.core
    leader = await core.store.get(core.keys.leader)
    assert leader is not None
    await core.store.revoke_lease(leader.lease_id)
    _, worker = await manager.join_worker()
    async with ScriptedAgent(worker.channel):
        await secret(client, lambda each: each.rotation.state == COMPLETED)


async def test_a_secret_of_many_services(manager: InProcess, client: Client) -> None:
    names = [f"web{number}" for number in range(40)]
    for name in names:
        await make_service(client, service_spec(name, secrets=KEY, replicas=0))
    response = await rotate(client)
    assert sorted(response.services) == sorted(names)
    await secret(client, lambda each: each.rotation.state == COMPLETED and len(each.versions) == 1)
    for name in names:
        assert versions((await service(client, name)).spec) == [2]
