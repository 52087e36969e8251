"""The ledger of deliveries: an append-only chain of records in the store.

Each record names the MAC of the one before it, and has a MAC of its own with a key that the store holds only sealed:
who can write to etcd cannot make entries, change them or put them in another order unseen. A head, sealed likewise,
names the last one. So that the chain cannot be cut off together with its head, each manager remembers beside its keys
how far it has seen it (`Anchor`).

Several managers append: the transaction compares the head, and the loser tries again after it. While one transaction is
in flight the next records gather.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.message import DecodeError
from minicommon.errors import MiniError, UnavailableError
from minicommon.log import fields
from miniproto.v1.secrets_pb2 import LedgerEntry, LedgerHead, LedgerRecord

from minimanager.store.anchor import Anchor
from minimanager.store.api import Compare, KeyValue, Operation, Put, Range, Store
from minimanager.store.checkpoint import Checkpoint, opened
from minimanager.store.keys import Keys

logger = logging.getLogger(__name__)

KEY_BYTES: Final = 32
KEY_PURPOSE: Final = "ledger-key"
BATCH: Final = 128
"""Records in one transaction at most."""

ATTEMPTS: Final = 64
"""Times that a batch is tried against other managers that append."""


class Envelope(Protocol):
    """`minimanager.store.envelope` has it."""

    def seal(self, purpose: str, plaintext: bytes) -> bytes: ...

    def open(self, purpose: str, sealed: bytes) -> bytes: ...


class Macs:
    """The MACs of one ledger."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def entry(self, record: bytes) -> bytes:
        return hmac.new(self._key, b"entry\0" + record, hashlib.sha256).digest()

    def head(self, number: int, mac: bytes) -> bytes:
        return hmac.new(self._key, b"head\0" + number.to_bytes(8, "big") + mac, hashlib.sha256).digest()

    def is_good(self, head: LedgerHead) -> bool:
        return hmac.compare_digest(head.seal, self.head(head.number, head.mac))

    def checkpoint(self, stored: bytes | None) -> Checkpoint | None:
        """What is stored of the ledger's beginning; None: it was changed, or is forged."""
        return opened(stored, self._key)

    def sealed(self, checkpoint: Checkpoint) -> bytes:
        """As it is stored."""
        return checkpoint.sealed(self._key)


@dataclass(frozen=True, slots=True)
class Written:
    """A record as it is in the chain."""

    number: int
    record: bytes


@dataclass(frozen=True, slots=True)
class _End:
    """The end of the chain, and the revision of the head that says so."""

    number: int = 0
    mac: bytes = b""
    version: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    record: LedgerRecord
    mark: str
    answer: asyncio.Future[Written]


