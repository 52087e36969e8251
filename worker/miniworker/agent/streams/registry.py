"""Which handler answers which question: one line for each kind of NodeRequest."""

from __future__ import annotations

from collections.abc import Callable

from minicommon.clock import Clock
from miniproto.v1 import streams_pb2 as pb

from miniworker.agent.streams.api import Handlers
from miniworker.agent.streams.copying import Copying
from miniworker.agent.streams.forwarding import Forwarding
from miniworker.agent.streams.images import ImageQuestions
from miniworker.agent.streams.looking import Looking
from miniworker.agent.streams.network import NetworkQuestions
from miniworker.agent.streams.talking import Talking
from miniworker.network.api import DataPlane
from miniworker.runtime.api import Images, Runtime


def handlers(
    runtime: Runtime,
    images: Images,
    data_plane: DataPlane,
    clock: Clock,
    state: Callable[[], pb.NetworkCheck],
) -> Handlers:
    """Everything that this node answers; `state` says what it was told of its network."""
    network = NetworkQuestions(data_plane, state)
    looking, talking = Looking(runtime, clock), Talking(runtime)
    copying = Copying(runtime)
    image_questions, forwarding = ImageQuestions(runtime, images), Forwarding(data_plane)
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
        "network": network.network,
        "trace": network.trace,
        "reach": network.reach,
    }
