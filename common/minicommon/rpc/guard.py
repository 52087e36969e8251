"""The interceptor of every server: who calls, may they, how long may it take, what came of it.

One pass around each handler, so that the order cannot be got wrong: identify, check access, limit the time, run, turn
errors into statuses, leave a record. The record names the caller, the method and the result, never what was sent.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeAlias

import grpc
from grpc import StatusCode
from grpc.aio import AbortError

from minicommon.errors import DeadlineError, MiniError
from minicommon.ids import new_id
from minicommon.log import fields
from minicommon.rpc import access, errors
from minicommon.rpc.gate import Context, Gate, check_access

logger = logging.getLogger(__name__)

UNARY_SECONDS: Final = 60.0
"""The longest that a call with one request and one response may take; the caller's own deadline may be shorter.
Nothing in the API waits on purpose, but `swarm init` and `join` do."""

_REFUSALS: Final = frozenset({StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.INTERNAL})

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # quoted: only the stubs make it generic


class Guard(grpc.aio.ServerInterceptor):
    """Wraps the handlers of a server whose callers pass through `gate`; `unary_seconds` limits unary calls."""

    def __init__(self, gate: Gate, *, unary_seconds: float = UNARY_SECONDS) -> None:
        self._gate = gate
        self._unary_seconds = unary_seconds

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
        if inspect.isasyncgenfunction(inner):
            wrapped = self._generator(method, inner)
        else:
            wrapped = self._coroutine(method, inner, unary=unary)
        return make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _coroutine(self, method: str, inner: Callable[..., Any], *, unary: bool) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            async with self._around(method, context, unary=unary):
                return await inner(request, context)

        return call

    def _generator(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            async with (
                self._around(method, context, unary=False),
                aclosing(inner(request, context)) as messages,
            ):
                async for message in messages:
                    yield message

        return call

    @asynccontextmanager
    async def _around(self, method: str, context: Context, *, unary: bool) -> AsyncIterator[None]:
        record = _Record(method, context.peer())
        try:
            caller = self._gate.identify(context)
            record.caller = str(caller)
            check_access(method, caller)
            async with self._limited(method, context, unary=unary):
                yield
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


class _Record:
    """The audit record of one call."""

    def __init__(self, method: str, peer: str) -> None:
        self._method = method
        self._peer = peer
        self._started = time.monotonic()
        self.caller = "unidentified"

    def write(self, code: StatusCode, message: str = "") -> None:
        """Changes and refusals are for everybody's log, reads only for who looks closely."""
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
