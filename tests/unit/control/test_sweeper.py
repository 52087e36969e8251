"""The sweep of addresses that nobody has."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from minicommon.clock import VirtualClock
from minimanager.control.sweeper import PERIOD_NS, Sweeper
from minimanager.domain.objects import NetworkAttachment, VirtualAddress
from minimanager.rpc.core import Core
from minimanager.store.api import Compare
from minimanager.store.memory import MemoryStore
from minimanager.store.transaction import FencedError
from support.cluster_state import WORKER, ingress, node, running_core, service, task

NET = "net0000000000000000000000"


def sweeper(core: Core) -> Sweeper:
    return Sweeper(core.store, core.cache, core.writer, core.clock)


async def idle() -> None:
    """Let everything run that can run now."""
    for _ in range(50):
        await asyncio.sleep(0)


async def claim(core: Core, address: str, owner: str, network_id: str = NET) -> None:
    await core.commit(core.writer.begin().claim(core.keys.address(network_id, address), owner))


async def claimed(core: Core) -> set[str]:
    return {item.key.rpartition("/")[2] for item in (await core.store.list(core.keys.addresses)).items}


async def test_what_has_an_owner_stays_and_the_rest_is_free_again(caplog: pytest.LogCaptureFixture) -> None:
    web = replace(service(), virtual_addresses=(VirtualAddress(NET, "10.9.0.254"),))
    mine = replace(task(web), attachments=(NetworkAttachment(NET, "10.9.0.2"),))
    async with running_core(node(), web, mine) as (core, _):
        await claim(core, "10.9.0.254", web.id)
        await claim(core, "10.9.0.2", mine.id)
        await claim(core, "10.0.0.2", WORKER, ingress().id)
        await claim(core, "10.9.0.3", mine.id)  # not on it
        await claim(core, "10.9.0.4", "nobody")
        await claim(core, "10.0.0.2", mine.id)  # the same address, of another network
        assert await sweeper(core).sweep() == 3
        assert await claimed(core) == {"10.9.0.254", "10.9.0.2", "10.0.0.2"}
        keys = (await core.store.list(core.keys.addresses)).items
        assert {item.value.decode() for item in keys} == {web.id, mine.id, WORKER}
        assert [record.getMessage() for record in caplog.records] == [
            "An address had no owner; it is free again."
        ] * 3
        assert await sweeper(core).sweep() == 0


async def test_the_addresses_of_a_service_that_is_being_removed_are_nobodys() -> None:
    web = replace(service(), removing=True, virtual_addresses=(VirtualAddress(NET, "10.9.0.254"),))
    async with running_core(web) as (core, _):
        await claim(core, "10.9.0.254", web.id)
        assert await sweeper(core).sweep() == 1


async def test_an_address_that_moves_while_the_sweep_looks_stays() -> None:
    web = service()
    async with running_core(node(), web) as (core, _):
        await claim(core, "10.9.0.2", "nobody")
        old = await core.writer.claim(core.keys.address(NET, "10.9.0.2"))
        assert old is not None
        store = core.store
        assert isinstance(store, MemoryStore)
        listed = store.list

        async def list_and_lose(prefix: str, *, revision: int = 0):  # type: ignore[no-untyped-def]
            """Between the list and the release, the address finds an owner."""
            found = await listed(prefix, revision=revision)
            key = core.keys.address(NET, "10.9.0.2")
            await core.commit(core.writer.begin().release(key, version=old.mod_revision))
            mine = replace(task(web), attachments=(NetworkAttachment(NET, "10.9.0.2"),))
            await core.commit(core.writer.begin().create(mine).claim(key, mine.id))
            return found

        racing = _Racing(store, list_and_lose)
        assert await Sweeper(racing, core.cache, core.writer, core.clock).sweep() == 0  # type: ignore[arg-type]
        assert await claimed(core) == {"10.9.0.2"}


class _Racing:
    """The store, but for what happens during a list."""

    def __init__(self, store: MemoryStore, list_: object) -> None:
        self._store = store
        self.list = list_

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def test_it_sweeps_now_and_then() -> None:
    clock = VirtualClock()
    async with running_core(clock=clock) as (core, supervisor):
        supervisor.start("sweeper", sweeper(core).run())
        for address in ("10.9.0.2", "10.9.0.3"):
            await idle()
            await claim(core, address, "nobody")
            clock.advance(PERIOD_NS)
            await idle()
            assert await claimed(core) == set()


async def test_who_leads_no_more_sweeps_nothing() -> None:
    async with running_core() as (core, _):
        await claim(core, "10.9.0.2", "nobody")
        with pytest.raises(FencedError):
            await sweeper(core).run(Compare(core.keys.leader, 99))
        assert await claimed(core) == {"10.9.0.2"}
