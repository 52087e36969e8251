"""Files in and out of containers, as tar archives on a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from minicommon.errors import InvalidArgumentError
from miniproto.v1 import streams_pb2 as pb

from miniworker.agent.streams.api import Inputs, Outputs
from miniworker.agent.streams.errors import told
from miniworker.runtime.api import PathStat, Runtime


class Copying:
    """The handlers of `stat_path`, `copy_from` and `copy_to`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def stat_path(self, query: pb.StatPathQuery, inputs: Inputs) -> Outputs:
        with told():
            found = await self._runtime.stat_path(query.container_id, query.path)
        yield pb.StreamOutput(path=_path(found))

    async def copy_from(self, query: pb.CopyFromQuery, inputs: Inputs) -> Outputs:
        parts = self._runtime.read_path(query.container_id, query.path, follow=query.follow_link)
        with told():
            async for part in parts:
                if isinstance(part, PathStat):
                    yield pb.StreamOutput(path=_path(part))
                else:
                    yield pb.StreamOutput(data=part)

    async def copy_to(self, query: pb.CopyToQuery, inputs: Inputs) -> Outputs:
        with told():
            await self._runtime.write_path(
                query.container_id, query.path, _archive(inputs), keep_owners=query.keep_owners
            )
        none: tuple[pb.StreamOutput, ...] = ()
        for output in none:
            yield output  # a handler is a generator, also one that has nothing to tell


async def _archive(inputs: Inputs) -> AsyncIterator[bytes]:
    """Raises InvalidArgumentError for one that was broken off."""
    async for message in inputs:
        if message.HasField("end"):
            return
        if message.HasField("data"):
            yield message.data
    raise InvalidArgumentError("the archive is not complete")


def _path(found: PathStat) -> pb.PathInfo:
    return pb.PathInfo(
        name=found.name,
        size=found.size,
        mode=found.mode,
        modified_at_ns=found.modified_at_ns,
        link=found.link,
    )
