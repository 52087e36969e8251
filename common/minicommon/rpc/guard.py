"""The interceptor of every server: who calls, may they, how long may it take, what came of it.

One pass around each handler, so that the order cannot be got wrong: identify, check access, limit the time, run, turn
errors into statuses, leave a record. The record names the caller, the method and the result, never what was sent.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode
from grpc.aio import AbortError

from minicommon.clock import SECOND
from minicommon.errors import DeadlineError, InvalidArgumentError, MiniError
from minicommon.identity.names import Caller
from minicommon.identity.peer import Identity
from minicommon.ids import new_id
from minicommon.log import fields
from minicommon.rpc import access, audit, errors
from minicommon.rpc.audit import Journal, NoJournal
from minicommon.rpc.gate import Context, Gate, check_access
from minicommon.rpc.limits import CallLimits, Limiter, TooManyCallsError

logger = logging.getLogger(__name__)

UNARY_SECONDS: Final = 60.0
"""The longest that a call with one request and one response may take; the caller's own deadline may be shorter.
Nothing in the API waits on purpose, but `swarm init` and `join` do."""

_REFUSALS: Final = frozenset({StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.INTERNAL})

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # quoted: only the stubs make it generic


class Guard(grpc.aio.ServerInterceptor):
    """Wraps the handlers of a server whose callers pass through `gate`; `unary_seconds` limits unary calls."""

    def __init__(
        self,
        gate: Gate,
        *,
        unary_seconds: float = UNARY_SECONDS,
        journal: Journal | None = None,
        limits: CallLimits | None = None,
    ) -> None:
        self._gate = gate
        self._unary_seconds = unary_seconds
        self._journal = journal or NoJournal()
        self._limiter = None if limits is None else Limiter(limits, time.monotonic_ns)
        self._streams: set[_Stream] = set()

    def recheck(self) -> None:
        """End the streams of those whom the gate lets in no more, idle ones too, with what it says of them.

        To be called when a certificate may have been revoked. Handlers that write to their stream by themselves, as
        that of a node's session, are not ended.
        """
        for stream in tuple(self._streams):
            try:
                self._gate.identify(stream.context)
            except MiniError as error:
                stream.end(error)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        make, inner = _kind(handler)
        unary = not handler.request_streaming and not handler.response_streaming
        checked = _checked_stream if handler.request_streaming else _checked
        if inspect.isasyncgenfunction(inner):
            wrapped = self._generator(method, inner, checked)
        else:
            wrapped = self._coroutine(method, inner, checked, unary=unary)
        return make(
            wrapped,
            request_deserializer=_tolerant(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _coroutine(
        self, method: str, inner: Callable[..., Any], checked: _Check, *, unary: bool
    ) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            async with self._around(method, context, unary=unary, request=request):
                return await inner(checked(request), context)

        return call

    def _generator(self, method: str, inner: Callable[..., Any], checked: _Check) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            async with (
                self._around(method, context, unary=False, request=request),
                aclosing(inner(checked(request), context)) as messages,
            ):
                with self._open(context) as stream:
                    while (message := await stream.next(messages)) is not None:
                        self._gate.identify(context)  # a certificate may be revoked while it is open
                        yield message

        return call

    @contextmanager
    def _open(self, context: Context) -> Iterator[_Stream]:
        stream = _Stream(context)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    @asynccontextmanager
    async def _around(
        self, method: str, context: Context, *, unary: bool, request: Any
    ) -> AsyncIterator[None]:
        record = _Record(method, context.peer(), request, self._journal)
        try:
            caller = self._gate.identify(context)
            record.identity = caller
            with self._admitted(caller, context):
                check_access(method, caller)
                async with self._limited(method, context, unary=unary):
                    yield
        except TooManyCallsError as error:
            await context.abort(errors.code_of(error), errors.details_of(error))
        except MiniError as error:
            code, details = errors.code_of(error), errors.details_of(error)
            record.write(code, details)
            await context.abort(code, details)
        except asyncio.CancelledError:
            record.write(StatusCode.CANCELLED)
            raise
        except AbortError:
            record.write(_status(context))
            raise
        except Exception as error:  # noqa: BLE001  an error of the program: the caller learns a reference to the log only
            record.write(StatusCode.INTERNAL)
            await self._unexpected(method, context, error)
        else:
            record.write(_status(context))

    def _admitted(self, caller: Identity, context: Context) -> AbstractContextManager[None]:
        """Root on this machine has no limit: it could do worse. Who has no certificate is known by its address."""
        if self._limiter is None or caller.caller is Caller.LOCAL:
            return nullcontext()
        if caller.caller is Caller.ANYONE:
            return self._limiter.admitted(audit.address_of(context.peer()))
        return self._limiter.admitted(str(caller))

    @asynccontextmanager
    async def _limited(self, method: str, context: Context, *, unary: bool) -> AsyncIterator[None]:
        if not unary:
            yield
            return
        left = context.time_remaining()
        limit = self._unary_seconds if left is None else min(left, self._unary_seconds)
        timer = asyncio.timeout(limit)
        try:
            async with timer:
                yield
        except TimeoutError as error:
            if not timer.expired():
                raise  # the handler's own
            raise DeadlineError(f"{method}: not done within the {limit:.3g} s it had") from error

    async def _unexpected(self, method: str, context: Context, error: Exception) -> None:
        reference = new_id()[:12]
        logger.error(
            "Internal error in a call.",
            extra=fields(method=method, peer=context.peer(), reference=reference),
            exc_info=error,
        )
        await context.abort(StatusCode.INTERNAL, f"internal error (reference {reference})")


class _Stream:
    """A stream of answers that is open. It is ended only while its handler is waited for, not amid gRPC's own work."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._waiting: asyncio.Task[Any] | None = None
        self._error: MiniError | None = None

    def end(self, error: MiniError) -> None:
        """Let `next` raise this."""
        if self._error is None:
            self._error = error
            if self._waiting is not None:
                self._waiting.cancel()

    async def next(self, messages: AsyncIterator[Any]) -> Any:
        """The next message; None: there is none. Raises what the stream was ended with."""
        self._raise_if_ended()
        self._waiting = task = asyncio.current_task()
        try:
            return await anext(messages, None)
        except asyncio.CancelledError:
            self._raise_if_ended(task)
            raise
        finally:
            self._waiting = None

    def _raise_if_ended(self, cancelled: asyncio.Task[Any] | None = None) -> None:
        if self._error is not None:
            if cancelled is not None:
                cancelled.uncancel()
            raise self._error from None


