"""Group commit: while one request to the store is in flight, the transactions of the next gather.

There is no timer. A lone transaction leaves at once; under load the groups grow by back-pressure. The members of a
group are independent of each other and succeed or fail one by one: a loser costs its neighbors nothing. What would
touch a neighbor's key waits for the next group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from minicommon.errors import ConflictError, MiniError, UnavailableError

from minimanager.store import limits
from minimanager.store.api import Compare, KeyValue, Store, Txn, TxnResult
from minimanager.store.keys import Keys
from minimanager.store.transaction import Transaction

GROUP_TXNS: Final = 512
"""Transactions in one request at most. Past a few hundred nothing is gained, and the first one waits for the last."""

GROUP_BYTES: Final = 1024 * 1024
"""Where a group ends even if the store would take more: etcd copies each request through its log whole."""


PATIENCE_SECONDS: Final = 5.0
"""Who has waited this long when the store fails to answer is told so; asking once more would take as long again."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    txn: Txn
    size: limits.Size
    answer: asyncio.Future[TxnResult]
    since: float
    """Seconds of the event loop's time."""


class Writer:
    """The only way to change the store's objects."""

    def __init__(self, store: Store, keys: Keys, *, patience: float = PATIENCE_SECONDS) -> None:
        self.keys = keys
        self._patience = patience
        self._store = store
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    def begin(self) -> Transaction:
        """An empty transaction."""
        return Transaction(self.keys)

    async def commit(self, transaction: Transaction, *, fence: Compare | None = None) -> int:
        """Do it, whole, and return the revision at which it was done.

        `fence` compares the leader's key, for what only the leader may write. Raises StaleError, ClaimTakenError and
        FencedError (all ConflictError), and what the store raises: UnavailableError, when it is not known whether
        the transaction took effect, and TooLargeError, when it cannot be sent at all. A caller that is cancelled
        leaves the transaction to its fate.
        """
        result = await self._enqueue(transaction.build(fence))
        if not result.succeeded:
            raise transaction.failure(result, fence)
        return result.revision

    async def commit_all(
        self, transactions: Iterable[Transaction], *, fence: Compare | None = None
    ) -> list[int | ConflictError]:
        """Commit several, each for itself, and say of each at which revision it was done or why it lost.

        Errors other than a conflict are raised, when every answer is in.
        """
        wanted = list(transactions)
        futures = [self._enqueue(transaction.build(fence)) for transaction in wanted]
        results = await asyncio.gather(*futures, return_exceptions=True)
        outcome: list[int | ConflictError] = []
        for transaction, result in zip(wanted, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            outcome.append(result.revision if result.succeeded else transaction.failure(result, fence))
        return outcome

    async def claim(self, key: str) -> KeyValue | None:
        """The present state of a claim, from the store itself; its value is the owner's id."""
        return await self._store.get(key)

    def _enqueue(self, txn: Txn) -> asyncio.Future[TxnResult]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[TxnResult] = loop.create_future()
        try:
            limits.check([txn], self._store.limits)
        except MiniError as error:
            answer.set_exception(error)
            return answer
        self._waiting.append(_Waiting(txn, limits.measure(txn), answer, loop.time()))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name="group commit")
        return answer

    async def _flush(self) -> None:
        """Send group after group until nothing waits. What is left when this is stopped will not be sent."""
        try:
            while self._waiting:
                group, self._waiting = self._split(self._waiting)
                await self._send(group)
        finally:
            self._flushing = None
            abandoned, self._waiting = self._waiting, []
            _fail(abandoned, UnavailableError("the writer was stopped before the transaction was sent"))

    async def _send(self, group: Sequence[_Waiting]) -> None:
        try:
            results = await self._store.txn_many([member.txn for member in group])
        except MiniError as error:
            _fail(group, error)
            if isinstance(error, UnavailableError):
                self._give_up_on_the_oldest()
            return
        except BaseException:
            _fail(group, UnavailableError("the writer was stopped while the transaction was in flight"))
            raise
        for member, result in zip(group, results, strict=True):
            if not member.answer.done():
                member.answer.set_result(result)

    def _give_up_on_the_oldest(self) -> None:
        """Or a queue of many groups would wait for one time-out after the other."""
        patient_since = asyncio.get_running_loop().time() - self._patience
        overdue = [member for member in self._waiting if member.since <= patient_since]
        self._waiting = [member for member in self._waiting if member.since > patient_since]
        _fail(overdue, UnavailableError("the store does not answer; the transaction was not sent"))

    def _split(self, waiting: list[_Waiting]) -> tuple[list[_Waiting], list[_Waiting]]:
        """The next group, and what has to wait for the one after it.

        Who came first goes first: a transaction that has to wait also holds back later ones that touch its keys.
        """
        group: list[_Waiting] = []
        rest: list[_Waiting] = []
        written: set[str] = set()
        seen: set[str] = set()
        room = min(GROUP_BYTES, self._store.limits.max_request_bytes)
        operations = 0
        for index, member in enumerate(waiting):
            if member.answer.cancelled():
                continue
            writes = {operation.key for operation in member.txn.operations}
            reads = {compare.key for compare in member.txn.compares}
            room -= member.size.request_bytes
            operations = max(operations, member.size.operations)
            full = room < limits.REQUEST_BYTES or operations + len(group) + 1 > self._store.limits.max_txn_ops
            if group and (full or len(group) == GROUP_TXNS):
                rest.extend(waiting[index:])
                break
            if writes & seen or reads & written:
                rest.append(member)
                room += member.size.request_bytes
            else:
                group.append(member)
            written |= writes
            seen |= writes | reads
        return group, rest


def _fail(members: Iterable[_Waiting], error: MiniError) -> None:
    for member in members:
        if not member.answer.done():
            member.answer.set_exception(error)
