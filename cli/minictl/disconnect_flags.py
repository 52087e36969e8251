"""The flag that says what a node does with a service's tasks when it has no manager."""

from __future__ import annotations

from minictl import values
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from miniproto.v1.objects_pb2 import ServiceSpec, TaskSpec

    from minictl.flags import Parsed


def _policy(text: str) -> int:
    """`keep` is 0, `stop=30s` the nanoseconds. Raises ValueError."""
    word, _, duration = text.partition("=")
    if text == "keep":
        return 0
    if word != "stop" or not duration:
        raise ValueError(f"must be keep or stop=DURATION, not {values.quote(text)}")
    after_ns: int = values.DURATION.parse(duration)
    if after_ns == 0:
        raise ValueError("the duration of stop must be 1s or more, not 0s")
    return after_ns


FLAGS = (
    Flag(
        "on-disconnect",
        'What a node without a manager does with tasks ("keep", "stop=DURATION"; default keep)',
        kind=values.Kind("policy", _policy),
    ),
)


def apply(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` or `update` was given."""
    if parsed.changed("on-disconnect"):
        spec.task.disconnect_stop_ns = parsed["on-disconnect"]


def shown(task: TaskSpec) -> str:
    """As the flag takes it; empty: keep."""
    from minicommon import units

    return f"stop={units.format_duration(task.disconnect_stop_ns)}" if task.disconnect_stop_ns else ""
