"""Networks over real gRPC: created, joined, told to the nodes that need them, and removed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from minicommon.identity.names import Caller
from minimanager.store.keys import AddressClaim
from miniproto.v1 import control_pb2, objects_pb2
from support.manager import Client, InProcess, manager_in_process
from support.scripted_agent import PATIENCE, ScriptedAgent

Spec = objects_pb2.NetworkSpec
Use = objects_pb2.NetworkUse
Port = objects_pb2.PortConfig


def service(name: str, *networks: Use, replicas: int = 1, **fields: Any) -> objects_pb2.ServiceSpec:
    task = objects_pb2.TaskSpec(container=objects_pb2.ContainerSpec(image="whoami:1"), networks=networks)
    return objects_pb2.ServiceSpec(name=name, replicas=replicas, task=task, **fields)


def create_network(client: Client, name: str, **fields: Any) -> Awaitable[control_pb2.Created]:
    request = control_pb2.CreateNetworkRequest(spec=Spec(name=name, **fields))
    answer: Awaitable[control_pb2.Created] = client.networks.Create(request)
    return answer


def create(client: Client, spec: objects_pb2.ServiceSpec) -> Awaitable[control_pb2.Created]:
    answer: Awaitable[control_pb2.Created] = client.services.Create(
        control_pb2.CreateServiceRequest(spec=spec)
    )
    return answer


async def update(client: Client, ref: str, change: Callable[[objects_pb2.ServiceSpec], object]) -> None:
    found = (await client.services.Get(control_pb2.GetRequest(ref=ref))).service
    change(found.spec)
    await client.services.Update(
        control_pb2.UpdateServiceRequest(ref=ref, version=found.meta.version, spec=found.spec)
    )


async def virtual(client: Client, ref: str) -> dict[str, str]:
    found = (await client.services.Get(control_pb2.GetRequest(ref=ref))).service
    return {each.network_id: each.address for each in found.virtual_addresses}


async def names(client: Client) -> set[str]:
    listed = await client.networks.List(control_pb2.ListRequest())
    return {network.spec.name for network in listed.networks}


async def claims(manager: InProcess, network_id: str) -> dict[str, str]:
    """The claimed addresses of the network and their owners, from the store itself."""
    keys = manager.manager.core.keys
    found = await manager.store.list(keys.addresses)
    parsed = [(keys.parse(item.key), item.value.decode()) for item in found.items]
    return {
        key.address: owner
        for key, owner in parsed
        if isinstance(key, AddressClaim) and key.network_id == network_id
    }


async def gone(manager: InProcess, network_id: str) -> None:
    """Wait until the network is not in the store any more."""
    cache = manager.manager.core.cache
    with cache.subscribe() as changes:
        while network_id in cache.snapshot().networks:
            await asyncio.wait_for(changes.next(), PATIENCE)


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as manager:
        yield manager


@pytest.fixture
async def local(manager: InProcess) -> Client:
    return await manager.local()


# --- create ---


async def test_a_network_gets_a_subnet_a_gateway_and_a_number_of_its_own(local: Client) -> None:
    for name in ("one", "two"):
        await create_network(local, name, labels={"tier": name})
    listed = (await local.networks.List(control_pb2.ListRequest())).networks
    assert sorted((n.spec.name, n.subnet, n.gateway, n.vni, n.spec.mtu, n.spec.driver) for n in listed) == [
        ("ingress", "10.0.0.0/24", "10.0.0.1", 4096, 1450, "overlay"),
        ("one", "10.0.1.0/24", "10.0.1.1", 4097, 1450, "overlay"),
        ("two", "10.0.2.0/24", "10.0.2.1", 4098, 1450, "overlay"),
    ]


async def test_what_is_asked_for_is_given(local: Client) -> None:
    options = {"encrypted": "", "com.docker.network.driver.overlay.vxlanid_list": "5000", "other": "kept"}
    await create_network(
        local,
        "mine",
        subnet="10.20.0.0/16",
        gateway="10.20.255.1",
        ip_range="10.20.4.0/24",
        attachable=True,
        internal=True,
        options=options,
    )
    found = await local.networks.Get(control_pb2.GetRequest(ref="mine"))
    assert (found.subnet, found.gateway, found.vni) == ("10.20.0.0/16", "10.20.255.1", 5000)
    assert (found.spec.encrypted, found.spec.attachable, found.spec.internal) == (True, True, True)
    assert (found.spec.mtu, dict(found.spec.options)) == (1370, options)
    await create(local, service("web", Use(network="mine")))
    assert await virtual(local, "web") == {found.id: "10.20.4.255"}


async def test_many_at_once_get_different_subnets(local: Client) -> None:
    await asyncio.gather(*(create_network(local, f"net-{number}") for number in range(40)))
    listed = (await local.networks.List(control_pb2.ListRequest())).networks
    assert len({network.subnet for network in listed}) == len({network.vni for network in listed}) == 41


MTU = "com.docker.network.driver.mtu"
VNI = "com.docker.network.driver.overlay.vxlanid_list"
INVALID, EXISTS, STATE = (
    StatusCode.INVALID_ARGUMENT,
    StatusCode.ALREADY_EXISTS,
    StatusCode.FAILED_PRECONDITION,
)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"name": ""}, INVALID, "meta: name must be provided"),
        ({"name": "a b"}, INVALID, "name must be valid as a DNS name component"),
        ({"name": "a" * 64}, INVALID, "name must be 63 characters or fewer, not 64"),
        ({"name": "host"}, INVALID, "operation is not permitted on predefined host network"),
        ({"name": "taken"}, EXISTS, "network with name taken already exists"),
        ({"driver": "bridge"}, INVALID, "driver: only 'overlay' networks span the nodes, not 'bridge'"),
        ({"ingress": True}, EXISTS, "ingress network (ingress) is already present"),
        ({"ingress": True, "attachable": True}, INVALID, "ingress network cannot be attachable"),
        ({"ingress": True, "internal": True}, INVALID, "ingress network cannot be internal"),
        ({"ingress": True, "encrypted": True}, INVALID, "ingress network cannot be encrypted"),
        ({"labels": {"": "x"}}, INVALID, "labels: a key must not be empty"),
        ({"mtu": 500}, INVALID, "mtu: must be 576 to 65485, not 500"),
        ({"options": {MTU: "70000"}}, INVALID, "mtu: must be 576 to 65485, not 70000"),
        ({"options": {MTU: "big"}}, INVALID, f"options: {MTU} must be a number, not 'big'"),
        ({"options": {"encrypted": "x"}}, INVALID, "options: encrypted must be true or false, not 'x'"),
        ({"options": {VNI: "4096,4097"}}, INVALID, f"options: {VNI} must be one number of 1 to 16777215"),
        ({"options": {VNI: "4096"}}, EXISTS, f"options: {VNI}: 4096 is that of network ingress"),
        ({"subnet": "x"}, INVALID, "subnet: must be an IPv4 network such as 10.1.0.0/24, not 'x'"),
        (
            {"subnet": "fd00::/64"},
            INVALID,
            "subnet: must be an IPv4 network such as 10.1.0.0/24, not 'fd00::/64'",
        ),
        ({"subnet": "10.9.0.1/24"}, INVALID, "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
        ({"subnet": "10.9.0.0/30"}, INVALID, "subnet: must be a /8 to a /29, not a /30"),
        (
            {"subnet": "127.1.0.0/24"},
            INVALID,
            "subnet: must have addresses that hosts can have, not 127.1.0.0/24",
        ),
        ({"subnet": "10.0.0.0/16"}, STATE, "10.0.0.0/16 and 10.0.0.0/24 of network ingress"),
        ({"gateway": "10.9.0.1"}, INVALID, "no matching subnet for gateway 10.9.0.1"),
        ({"subnet": "10.9.0.0/24", "gateway": "x"}, INVALID, "gateway: must be an IPv4 address, not 'x'"),
        (
            {"subnet": "10.9.0.0/24", "gateway": "10.8.0.1"},
            INVALID,
            "no matching subnet for gateway 10.8.0.1",
        ),
        (
            {"subnet": "10.9.0.0/24", "gateway": "10.9.0.255"},
            INVALID,
            "gateway: must be a host's address of 10.9.0.0/24, not 10.9.0.255",
        ),
        ({"ip_range": "10.9.0.0/25"}, INVALID, "no matching subnet for range 10.9.0.0/25"),
        (
            {"subnet": "10.9.0.0/24", "ip_range": "10.8.0.0/25"},
            INVALID,
            "no matching subnet for range 10.8.0.0/25",
        ),
    ],
)
async def test_a_network_that_cannot_be(
    local: Client, fields: dict[str, Any], code: StatusCode, words: str
) -> None:
    await create_network(local, "taken")
    before = await names(local)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create_network(local, **{"name": "new", **fields})
    assert (caught.value.code(), words in (caught.value.details() or "")) == (code, True), (
        caught.value.details()
    )
    assert await names(local) == before


async def test_a_subnet_around_the_nodes_themselves_is_refused(manager: InProcess, local: Client) -> None:
    _, channel = await manager.join_worker()
    async with ScriptedAgent(channel.channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create_network(local, "wide", subnet="10.77.0.0/24")
        assert caught.value.details() == "subnet: 10.77.0.0/24 has the address 10.77.0.12 of node worker"


async def test_viewers_look_and_operators_create(manager: InProcess) -> None:
    viewer, operator = await manager.member(Caller.VIEWER), await manager.member(Caller.OPERATOR)
    await create_network(operator, "theirs")
    assert (
        await viewer.networks.GetDetails(control_pb2.GetRequest(ref="theirs"))
    ).network.spec.name == "theirs"
    for call in (
        create_network(viewer, "mine"),
        viewer.networks.Remove(control_pb2.RemoveNetworkRequest(ref="theirs")),
        viewer.networks.Prune(control_pb2.PruneNetworksRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is StatusCode.PERMISSION_DENIED


# --- services on networks ---


async def test_a_service_joins_by_name_and_its_nodes_are_told(manager: InProcess, local: Client) -> None:
    backend = (await create_network(local, "backend")).id
    node_id, channel = await manager.join_worker()
    async with ScriptedAgent(channel.channel) as agent:
        await create(local, service("plain"))
        await local.running("plain", 1)
        assert not any(key.startswith(f"network/{backend}") for key in agent.assigned)

        created = await create(local, service("db", Use(network="backend", aliases=["store"]), replicas=2))
        await local.running(created.id, 2)
        key = f"service/{backend}/{created.id}"
        await agent.until(lambda: len(agent.assigned[key].service.backends) == 2)
        item = agent.assigned[key].service
        assert (item.name, list(item.aliases), item.virtual_address) == ("db", ["store"], "10.0.1.254")
        assert [(b.address, b.slot) for b in sorted(item.backends, key=lambda b: b.slot)] == [
            ("10.0.1.2", 1),
            ("10.0.1.3", 2),
        ]
        assert {b.container_name for b in item.backends} == {
            f"db.{task.slot}.{task.id}" for task in agent.tasks().values() if task.service_name == "db"
        }
        assert agent.assigned[f"network/{backend}"].network.vni == 4097
        assert agent.assigned[f"endpoint/{backend}/10.0.1.2"].endpoint.node_id == node_id

        view = await local.networks.GetDetails(control_pb2.GetRequest(ref="backend"))
        assert [(peer.hostname, peer.address) for peer in view.peers] == [("worker", "10.77.0.12")]
        (shown,) = view.services
        assert (shown.name, shown.virtual_address, len(shown.tasks)) == ("db", "10.0.1.254", 2)

        await local.services.Remove(control_pb2.RemoveServiceRequest(ref="db"))
        await agent.until(lambda: not any(backend in key for key in agent.assigned))


async def test_addresses_are_kept_over_updates_and_given_back_once(manager: InProcess, local: Client) -> None:
    backend = (await create_network(local, "backend")).id
    front = (await create_network(local, "front")).id
    _, channel = await manager.join_worker()
    async with ScriptedAgent(channel.channel):
        created = await create(local, service("db", Use(network="backend")))
        await local.running("db", 1)
        before = await virtual(local, "db")
        await update(local, "db", lambda spec: spec.task.networks.append(Use(network="front")))
        both = await virtual(local, "db")
        assert both == {**before, front: "10.0.2.254"}
        assert (await claims(manager, front))["10.0.2.254"] == created.id

        await update(local, "db", lambda spec: spec.task.networks.pop(0))
        assert await virtual(local, "db") == {front: "10.0.2.254"}
        assert created.id not in (await claims(manager, backend)).values()

        await local.services.RollBack(control_pb2.RollBackServiceRequest(ref="db"))
        assert set(await virtual(local, "db")) == {backend, front}
        await local.running("db", 1)
        await local.services.Remove(control_pb2.RemoveServiceRequest(ref="db"))
        assert created.id not in (await claims(manager, backend)).values()
        await asyncio.wait_for(_until_no_claims(manager, backend), PATIENCE)
        await asyncio.wait_for(_until_no_claims(manager, front), PATIENCE)


async def _until_no_claims(manager: InProcess, network_id: str) -> None:
    with manager.manager.core.cache.subscribe() as changes:
        while await claims(manager, network_id):
            await changes.next()


async def test_dnsrr_has_no_address_of_its_own(manager: InProcess, local: Client) -> None:
    backend = (await create_network(local, "backend")).id
    mode = objects_pb2.ENDPOINT_MODE_DNSRR
    await create(local, service("db", Use(network="backend"), endpoint_mode=mode))
    assert await virtual(local, "db") == {}
    await update(local, "db", lambda spec: spec.ClearField("endpoint_mode"))
    assert await virtual(local, "db") == {backend: "10.0.1.254"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(local, service("web", endpoint_mode=mode, ports=[Port(target_port=80)]))
    assert caught.value.code() is INVALID
    assert caught.value.details() == (
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
    )


@pytest.mark.parametrize(
    ("uses", "code", "words"),
    [
        ([Use(network="nowhere")], StatusCode.NOT_FOUND, "network nowhere not found"),
        ([Use(network="")], INVALID, "network: a name or id must be given"),
        (
            [Use(network="ingress")],
            INVALID,
            'Service cannot be explicitly attached to the ingress network "ingress"',
        ),
        ([Use(network="small"), Use(network="small")], INVALID, "networks: small is given twice"),
        ([Use(network="small", aliases=["a b"])], INVALID, "an alias must be a host name"),
    ],
)
async def test_networks_that_a_service_cannot_join(
    local: Client, uses: list[Use], code: StatusCode, words: str
) -> None:
    await create_network(local, "small", subnet="10.9.0.0/29")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(local, service("web", *uses))
    assert (caught.value.code(), words in (caught.value.details() or "")) == (code, True), (
        caught.value.details()
    )


async def test_a_full_network_has_no_address_for_a_service_and_a_task_waits_for_one(
    manager: InProcess, local: Client
) -> None:
    await create_network(local, "small", subnet="10.9.0.0/29")
    _, channel = await manager.join_worker()
    async with ScriptedAgent(channel.channel):
        await create(local, service("a", Use(network="small"), replicas=4))
        await local.running("a", 4)
        full = "network small: no free address in 10.9.0.0/29: all 5 are in use"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(local, service("b", Use(network="small")))
        assert (caught.value.code(), caught.value.details()) == (StatusCode.RESOURCE_EXHAUSTED, full)

        dnsrr = objects_pb2.ENDPOINT_MODE_DNSRR
        await create(local, service("b", Use(network="small"), endpoint_mode=dnsrr))
        await _until_error(local, "b", full)
        await local.services.Scale(control_pb2.ScaleServiceRequest(ref="a", replicas=3))
        await local.running("b", 1)


async def _until_error(local: Client, ref: str, error: str) -> None:
    watch = local.tasks.WatchService(control_pb2.WatchServiceRequest(ref=ref), timeout=PATIENCE)
    async for progress in watch:
        if any(task.error == error for task in progress.tasks):
            watch.cancel()
            return


# --- port options ---


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (Port(target_port=80, host_ip="nowhere"), "ports: host_ip must be an IP address, not 'nowhere'"),
        (Port(target_port=80, host_ip="224.0.0.1"), "ports: host_ip must be the address of a host"),
        (
            Port(target_port=80, proxy_protocol=1),
            "ports: proxy protocol of port 80/tcp must be 2, or 0 for none",
        ),
        (Port(target_port=80, proxy_protocol=2, protocol=objects_pb2.PORT_PROTOCOL_UDP), "for port 80/udp"),
        (
            Port(
                target_port=80, published_port=8080, sticky=True, publish_mode=objects_pb2.PUBLISH_MODE_HOST
            ),
            "ports: sticky is for ports in ingress mode, port 8080/tcp is published in host mode",
        ),
        (
            Port(
                target_port=80,
                locality=objects_pb2.PORT_LOCALITY_ONLY,
                publish_mode=objects_pb2.PUBLISH_MODE_HOST,
            ),
            "ports: local is for ports in ingress mode",
        ),
    ],
)
async def test_port_options_that_do_not_go_together(local: Client, port: Port, words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(local, service("web", ports=[port]))
    assert (caught.value.code(), words in (caught.value.details() or "")) == (INVALID, True), (
        caught.value.details()
    )


async def test_the_nodes_are_told_the_options_of_a_port(manager: InProcess, local: Client) -> None:
    _, channel = await manager.join_worker()
    async with ScriptedAgent(channel.channel) as agent:
        port = Port(
            target_port=80,
            published_port=4567,
            host_ip="10.77.0.12",
            sticky=True,
            proxy_protocol=2,
            locality=objects_pb2.PORT_LOCALITY_PREFER,
        )
        await create(local, service("web", ports=[port]))
        await agent.until(lambda: agent.port(4567) is not None)
        told = agent.port(4567)
        assert told is not None
        assert (told.host_ip, told.sticky, told.proxy_protocol, told.locality) == ("10.77.0.12", True, 2, 1)


# --- encryption ---


async def test_nodes_on_encrypted_networks_get_each_others_keys(manager: InProcess, local: Client) -> None:
    await create_network(local, "secret", encrypted=True)
    (first, one), (second, two) = await manager.join_worker(), await manager.join_worker()
    key_of = {
        node: base64.b64encode(bytes([number]) * 32).decode() for number, node in enumerate((first, second))
    }
    async with (
        ScriptedAgent(one.channel, address="10.77.0.12", encryption_key=key_of[first]) as here,
        ScriptedAgent(two.channel, address="10.77.0.13", encryption_key=key_of[second]) as there,
    ):
        assert not any(key.startswith("peer/") for key in here.assigned)
        await create(local, service("db", Use(network="secret"), replicas=2))
        await here.until(lambda: f"peer/{second}" in here.assigned)
        await there.until(lambda: f"peer/{first}" in there.assigned)
        peer = here.assigned[f"peer/{second}"].peer
        assert (peer.node_id, peer.vtep, peer.public_key) == (second, "10.77.0.13", key_of[second])
        assert here.assigned[f"peer/{first}"].peer.public_key == key_of[first]  # what it takes for itself
        await there.rekey(key_of[first], key_of[second])
        changed = key_of[first], key_of[second]
        await here.until(lambda: _keys(here, second) == changed)
        await there.until(lambda: _keys(there, second) == changed)
        await local.services.Remove(control_pb2.RemoveServiceRequest(ref="db"))
        await here.until(lambda: f"peer/{second}" not in here.assigned)


def _keys(agent: ScriptedAgent, node_id: str) -> tuple[str, str]:
    """The current and the next key of a node, as the agent was told them."""
    peer = agent.assigned[f"peer/{node_id}"].peer
    return peer.public_key, peer.next_public_key


async def test_a_key_that_is_none_is_refused(manager: InProcess) -> None:
    _, channel = await manager.join_worker()
    async with ScriptedAgent(channel.channel, encryption_key="c2hvcnQ=") as agent:
        assert agent.error is not None
        assert agent.error.details() == (
            "encryption_key: must be a WireGuard public key, 32 bytes in base64, got 'c2hvcnQ='"
        )
    key = base64.b64encode(bytes(32)).decode()
    async with ScriptedAgent(channel.channel, encryption_key=key) as agent:
        await agent.rekey(key, "next")
        error = await agent.ended()
        assert error.details() == (
            "keys.next: must be a WireGuard public key, 32 bytes in base64, got 'next'"
        )


async def test_a_task_on_an_encrypted_network_goes_to_nodes_that_encrypt(
    manager: InProcess, local: Client
) -> None:
    await create_network(local, "secret", encrypted=True)
    (_, one), (_, two) = await manager.join_worker(), await manager.join_worker()
    async with ScriptedAgent(one.channel, address="10.77.0.12"):
        await create(local, service("db", Use(network="secret"), replicas=2))
        reason = "no suitable node (2 nodes not available for new tasks; no encryption on 1 node)"
        await _until_error(local, "db", reason)
        key = base64.b64encode(bytes(32)).decode()
        async with ScriptedAgent(two.channel, address="10.77.0.13", encryption_key=key) as able:
            await able.until(lambda: len(able.tasks()) == 2)


# --- removal ---


async def test_a_network_in_use_stays_and_names_its_users(manager: InProcess, local: Client) -> None:
    await create_network(local, "backend")
    for name in ("web", "db"):
        await create(local, service(name, Use(network="backend")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await local.networks.Remove(control_pb2.RemoveNetworkRequest(ref="backend"))
    assert caught.value.code() is STATE
    assert caught.value.details() == "network backend is in use by services db, web"
    await local.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await local.networks.Remove(control_pb2.RemoveNetworkRequest(ref="backend"))
    assert caught.value.details() == "network backend is in use by service db"
    assert "backend" in await names(local)


async def test_a_network_goes_with_its_last_task_and_its_name_at_once(
    manager: InProcess, local: Client
) -> None:
    backend = (await create_network(local, "backend")).id
    _, channel = await manager.join_worker()
    async with ScriptedAgent(channel.channel, obliging=False) as agent:
        await create(local, service("db", Use(network="backend")))
        await agent.until(lambda: bool(agent.tasks()))
        (task,) = agent.tasks()
        await agent.report(task, objects_pb2.TASK_STATE_RUNNING)
        await local.running("db", 1)
        await local.services.Remove(control_pb2.RemoveServiceRequest(ref="db"))
        await local.networks.Remove(control_pb2.RemoveNetworkRequest(ref="backend"))
        assert "backend" not in await names(local)
        await agent.until(lambda: agent.tasks()[task].desired_state == objects_pb2.TASK_STATE_REMOVE)
        assert f"network/{backend}" in agent.assigned  # the task still stops there

        again = (await create_network(local, "backend")).id
        assert (await local.networks.Get(control_pb2.GetRequest(ref=again))).subnet == "10.0.2.0/24"
        await agent.report(task, objects_pb2.TASK_STATE_SHUTDOWN)
        await gone(manager, backend)
        assert await claims(manager, backend) == {}
        await agent.until(lambda: f"network/{backend}" not in agent.assigned)


async def test_an_unused_network_goes_at_once_and_nobody_can_join_it(
    manager: InProcess, local: Client
) -> None:
    created = await create_network(local, "backend")
    await local.networks.Remove(control_pb2.RemoveNetworkRequest(ref="backend"))
    for ref in ("backend", created.id):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(local, service("web", Use(network=ref)))
        assert caught.value.code() is StatusCode.NOT_FOUND
    await gone(manager, created.id)


async def test_who_joins_while_a_network_is_removed_either_has_it_or_is_refused(
    manager: InProcess, local: Client
) -> None:
    for number in range(20):
        network_id = (await create_network(local, f"net-{number}")).id
        joined, removed = await asyncio.gather(
            create(local, service(f"web-{number}", Use(network=network_id))),
            local.networks.Remove(control_pb2.RemoveNetworkRequest(ref=network_id)),
            return_exceptions=True,
        )
        assert isinstance(joined, BaseException) != isinstance(removed, BaseException)
        assert (f"net-{number}" in await names(local)) is isinstance(removed, BaseException)


async def test_the_ingress_network_stays(local: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await local.networks.Remove(control_pb2.RemoveNetworkRequest(ref="ingress"))
    assert caught.value.details() == (
        "ingress network ingress cannot be removed: every node has an address on it"
    )


async def test_a_rollback_to_a_network_that_is_gone_is_refused(local: Client) -> None:
    gone_id = (await create_network(local, "old")).id
    await create(local, service("web", Use(network="old")))
    await update(local, "web", lambda spec: spec.task.ClearField("networks"))
    await local.networks.Remove(control_pb2.RemoveNetworkRequest(ref="old"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await local.services.RollBack(control_pb2.RollBackServiceRequest(ref="web"))
    assert (caught.value.code(), caught.value.details()) == (
        StatusCode.NOT_FOUND,
        f"network {gone_id} not found",
    )


# --- prune ---


async def prune(local: Client, **filters: str) -> list[str]:
    asked = [control_pb2.Filter(key=key, values=[value]) for key, value in filters.items()]
    answer = await local.networks.Prune(control_pb2.PruneNetworksRequest(filters=asked))
    return [network.spec.name for network in answer.removed]


async def test_prune_removes_what_nothing_uses(local: Client) -> None:
    for name in ("used", "keep", "free", "spare"):
        await create_network(local, name, labels={name: "yes"})
    await create(local, service("web", Use(network="used")))
    assert await prune(local, until="1h") == []
    assert await prune(local, label="free=yes") == ["free"]
    assert await prune(local, **{"label!": "keep"}) == ["spare"]
    assert await prune(local) == ["keep"]
    assert await names(local) == {"ingress", "used"}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("driver", "x", "invalid filter 'driver': must be one of label, label!, until"),
        ("until", "soon", "until: must be a time"),
    ],
)
async def test_prune_filters_that_do_not_exist(local: Client, key: str, value: str, words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await prune(local, **{key: value})
    assert (caught.value.code(), words in (caught.value.details() or "")) == (INVALID, True), (
        caught.value.details()
    )
