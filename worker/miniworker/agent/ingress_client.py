"""Hands published ports and names to the node's mini-ingress, and notices when that process was replaced."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc
from minicommon.errors import UnavailableError
from minicommon.log import fields
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2, ingress_pb2_grpc

from miniworker.agent.statuses import protocol_name

logger = logging.getLogger(__name__)

APPLY_SECONDS = 10.0
"""The process answers in milliseconds; after this it counts as stuck and the table is sent again."""


@dataclass(frozen=True, slots=True)
class IngressWant:
    """What the process is to serve."""

    ports: tuple[dispatch.PublishedPort, ...] = ()
    dns: ingress_pb2.DnsTable = field(default_factory=ingress_pb2.DnsTable)


class IngressTables(Protocol):
    async def apply(self, want: IngressWant) -> None:
        """Replace the whole table; return once it is in force. Raises UnavailableError."""

    async def watch(self, lost: Callable[[], None]) -> None:
        """Call `lost` each time the process has gone away; runs for ever."""


class IngressClient:
    def __init__(self, channel: grpc.aio.Channel, *, node_id: str) -> None:
        self._channel = channel
        self._stub = ingress_pb2_grpc.IngressStub(channel)
        self._node_id = node_id
        self._revision = 0

    async def apply(self, want: IngressWant) -> None:
        self._revision += 1
        table = ingress_pb2.IngressTable(
            revision=self._revision, ports=want.ports, node_id=self._node_id, dns=want.dns
        )
        try:
            answer = await self._stub.Apply(table, timeout=APPLY_SECONDS, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(f"mini-ingress did not take the table: {error.details()}") from error
        for problem in answer.problems:
            logger.warning(
                "A published port cannot be served on this node.",
                extra=fields(
                    port=f"{problem.published_port}/{protocol_name(problem.protocol)}", error=problem.message
                ),
            )
        for message in answer.dns_problems:
            logger.warning("Names cannot be served on this node.", extra=fields(error=message))

    async def watch(self, lost: Callable[[], None]) -> None:
        state = self._channel.get_state(try_to_connect=True)
        while True:
            await self._channel.wait_for_state_change(state)
            was, state = state, self._channel.get_state(try_to_connect=True)
            if was is grpc.ChannelConnectivity.READY and state is not was:
                lost()
