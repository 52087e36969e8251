"""Audit records: who did what, with which result, one for each call that changes something or tried to.

A server's guard makes them and gives them to a `Journal`. They never hold what was sent, only which object it named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import unquote

from google.protobuf.message import Message

_NAMES: Final = ("ref", "id", "name", "label", "hostname")
"""Fields of a request that name an object, the best first."""

LONGEST_TEXT: Final = 512
"""Characters of one field of a record: callers choose them."""


@dataclass(frozen=True, slots=True)
class Record:
    """One call. Times are nanoseconds; `at_ns` is its beginning."""

    at_ns: int
    caller: str
    name: str
    address: str
    method: str
    object: str
    result: str
    error: str
    duration_ns: int
    manager: str = ""
    certificate: str = ""


class Journal(Protocol):
    """Keeps records."""

    def write(self, record: Record) -> None:
        """Keep it. Never raises: a call that is done is done."""


class NoJournal:
    """For servers whose calls are in the log only."""

    def write(self, record: Record) -> None:
        pass


def object_of(request: Any) -> str:
    """What a request is about: the reference or the name in it, or in its specification; empty when it has none."""
    if not isinstance(request, Message):
        return ""
    fields = request.DESCRIPTOR.fields_by_name
    for name in _NAMES:
        if name in fields and isinstance(value := getattr(request, name), str) and value:
            return shortened(value)
    return object_of(getattr(request, "spec")) if "spec" in fields else ""  # noqa: B009  no such field in general


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def address_of(peer: str) -> str:
    """gRPC's name of the other side as host:port, or `unix`."""
    if peer.startswith("unix:"):
        return "unix"
    return unquote(peer).removeprefix("ipv4:").removeprefix("ipv6:")
