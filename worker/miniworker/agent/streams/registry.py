"""Which handler answers which question: one line for each kind of NodeRequest."""

from __future__ import annotations

from minicommon.clock import Clock

from miniworker.agent.streams.api import Handlers
from miniworker.agent.streams.looking import Looking
from miniworker.agent.streams.talking import Talking
from miniworker.runtime.api import Runtime


def handlers(runtime: Runtime, clock: Clock) -> Handlers:
    """Everything that this node answers."""
    looking, talking = Looking(runtime, clock), Talking(runtime)
    return {
        "list": looking.list,
        "inspect": looking.inspect,
        "logs": looking.logs,
        "top": looking.top,
        "stats": looking.stats,
        "exec": talking.exec,
        "attach": talking.attach,
    }
