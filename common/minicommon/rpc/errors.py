"""Our errors to gRPC statuses and back: the one place that knows both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from grpc import StatusCode

from minicommon import errors
from minicommon.errors import MiniError

MAX_DETAILS: Final = 2000
"""Characters of a status message. It travels in an HTTP/2 header, escaped to up to nine bytes a character; gRPC refuses
headers over 16 KiB, and with them the whole answer."""

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


def details_of(error: MiniError) -> str:
    """The error's text, shortened where it would be too long for a header."""
    text = error.message
    return text if len(text) <= MAX_DETAILS else f"{text[: MAX_DETAILS - 3]}..."


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
