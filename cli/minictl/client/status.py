"""gRPC status codes as the errors of `minicommon.errors`."""

from __future__ import annotations

from minicommon.errors import (
    AlreadyExistsError,
    ConflictError,
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    MiniError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)

OK = 0


class CanceledError(MiniError):
    """The call was given up, by us or by the daemon: CANCELLED."""


class RemoteError(MiniError):
    """The daemon failed in a way that it could not explain: UNKNOWN, INTERNAL, UNIMPLEMENTED, DATA_LOSS."""


class UnimplementedError(RemoteError):
    """The daemon is of a version that does not know the call: UNIMPLEMENTED."""


_ERRORS: dict[int, type[MiniError]] = {
    1: CanceledError,
    3: InvalidArgumentError,
    4: DeadlineError,
    5: NotFoundError,
    6: AlreadyExistsError,
    7: PermissionDeniedError,
    8: ResourceExhaustedError,
    9: FailedPreconditionError,
    10: ConflictError,
    11: InvalidArgumentError,
    12: UnimplementedError,
    14: UnavailableError,
    16: UnauthenticatedError,
}


def error_for(code: int, message: str) -> MiniError:
    """The error for a status that is not OK."""
    kind = _ERRORS.get(code, RemoteError)
    return kind(message or f"the daemon answered with gRPC status {code} and no message")


def percent_decode(text: str) -> str:
    """A `grpc-message`: percent-encoded UTF-8. What is not a valid escape stays as it is."""
    if "%" not in text:
        return text
    out = bytearray()
    data = text.encode()
    at = 0
    while at < len(data):
        if data[at] == 0x25:
            try:
                out.append(int(data[at + 1 : at + 3].decode("ascii"), 16))
            except ValueError:
                out.append(data[at])
            else:
                at += 3
                continue
        else:
            out.append(data[at])
        at += 1
    return out.decode("utf-8", "replace")
