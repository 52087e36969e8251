"""Keeps other firewalls from dropping what is forwarded for tasks, as far as they let us, and says where they do not.

The kernel tells of every change of a rule set, so rules that Docker or an administrator flushes are back at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Iterator

from minicommon.clock import SECOND, Clock
from minicommon.log import fields

from miniworker.network import nft
from miniworker.network.errors import NetworkError
from miniworker.network.firewall import (
    DOCKER_TABLE,
    INTERFACES,
    OWN_TABLES,
    BaseChain,
    base_chains,
    docker_removal,
    docker_script,
    drops_ours,
    has_docker_chain,
    translates_for_others,
)

logger = logging.getLogger(__name__)

PACE_NS = 1 * SECOND
"""Between two looks: some programs replace their rules many times in a row."""

_NETFILTER = 12  # protocol, <linux/netlink.h>
_NFTABLES = 10  # subsystem, <linux/netfilter/nfnetlink.h>
_GROUP_NFTABLES = 7
_CHANGES = frozenset({0, 2, 3, 5, 6, 8})
"""Tables, chains and rules that are new or gone, <linux/netfilter/nf_tables.h>."""


class FirewallWatch:
    """Of the network namespace in which it is started."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._events: socket.socket | None = None
        self._changed = False
        self._looking: asyncio.Task[None] | None = None
        self._working: asyncio.Future[frozenset[BaseChain]] | None = None
        self._dropping: frozenset[BaseChain] = frozenset()

    @property
    def dropping(self) -> tuple[str, ...]:
        """The chains that drop what they should let through, as of the last look."""
        return tuple(f"{chain.family} {chain.table} {chain.name}" for chain in sorted(self._dropping))

    async def start(self) -> None:
        """Look, and from now on whenever somebody changes rules. Started already: nothing."""
        if self._events is not None:
            return
        self._events = _open_events()
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._read)
        self._changed = True
        self._look_soon()

    async def stop(self) -> None:
        """Take our rules out of Docker's chain and watch no longer."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._events.close()
            self._events = None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
            self._looking = None
        if self._working is not None:  # a thread cannot be cancelled
            await asyncio.wait({self._working})
            self._working = None
        self._dropping = frozenset()
        await asyncio.to_thread(_leave)

    def _read(self) -> None:
        assert self._events is not None, "read only while open"
        try:
            data = self._events.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: changes were missed
            self._changed = True
        else:
            self._changed = self._changed or any(table not in OWN_TABLES for table in changed_tables(data))
        if self._changed:
            self._look_soon()

    def _look_soon(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="firewalls of this node")

    async def _look(self) -> None:
        while self._changed:
            self._changed = False
            try:
                self._working = asyncio.ensure_future(asyncio.to_thread(_converge))
                dropping = await asyncio.shield(self._working)
            except NetworkError as error:
                logger.warning("The node's firewalls cannot be read.", extra=fields(error=error.message))
            else:
                self._report(dropping)
            await self._clock.sleep_until(self._clock.now_ns() + PACE_NS)

    def _report(self, dropping: frozenset[BaseChain]) -> None:
        for chain in sorted(dropping - self._dropping):
            logger.warning(
                "A firewall of this node drops forwarded packets: published ports and tasks may not be reachable. "
                "Let it accept what enters (iifname) and what leaves (oifname) by these interfaces.",
                extra=fields(
                    table=f"{chain.family} {chain.table}",
                    chain=chain.name,
                    interfaces=", ".join(INTERFACES),
                ),
            )
        self._dropping = dropping


def changed_tables(data: bytes) -> Iterator[str]:
    """The names of the tables that a datagram of the kernel says have changed."""
    offset = 0
    while offset + 24 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if kind >> 8 == _NFTABLES and kind & 0xFF in _CHANGES:
            size, attribute = struct.unpack_from("=HH", data, offset + 20)  # after both headers
            if attribute == 1:  # the table's name is the first of tables, chains and rules
                yield data[offset + 24 : offset + 20 + size].rstrip(b"\0").decode()
        offset += max((length + 3) & ~3, 16)


async def others_translate() -> bool:
    """Whether another table translates addresses for forwarded packets."""
    return translates_for_others(base_chains(await asyncio.to_thread(nft.list_chains)))


def _open_events() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    events = socket.socket(socket.AF_NETLINK, kind, _NETFILTER)
    events.bind((0, 1 << (_GROUP_NFTABLES - 1)))
    return events


def _converge() -> frozenset[BaseChain]:
    """Put our rules where there is a place for them; the chains that drop all the same."""
    listed = nft.list_chains()
    if has_docker_chain(listed) and (script := docker_script(nft.list_table(*DOCKER_TABLE))):
        nft.run_script(script)
        logger.info("Docker's firewall lets tasks through.", extra=fields(chain="DOCKER-USER"))
    forward = [chain for chain in base_chains(listed) if (chain.kind, chain.hook) == ("filter", "forward")]
    return frozenset(
        chain for chain in forward if drops_ours(chain, nft.list_table(chain.family, chain.table))
    )


def _leave() -> None:
    if has_docker_chain(nft.list_chains()) and (script := docker_removal(nft.list_table(*DOCKER_TABLE))):
        nft.run_script(script)
