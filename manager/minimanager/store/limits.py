"""The size of a transaction, estimated from above, so that it is refused here and not by a server in mid-flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minimanager.store.api import Limits, Put, TooLargeError, Txn

_FRAMING_BYTES = 64
"""Tags, lengths and numbers around one operation or comparison, nested transaction included (measured: under 40)."""

REQUEST_BYTES = 256
"""What etcd adds around the whole request before it compares with its limit (header, ids, the outer message)."""


@dataclass(frozen=True, slots=True)
class Size:
    """`operations`: the longer of the list of comparisons and the list of operations, as etcd counts."""

    operations: int
    request_bytes: int


def measure(txn: Txn) -> Size:
    """The size of one transaction."""
    total = _FRAMING_BYTES
    for compare in txn.compares:
        total += 2 * (len(compare.key.encode()) + _FRAMING_BYTES)  # compared, and read when it fails
    for operation in txn.operations:
        total += len(operation.key.encode()) + _FRAMING_BYTES
        if isinstance(operation, Put):
            total += len(operation.value)
    return Size(max(len(txn.compares), len(txn.operations)), total)


def check(txns: Sequence[Txn], limits: Limits) -> None:
    """Raise TooLargeError when the transactions do not fit in one request."""
    sizes = [measure(txn) for txn in txns]
    operations = max((size.operations for size in sizes), default=0) + (len(sizes) if len(sizes) > 1 else 0)
    total = sum(size.request_bytes for size in sizes) + REQUEST_BYTES
    if operations > limits.max_txn_ops:
        raise TooLargeError(
            f"transaction: at most {limits.max_txn_ops} operations are allowed in one, this one has {operations}"
        )
    if total > limits.max_request_bytes:
        raise TooLargeError(
            f"transaction: at most {limits.max_request_bytes} bytes are allowed in one, this one has about {total}"
        )


def check_independent(txns: Sequence[Txn]) -> None:
    """Raise ValueError when a key that one transaction writes occurs in another."""
    writer: dict[str, int] = {}
    for index, txn in enumerate(txns):
        for operation in txn.operations:
            if writer.setdefault(operation.key, index) != index:
                raise ValueError(f"two transactions of one group write {operation.key}")
    for index, txn in enumerate(txns):
        for compare in txn.compares:
            if writer.get(compare.key, index) != index:
                raise ValueError(f"one transaction of a group compares {compare.key}, another writes it")
