"""What nodes say of their networks, beside what they should: differences by name, and the way of a packet.

A node is always a moment behind. So what differs is asked for again after a pause, and only what still differs is
told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from grpc import aio
from minicommon.clock import MILLISECOND
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, MiniError, NotFoundError
from miniproto.v1 import objects_pb2, streams_pb2_grpc
from miniproto.v1 import streams_pb2 as pb

from minimanager.decide.assignments import assignments
from minimanager.domain.filters import node_name
from minimanager.domain.objects import Node
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc import views
from minimanager.rpc.core import Core
from minimanager.rpc.dispatcher.opener import Opener
from minimanager.rpc.dispatcher.wire import digest
from minimanager.rpc.node_streams import NodeStreams
from minimanager.rpc.requests import check, find_node

Context = aio.ServicerContext[Any, Any]

PAUSE_NS = 500 * MILLISECOND
"""Between two questions: many times what a change takes to the kernels of the nodes."""

COMPARED = frozenset({"network", "endpoint", "service", "peer", "port", "task"})
"""Kinds of assignments: those that the network follows from. Secrets are nobody's to ask about."""

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Told:
    """What a node says of itself."""

    told: Mapping[str, bytes]
    check: pb.NetworkCheck


class DiagnosticsServicer(streams_pb2_grpc.DiagnosticsServicer):
    def __init__(self, core: Core, nodes: NodeStreams, opener: Opener) -> None:
        self._core = core
        self._nodes = nodes
        self._opener = opener

    async def CheckNetwork(
        self, request: pb.CheckNetworkRequest, context: Context
    ) -> pb.CheckNetworkResponse:
        check(request)
        snapshot = await self._core.read()
        nodes = [find_node(snapshot, request.node)] if request.node else list(snapshot.nodes.values())
        reports = await asyncio.gather(*(self._checked(snapshot, node) for node in nodes))
        return pb.CheckNetworkResponse(
            nodes=sorted(reports, key=lambda report: (report.node_hostname, report.node_id))
        )

    async def _checked(self, snapshot: Snapshot, node: Node) -> pb.NodeNetworkReport:
        report = pb.NodeNetworkReport(node_id=node.id, node_hostname=node_name(snapshot, node))
        try:
            first = await self._compared(node.id)
            if first != pb.NodeNetworkReport():
                await self._core.clock.sleep_until(self._core.clock.now_ns() + PAUSE_NS)
                report.MergeFrom(lasting(first, await self._compared(node.id)))
        except MiniError as error:
            report.problem = error.message
        return report

    async def _compared(self, node_id: str) -> pb.NodeNetworkReport:
        """The differences of this moment; those in the kernel count only once it is to follow what it was told."""
        said = await self._ask(node_id)
        snapshot = await self._core.read()
        wanted = {
            key: digest(item, self._opener)
            for key, item in assignments(snapshot, node_id).items()
            if key.partition("/")[0] in COMPARED
        }
        behind = said.check.revision != said.check.applied_revision
        return pb.NodeNetworkReport(
            problem=said.check.problem if behind else "",
            untold=sorted(key for key, value in wanted.items() if said.told.get(key) != value),
            surplus=sorted(said.told.keys() - wanted.keys()),
            differences=said.check.differences,
        )

    async def _ask(self, node_id: str) -> Told:
        """Raises MiniError for a node that cannot be asked."""
        told: dict[str, bytes] = {}
        last = pb.NetworkCheck()
        async with self._nodes.open(node_id, pb.NodeRequest(network=pb.NetworkQuery())) as stream:
            async for output in stream:
                last = output.network
                told.update((item.key, item.digest) for item in last.told)
        return Told(told, last)

    async def Trace(self, request: pb.TraceRequest, context: Context) -> pb.TraceResponse:
        check(request)
        _check_trace(request)
        snapshot = await self._core.read()
        node, destination = _destination(snapshot, request.node)
        query = pb.TraceQuery(
            client=request.client, destination=destination, protocol=request.protocol, port=request.port
        )
        traced = (await self._nodes.ask(node.id, pb.NodeRequest(trace=query))).traced
        for hop in traced.targets:
            _name(snapshot, hop)
        response = pb.TraceResponse(
            node_id=node.id,
            node_hostname=node_name(snapshot, node),
            destination=destination,
            packet=traced,
        )
        if traced.back_to:
            response.back.extend(await self._ways_back(snapshot, node, traced))
        return response

    async def _ways_back(
        self, snapshot: Snapshot, node: Node, traced: pb.TracedPacket
    ) -> list[pb.NetworkHop]:
        """How the other nodes with targets reach the one that the packet came to; one that is away says why."""
        others = sorted({hop.node_id for hop in traced.targets} - {node.id, ""})
        request = pb.NodeRequest(reach=pb.ReachQuery(address=traced.back_to))

        async def reach(node_id: str) -> pb.NetworkHop:
            try:
                hop = (await self._nodes.ask(node_id, request)).hop
            except MiniError as error:
                hop = pb.NetworkHop(address=traced.back_to, problem=error.message)
            hop.node_id, hop.node_hostname = node_id, views.hostname(snapshot, node_id) or node_id
            return hop

        return list(await asyncio.gather(*map(reach, others)))


def lasting(first: pb.NodeNetworkReport, second: pb.NodeNetworkReport) -> pb.NodeNetworkReport:
    """What both say: pure."""
    before = {item.SerializeToString(deterministic=True) for item in first.differences}
    return pb.NodeNetworkReport(
        problem=second.problem if first.problem else "",
        untold=sorted({*first.untold} & {*second.untold}),
        surplus=sorted({*first.surplus} & {*second.surplus}),
        differences=[
            item for item in second.differences if item.SerializeToString(deterministic=True) in before
        ],
    )


def _check_trace(request: pb.TraceRequest) -> None:
    if not 0 < request.port <= MAX_PORT:
        raise InvalidArgumentError(f"port: must be from 1 to {MAX_PORT}, got {request.port}")
    if request.protocol not in (objects_pb2.PORT_PROTOCOL_TCP, objects_pb2.PORT_PROTOCOL_UDP):
        raise InvalidArgumentError(f"protocol: must be tcp or udp, got {request.protocol}")
    if _ipv4(request.client) is None:
        raise InvalidArgumentError(f"client: must be an IPv4 address, got {request.client!r}")


def _destination(snapshot: Snapshot, ref: str) -> tuple[Node, str]:
    """The node and the address that the packet goes to. Raises NotFoundError, FailedPreconditionError."""
    if (address := _ipv4(ref)) is not None:
        for node_id, status in snapshot.node_statuses.items():
            if status.address == str(address) and node_id in snapshot.nodes:
                return snapshot.nodes[node_id], str(address)
        known = sorted(status.address for status in snapshot.node_statuses.values() if status.address)
        raise NotFoundError(f"node: no node has the address {address}; they have {', '.join(known)}")
    node = find_node(snapshot, ref)
    own = snapshot.node_statuses.get(node.id)
    if own is None or not own.address:
        raise FailedPreconditionError(f"node {ref} has never reported an address")
    return node, own.address


def _name(snapshot: Snapshot, hop: pb.NetworkHop) -> None:
    task = snapshot.tasks.get(hop.task_id)
    hop.task_name = task.name if task is not None else ""
    if task is not None and task.node_id:
        hop.node_id = task.node_id
    hop.node_hostname = views.hostname(snapshot, hop.node_id) or hop.node_id


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None
