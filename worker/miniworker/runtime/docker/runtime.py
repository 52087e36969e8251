"""`DockerRuntime`: the `Runtime` protocol over the Docker Engine.

Nothing about a container is kept only in memory: every answer is the Engine's, and what the Engine has no place for is
in a label. A worker that opens the same socket again knows as much as the one that was killed. While the Engine itself
restarts, those who wait for a container's end go on waiting, and then hear the truth; every other call fails, saying
that the Engine does not answer.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

from miniworker.runtime.api import (
    ALL_LOGS,
    SECOND,
    Commit,
    Container,
    ContainerConfig,
    ContainerStatus,
    Details,
    Execution,
    Exit,
    HealthCheck,
    Login,
    LogLine,
    LogQuery,
    MountKind,
    NoSuchContainerError,
    PathStat,
    Progress,
    RuntimeFaultError,
    RuntimeInfo,
    Usage,
)
from miniworker.runtime.docker import archives, conversation, logs, read, translate
from miniworker.runtime.docker.engine import Engine, EngineError, EngineGoneError, NotFoundError, Version
from miniworker.runtime.docker.images import DockerImages
from miniworker.runtime.docker.join import Handles
from miniworker.runtime.docker.lookup import Lookup, no_such
from miniworker.runtime.docker.settings import DockerSettings
from miniworker.runtime.docker.volumes import DockerVolumes
from miniworker.runtime.interactive import Command, Conversation
from miniworker.runtime.oci import cgroups, etcfiles, look, processes, transfer
from miniworker.runtime.oci.execute import MAX_OUTPUT
from miniworker.runtime.oci.locks import KeyedLocks
from miniworker.runtime.oci.prepare import check_id
from miniworker.runtime.oci.records import ensure_directory

_DEFAULT_STOP_SIGNAL = "SIGTERM"
_KILLED = 128 + signal.SIGKILL

_AGAIN_S = 0.5
"""Between two attempts to reach an Engine that is away."""


class DockerRuntime:
    """One per data directory at a time. Make it with `open_docker`."""

    def __init__(self, settings: DockerSettings, engine: Engine, version: Version) -> None:
        self._engine = engine
        self._version = version
        self._owner = str(settings.data_dir)
        self._etc = settings.data_dir / "etc"
        self._handles = Handles(engine, owner=self._owner)
        self._starting = asyncio.Semaphore(settings.parallel_starts)
        self._executing = asyncio.Semaphore(settings.parallel_execs)
        self._locks = KeyedLocks()
        self._lookup = Lookup(engine, owner=self._owner)
        self._removed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.images = DockerImages(engine, self._lookup.task_ids, folder=settings.data_dir)
        self.volumes = DockerVolumes(engine, self._lookup.everything)

    async def recover(self) -> None:
        """Clear what a killed agent left half made or half removed."""
        await self._handles.recover()
        known = {container.id for container in await self.list()}
        for folder in self._etc.iterdir() if self._etc.is_dir() else ():
            if folder.name not in known:
                shutil.rmtree(folder)

    async def info(self) -> RuntimeInfo:
        return RuntimeInfo(name="docker", version=f"Docker Engine {self._version.engine}")

    async def pull(self, image: str, *, login: Login | None = None, progress: Progress | None = None) -> str:
        return await self.images.pull(image, login=login, progress=progress)

    async def create(self, config: ContainerConfig) -> None:
        check_id(config.id)
        async with self._locks.of(config.id):
            try:
                await self._lookup.inspect(config.id)
            except NoSuchContainerError:
                await self._create(config)

    async def _create(self, config: ContainerConfig) -> None:
        _check(config)
        image = await self.images.inspect(config.image)
        record = translate.record_of(config, read.health(image["Config"].get("Healthcheck")))
        etc = self._etc / config.id
        ensure_directory(etc)
        await asyncio.to_thread(etcfiles.write, etc, etcfiles.texts(config))
        body = translate.container(config, record, owner=self._owner, etc=etc)
        try:
            made = await self._engine.post(
                "/containers/create", body, {"name": translate.container_name(config)}
            )
        except BaseException as error:
            await asyncio.to_thread(shutil.rmtree, etc)
            if isinstance(error, EngineError):
                raise RuntimeFaultError(read.plain(str(error))) from None
            raise
        self._lookup.note(config.id, str(made["Id"]))

    async def start(self, container_id: str) -> int:
        async with self._locks.of(container_id):
            told = await self._lookup.inspect(container_id)
            if read.status(told) is not ContainerStatus.CREATED:
                return read.container(told).pid
            record = read.record(told)
            async with self._starting:
                try:
                    async with self._handles.of(record) if record.netns else nullcontext():
                        await self._engine.post(f"/containers/{told['Id']}/start")
                except EngineError as error:
                    raise RuntimeFaultError(read.plain(str(error))) from None
            return int((await self._lookup.inspect(container_id))["State"]["Pid"])

    async def wait(self, container_id: str) -> Exit:
        while True:
            try:
                return await self._wait(container_id)
            except EngineGoneError:
                await asyncio.sleep(_AGAIN_S)

    async def _wait(self, container_id: str) -> Exit:
        """As `wait`; raises EngineGoneError."""
        docker_id = await self._lookup.id_of(container_id)
        removed = asyncio.ensure_future(self._removed[container_id].wait())
        ended = asyncio.ensure_future(self._next_exit(container_id, docker_id))
        try:
            await asyncio.wait({removed, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
            raise no_such(container_id)
        finally:
            for future in (removed, ended):
                future.cancel()
            await asyncio.gather(removed, ended, return_exceptions=True)

    async def _next_exit(self, container_id: str, docker_id: str) -> Exit:
        """The Engine answers at once that it will tell; what happened before that is seen by looking then."""
        path, query = f"/containers/{docker_id}/wait", {"condition": "next-exit"}
        try:
            async with self._engine.stream("POST", path, query) as answer:
                told = await self._lookup.inspect(container_id)
                if (found := read.exit_of(told)) is not None:
                    return found
                await answer.read()
        except NotFoundError:
            raise self._lookup.forget(container_id) from None
        found = read.exit_of(await self._lookup.inspect(container_id))
        if found is None:
            raise EngineGoneError(f"the Engine broke off waiting for container {container_id}")
        return found

    async def health_check(self, container_id: str) -> HealthCheck | None:
        return read.record(await self._lookup.inspect(container_id)).health

    async def write_names(self, config: ContainerConfig) -> None:
        await self._lookup.id_of(config.id)
        await asyncio.to_thread(etcfiles.write, self._etc / config.id, etcfiles.names(config))

    async def exec(self, container_id: str, command: tuple[str, ...], *, timeout_ns: int) -> Execution:
        docker_id = await self._lookup.running(container_id)
        async with self._executing:
            try:
                talk = await conversation.talk(self._engine, docker_id, Command(command))
            except EngineGoneError:
                raise
            except RuntimeFaultError as error:
                return Execution(127, str(error).encode())
            kept = bytearray()
            reading = asyncio.ensure_future(_keep(talk, kept))
            try:
                async with asyncio.timeout(timeout_ns / SECOND):
                    code = await talk.wait()
                    # What it leaves running may hold its output open: its own end is what counts.
                    await asyncio.wait({reading}, timeout=_AGAIN_S)
                return Execution(code, bytes(kept))
            except TimeoutError:
                return Execution(_KILLED, bytes(kept), timed_out=True)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                await talk.close()

    async def stop(self, container_id: str) -> None:
        async with self._locks.of(container_id):  # a start under way is seen through first
            told = await self._lookup.inspect(container_id)
        if read.status(told) is not ContainerStatus.RUNNING:
            return
        await self._kill(told["Id"], told["Config"].get("StopSignal") or _DEFAULT_STOP_SIGNAL)
        try:
            async with asyncio.timeout(read.record(told).stop_grace_period_ns / SECOND):
                await self.wait(container_id)
        except TimeoutError:
            await self._kill(told["Id"], "SIGKILL")
            await self.wait(container_id)

    async def _kill(self, docker_id: str, signal_name: str) -> None:
        try:
            await self._engine.post(f"/containers/{docker_id}/kill", query={"signal": signal_name})
        except EngineError as error:
            if error.status not in (404, 409):  # it has ended meanwhile
                raise

    async def remove(self, container_id: str) -> None:
        async with self._locks.of(container_id):
            try:
                docker_id = await self._lookup.id_of(container_id)
                await self._engine.delete(f"/containers/{docker_id}", {"force": True, "v": True})
            except (NotFoundError, NoSuchContainerError):
                pass
            except EngineError as error:
                if error.status != 409:  # it is being removed already
                    raise
            self._lookup.forget(container_id)
            folder = self._etc / container_id
            if folder.exists():
                await asyncio.to_thread(shutil.rmtree, folder)
        if (event := self._removed.pop(container_id, None)) is not None:
            event.set()

    async def list(self) -> tuple[Container, ...]:
        return tuple(read.container(told) for told in await self._lookup.own())

    async def logs(
        self, container_id: str, wanted: LogQuery = ALL_LOGS
    ) -> AsyncIterator[tuple[LogLine, ...]]:
        told = await self._lookup.inspect(container_id)
        if not read.record(told).keeps_logs:
            return
        try:
            async for batch in logs.read(self._engine, told["Id"], wanted, tty=told["Config"]["Tty"]):
                yield batch
        except NotFoundError:
            raise self._lookup.forget(container_id) from None

    async def talk(self, container_id: str, command: Command) -> Conversation:
        return await conversation.talk(self._engine, await self._lookup.running(container_id), command)

    async def attach(
        self, container_id: str, *, stdin: bool = False, from_start: bool = False
    ) -> Conversation:
        told = await self._lookup.inspect(container_id)
        tty = bool(told["Config"]["Tty"])
        if stdin and not told["Config"]["OpenStdin"]:
            raise RuntimeFaultError(f"container {container_id} has no standard input to attach to")
        query = {
            "stream": True,
            "stdout": True,
            "stderr": True,
            "stdin": stdin,
            # Of one that was not started there is nothing yet, and what it begins with must not be told twice.
            "logs": from_start and read.status(told) is not ContainerStatus.CREATED,
        }
        connection = await self._engine.take_over(f"/containers/{told['Id']}/attach", query=query)
        return conversation.Attachment(
            self._engine,
            told["Id"],
            conversation.Streams(connection, tty=tty, stdin=stdin),
            tty=tty,
            ended=lambda: self.wait(container_id),
        )

    async def stat_path(self, container_id: str, path: str) -> PathStat:
        root, docker_id = await self._root_of(container_id)
        if root is None:
            return await archives.stat_path(self._engine, docker_id, path)
        return await transfer.stat(root, path)

    async def read_path(
        self, container_id: str, path: str, *, follow: bool = False
    ) -> AsyncIterator[PathStat | bytes]:
        root, docker_id = await self._root_of(container_id)
        if root is None:
            parts = archives.read_path(self._engine, docker_id, path, follow=follow)
        else:
            parts = transfer.read(root, path, follow=follow)
        async for part in parts:
            yield part

    async def write_path(
        self, container_id: str, path: str, archive: AsyncIterator[bytes], *, keep_owners: bool = False
    ) -> None:
        root, docker_id = await self._root_of(container_id)
        if root is None:
            await archives.write_path(self._engine, docker_id, path, archive, keep_owners=keep_owners)
        else:
            await transfer.write(root, path, archive, keep_owners=keep_owners)

    async def _root_of(self, container_id: str) -> tuple[Path | None, str]:
        """Its file system as its processes see it; None while there are none."""
        told = await self._lookup.inspect(container_id)
        pid = read.container(told).pid
        return (Path(f"/proc/{pid}/root") if pid else None), str(told["Id"])

    async def commit(self, container_id: str, commit: Commit) -> str:
        try:
            return await self.images.commit(await self._lookup.id_of(container_id), commit)
        except NotFoundError:
            raise self._lookup.forget(container_id) from None

    async def usage(self, container_id: str) -> Usage | None:
        pid = read.container(await self._lookup.inspect(container_id)).pid
        group = await asyncio.to_thread(cgroups.group_of, pid) if pid else ""
        return await asyncio.to_thread(look.usage, group, pid) if group else None

    async def processes(self, container_id: str) -> tuple[int, ...]:
        pid = read.container(await self._lookup.inspect(container_id)).pid
        group = await asyncio.to_thread(cgroups.group_of, pid) if pid else ""
        return await asyncio.to_thread(cgroups.members, group) if group else ()

    async def details(self, container_id: str) -> Details:
        return read.details(await self._lookup.inspect(container_id))

    async def close(self) -> None:
        await self._engine.close()


def _check(config: ContainerConfig) -> None:
    """What the Engine would not notice, or say in other words."""
    if config.stop_signal and processes.signal_number(config.stop_signal) is None:
        raise RuntimeFaultError(f"invalid stop signal: {config.stop_signal!r}; see signal(7)")
    for mount in config.mounts:
        if mount.kind is MountKind.BIND and not Path(mount.source).exists():
            raise RuntimeFaultError(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
            )


async def _keep(talk: Conversation, kept: bytearray) -> None:
    """Take in what is written, so that the writer never stands still, and keep the beginning."""
    while (piece := await talk.read()) is not None:
        kept += piece[1][: MAX_OUTPUT - len(kept)]
