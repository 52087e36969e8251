"""From actions to what is in the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from minimanager.control.committer import Committer
from minimanager.decide.actions import (
    NETWORKS,
    CreateTask,
    DeleteNetwork,
    DeleteService,
    DeleteTask,
    RollBack,
    UpdateTask,
)
from minimanager.domain.objects import (
    Meta,
    Network,
    NetworkAttachment,
    NetworkSpec,
    NetworkUse,
    PortConfig,
    PortProtocol,
    PublishMode,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
    VirtualAddress,
)
from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import Compare
from minimanager.store.cache import Cache
from minimanager.store.keys import Keys, Kind
from minimanager.store.memory import MemoryStore
from minimanager.store.transaction import ClaimTakenError, FencedError, StaleError
from minimanager.store.writer import Writer

KEYS = Keys("c1")
PORT = PortConfig(PortProtocol.TCP, 80, 8080, PublishMode.INGRESS)
NAME, PORT_KEY = KEYS.name(Kind.SERVICE, "web"), KEYS.port(PortProtocol.TCP, 8080)


class World:
    """A store, its cache and a committer."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.cache = Cache(self.store, KEYS)
        self.writer = Writer(self.store, KEYS)
        self.committer = Committer(self.writer)

    async def snapshot(self) -> Snapshot:
        await self.cache.wait_for((await self.store.status()).revision)
        return self.cache.snapshot()

    async def service(self) -> Service:
        service = Service("s", spec=ServiceSpec(name="web"), ports=(PORT,))
        await self.writer.commit(self.writer.begin().create(service).claim(NAME, "s").claim(PORT_KEY, "s"))
        return (await self.snapshot()).services["s"]

    async def commit(self, *actions: Any) -> Any:
        return await self.committer.commit(await self.snapshot(), actions)

    async def keys(self) -> set[str]:
        return {item.key.removeprefix(KEYS.prefix) for item in (await self.store.list(KEYS.prefix)).items}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    following = asyncio.create_task(world.cache.run())
    yield world
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def task(name: str, *addresses: str) -> Task:
    attachments = tuple(NetworkAttachment("net", address) for address in addresses)
    return Task(name, service_id="s", attachments=attachments)


async def test_a_task_is_created_with_its_addresses(world: World) -> None:
    service = await world.service()
    done = await world.commit(CreateTask(task("t", "10.0.0.2"), service.meta.version))
    assert done.losers == ()
    assert {"task/t", "address/net/10.0.0.2"} <= await world.keys()


async def test_a_task_for_a_service_that_has_changed_is_not_created(world: World) -> None:
    service = await world.service()
    await world.writer.commit(world.writer.begin().replace(service))
    done = await world.commit(CreateTask(task("t"), service.meta.version))
    (loser,) = done.losers
    assert (loser.service_id, done.revision) == ("s", 0)
    assert isinstance(loser.error, StaleError)
    assert "task/t" not in await world.keys()


async def test_an_address_has_one_owner_and_only_the_loser_loses(world: World) -> None:
    version = (await world.service()).meta.version
    one, two, other = task("one", "10.0.0.2"), task("two", "10.0.0.2"), task("other", "10.0.0.3")
    done = await world.commit(*(CreateTask(each, version) for each in (one, two, other)))
    (loser,) = done.losers
    assert loser.action == CreateTask(two, version)
    assert isinstance(loser.error, ClaimTakenError)
    assert loser.error.owner == "one"
    assert {"task/one", "task/other"} <= await world.keys()


async def test_an_update_gives_back_what_the_task_no_longer_has(world: World) -> None:
    await world.commit(CreateTask(task("t", "10.0.0.2", "10.0.0.3"), (await world.service()).meta.version))
    now = (await world.snapshot()).tasks["t"]
    moved = replace(
        now, attachments=task("t", "10.0.0.3", "10.0.0.4").attachments, desired_state=TaskState.SHUTDOWN
    )
    done = await world.commit(UpdateTask(moved))
    assert done.losers == ()
    addresses = {key for key in await world.keys() if key.startswith("address/")}
    assert addresses == {"address/net/10.0.0.3", "address/net/10.0.0.4"}
    assert [loser.action for loser in (await world.commit(UpdateTask(moved))).losers] == [UpdateTask(moved)]


