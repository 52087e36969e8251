"""Between the values of `store.api` and etcd's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aetcd.rpc import kv_pb2, rpc_pb2

from minimanager.store.api import Compare, Event, KeyValue, Operation, Put, Txn, TxnResult


def prefix_end(prefix: str) -> bytes:
    """The first key after all those with `prefix`, which ends in a character below U+007F."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])


def key_value(raw: Any) -> KeyValue:
    return KeyValue(raw.key.decode(), raw.value, raw.create_revision, raw.mod_revision, raw.lease)


def event(raw: Any) -> Event:
    deleted = raw.type == kv_pb2.Event.DELETE
    return Event(raw.kv.key.decode(), None if deleted else key_value(raw.kv), raw.kv.mod_revision)


def txn_request(txns: Sequence[Txn]) -> Any:
    """One transaction as it is, several as nested ones in a transaction that always succeeds."""
    if len(txns) == 1:
        return _txn(txns[0])
    return rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_txn=_txn(txn)) for txn in txns])


def txn_results(response: Any, count: int) -> list[TxnResult]:
    revision = response.header.revision
    if count == 1:
        return [_result(response, revision)]
    return [_result(nested.response_txn, revision) for nested in response.responses]


def _txn(txn: Txn) -> Any:
    return rpc_pb2.TxnRequest(
        compare=[_compare(compare) for compare in txn.compares],
        success=[_operation(operation) for operation in txn.operations],
        failure=[_read(compare) for compare in txn.compares],
    )


def _compare(compare: Compare) -> Any:
    return rpc_pb2.Compare(
        result=rpc_pb2.Compare.EQUAL,
        target=rpc_pb2.Compare.MOD,
        key=compare.key.encode(),
        mod_revision=compare.mod_revision,
    )


def _read(compare: Compare) -> Any:
    """What a loser wants to know. Only of what should not exist does it need the value: the owner of a claim."""
    return rpc_pb2.RequestOp(
        request_range=rpc_pb2.RangeRequest(key=compare.key.encode(), keys_only=compare.mod_revision != 0)
    )


def _operation(operation: Operation) -> Any:
    if isinstance(operation, Put):
        put = rpc_pb2.PutRequest(key=operation.key.encode(), value=operation.value, lease=operation.lease_id)
        return rpc_pb2.RequestOp(request_put=put)
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=operation.key.encode()))


def _result(response: Any, revision: int) -> TxnResult:
    return TxnResult(response.succeeded, revision, {} if response.succeeded else _found(response))


def _found(response: Any) -> Mapping[str, KeyValue]:
    pairs = [key_value(raw) for answer in response.responses for raw in answer.response_range.kvs]
    return {pair.key: pair for pair in pairs}
