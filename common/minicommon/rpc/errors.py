"""Our errors to gRPC statuses and back: the one place that knows both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, takewhile
from typing import Final

import grpc
from grpc import StatusCode

from minicommon import errors
from minicommon.errors import MiniError

MAX_DETAILS_BYTES: Final = 6000
"""Of a status message, escaped as it travels in an HTTP/2 header. gRPC's own clients refuse headers that are together
longer than 8192 bytes, and with them the whole answer."""

CODES: Final[dict[type[MiniError], StatusCode]] = {
    errors.InvalidArgumentError: StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: StatusCode.FAILED_PRECONDITION,
    errors.ConflictError: StatusCode.ABORTED,
    errors.ResourceExhaustedError: StatusCode.RESOURCE_EXHAUSTED,
    errors.UnauthenticatedError: StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: StatusCode.PERMISSION_DENIED,
    errors.UnavailableError: StatusCode.UNAVAILABLE,
    errors.DeadlineError: StatusCode.DEADLINE_EXCEEDED,
}

_CLASSES: Final = {code: cls for cls, code in CODES.items()} | {
    StatusCode.OUT_OF_RANGE: errors.InvalidArgumentError,
    StatusCode.CANCELLED: errors.UnavailableError,
    StatusCode.UNIMPLEMENTED: errors.FailedPreconditionError,
}


def code_of(error: MiniError) -> StatusCode:
    """The gRPC code of an error: that of the nearest class, INTERNAL for those without."""
    return next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), StatusCode.INTERNAL)


def error_of(code: str, message: str) -> MiniError:
    """The error that has this code's name: `error_of(code_of(error).name, error.message)` is like `error`."""
    known = StatusCode.__members__.get(code)
    return _CLASSES.get(known, MiniError)(message) if known is not None else MiniError(message)


def details_of(error: MiniError) -> str:
    """The error's text, cut where it would be too long for a header."""
    text = error.message.encode("utf-8", "replace").decode()  # a file's name may be no text
    sizes = accumulate(map(_escaped_bytes, text))
    fits = sum(1 for _ in takewhile(lambda size: size <= MAX_DETAILS_BYTES, sizes))
    return text if fits == len(text) else f"{text[:fits]}..."


def _escaped_bytes(char: str) -> int:
    """What a character takes in a `grpc-message` header: printable ASCII as it is, other bytes as `%XX`."""
    if " " <= char <= "~" and char != "%":
        return 1
    return 3 * len(char.encode())


def from_rpc(error: grpc.RpcError) -> MiniError:
    """The error that a call failed with, as the other side raised it; a bare MiniError for an internal one."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return MiniError(str(error))
    code, details = error.code(), error.details() or ""
    cls = _CLASSES.get(code, MiniError)
    return cls(details or f"the call failed with {code.name} and no message")


@contextmanager
def ours() -> Iterator[None]:
    """Calls made inside raise `minicommon.errors` instead of gRPC's."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(error) from error