async def test_a_task_goes_with_its_status_and_addresses(world: World) -> None:
    await world.commit(CreateTask(task("t", "10.0.0.2"), (await world.service()).meta.version))
    await world.writer.commit(world.writer.begin().create(TaskStatus("t")))
    version = (await world.snapshot()).tasks["t"].meta.version
    assert (await world.commit(DeleteTask("t", version + 1))).losers[0].service_id == "s"
    done = await world.commit(DeleteTask("t", version))
    assert done.losers == ()
    assert not {key for key in await world.keys() if key.startswith(("task/", "status/", "address/"))}
    assert (await world.commit(DeleteTask("t", version))).losers[0].service_id == ""


async def test_a_service_goes_with_its_name_and_ports(world: World) -> None:
    service = await world.service()
    await world.commit(DeleteService("s", service.meta.version))
    assert await world.keys() == set()


async def test_a_name_that_has_a_new_owner_stays(world: World) -> None:
    service = await world.service()
    await world.writer.commit(world.writer.begin().guard(service).release(NAME))
    await world.writer.commit(world.writer.begin().claim(NAME, "other"))
    done = await world.commit(DeleteService("s", service.meta.version))
    assert done.losers == ()
    assert await world.keys() == {"name/service/web"}


async def test_who_leads_no_more_writes_nothing(world: World) -> None:
    service = await world.service()
    world.committer = Committer(world.writer, Compare(KEYS.leader, 99))
    with pytest.raises(FencedError):
        await world.commit(CreateTask(replace(task("t"), meta=Meta()), service.meta.version))
    with pytest.raises(FencedError):
        await world.committer.barrier()
    assert "task/t" not in await world.keys()


NET = Network("net", spec=NetworkSpec(name="net"), subnet="10.9.0.0/24")


async def test_a_service_that_is_rolled_back_moves_its_addresses(world: World) -> None:
    old, new = KEYS.address("net", "10.9.0.254"), KEYS.address("net", "10.9.0.253")
    service = await world.service()
    has = replace(service, virtual_addresses=(VirtualAddress("net", "10.9.0.254"),))
    await world.writer.commit(world.writer.begin().replace(has).claim(old, "s").create(NET))
    has = (await world.snapshot()).services["s"]
    task = TaskSpec(networks=(NetworkUse("net"),))
    back = replace(
        has, spec=replace(has.spec, task=task), virtual_addresses=(VirtualAddress("net", "10.9.0.253"),)
    )
    assert (await world.commit(RollBack(back))).losers == ()
    present = await world.store.list(KEYS.addresses)
    assert [(item.key, item.value) for item in present.items] == [(new, b"s")]


async def test_a_rollback_to_a_network_that_has_changed_loses(world: World) -> None:
    service = await world.service()
    await world.writer.commit(world.writer.begin().create(NET))
    before = await world.snapshot()
    network = before.networks["net"]
    await world.writer.commit(world.writer.begin().replace(replace(network, removing=True)))
    back = replace(service, spec=replace(service.spec, task=TaskSpec(networks=(NetworkUse("net"),))))
    done = await world.committer.commit(before, (RollBack(back),))
    assert [loser.service_id for loser in done.losers] == ["s"]


async def test_a_service_goes_with_its_addresses_that_are_still_its_own(world: World) -> None:
    service = await world.service()
    mine, other = (VirtualAddress("net", f"10.9.0.{last}") for last in (253, 254))
    await world.writer.commit(
        world.writer.begin()
        .replace(replace(service, virtual_addresses=(mine, other)))
        .claim(KEYS.address("net", mine.address), "s")
        .claim(KEYS.address("net", other.address), "somebody else")
    )
    version = (await world.snapshot()).services["s"].meta.version
    assert (await world.commit(DeleteService("s", version))).losers == ()
    assert await world.keys() == {"address/net/10.9.0.254"}


async def test_a_network_goes_if_nobody_has_changed_it(world: World) -> None:
    await world.writer.commit(world.writer.begin().create(NET))
    version = (await world.snapshot()).networks["net"].meta.version
    assert [each.service_id for each in (await world.commit(DeleteNetwork("net", version - 1))).losers] == [
        NETWORKS
    ]
    assert (await world.commit(DeleteNetwork("net", version))).losers == ()
    assert "network/net" not in await world.keys()
