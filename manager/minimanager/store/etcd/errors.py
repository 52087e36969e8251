"""etcd's errors as ours. etcd tells them apart by gRPC code and, within a code, by text (etcd `rpctypes/error.go`)."""

from __future__ import annotations

from typing import Final

import grpc
from minicommon.errors import (
    InvalidArgumentError,
    MiniError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)

from minimanager.store.api import LeaseGoneError, TooLargeError

_TOO_LARGE: Final = ("request is too large", "too many operations", "larger than max")
_NO_SPACE: Final = "database space exceeded"

UNREACHABLE: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
"""Codes after which another member, or the same one later, may well answer."""


def translate(error: grpc.aio.AioRpcError, what: str) -> MiniError:
    """The error to raise instead of `error`, which `what` (for example "etcd transaction") met."""
    code, details = error.code(), error.details() or ""
    if any(text in details for text in _TOO_LARGE):
        return TooLargeError(f"{what}: refused by etcd, whose limits are lower than ours: {details}")
    if _NO_SPACE in details:
        return ResourceExhaustedError(
            f"{what}: etcd's database is full ({details}): what runs goes on, and nothing can be changed until space "
            "has been given back; the managers see to it within seconds in an etcd of theirs, and in one of your "
            "own you compact, defragment and disarm the alarm NOSPACE; then try again"
        )
    if code is grpc.StatusCode.NOT_FOUND and "lease" in details:
        return LeaseGoneError(f"{what}: {details}")
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return InvalidArgumentError(f"{what}: {details}")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return PermissionDeniedError(f"{what}: {details}")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return UnauthenticatedError(f"{what}: {details}")
    return UnavailableError(f"{what}: {details or 'no answer'} ({code.name})")


def is_compacted(error: grpc.aio.AioRpcError) -> bool:
    """Whether the revision asked for is gone."""
    return error.code() is grpc.StatusCode.OUT_OF_RANGE and "compacted" in (error.details() or "")
