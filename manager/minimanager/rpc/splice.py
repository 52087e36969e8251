"""What the calls of `Containers` that talk have in common: a record, a first message, and two streams made one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from grpc import aio
from minicommon.errors import InvalidArgumentError
from minicommon.log import fields
from minicommon.rpc.gate import identity
from miniproto.v1 import streams_pb2 as pb

from minimanager.domain.objects import Task
from minimanager.rpc.node_streams import NodeStream, fed

logger = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
T = TypeVar("T")


def record(context: Context, action: str, task: Task, **details: object) -> None:
    """Leave a record of who does what to which container."""
    logger.info(
        "Container command.",
        extra=fields(
            action=action,
            caller=str(identity(context)),
            task_id=task.id,
            task=task.name,
            service_id=task.service_id,
            node_id=task.node_id,
            **details,
        ),
    )


async def first(messages: AsyncIterator[T], field: str) -> T:
    """The first message. Raises InvalidArgumentError unless it has this field."""
    message: Any = await anext(messages, None)
    if message is None or not message.HasField(field):
        raise InvalidArgumentError(f"message: the first one must be {field}")
    return message  # type: ignore[no-any-return]


async def spliced(
    stream: NodeStream, inputs: AsyncIterator[pb.StreamInput]
) -> AsyncIterator[pb.StreamOutput]:
    """The node's answer, while the client's input goes the other way."""
    async with fed(stream, inputs):
        async for output in stream:
            yield output
