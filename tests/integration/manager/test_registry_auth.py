"""How nodes log in to a registry: sealed in the store, never shown, told only to the nodes that have a task for it."""

from __future__ import annotations

import grpc
import pytest
from miniproto.v1 import control_pb2, objects_pb2
from support.manager import InProcess, manager_in_process
from support.scripted_agent import ScriptedAgent

from .test_services_and_tasks import spec

AUTH = objects_pb2.RegistryAuth(username="ann", password="open sesame")


async def stored(manager: InProcess) -> bytes:
    """Everything that the store holds."""
    core = manager.manager.core
    listed = await manager.store.list(core.keys.prefix)
    return b"".join(item.value for item in listed.items)


async def test_it_reaches_the_tasks_node_and_nobody_else() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        _, first = await manager.join_worker()
        _, second = await manager.join_worker()
        async with (
            ScriptedAgent(first.channel, hostname="east") as east,
            ScriptedAgent(second.channel, hostname="west", address="10.77.1.12") as west,
        ):
            wanted = spec()
            wanted.placement.constraints.append("node.hostname==east")
            request = control_pb2.CreateServiceRequest(spec=wanted, registry_auth=AUTH)
            created = await local.services.Create(request)
            await local.running(created.id, 1)
            (task,) = east.tasks().values()
            assert (task.registry_auth, task.needs_registry_auth) == (AUTH, True)
            assert not west.tasks()
            view = await local.services.Get(control_pb2.GetRequest(ref="web"))
            assert view.service.sealed_registry_auth == b""
            assert b"sesame" not in view.SerializeToString()
            assert b"sesame" not in await stored(manager)


async def test_an_update_without_it_keeps_it_and_a_new_one_replaces_no_task() -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        _, channel = await manager.join_worker()
        async with ScriptedAgent(channel.channel) as agent:
            request = control_pb2.CreateServiceRequest(spec=spec(), registry_auth=AUTH)
            created = await local.services.Create(request)
            await local.running(created.id, 1)
            (before,) = agent.wanted()
            view = await local.services.Get(control_pb2.GetRequest(ref="web"))
            view.service.spec.labels["a"] = "b"
            changed = await local.services.Update(
                control_pb2.UpdateServiceRequest(
                    ref="web", version=view.service.meta.version, spec=view.service.spec
                )
            )
            view = await local.services.Get(control_pb2.GetRequest(ref="web", min_revision=changed.revision))
            assert agent.tasks()[before].registry_auth == AUTH
            other = objects_pb2.RegistryAuth(username="bob", password="other")
            await local.services.Update(
                control_pb2.UpdateServiceRequest(
                    ref="web",
                    version=view.service.meta.version,
                    spec=view.service.spec,
                    registry_auth=other,
                )
            )
            wanted = spec("next")
            await local.running(
                (await local.services.Create(control_pb2.CreateServiceRequest(spec=wanted))).id, 1
            )
            assert before in agent.wanted()


@pytest.mark.parametrize(
    ("username", "password", "message"),
    [
        ("ann", "", "must have both"),
        ("", "secret", "must have both"),
        ("a:b", "secret", "must have no colon"),
        ("ann", "se\ncret", "a control character"),
        ("ann", "s" * 20_000, "at most 16384 characters"),
    ],
)
async def test_what_is_no_login_is_refused_without_repeating_it(
    username: str, password: str, message: str
) -> None:
    async with manager_in_process() as manager:
        local = await manager.local()
        auth = objects_pb2.RegistryAuth(username=username, password=password)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await local.services.Create(control_pb2.CreateServiceRequest(spec=spec(), registry_auth=auth))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = caught.value.details() or ""
        assert message in details
        assert "secret" not in details
