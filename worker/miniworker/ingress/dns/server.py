"""The DNS server put together: follows tables, keeps a listener per network, forwards what is not ours."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from minicommon.clock import SECOND, Clock
from minicommon.errors import InvalidArgumentError
from minicommon.log import fields
from miniproto.v1 import ingress_pb2

from miniworker.ingress.dns.forwarder import PORT, TIMEOUT_SECONDS, Forwarder
from miniworker.ingress.dns.listener import AddressTakenError, NetworkListener
from miniworker.ingress.dns.reading import Reading, read_table
from miniworker.ingress.dns.responder import Question, Responder
from miniworker.ingress.dns.saved import load_table, save_table
from miniworker.ingress.dns.upstreams import HostServers
from miniworker.network.namespaces import in_namespace

logger = logging.getLogger(__name__)

RETRY_NS = 2 * SECOND
"""Until an address that somebody else listens on is tried again."""


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """Where the server finds things; the ports are others only in tests."""

    table: Path
    """Where the last table is kept."""
    netns_dir: Path
    """One namespace per task, by its id."""
    host_servers: Callable[[], tuple[str, ...]] = field(default_factory=HostServers)
    port: int = PORT
    upstream_port: int = PORT
    upstream_timeout: float = TIMEOUT_SECONDS
    """Seconds, for one server."""


class DnsServer:
    """`restore` once, then `apply` as often as a table comes; `close` in the end."""

    def __init__(self, settings: DnsSettings, *, clock: Clock, random: Random) -> None:
        self._settings = settings
        self._clock = clock
        self._responder = Responder(random=random)
        self._forwarder = Forwarder(
            host_servers=settings.host_servers,
            own=lambda: self._own,
            open_inside=self._open_inside,
            random=random,
            port=settings.upstream_port,
            timeout=settings.upstream_timeout,
        )
        self._reading = Reading()
        self._table = ingress_pb2.DnsTable()
        self._own: frozenset[str] = frozenset()
        self._listeners: dict[str, NetworkListener] = {}
        self._lock = asyncio.Lock()
        self._retry: asyncio.Task[None] | None = None

    async def restore(self) -> None:
        """Answer as the last process did, until the agent speaks."""
        table = await asyncio.to_thread(load_table, self._settings.table)
        if table is None:
            return
        try:
            await self.apply(await self.read(table), table)
        except InvalidArgumentError as error:  # of another version of ours
            logger.warning("The kept table of names is not valid.", extra=fields(error=error))

    async def read(self, table: ingress_pb2.DnsTable) -> Reading:
        """What `apply` is to follow. Raises InvalidArgumentError naming the field.

        In a thread: a table of ten thousand tasks that is all new takes a good part of a second.
        """
        return await asyncio.to_thread(read_table, table, self._reading)

    async def apply(self, reading: Reading, table: ingress_pb2.DnsTable) -> list[str]:
        """Follow a table: no answer that begins after this is from an older one. Why networks are not served."""
        async with self._lock:
            self._reading = reading
            self._responder.follow(reading.zone)
            problems = await self._listen()
            if table != self._table or not self._settings.table.exists():
                self._table = table
                await asyncio.to_thread(save_table, self._settings.table, table)
        if problems and self._retry is None:
            self._retry = asyncio.create_task(self._listen_later(), name="taken addresses of networks")
        return problems

    async def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.wait({self._retry})
        for listener in self._listeners.values():
            await listener.close()
        self._listeners.clear()

    async def _listen(self) -> list[str]:
        """Make the listeners those of the zone; why some cannot be."""
        networks = self._reading.zone.networks
        gateways = {key: network.gateway for key, network in networks.items()}
        self._own = frozenset(map(str, gateways.values()))
        for key, listener in tuple(self._listeners.items()):
            if listener.address != gateways.get(key):
                await self._listeners.pop(key).close()
        problems = []
        for key in gateways.keys() - self._listeners.keys():
            listener = NetworkListener(
                gateways[key], port=self._settings.port, respond=self._respond, ask=self._ask
            )
            try:
                await listener.open()
            except AddressTakenError as error:
                problems.append(f"network {networks[key].name}: {error.message}")
            else:
                self._listeners[key] = listener
        return sorted(problems)

    async def _listen_later(self) -> None:
        problems = [""]
        while problems:
            await self._clock.sleep_until(self._clock.now_ns() + RETRY_NS)
            async with self._lock:
                problems = await self._listen()
        self._retry = None
        logger.info("The names of all networks are served.")

    def _respond(self, packet: bytes, source: str, stream: bool) -> bytes | Question | None:
        return self._responder.respond(packet, source, stream=stream)

    async def _ask(self, question: Question, stream: bool) -> bytes:
        return await self._forwarder.ask(question, stream=stream)

    async def _open_inside(
        self, task_id: str, family: socket.AddressFamily, kind: socket.SocketKind
    ) -> socket.socket:
        path = self._settings.netns_dir / task_id
        return await asyncio.to_thread(in_namespace, path, lambda: socket.socket(family, kind))
