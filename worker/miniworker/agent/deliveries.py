"""Fetches the contents of secrets and configs for a task, from the manager that holds the session, and confirms them.

Nothing is kept here: what was fetched goes to the hook that writes it, and a task that begins anew fetches anew.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc import StatusCode
from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import MiniError
from minicommon.log import fields
from minicommon.receipts import receipt_text
from minicommon.rpc.errors import from_rpc
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniproto.v1 import secrets_pb2, secrets_pb2_grpc

from miniworker.agent.content_files import SECRETS_DIRECTORY, ContentFile

logger = logging.getLogger(__name__)

FETCH_SECONDS: Final = 10.0
"""For one content, from a manager that answers."""

FIRST_RETRY_NS: Final = 100 * MILLISECOND
LONGEST_RETRY_NS: Final = 8 * SECOND
"""As the session's."""

CONFIRM_ATTEMPTS: Final = 5
"""A receipt that no manager takes is given up: the ledger shows a delivery without one."""

_FINAL: Final = frozenset(
    {
        StatusCode.FAILED_PRECONDITION,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNIMPLEMENTED,
    }
)
"""Asking again gives the same."""


@dataclass(frozen=True, slots=True)
class Signature:
    """With the key of the node's certificate, and that certificate in DER."""

    value: bytes
    certificate: bytes


Sign = Callable[[bytes], Awaitable[Signature]]
Channel = Callable[[], Awaitable[grpc.aio.Channel]]
Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


class Deliveries:
    """`channel` gives the session's, once there is one; `spawn` runs what nobody waits for."""

    def __init__(
        self, channel: Channel, sign: Sign, *, revision: Callable[[], int], spawn: Spawn, clock: Clock
    ) -> None:
        self._channel = channel
        self._sign = sign
        self._revision = revision
        self._spawn = spawn
        self._clock = clock

    async def fetch(self, task: dispatch.AssignedTask) -> tuple[ContentFile, ...]:
        """The task's files with their contents. Waits for a manager for as long as it takes.

        Raises MiniError for what no manager will give.
        """
        found: list[ContentFile] = []
        for request, file in zip(_requests(task), files_of(task), strict=True):
            request.min_revision = self._revision()
            answer = await self._fetch(request)
            if answer.record:
                self._spawn(f"receipt for task {task.id}", self._confirm(answer.record))
            found.append(ContentFile(file.path, answer.data, file.uid, file.gid, file.mode))
        return tuple(found)

    async def _fetch(self, request: secrets_pb2.FetchRequest) -> secrets_pb2.FetchResponse:
        retries = 0
        while True:
            stub = secrets_pb2_grpc.DeliveriesStub(await self._channel())
            try:
                return await stub.Fetch(request, timeout=FETCH_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() in _FINAL:
                    raise from_rpc(error) from None
                logger.warning(
                    "A content could not be fetched yet.",
                    extra=fields(task_id=request.task_id, error=f"{error.code().name}: {error.details()}"),
                )
            await self._pause(retries)
            retries += 1

    async def _confirm(self, record: bytes) -> None:
        """Sign that the content of this record has come."""
        number = secrets_pb2.LedgerRecord.FromString(record).number
        for attempt in range(CONFIRM_ATTEMPTS):
            try:
                signed = await self._sign(receipt_text(record))
                receipt = secrets_pb2.Receipt(
                    delivery=number, signature=signed.value, certificate=signed.certificate
                )
                stub = secrets_pb2_grpc.DeliveriesStub(await self._channel())
                await stub.Confirm(receipt, timeout=FETCH_SECONDS)
            except (grpc.aio.AioRpcError, MiniError, OSError) as error:
                reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                logger.warning("A receipt was not taken.", extra=fields(delivery=number, error=reason))
            else:
                return
            await self._pause(attempt)

    async def _pause(self, retries: int) -> None:
        pause_ns = min(FIRST_RETRY_NS << min(retries, 20), LONGEST_RETRY_NS)
        await self._clock.sleep_until(self._clock.now_ns() + pause_ns)


def files_of(task: dispatch.AssignedTask) -> tuple[ContentFile, ...]:
    """The files that the task is to have, without content, in the order of the requests for them."""
    container = task.spec.container
    return (
        *(_file(use.file, SECRETS_DIRECTORY, use.name) for use in container.secrets),
        *(_file(use.file, "/", use.name) for use in container.configs),
    )


def _requests(task: dispatch.AssignedTask) -> list[secrets_pb2.FetchRequest]:
    container = task.spec.container
    secrets = [
        secrets_pb2.FetchRequest(task_id=task.id, secret_id=use.secret, secret_version=use.version)
        for use in container.secrets
    ]
    configs = [secrets_pb2.FetchRequest(task_id=task.id, config_id=use.config) for use in container.configs]
    return secrets + configs


def _file(file: pb.FileTarget, directory: str, name: str) -> ContentFile:
    path = posixpath.normpath(posixpath.join(directory, file.name or name))
    return ContentFile(path, b"", file.uid, file.gid, file.mode)
