"""`minictl stats`: a table that is drawn anew with each sample, or once."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.streams_pb2 import StatsResponse

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
    missing: dict[str, int] | None = None
    """Samples that are still to come of each node; not known before the manager has said whom it asks."""
    try:
        while (response := responses.receive()) is not None:
            if response.warning:
                context.warn(f"WARNING: {response.warning}")
            elif response.node_id:
                for key in [key for key, used in latest.items() if used.node_id == response.node_id]:
                    before[key] = latest.pop(key)
                latest.update({used.id: used for used in response.containers})
            else:
                missing = dict.fromkeys(response.asked_node_ids, _SAMPLES)
            if parsed["no-stream"]:
                if missing is not None and _is_complete(missing, response):
                    break
            elif response.node_id and not response.warning:
                clear = _CLEAR if context.out.isatty() else ""
                context.out.write(clear + _table(parsed, latest, before))
                context.out.flush()
    except KeyboardInterrupt:
        return 0
    finally:
        responses.cancel()
    if parsed["no-stream"]:
        context.out.write(_table(parsed, latest, before))
    return 0


def _is_complete(missing: dict[str, int], response: StatsResponse) -> bool:
    """Count the response in: a sample, or why there will be none. Whether it was the last that was missing."""
    left = missing.pop(response.node_id, 0) - 1
    if left > 0 and not response.warning:
        missing[response.node_id] = left
    return not missing


def _table(parsed: Parsed, latest: dict[str, Any], before: dict[str, Any]) -> str:
    from minictl.output import listing
    from minictl.views import stats as view

    rows = [
        view.row(used, before.get(used.id), truncate=not parsed["no-trunc"])
        for used in sorted(latest.values(), key=lambda used: (used.name, used.id))
    ]
    return listing.render(view.LAYOUT, rows, format=parsed["format"])
