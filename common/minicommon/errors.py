"""The errors that cross a process boundary, one class per gRPC code.

A message names the field, what is allowed and what was given. The mapping to gRPC codes happens once, in
`minicommon.rpc.errors`; the mapping to exit codes once, in the CLI.
"""

from __future__ import annotations


class MiniError(Exception):
    """Root of every expected error; its text is shown to the user as it is."""

    @property
    def message(self) -> str:
        return str(self)


class InvalidArgumentError(MiniError):
    """The request can never succeed as it is: INVALID_ARGUMENT."""


class NotFoundError(MiniError):
    """A named object does not exist: NOT_FOUND."""


class AlreadyExistsError(MiniError):
    """The name, port or id is taken: ALREADY_EXISTS."""


class FailedPreconditionError(MiniError):
    """Not possible in the present state: FAILED_PRECONDITION."""


class ConflictError(MiniError):
    """The object changed since it was read; read it again: ABORTED."""


class ResourceExhaustedError(MiniError):
    """A limit is reached: RESOURCE_EXHAUSTED."""


class UnauthenticatedError(MiniError):
    """No valid certificate or token: UNAUTHENTICATED."""


class PermissionDeniedError(MiniError):
    """A valid identity that may not do this: PERMISSION_DENIED."""


class UnavailableError(MiniError):
    """A part that is needed does not answer; trying again may help: UNAVAILABLE."""


class DeadlineError(MiniError):
    """The time given ran out: DEADLINE_EXCEEDED."""
