"""The dispatcher's servicer: takes a node's stream in, gives it a session, and sees to what follows from its end."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from grpc import aio
from minicommon.clock import SECOND
from minicommon.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from minicommon.log import fields
from minicommon.rpc.gate import identity
from minicommon.supervise import Supervisor
from miniproto.v1 import dispatcher_pb2, dispatcher_pb2_grpc

from minimanager.ca.sealer import ClusterSealer
from minimanager.codec import from_proto
from minimanager.domain.objects import ClusterSpec, Node, NodeRole, NodeState
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.dispatcher.feed import Feed
from minimanager.rpc.dispatcher.node_record import Arrival, NodeRecords, identifier
from minimanager.rpc.dispatcher.opener import Opener
from minimanager.rpc.dispatcher.presence import (
    RECONNECT_GRACE_NS,
    STOPPING,
    Presence,
    probation_ns,
    silence_ns,
)
from minimanager.rpc.dispatcher.reports import Reports
from minimanager.rpc.dispatcher.session import SILENT, NodeSession
from minimanager.rpc.node_streams import NodeStreams

logger = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
Messages = AsyncIterator[dispatcher_pb2.WorkerMessage]

HELLO_TIMEOUT = 10.0
"""Seconds that a new stream has to say Hello."""

ENCRYPTION_KEY_BYTES = 32
"""Of a WireGuard public key (Curve25519)."""

LOST = "the node's connection was lost"
PARTED = "the node's agent was stopped and has not come back"
ON_PROBATION = "was lost {losses} times in a row: must hold its connection for {seconds:g} s"


class Dispatcher(dispatcher_pb2_grpc.DispatcherServicer):
    """Sessions of this manager. `run` must be going on while streams are served."""

    def __init__(
        self,
        core: Core,
        supervisor: Supervisor,
        sealer: ClusterSealer,
        streams: NodeStreams,
        *,
        reconnect_grace_ns: int = 0,
    ) -> None:
        """`reconnect_grace_ns`: how long a node has to come back, however long it was silent; 0: as `presence` says."""
        self._core = core
        self._reconnect_grace_ns = reconnect_grace_ns
        self._opener = Opener(sealer)
        self._streams = streams
        self._records = NodeRecords(core)
        self._presence = Presence(self._records, core.clock, supervisor)
        self._feed = Feed(core.cache, self._forget, clock=core.clock)

    async def run(self) -> None:
        """Follow the cache, for as long as the manager lives."""
        self._presence.expect(self._core.cache.snapshot())
        await self._feed.run()

    def close(self) -> None:
        """The manager stops: the nodes are told to find another, and none is called down for it."""
        self._presence.close_all(UnavailableError(STOPPING))

    async def Session(  # type: ignore[override]  # the reader-writer form of a streaming handler
        self, request_iterator: Messages, context: Context
    ) -> None:
        node_id = identity(context).node_id
        hello = await _first(request_iterator)
        snapshot = await self._core.settle()
        node = snapshot.nodes.get(node_id)
        if node is None:
            raise NotFoundError(f"node {node_id} is not in the cluster")
        arrival = _arrival(hello, node, context.peer())
        spec = snapshot.cluster.spec if snapshot.cluster else ClusterSpec()
        session = NodeSession(
            node_id=node_id,
            session_id=self._core.new_id(),
            clock=self._core.clock,
            period_ns=spec.heartbeat_period_ns,
        )
        self._presence.arrive(node_id, session)
        reserve_ns, reservation = _reservation(snapshot, node_id, spec)
        grace_ns, message = RECONNECT_GRACE_NS, LOST
        try:
            await self._records.ready(node_id, arrival, reservation=reservation)
            logger.info("Session opened.", extra=fields(node_id=node_id, session_id=session.session_id))
            await context.write(_welcome(session, spec, self._core.cache.snapshot()))
            await self._serve(session, request_iterator, context, reserve_ns)
            if session.parted:
                grace_ns, message = silence_ns(spec), PARTED
        except DeadlineError:
            grace_ns, message = 0, SILENT
            raise
        finally:
            logger.info("Session closed.", extra=fields(node_id=node_id, session_id=session.session_id))
            grace_ns = min(grace_ns, session.left_ns)
            if message is not SILENT:
                grace_ns = max(grace_ns, self._reconnect_grace_ns)
            self._presence.depart(node_id, session, grace_ns=grace_ns, message=message)

    async def _serve(
        self, session: NodeSession, messages: Messages, context: Context, reserve_ns: int
    ) -> None:
        subscription = self._feed.subscribe(session.node_id)
        try:
            with self._streams.reachable(session.node_id, session.dial):
                await session.run(
                    messages,
                    context.write,
                    subscription=subscription,
                    opener=self._opener,
                    reports=Reports(self._core, session.node_id),
                    describe=lambda description: self._records.describe(session.node_id, description),
                    certify=lambda certificate: self._records.certify(session.node_id, certificate),
                    roots=self._feed.roots,
                    rekey=lambda keys: self._rekey(session.node_id, keys),
                    admit=lambda: self._admit(session.node_id, reserve_ns),
                )
        finally:
            self._feed.unsubscribe(subscription)

    async def _admit(self, node_id: str, reserve_ns: int) -> None:
        """READY at last, if it was not at once."""
        if reserve_ns:
            await self._core.clock.sleep_until(self._core.clock.now_ns() + reserve_ns)
            await self._records.admit(node_id)
            logger.info("Node has held its connection and is ready.", extra=fields(node_id=node_id))

    async def _rekey(self, node_id: str, keys: dispatcher_pb2.WireGuardKeys) -> None:
        current = _encryption_key("keys.current", keys.current)
        await self._records.keys(node_id, current, _encryption_key("keys.next", keys.next))

    def _forget(self, node_id: str) -> None:
        self._presence.forget(node_id, NotFoundError(f"node {node_id} was removed from the cluster"))


def _reservation(snapshot: Snapshot, node_id: str, spec: ClusterSpec) -> tuple[int, str]:
    """For how long, in nanoseconds, the node is not READY though it is connected, and why: 0 unless it flaps."""
    status = snapshot.node_statuses.get(node_id)
    if status is None or status.state is not NodeState.DOWN:
        return 0, ""
    reserve_ns = probation_ns(spec, status.losses)
    if not reserve_ns:
        return 0, ""
    return reserve_ns, ON_PROBATION.format(losses=status.losses, seconds=reserve_ns / SECOND)


async def _first(messages: Messages) -> dispatcher_pb2.Hello:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT):
            message = await anext(messages, None)
    except TimeoutError as error:
        raise DeadlineError(f"message: no hello within {HELLO_TIMEOUT:g} s") from error
    if message is None or not message.HasField("hello"):
        got = None if message is None else message.WhichOneof("message")
        raise InvalidArgumentError(f"message: the first one must be hello, got {got}")
    return message.hello


def _arrival(hello: dispatcher_pb2.Hello, node: Node, peer: str) -> Arrival:
    return Arrival(
        description=from_proto(hello.description),
        address=_address(hello.data_path_address, peer),
        manager_address=hello.manager_address if node.spec.role is NodeRole.MANAGER else "",
        encryption_key=_encryption_key("encryption_key", hello.encryption_key),
        next_encryption_key=_encryption_key("next_encryption_key", hello.next_encryption_key),
        certificate_issuer=identifier(hello.certificate.issuer),
        trusted_roots=identifier(hello.certificate.trusted_roots),
    )


def _encryption_key(field: str, text: str) -> str:
    """A key of the node's as it is given, if it is one: the others would set it in their kernels."""
    try:
        length = len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        length = -1
    if text and length != ENCRYPTION_KEY_BYTES:
        raise InvalidArgumentError(
            f"{field}: must be a WireGuard public key, {ENCRYPTION_KEY_BYTES} bytes in base64, got {text!r}"
        )
    return text


def _address(given: str, peer: str) -> str:
    """The data path's address: the one given, else the one that the stream comes from."""
    text = given or unquote(peer).removeprefix("ipv4:").rpartition(":")[0]
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise InvalidArgumentError(
            f"data_path_address: must be an IPv4 address, got {given!r} from {peer}"
        ) from error


def _welcome(session: NodeSession, spec: ClusterSpec, snapshot: Snapshot) -> dispatcher_pb2.ManagerMessage:
    return dispatcher_pb2.ManagerMessage(
        welcome=dispatcher_pb2.Welcome(
            session_id=session.session_id,
            heartbeat_period_ns=spec.heartbeat_period_ns,
            managers=manager_addresses(snapshot),
        )
    )


def manager_addresses(snapshot: Snapshot) -> list[str]:
    """host:port of every manager's control API that is known."""
    return sorted(
        status.manager_address
        for node_id, status in snapshot.node_statuses.items()
        if status.manager_address and node_id in snapshot.nodes
    )
