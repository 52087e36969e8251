"""The `Store` protocol: etcd's semantics, no more and no less, over byte strings.

Two implementations keep it: `store.etcd` on a real etcd, `store.memory` for tests of what is above. One contract
suite runs on both. Every call raises `UnavailableError` when no member answers in time, and never leaves a
transaction half done; whether a transaction whose answer was lost took effect is for the caller to find out by
reading.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from minicommon.errors import FailedPreconditionError, MiniError
from minicommon.settings import MAX_REQUEST_BYTES, MAX_TXN_OPS


class CompactedError(MiniError):
    """The revision asked for is gone: list again. `revision` is the oldest that still exists."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"the revision asked for has been compacted; the oldest is {revision}")
        self.revision = revision


class TooLargeError(MiniError):
    """A value or a transaction is over the store's limits; nothing was written."""


class LeaseGoneError(FailedPreconditionError):
    """The lease that a key should hang on has ended; nothing was written."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold: etcd's `--max-txn-ops` and `--max-request-bytes`."""

    max_txn_ops: int = MAX_TXN_OPS
    max_request_bytes: int = MAX_REQUEST_BYTES


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease_id: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """All keys under a prefix, in key order, as of `revision`."""

    items: tuple[KeyValue, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds when the key's last revision is this one; 0: the key does not exist."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease_id: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class Txn:
    """Operations that are done, all of them, when all comparisons hold."""

    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`succeeded`: every comparison held and every operation was done; else nothing was."""

    succeeded: bool
    revision: int
    found: Mapping[str, KeyValue] = field(default_factory=dict)
    """When it did not succeed: those of the compared keys that exist, so that the loser knows what it lost to."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one key: a new value, or None for a deletion."""

    key: str
    value: KeyValue | None
    revision: int


@dataclass(frozen=True, slots=True)
class EventBatch:
    """All events of the watched prefix up to `revision`, a revision never split over two batches.

    A batch without events is progress: nothing of the prefix changed up to `revision`.
    """

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class StoreStatus:
    version: str
    endpoints: tuple[str, ...]
    revision: int
    database_bytes: int
    full: bool = False
    """It refuses writes until space has been given back."""


class Store(Protocol):
    """etcd, as much of it as an orchestrator needs."""

    @property
    def limits(self) -> Limits:
        """What one transaction may hold."""

    async def get(self, key: str) -> KeyValue | None:
        """The key's present value (linearizable)."""

    async def list(self, prefix: str, *, revision: int = 0) -> Range:
        """Every key under `prefix`, at `revision` or now. Raises CompactedError."""

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[EventBatch]:
        """Every change of the prefix after revision `after`, for ever, over broken connections too.

        Raises CompactedError when `after` is too old: list again and watch from there.
        """

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        """All or nothing. Raises TooLargeError before sending when over the store's limits."""

    async def txn_many(self, txns: Sequence[Txn]) -> Sequence[TxnResult]:
        """Several transactions in one request and one revision; each succeeds or fails by itself.

        They must be independent: no key that one of them writes may occur in another (ValueError).
        Raises TooLargeError before sending when all of them together are over the store's limits.
        """

    async def grant_lease(self, ttl_seconds: int) -> int:
        """A new lease's id; its keys go when it is not renewed in time."""

    async def renew_lease(self, lease_id: int) -> bool:
        """Whether the lease still lived and now has its whole time again."""

    async def revoke_lease(self, lease_id: int) -> None:
        """End the lease and delete its keys now. A lease that is gone already is no error."""

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`."""

    async def status(self) -> StoreStatus:
        """Version, endpoints, revision and size."""

    async def close(self) -> None:
        """Drop the connections."""