class Ledger:
    """One for all who append in this process."""

    def __init__(self, store: Store, keys: Keys, envelope: Envelope, anchor: Anchor) -> None:
        self._store = store
        self._keys = keys
        self._envelope = envelope
        self.anchor = anchor
        self._macs: Macs | None = None
        self._end: _End | None = None
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def append(self, record: LedgerRecord, *, mark: str = "") -> Written:
        """Write a record; its number and what comes before it are filled in. `mark`: a key to write with it.

        Raises UnavailableError, when it is not known whether it was written.
        """
        answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(record, mark, answer))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name="ledger")
        return await answer

    async def entry(self, number: int) -> LedgerEntry | None:
        """The entry of this number, as it is in the store."""
        found = await self._store.get(self._keys.ledger_entry(number))
        return LedgerEntry.FromString(found.value) if found is not None else None

    async def checkpoint(self) -> Checkpoint | None:
        """Where the ledger begins; None: what is stored of it is forged."""
        found = await self._store.get(self._keys.ledger_checkpoint)
        return (await self.macs()).checkpoint(found.value if found is not None else None)

    async def restart(
        self, checkpoint: Checkpoint, record: LedgerRecord, fence: Compare | None = None
    ) -> bool:
        """Let it begin after the checkpoint, which `record` tells of. Whether it was done; raises UnavailableError."""
        macs = await self.macs()
        found = await self._store.get(self._keys.ledger_checkpoint)
        before = macs.checkpoint(found.value if found is not None else None)
        if before is None or before.number >= checkpoint.number:
            return False
        end = await self._read_end(macs)
        if end.number < checkpoint.number:
            return False
        answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        _, operations, number, mac = _chained([_Waiting(record, "", answer)], end, macs, self._keys)
        compares = [
            Compare(self._keys.ledger_head, end.version),
            Compare(self._keys.ledger_entry(end.number + 1), 0),
            Compare(self._keys.ledger_checkpoint, found.mod_revision if found is not None else 0),
            *((fence,) if fence is not None else ()),
        ]
        begun = Put(self._keys.ledger_checkpoint, macs.sealed(checkpoint))
        result = await self._store.txn(compares, [*operations, begun])
        if result.succeeded:
            self.anchor.reach(number, mac)
        self._end = None
        return result.succeeded

    async def is_marked(self, mark: str) -> bool:
        """Whether an appended record has written this key."""
        return await self._store.get(mark) is not None

    async def read(self) -> Range:
        """Everything of the ledger, at one revision."""
        return await self._store.list(self._keys.ledger)

    async def macs(self) -> Macs:
        """With the ledger's key, which is made when there is none."""
        if self._macs is None:
            self._macs = Macs(self._envelope.open(KEY_PURPOSE, await self._sealed_key()))
        return self._macs

    async def _sealed_key(self) -> bytes:
        key = self._keys.ledger_key
        found = await self._store.get(key)
        if found is None:
            sealed = self._envelope.seal(KEY_PURPOSE, os.urandom(KEY_BYTES))
            result = await self._store.txn([Compare(key, 0)], [Put(key, sealed)])
            if result.succeeded:
                return sealed
            found = result.found[key]
        return found.value

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                try:
                    await self._write(batch)
                except MiniError as error:
                    self._end = None
                    _fail(batch, error)
                except BaseException:
                    _fail(batch, UnavailableError("the ledger was stopped while a record was being written"))
                    raise
        finally:
            self._flushing = None
            _fail(self._waiting, UnavailableError("the ledger was stopped"))
            self._waiting = []

    async def _write(self, batch: list[_Waiting]) -> None:
        macs = await self.macs()
        for _ in range(ATTEMPTS):
            end = self._end or await self._read_end(macs)
            written, operations, number, mac = _chained(batch, end, macs, self._keys)
            compares = [
                Compare(self._keys.ledger_head, end.version),
                Compare(self._keys.ledger_entry(end.number + 1), 0),
            ]
            result = await self._store.txn(compares, operations)
            if result.succeeded:
                self._end = _End(number, mac, result.revision)
                self.anchor.reach(number, mac)
                for waiting, each in zip(batch, written, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(each)
                return
            self._end = None
        raise UnavailableError("the ledger is busy: other managers write to it all the time; try again")

    async def _read_end(self, macs: Macs) -> _End:
        """Where to go on."""
        found = await self._store.get(self._keys.ledger_head)
        end = _trusted(found, macs)
        if end is not None and await self._store.get(self._keys.ledger_entry(end.number + 1)) is None:
            self.anchor.meet(end.number)
            return end
        # Another manager may have written in between: everything at one revision tells.
        return self._examined(await self._store.list(self._keys.ledger), macs)

    def _examined(self, listed: Range, macs: Macs) -> _End:
        """The end of the whole ledger. A head that is gone or false is a finding; the work goes on after it."""
        items = {item.key: item for item in listed.items}
        entries = [item for item in listed.items if item.key.startswith(self._keys.ledger_entries)]
        found = items.get(self._keys.ledger_head)
        end = _trusted(found, macs)
        version = found.mod_revision if found is not None else 0
        if end is not None and self._keys.ledger_entry(end.number + 1) not in items:
            self.anchor.meet(end.number)
            return end
        if not entries and found is None:
            self.anchor.meet(0)
            return _End()
        self.anchor.report("the ledger's head was missing or false, or not the end")
        logger.error("The ledger of deliveries was tampered with.", extra=fields(entries=len(entries)))
        if not entries:
            return _End(version=version)
        number = int(entries[-1].key.rpartition("/")[2])
        self.anchor.meet(number)
        return _End(number, _mac_of(entries[-1].value), version)


def _chained(
    batch: list[_Waiting], end: _End, macs: Macs, keys: Keys
) -> tuple[list[Written], list[Operation], int, bytes]:
    number, mac = end.number, end.mac
    written: list[Written] = []
    operations: list[Operation] = []
    for waiting in batch:
        number += 1
        chained = LedgerRecord()
        chained.CopyFrom(waiting.record)
        chained.number, chained.previous = number, mac
        data = chained.SerializeToString(deterministic=True)
        mac = macs.entry(data)
        entry = LedgerEntry(record=data, mac=mac)
        operations.append(Put(keys.ledger_entry(number), entry.SerializeToString(deterministic=True)))
        if waiting.mark:
            operations.append(Put(waiting.mark, b""))
        written.append(Written(number, data))
    head = LedgerHead(number=number, mac=mac, seal=macs.head(number, mac))
    operations.append(Put(keys.ledger_head, head.SerializeToString(deterministic=True)))
    return written, operations, number, mac


def _trusted(found: KeyValue | None, macs: Macs) -> _End | None:
    """What a head says; None: there is none, or it is false."""
    if found is None:
        return None
    try:
        head = LedgerHead.FromString(found.value)
    except DecodeError:
        return None
    return _End(head.number, head.mac, found.mod_revision) if macs.is_good(head) else None


def _mac_of(entry: bytes) -> bytes:
    try:
        return LedgerEntry.FromString(entry).mac
    except DecodeError:
        return b""


def _fail(waiting: list[_Waiting], error: MiniError) -> None:
    for each in waiting:
        if not each.answer.done():
            each.answer.set_exception(error)
