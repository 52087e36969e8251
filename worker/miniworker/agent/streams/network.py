"""Questions about the network, on a stream: what the node was told, what its kernel holds, where packets go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from ipaddress import AddressValueError, IPv4Address

from minicommon.errors import InvalidArgumentError
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2
from miniproto.v1 import streams_pb2 as pb

from miniworker.agent.streams.api import Inputs, Outputs
from miniworker.agent.streams.errors import told
from miniworker.network.api import DataPlane, Hop, Packet

BATCH = 5000
"""Assignments in one message: some 300 KB."""

DIGEST_BYTES = 8

COMPARED = frozenset({"network", "endpoint", "service", "peer", "port"})
"""Kinds whose contents are compared; of tasks only whether they are there: their credentials are nobody's to see."""


class NetworkQuestions:
    """The handlers of `network`, `trace` and `reach`. `state` says what the node was told."""

    def __init__(self, data_plane: DataPlane, state: Callable[[], pb.NetworkCheck]) -> None:
        self._data_plane = data_plane
        self._state = state

    async def network(self, query: pb.NetworkQuery, inputs: Inputs) -> Outputs:
        with told():
            found = await self._data_plane.verify()
        state = self._state()
        assignments = list(state.told)
        del state.told[:]
        for start in range(0, len(assignments), BATCH):
            yield pb.StreamOutput(network=pb.NetworkCheck(told=assignments[start : start + BATCH]))
        state.differences.extend(
            pb.NetworkDifference(kind=item.kind, task_id=item.task_id, item=item.item, missing=item.missing)
            for item in found
        )
        yield pb.StreamOutput(network=state)

    async def trace(self, query: pb.TraceQuery, inputs: Inputs) -> Outputs:
        packet = Packet(
            client=_address("client", query.client),
            destination=_address("destination", query.destination),
            protocol="udp" if query.protocol == objects_pb2.PORT_PROTOCOL_UDP else "tcp",
            port=query.port,
        )
        with told():
            traced = await self._data_plane.trace(packet)
        yield pb.StreamOutput(
            traced=pb.TracedPacket(
                verdict=traced.verdict,
                rules=traced.rules,
                choice=traced.choice,
                targets=map(_hop, traced.targets),
                listener=traced.listener,
                back_to=str(traced.back_to or ""),
                dropping=traced.dropping,
            )
        )

    async def reach(self, query: pb.ReachQuery, inputs: Inputs) -> Outputs:
        with told():
            hop = await self._data_plane.reach(_address("address", query.address))
        yield pb.StreamOutput(hop=_hop(hop))


def assignments_told(items: Iterator[tuple[str, dispatch.Assignment]]) -> Iterator[pb.ToldAssignment]:
    """By key, for the manager to compare: those that the network follows from."""
    for key, item in items:
        kind = item.WhichOneof("item")
        if kind in COMPARED:
            yield pb.ToldAssignment(key=key, digest=digest_of(item))
        elif kind == "task":
            yield pb.ToldAssignment(key=key)


def digest_of(item: dispatch.Assignment) -> bytes:
    return hashlib.sha256(item.SerializeToString(deterministic=True)).digest()[:DIGEST_BYTES]


def _hop(hop: Hop) -> pb.NetworkHop:
    return pb.NetworkHop(
        address=str(hop.address),
        port=hop.port,
        task_id=hop.task_id,
        node_id=hop.node_id,
        device=hop.device,
        vtep=str(hop.vtep or ""),
        via=hop.via,
        problem=hop.problem,
    )


def _address(field: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise InvalidArgumentError(f"{field}: must be an IPv4 address, got {text!r}") from None