_MALFORMED: Final = object()
"""In place of a request that could not be read: the caller is identified before it is told so."""

_Check = Callable[[Any], Any]


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Never raises: gRPC would tell the caller of our classes."""
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _MALFORMED

    return read


def _checked(request: Any) -> Any:
    """Raises InvalidArgumentError for a request that could not be read."""
    if request is _MALFORMED:
        raise InvalidArgumentError("request: is not the message that the method takes")
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


class _Record:
    """The record of one call: in the log, and in the journal when it changes something."""

    def __init__(self, method: str, peer: str, request: Any, journal: Journal) -> None:
        self._method = method
        self._peer = peer
        self._request = request
        self._journal = journal
        self._at_ns = time.time_ns()
        self._started = time.monotonic()
        self.identity: Identity | None = None

    @property
    def caller(self) -> str:
        return "unidentified" if self.identity is None else str(self.identity)

    def write(self, code: StatusCode, message: str = "") -> None:
        """Changes and refusals are for everybody's log, reads only for who looks closely."""
        if access.recorded(self._method):
            self._journal.write(self._audit(code, message))
        level = (
            logging.WARNING
            if code in _REFUSALS
            else logging.DEBUG
            if access.reads(self._method)
            else logging.INFO
        )
        if not logger.isEnabledFor(level):
            return
        extra = fields(
            method=self._method,
            caller=self.caller,
            peer=self._peer,
            result=code.name,
            milliseconds=round((time.monotonic() - self._started) * 1000, 1),
        )
        logger.log(level, "Call done.", extra=extra | (fields(error=message) if message else {}))

    def _audit(self, code: StatusCode, message: str) -> audit.Record:
        who = self.identity
        return audit.Record(
            at_ns=self._at_ns,
            caller="unidentified" if who is None else who.caller.name.lower(),
            name="" if who is None else who.name,
            address=audit.address_of(self._peer),
            method=self._method.rpartition(".")[2],
            object=audit.object_of(self._request),
            result=code.name,
            error=audit.shortened(message),
            duration_ns=int((time.monotonic() - self._started) * SECOND),
            certificate="" if who is None else who.client_id,
        )


def _status(context: Context) -> StatusCode:
    """The status a handler has set, OK when it has set none. gRPC gives it as a number."""
    code: Any = context.code()
    if isinstance(code, StatusCode):
        return code
    return next((known for known in StatusCode if known.value[0] == code), StatusCode.OK)


def _kind(handler: Handler) -> tuple[Callable[..., Handler], Callable[..., Any]]:
    """What makes a handler of the same kind, and the function inside this one."""
    kinds: tuple[tuple[Callable[..., Handler], Any], ...] = (
        (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    )
    return next((make, inner) for make, inner in kinds if inner is not None)
