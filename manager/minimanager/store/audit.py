"""Whether a ledger is whole: every record, their chain, the receipts' signatures, the head and the anchor.

Pure."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError
from minicommon.errors import MiniError
from minicommon.identity.peer import identity_of
from minicommon.receipts import receipt_text
from miniproto.v1 import secrets_pb2
from miniproto.v1.secrets_pb2 import LedgerEntry, LedgerHead, LedgerRecord

from minimanager.store.anchor import Seen
from minimanager.store.api import KeyValue, Range
from minimanager.store.checkpoint import Checkpoint
from minimanager.store.keys import Keys
from minimanager.store.ledger import Macs

MAX_PROBLEMS: Final = 20
"""That are named; after so many nobody asks for the rest."""


@dataclass(slots=True)
class Verdict:
    records: int = 0
    receipts: int = 0
    unconfirmed: int = 0
    removed: int = 0
    """Records before these, which were removed."""
    removed_at_ns: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The number of the last one that was looked at."""
        return self.removed + self.records

    def add(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def records(listed: Range, keys: Keys, macs: Macs) -> Iterator[LedgerRecord]:
    """The records that can be read, oldest first, whether they are genuine or not; not those that were removed."""
    beginning = _checkpoint(listed, keys, macs) or Checkpoint()
    for item in _entries(listed, keys, beginning):
        _, record = read(item.value)
        if record is not None:
            yield record


def _entries(listed: Range, keys: Keys, beginning: Checkpoint) -> Iterator[KeyValue]:
    """Those that count: who has removed the others may not have come to delete them all."""
    first = keys.ledger_entry(beginning.number + 1)
    return (item for item in listed.items if item.key.startswith(keys.ledger_entries) and item.key >= first)


def _checkpoint(listed: Range, keys: Keys, macs: Macs) -> Checkpoint | None:
    found = (item.value for item in listed.items if item.key == keys.ledger_checkpoint)
    return macs.checkpoint(next(found, None))


def verify(listed: Range, keys: Keys, macs: Macs, anchor: Seen, *, cluster_id: str) -> Verdict:
    """Look at everything. `listed` is the whole ledger, as it was after the anchor was asked."""
    verdict = Verdict()
    for problem in anchor.problems:
        verdict.add(problem)
    beginning = _checkpoint(listed, keys, macs)
    if beginning is None:
        verdict.add("the ledger's checkpoint was changed or is forged")
        return verdict
    for problem in beginning.problems:
        verdict.add(problem)
    verdict.removed, verdict.removed_at_ns = beginning.number, beginning.at_ns
    deliveries: dict[int, bytes] = {}
    previous = beginning.mac
    for item in _entries(listed, keys, beginning):
        number = verdict.last + 1
        entry, record = read(item.value)
        if item.key != keys.ledger_entry(number):
            found = item.key.removeprefix(keys.ledger_entries)
            verdict.add(f"record {number} is missing: the next one is at {found}")
            return verdict
        verdict.records += 1
        if entry is None or record is None:
            verdict.add(f"record {number} cannot be read")
            return verdict
        if not hmac.compare_digest(entry.mac, macs.entry(entry.record)):
            verdict.add(f"record {number} was changed or is forged")
        elif record.number != number or record.previous != previous:
            verdict.add(f"record {number} is not the one that was written there")
        if number == anchor.number and not hmac.compare_digest(entry.mac, anchor.mac):
            verdict.add(f"record {number} is not the one that this manager has seen")
        _look(record, entry, deliveries, verdict, cluster_id)
        previous = entry.mac
    verdict.unconfirmed = len(deliveries)
    _check_end(listed, keys, macs, anchor, verdict, previous)
    return verdict


def _look(
    record: LedgerRecord, entry: LedgerEntry, deliveries: dict[int, bytes], verdict: Verdict, cluster_id: str
) -> None:
    if record.event == secrets_pb2.LEDGER_EVENT_DELIVERED:
        deliveries[record.number] = entry.record
    elif record.event == secrets_pb2.LEDGER_EVENT_RECEIVED:
        verdict.receipts += 1
        if record.delivery <= verdict.removed:
            return  # what it is a receipt for was looked at when it was removed
        delivered = deliveries.pop(record.delivery, None)
        if delivered is None:
            verdict.add(f"record {record.number} is a receipt for {record.delivery}, which awaits none")
        elif problem := receipt_problem(record, delivered, cluster_id=cluster_id):
            verdict.add(f"record {record.number}: {problem}")


def receipt_problem(record: LedgerRecord, delivered: bytes, *, cluster_id: str) -> str:
    """What is wrong with a receipt for the record `delivered`; empty: nothing."""
    try:
        certificate = x509.load_der_x509_certificate(record.certificate)
        holder = identity_of(certificate.public_bytes(Encoding.PEM))
    except (ValueError, MiniError):
        return "the receipt has no certificate that can be read"
    wanted = LedgerRecord.FromString(delivered).node_id
    if holder.node_id != wanted or holder.cluster_id != cluster_id:
        return f"the receipt is signed by {holder.name or 'nobody'}, the delivery was to {wanted}"
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return "the receipt's certificate has no ECDSA key"
    try:
        key.verify(record.signature, receipt_text(delivered), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return "the receipt's signature is false"
    return ""


def _check_end(
    listed: Range, keys: Keys, macs: Macs, anchor: Seen, verdict: Verdict, last_mac: bytes
) -> None:
    found = {item.key: item.value for item in listed.items}
    if verdict.last < anchor.number:
        verdict.add(
            f"the ledger ends with record {verdict.last}, this manager has seen record {anchor.number}"
        )
    if keys.ledger_head not in found:
        if verdict.last:
            verdict.add("the ledger's head is missing")
        return
    try:
        head = LedgerHead.FromString(found[keys.ledger_head])
    except DecodeError:
        verdict.add("the ledger's head cannot be read")
        return
    if not macs.is_good(head):
        verdict.add("the ledger's head was changed or is forged")
    elif head.number != verdict.last or head.mac != last_mac:
        verdict.add(f"the ledger's head names record {head.number}, the last one is {verdict.last}")


def read(value: bytes) -> tuple[LedgerEntry | None, LedgerRecord | None]:
    """An entry and its record, as far as they can be read."""
    try:
        entry = LedgerEntry.FromString(value)
        return entry, LedgerRecord.FromString(entry.record)
    except DecodeError:
        return None, None
