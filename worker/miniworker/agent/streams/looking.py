"""What there is to know of containers, on a stream: lists, details, logs, processes, usage."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Iterable, Sequence

from minicommon.clock import SECOND, Clock
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from miniproto.v1 import streams_pb2 as pb

from miniworker.agent.streams.api import Inputs, Outputs
from miniworker.agent.streams.errors import told
from miniworker.runtime.api import Container, LogLine, LogQuery, NoSuchContainerError, Runtime

BATCH_BYTES = 64 << 10
"""Of log lines in one message, or one line that is longer."""

STATS_PERIOD_NS = SECOND
"""As often as Docker's `stats` tells."""

PS_BYTES = 4 << 20
"""Of the output of ps(1) that are read at most."""


class Looking:
    """The handlers of `list`, `inspect`, `logs`, `top` and `stats`."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock

    async def list(self, query: pb.ListQuery, inputs: Inputs) -> Outputs:
        with told():
            containers = await self._runtime.list()
        yield pb.StreamOutput(containers=pb.ContainerList(containers=map(info, containers)))

    async def inspect(self, query: pb.InspectQuery, inputs: Inputs) -> Outputs:
        with told():
            container = await self._container(query.container_id)
            details = await self._runtime.details(query.container_id)
        yield pb.StreamOutput(
            inspected=pb.InspectedContainer(
                info=info(container),
                image_id=details.image_id,
                arguments=details.arguments,
                env=details.env,
                dir=details.dir,
                user=details.user,
                hostname=details.hostname,
                mounts=[
                    pb.MountPoint(type=kind, source=source, destination=destination, read_only=read_only)
                    for kind, source, destination, read_only in details.mounts
                ],
            )
        )

    async def logs(self, query: pb.LogsQuery, inputs: Inputs) -> Outputs:
        tail = query.tail if query.HasField("tail") and query.tail >= 0 else None
        wanted = LogQuery(follow=query.follow, tail=tail, since_ns=query.since_ns, until_ns=query.until_ns)
        with told():
            async for lines in self._runtime.logs(query.container_id, wanted):
                for batch in batches(lines):
                    yield pb.StreamOutput(logs=batch)

    async def top(self, query: pb.TopQuery, inputs: Inputs) -> Outputs:
        with told():
            pids = await self._runtime.processes(query.container_id)
        if not pids:
            raise FailedPreconditionError(f"container {query.container_id} is not running")
        text = await _ps(tuple(query.arguments) or ("-ef",))
        yield pb.StreamOutput(processes=process_table(text, frozenset(pids)))

    async def stats(self, query: pb.StatsQuery, inputs: Inputs) -> Outputs:
        while True:
            begun_ns = self._clock.now_ns()
            yield pb.StreamOutput(usage=await self._sample(frozenset(query.container_ids)))
            if query.once:
                return
            await self._clock.sleep_until(begun_ns + STATS_PERIOD_NS)

    async def _sample(self, wanted: frozenset[str]) -> pb.UsageSample:
        sample = pb.UsageSample()
        for container in await self._runtime.list():
            if wanted and container.id not in wanted:
                continue
            try:
                used = await self._runtime.usage(container.id)
            except NoSuchContainerError:
                continue
            if used is not None:
                sample.containers.append(
                    pb.ContainerUsage(
                        id=container.id,
                        name=container.name,
                        time_ns=used.time_ns,
                        cpu_ns=used.cpu_ns,
                        cpus=os.cpu_count() or 1,
                        memory_bytes=used.memory_bytes,
                        memory_limit_bytes=used.memory_limit_bytes,
                        received_bytes=used.received_bytes,
                        sent_bytes=used.sent_bytes,
                        read_bytes=used.read_bytes,
                        written_bytes=used.written_bytes,
                        pids=used.pids,
                    )
                )
        return sample

    async def _container(self, container_id: str) -> Container:
        for container in await self._runtime.list():
            if container.id == container_id:
                return container
        raise NotFoundError(f"No such container: {container_id}")


def info(container: Container) -> pb.ContainerInfo:
    """The container as its node knows it."""
    ended = container.exit
    return pb.ContainerInfo(
        id=container.id,
        name=container.name,
        image=container.image,
        command=shlex.join(container.arguments),
        status=container.status.value,
        labels=dict(container.labels),
        created_at_ns=container.created_at_ns,
        started_at_ns=container.started_at_ns,
        finished_at_ns=ended.finished_at_ns if ended else 0,
        exit_code=ended.code if ended else 0,
        oom_killed=ended.oom_killed if ended else False,
        pid=container.pid,
        tty=container.tty,
        open_stdin=container.open_stdin,
    )


def batches(lines: Sequence[LogLine]) -> Iterable[pb.LogLines]:
    """The lines in messages of a fair size."""
    batch, size = pb.LogLines(), 0
    for line in lines:
        batch.lines.append(
            pb.LogLine(
                time_ns=line.time_ns, stderr=line.stream == "stderr", data=line.data, partial=line.partial
            )
        )
        size += len(line.data)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = pb.LogLines(), 0
    if batch.lines:
        yield batch


async def _ps(arguments: tuple[str, ...]) -> str:
    """What ps(1) prints. Raises InvalidArgumentError with its complaint."""
    try:
        process = await asyncio.create_subprocess_exec(
            "ps",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise FailedPreconditionError(
            "`top` needs ps on the node; on Debian and Ubuntu: apt-get install procps"
        ) from None
    output, errors = await process.communicate()
    if process.returncode:
        complaint = errors.decode(errors="replace").strip().partition("\n")[0]
        raise InvalidArgumentError(f"ps {shlex.join(arguments)}: {complaint}")
    return output[:PS_BYTES].decode(errors="replace")


def process_table(text: str, pids: frozenset[int]) -> pb.ProcessTable:
    """The rows of these processes; the last column takes the rest of its line, as in Docker's `top`."""
    head, *rows = text.splitlines()
    titles = head.split()
    if "PID" not in titles:
        raise InvalidArgumentError("ps: its output must have a column PID")
    at = titles.index("PID")
    table = pb.ProcessTable(titles=titles)
    for row in rows:
        cells = row.split(None, len(titles) - 1)
        if len(cells) > at and cells[at].isdigit() and int(cells[at]) in pids:
            table.processes.append(pb.ProcessRow(cells=cells))
    return table
