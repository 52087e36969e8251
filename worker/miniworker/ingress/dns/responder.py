"""What is answered to a packet: known names from the zone at once, all others by the forwarder.

Answers that have been given are kept until the next table: a name that is asked often costs two look-ups.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from miniworker.ingress.dns import wire
from miniworker.ingress.dns.wire import Query
from miniworker.ingress.dns.zone import Absent, Client, Elsewhere, Found, Pointer, Zone, find

_KEPT = frozenset({wire.TYPE_A, wire.TYPE_AAAA, wire.TYPE_PTR})
"""Types whose answers are kept, of names that there are: nobody can fill the memory with questions."""


@dataclass(frozen=True, slots=True)
class Question:
    """To be forwarded for a client."""

    client: Client
    query: Query
    packet: bytes


class Responder:
    """`random` says with which of several addresses a name begins; from then on they take turns."""

    def __init__(self, *, random: Random) -> None:
        self._random = random
        self._zone = Zone()
        self._asked: dict[str, tuple[Client, dict[tuple[str, int], _Known]]] = {}

    def follow(self, zone: Zone) -> None:
        """Answer from this one from now on."""
        self._zone = zone
        shared: dict[tuple[str, ...], dict[tuple[str, int], _Known]] = {}
        self._asked = {
            address: (client, shared.setdefault(tuple(network.id for network in client.networks), {}))
            for address, client in zone.clients.items()
        }

    def respond(self, packet: bytes, source: str, *, stream: bool = False) -> bytes | Question | None:
        """The answer to `packet` from the address `source`; None: there is none. `stream`: it came over tcp."""
        if wire.is_answer(packet):
            return None
        try:
            query = wire.read_query(packet)
        except wire.FormatError:
            return wire.format_error(packet)
        limit = wire.STREAM_BYTES if stream else min(query.udp_bytes, wire.EDNS_BYTES)
        asked = self._asked.get(source)
        if asked is None:
            return wire.reply(query, wire.REFUSED, limit=limit)
        client, known = asked
        if (answer := known.get((query.name, query.type))) is not None and _is_plain(query):
            return wire.reply(query, answer.code, answer.records(), limit=limit, own=True)
        if (code := _refusal(query)) is not None:
            return wire.reply(query, code, limit=limit)
        return self._look_up(client, known, query, limit) or self._elsewhere(client, query, packet, limit)

    def _look_up(
        self, client: Client, known: dict[tuple[str, int], _Known], query: Query, limit: int
    ) -> bytes | None:
        answer = _answer(find(client, query.name), query.type, self._random)
        if answer is None:
            return None
        if answer.code == wire.NOERROR and query.type in _KEPT:
            known[query.name, query.type] = answer
        return wire.reply(query, answer.code, answer.records(), limit=limit, own=True)

    def _elsewhere(self, client: Client, query: Query, packet: bytes, limit: int) -> bytes | Question:
        if client.forwards:
            return Question(client, query, packet)
        return wire.reply(query, wire.SERVFAIL, limit=limit)  # as Docker does on internal networks


def _is_plain(query: Query) -> bool:
    return query.klass == wire.CLASS_IN and query.opcode == 0 and not query.edns_version


def _refusal(query: Query) -> int | None:
    """Why a question is not even looked up."""
    if query.opcode != 0:
        return wire.NOTIMP
    if query.edns_version:
        return wire.BADVERS
    return wire.REFUSED if query.klass != wire.CLASS_IN else None


class _Known:
    """The records of a name, each time beginning with the next."""

    __slots__ = ("_records", "_turn", "code")

    def __init__(self, code: int, records: list[bytes], turn: int) -> None:
        self.code = code
        self._records = records
        self._turn = turn

    def records(self) -> list[bytes]:
        records = self._records
        if len(records) < 2:
            return records
        self._turn = turn = (self._turn + 1) % len(records)
        return records[turn:] + records[:turn]


def _answer(finding: object, kind: int, random: Random) -> _Known | None:
    """None: the name is not ours."""
    match finding:
        case Elsewhere():
            return None
        case Absent():
            return _Known(wire.NXDOMAIN, [], 0)
        case Found(addresses, ttl) if addresses and kind in (wire.TYPE_A, wire.TYPE_ANY):
            records = [wire.address_record(address, ttl=ttl) for address in addresses]
            return _Known(wire.NOERROR, records, random.randrange(len(records)))
        case Pointer(name, ttl) if kind in (wire.TYPE_PTR, wire.TYPE_ANY):
            return _Known(wire.NOERROR, [wire.pointer_record(name, ttl=ttl)], 0)
        case _:
            return _Known(wire.NOERROR, [], 0)
