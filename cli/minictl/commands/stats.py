"""`minictl stats`: a table that is drawn anew with each sample, or once."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.context import Context
    from minictl.flags import Parsed

_CLEAR = "\x1b[2J\x1b[H"

_SAMPLES = 2
"""Of each node for a single table: a share of the processors is what was used between two."""


def stats(context: Context, parsed: Parsed) -> int:
    """Until interrupted, or with --no-stream once."""
    from minictl.client import messages

    request = messages.StatsRequest(refs=parsed.arguments)
    responses = context.channel.stream("Containers/Stats", request)
    before: dict[str, Any] = {}
    latest: dict[str, Any] = {}
    counts: dict[str, int] = {}
    try:
        while (response := responses.receive()) is not None:
            if response.warning:
                context.warn(f"WARNING: {response.warning}")
                counts.setdefault(response.node_id, _SAMPLES)
                continue
            for key in [key for key, used in latest.items() if used.node_id == response.node_id]:
                before[key] = latest.pop(key)
            latest.update({used.id: used for used in response.containers})
            counts[response.node_id] = counts.get(response.node_id, 0) + 1
            if parsed["no-stream"]:
                if min(counts.values()) >= _SAMPLES and _is_complete(counts):
                    context.out.write(_table(parsed, latest, before))
                    return 0
            else:
                clear = _CLEAR if context.out.isatty() else ""
                context.out.write(clear + _table(parsed, latest, before))
                context.out.flush()
    except KeyboardInterrupt:
        pass
    finally:
        responses.cancel()
    return 0


def _is_complete(counts: dict[str, int]) -> bool:
    """All nodes answer at the same pace: when one has told thrice, none is left that has told nothing."""
    return max(counts.values()) > _SAMPLES or len(counts) == 1


def _table(parsed: Parsed, latest: dict[str, Any], before: dict[str, Any]) -> str:
    from minictl.output import listing
    from minictl.views import stats as view

    rows = [
        view.row(used, before.get(used.id), truncate=not parsed["no-trunc"])
        for used in sorted(latest.values(), key=lambda used: (used.name, used.id))
    ]
    return listing.render(view.LAYOUT, rows, format=parsed["format"])
