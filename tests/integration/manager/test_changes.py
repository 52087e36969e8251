"""Updates of services, nodes and the cluster: what they change, and what they take and give back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from miniproto.v1 import control_pb2, objects_pb2
from support.manager import Client, InProcess, manager_in_process

Port = objects_pb2.PortConfig


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as running:
        yield running


@pytest.fixture
async def client(manager: InProcess) -> Client:
    return await manager.local()


def web(name: str = "web", *ports: int) -> control_pb2.CreateServiceRequest:
    return control_pb2.CreateServiceRequest(
        spec=objects_pb2.ServiceSpec(
            name=name,
            replicas=1,
            task=objects_pb2.TaskSpec(container=objects_pb2.ContainerSpec(image="whoami:1")),
            ports=[Port(target_port=80, published_port=port) for port in ports],
        )
    )


async def service(client: Client, ref: str = "web") -> objects_pb2.Service:
    return (await client.services.Get(control_pb2.GetRequest(ref=ref))).service


async def update(client: Client, changed: objects_pb2.Service) -> objects_pb2.Service:
    await client.services.Update(
        control_pb2.UpdateServiceRequest(ref=changed.id, version=changed.meta.version, spec=changed.spec)
    )
    return await service(client, changed.id)


async def test_only_a_change_of_the_task_makes_a_new_version_of_it(client: Client) -> None:
    await client.services.Create(web())
    first = await service(client)
    first.spec.labels["team"] = "a"
    second = await update(client, first)
    assert (first.spec_version, second.spec_version) == (1, 1)
    second.spec.task.container.image = "whoami:2"
    third = await update(client, second)
    assert third.spec_version > second.spec_version
    assert third.meta.version > second.meta.version > first.meta.version


async def test_an_updated_service_gives_back_the_port_that_it_no_longer_has(client: Client) -> None:
    await client.services.Create(web("web", 4567))
    present = await service(client)
    present.spec.ports[0].published_port = 4568
    await update(client, present)
    await client.services.Create(web("next", 4567))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.services.Create(web("third", 4568))
    assert "already in use by service 'web'" in (caught.value.details() or "")


async def test_an_update_may_not_take_the_port_of_another_service(client: Client) -> None:
    await client.services.Create(web("web", 4567))
    await client.services.Create(web("other", 4568))
    present = await service(client)
    present.spec.ports[0].published_port = 4568
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(client, present)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "already in use by service 'other'" in (caught.value.details() or "")


async def test_a_port_that_was_chosen_is_kept(client: Client) -> None:
    await client.services.Create(web("first", 0))
    await client.services.Create(web("web", 0))
    before = await service(client)
    before.spec.labels["team"] = "a"
    after = await update(client, before)
    assert after.ports[0].published_port == before.ports[0].published_port == 30001
    assert after.spec.ports[0].published_port == 0


async def test_a_node_gets_labels_a_name_and_an_availability(manager: InProcess, client: Client) -> None:
    node_id, _ = await manager.join_worker()
    node = (await client.nodes.Get(control_pb2.GetRequest(ref=node_id))).node
    node.spec.labels["disk"] = "ssd"
    node.spec.name = "box"
    node.spec.availability = objects_pb2.AVAILABILITY_DRAIN
    request = control_pb2.UpdateNodeRequest(ref=node_id, version=node.meta.version, spec=node.spec)
    await client.nodes.Update(request)
    changed = (await client.nodes.Get(control_pb2.GetRequest(ref="box"))).node
    assert changed.spec == node.spec
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.nodes.Update(request)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    own = (await client.nodes.Get(control_pb2.GetRequest(ref="self"))).node
    own.spec.name = "box"
    with pytest.raises(grpc.aio.AioRpcError) as taken:
        await client.nodes.Update(
            control_pb2.UpdateNodeRequest(ref="self", version=own.meta.version, spec=own.spec)
        )
    assert taken.value.details() == "name conflicts with an existing object: node box already exists"


async def test_a_removed_nodes_address_and_name_are_free_again(manager: InProcess, client: Client) -> None:
    node_id, _ = await manager.join_worker()
    node = (await client.nodes.Get(control_pb2.GetRequest(ref=node_id))).node
    node.spec.name = "box"
    await client.nodes.Update(
        control_pb2.UpdateNodeRequest(ref=node_id, version=node.meta.version, spec=node.spec)
    )
    prefix = manager.manager.core.keys.prefix
    await client.nodes.Remove(control_pb2.RemoveNodeRequest(ref=node_id))
    left = [item.key for item in (await manager.store.list(prefix)).items]
    assert not [key for key in left if node_id in key or "/name/node/" in key]
    assert f"{prefix}address/{node.ingress_address}" not in left
    owners = [item.value for item in (await manager.store.list(f"{prefix}address/")).items]
    assert owners == [manager.home.settings.node_id.encode()]


async def test_a_removed_service_leaves_nothing_behind(manager: InProcess, client: Client) -> None:
    await client.services.Create(web("web", 4567))
    watch = aiter(client.tasks.WatchService(control_pb2.WatchServiceRequest(ref="web")))
    await anext(watch)
    await client.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
    *_, last = [progress async for progress in watch]
    assert last.removed
    prefix = manager.manager.core.keys.prefix
    kinds = {item.key.removeprefix(prefix).split("/")[0] for item in (await manager.store.list(prefix)).items}
    assert kinds.isdisjoint({"service", "task", "status", "port"})


async def test_the_cluster_is_updated_by_version(client: Client) -> None:
    cluster = (await client.clusters.Get(control_pb2.GetClusterRequest())).cluster
    cluster.spec.task_history_limit = 1
    request = control_pb2.UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec)
    await client.clusters.Update(request)
    changed = (await client.clusters.Get(control_pb2.GetClusterRequest())).cluster
    assert changed.spec.task_history_limit == 1
    assert changed.root_ca_pem == cluster.root_ca_pem
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.clusters.Update(request)
    assert caught.value.code() is grpc.StatusCode.ABORTED


async def test_tasks_are_listed_and_filtered(manager: InProcess, client: Client) -> None:
    created = await client.services.Create(web())
    watch = client.tasks.WatchService(control_pb2.WatchServiceRequest(ref="web"))
    async for progress in watch:
        if progress.tasks:
            break
    watch.cancel()
    by_service = control_pb2.ListRequest(filters=[control_pb2.Filter(key="service", values=["web"])])
    by_another = control_pb2.ListRequest(filters=[control_pb2.Filter(key="service", values=["nope"])])
    found = (await client.tasks.List(by_service)).tasks
    assert [task.task.service_id for task in found] == [created.id]
    assert not (await client.tasks.List(by_another)).tasks
