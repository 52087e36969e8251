"""Applies tables: first the listeners, then the kernel's rules, in an order in which nothing is ever served by half."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import grpc
from minicommon.clock import SECOND, Clock
from minicommon.log import fields
from miniproto.v1 import ingress_pb2 as pb
from miniproto.v1 import ingress_pb2_grpc

from miniworker.ingress.counters import Counters
from miniworker.ingress.dialer import Dialer
from miniworker.ingress.dns.server import DnsServer
from miniworker.ingress.kernel import KernelPath, kernel_path_works
from miniworker.ingress.limits import Limits, connection_limits, raise_descriptor_limit
from miniworker.ingress.paths import IngressPath
from miniworker.ingress.poller import Poller
from miniworker.ingress.rules import ingress_rules
from miniworker.ingress.sockets import PortTakenError, bind_all
from miniworker.ingress.table import PROTOCOLS, Port, PortKey, PortTable, read_table
from miniworker.ingress.tcp import TcpPort
from miniworker.ingress.udp import UdpPort
from miniworker.network import nft
from miniworker.network.errors import NetworkError

logger = logging.getLogger(__name__)

_NUMBERS = {name: number for number, name in PROTOCOLS.items()}


CHECK_NS = 10 * SECOND
"""Between two looks whether the kernel still has the rules: a firewall that is reloaded may flush those of all."""


class IngressPorts:
    """The published ports of this node. What it finds in the kernel stays until the first table comes."""

    def __init__(self, *, clock: Clock, path: IngressPath = "auto", limits: Limits | None = None) -> None:
        self.counters = Counters()
        self.revision = 0
        self._clock = clock
        self._path = path
        self._limits = limits or connection_limits(raise_descriptor_limit())
        self._kernel: KernelPath | None = None
        self._poller = Poller()
        self._dialer = Dialer(self._poller, clock=clock)
        self._lock = asyncio.Lock()
        self._open: dict[PortKey, TcpPort | UdpPort] = {}
        self._bound: PortTable = {}
        """What the open listeners were made for."""
        self._checks: asyncio.Task[None] | None = None
        self._closing: list[TcpPort] = []

    async def start(self) -> None:
        """Find out which path there is. Raises NetworkError when the kernel path is asked for and does not work."""
        self._poller.start()
        kernel = KernelPath()
        if self._path == "kernel":
            await asyncio.to_thread(nft.check_script, ingress_rules(()))
        elif self._path == "userspace":
            with suppress(NetworkError):  # without nft there are no rules either
                await asyncio.to_thread(kernel.clear)
            return
        elif not await asyncio.to_thread(kernel_path_works):
            return
        self._kernel = kernel
        self._checks = asyncio.create_task(self._check(kernel), name="rules of published ports")

    async def apply(self, table: PortTable, *, revision: int) -> dict[PortKey, str]:
        """Make kernel and listeners follow; why some ports cannot be served here.

        Raises NetworkError when the kernel refuses the rules; the table before stays in force then.
        """
        async with self._lock:
            for key in [key for key, port in table.items() if self._moved(key, port)]:
                self._close(key)
            problems = await self._open_new(table)
            served = {key: port for key, port in table.items() if key not in problems}
            for key, port in served.items():
                self._open[key].update(port)
            if self._kernel is not None:
                await asyncio.to_thread(self._kernel.program, served)
            for key in self._open.keys() - served.keys():
                self._close(key)
            self._bound = served
            self.revision = revision
        return problems

    async def close(self) -> None:
        """Let go of listeners and connections. The kernel's rules stay: they serve until the next process comes."""
        if self._checks is not None:
            self._checks.cancel()
            await asyncio.wait({self._checks})
        for port in (*self._open.values(), *self._closing):
            await port.abort()
        self._open.clear()
        await self._dialer.close()
        self._poller.close()

    async def _check(self, kernel: KernelPath) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now_ns() + CHECK_NS)
            async with self._lock:
                try:
                    if await asyncio.to_thread(kernel.repair):
                        logger.warning("Somebody had removed the rules of published ports; they are back.")
                except NetworkError as error:
                    logger.warning(
                        "The rules of published ports cannot be checked.", extra=fields(error=error.message)
                    )

    def _moved(self, key: PortKey, port: Port) -> bool:
        """Whether its listeners are open at other addresses than the port has now."""
        return key in self._open and self._bound[key].host_ip != port.host_ip

    async def _open_new(self, table: PortTable) -> dict[PortKey, str]:
        problems: dict[PortKey, str] = {}
        for key in table.keys() - self._open.keys():
            try:
                # In a thread: naming the holder of a taken port reads all of /proc.
                sockets = await asyncio.to_thread(bind_all, key, table[key].host_ip)
            except PortTakenError as error:
                problems[key] = error.message
                logger.warning("A published port is taken.", extra=fields(port=str(key), error=error.message))
                continue
            port = self._new(key)
            # Before it accepts: a connection must not meet a port that does not know its tasks.
            port.update(table[key])
            await port.open(sockets)
            self._open[key] = port
            self._bound[key] = table[key]
        return problems

    def _new(self, key: PortKey) -> TcpPort | UdpPort:
        if key.protocol == "udp":
            return UdpPort(key, self.counters, poller=self._poller, clock=self._clock)
        return TcpPort(
            key, poller=self._poller, dialer=self._dialer, limits=self._limits, counters=self.counters
        )

    def _close(self, key: PortKey) -> None:
        port = self._open.pop(key)
        port.close()
        if isinstance(port, TcpPort):
            self._closing = [item for item in self._closing if item.busy]
            self._closing.append(port)


class IngressService(ingress_pb2_grpc.IngressServicer):
    def __init__(self, ports: IngressPorts, dns: DnsServer) -> None:
        self._ports = ports
        self._dns = dns

    async def Apply(  # noqa: N802
        self, request: pb.IngressTable, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.IngressApplied:
        table, names = read_table(request), await self._dns.read(request.dns)
        # Names first: who is told an address that has just gone would be refused, who still has it is served.
        dns_problems = await self._dns.apply(names, request.dns)
        problems = await self._ports.apply(table, revision=request.revision)
        return pb.IngressApplied(
            revision=request.revision,
            problems=[
                pb.PortProblem(
                    protocol=_NUMBERS[key.protocol],
                    published_port=key.port,
                    message=message,
                )
                for key, message in sorted(problems.items())
            ],
            dns_problems=dns_problems,
        )

    async def Status(  # noqa: N802
        self, request: pb.IngressStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.IngressStatus:
        return pb.IngressStatus(
            revision=self._ports.revision,
            open_connections=self._ports.counters.open,
            total_connections=self._ports.counters.total,
        )
