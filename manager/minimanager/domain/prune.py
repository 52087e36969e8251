"""Which networks `prune` removes: those that nothing uses and that its filters let pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from minicommon.errors import InvalidArgumentError
from minicommon.units import parse_duration

from minimanager.domain.filters import Filters, has_labels
from minimanager.domain.objects import SECOND, Network
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.usage import in_use_by

_KEYS = ("label", "label!", "until")


def unused_networks(snapshot: Snapshot, filters: Filters, now_ns: int) -> list[Network]:
    """The networks to remove, by name. Raises InvalidArgumentError for a filter that does not exist."""
    for key in filters:
        if key not in _KEYS:
            raise InvalidArgumentError(f"invalid filter '{key}': must be one of {', '.join(_KEYS)}")
    before_ns = _moment(filters.get("until", ()), now_ns)
    wanted, unwanted = filters.get("label", ()), filters.get("label!", ())
    found = [
        network
        for network in snapshot.networks.values()
        if not (network.removing or network.spec.ingress or in_use_by(snapshot, network))
        and network.meta.created_at_ns < before_ns
        and has_labels(network.spec.labels, wanted)
        and not (unwanted and has_labels(network.spec.labels, unwanted))
    ]
    return sorted(found, key=lambda network: network.spec.name)


def _moment(values: Sequence[str], now_ns: int) -> int:
    """Nanoseconds since the epoch: a time (UTC unless it says where), seconds since the epoch, or a duration ago."""
    if not values:
        return now_ns + 1
    if len(values) > 1:
        raise InvalidArgumentError("more than one until filter specified")
    (text,) = values
    if text.isascii() and text.isdecimal():
        return int(text) * SECOND
    with suppress(InvalidArgumentError):
        return now_ns - parse_duration(text)
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * SECOND
    except ValueError as error:
        raise InvalidArgumentError(
            f"until: must be a time (2026-01-31T12:00:00Z), seconds since the epoch or a duration (24h), not {text!r}"
        ) from error
