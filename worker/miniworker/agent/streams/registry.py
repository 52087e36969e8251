"""Which handler answers which question: one line for each kind of NodeRequest."""

from __future__ import annotations

from minicommon.clock import Clock

from miniworker.agent.health.probes import Sockets
from miniworker.agent.streams.api import Handlers
from miniworker.agent.streams.copying import Copying
from miniworker.agent.streams.forwarding import Forwarding
from miniworker.agent.streams.images import ImageQuestions
from miniworker.agent.streams.looking import Looking
from miniworker.agent.streams.talking import Talking
from miniworker.runtime.api import Images, Runtime


def handlers(runtime: Runtime, images: Images, sockets: Sockets, clock: Clock) -> Handlers:
    """Everything that this node answers."""
    looking, talking = Looking(runtime, clock), Talking(runtime)
    copying = Copying(runtime)
    image_questions, forwarding = ImageQuestions(runtime, images), Forwarding(sockets)
    return {
        "list": looking.list,
        "inspect": looking.inspect,
        "logs": looking.logs,
        "top": looking.top,
        "stats": looking.stats,
        "exec": talking.exec,
        "attach": talking.attach,
        "commit": image_questions.commit,
        "image": image_questions.image,
        "forward": forwarding.forward,
        "stat_path": copying.stat_path,
        "copy_from": copying.copy_from,
        "copy_to": copying.copy_to,
    }
