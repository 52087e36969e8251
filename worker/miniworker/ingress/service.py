"""Applies tables: first the listeners, then the kernel's rules, in an order in which nothing is ever served by half."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
from minicommon.clock import Clock
from minicommon.log import fields
from miniproto.v1 import ingress_pb2 as pb
from miniproto.v1 import ingress_pb2_grpc

from miniworker.ingress.counters import Counters
from miniworker.ingress.dns.server import DnsServer
from miniworker.ingress.rules import ingress_rules
from miniworker.ingress.sockets import PortTakenError, bind_all
from miniworker.ingress.table import PROTOCOLS, PortKey, PortTable, read_table, removed_backends
from miniworker.ingress.tcp import TcpPort
from miniworker.ingress.udp import UdpPort
from miniworker.network import nft
from miniworker.network.conntrack import forget_udp

logger = logging.getLogger(__name__)

_NUMBERS = {name: number for number, name in PROTOCOLS.items()}


class IngressPorts:
    """The published ports of this node. What it finds in the kernel stays until the first table comes."""

    def __init__(self, *, clock: Clock) -> None:
        self.counters = Counters()
        self.revision = 0
        self._clock = clock
        self._lock = asyncio.Lock()
        self._open: dict[PortKey, TcpPort | UdpPort] = {}
        self._closing: list[TcpPort] = []
        self._applied: PortTable = {}
        self._rules = ""

    async def apply(self, table: PortTable, *, revision: int) -> dict[PortKey, str]:
        """Make kernel and listeners follow; why some ports cannot be served here.

        Raises NetworkError when the kernel refuses the rules; the table before stays in force then.
        """
        async with self._lock:
            problems = await self._open_new(table)
            served = {key: port for key, port in table.items() if key not in problems}
            for key, port in served.items():
                self._open[key].update(port)
            await asyncio.to_thread(self._program, served)
            for key in self._open.keys() - served.keys():
                self._close(key)
            self.revision = revision
        return problems

    async def close(self) -> None:
        """Let go of listeners and connections. The kernel's rules stay: they serve until the next process comes."""
        for port in (*self._open.values(), *self._closing):
            await port.abort()
        self._open.clear()

    async def _open_new(self, table: PortTable) -> dict[PortKey, str]:
        problems: dict[PortKey, str] = {}
        for key in table.keys() - self._open.keys():
            try:
                # In a thread: naming the holder of a taken port reads all of /proc.
                sockets = await asyncio.to_thread(bind_all, key)
            except PortTakenError as error:
                problems[key] = error.message
                logger.warning("A published port is taken.", extra=fields(port=str(key), error=error.message))
                continue
            port = (
                TcpPort(key, self.counters)
                if key.protocol == "tcp"
                else UdpPort(key, self.counters, clock=self._clock)
            )
            await port.open(sockets)
            self._open[key] = port
        return problems

    def _program(self, served: PortTable) -> None:
        rules = ingress_rules(served.values())
        if rules != self._rules:
            nft.run_script(rules)
            self._rules = rules
        for key, backends in removed_backends(self._applied, served).items():
            if key.protocol == "udp":
                forget_udp(key.port, backends)
        self._applied = served

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
