"""A `Runtime` in memory, with the semantics of the real ones: for tests of the agent, and held to the same contract.

What a container does is looked up by its command: a `Behavior`. One that is not scripted runs until it is stopped. A
test may also step in: `finish` ends a container, `write` puts out a line, `fail_next` makes a call fail.
"""

from __future__ import annotations

import asyncio
import io
import stat
import tarfile
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace

from minicommon.clock import Clock, SystemClock
from minicommon.errors import MiniError

from miniworker.runtime.api import (
    ALL_LOGS,
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
    NoSuchPathError,
    NoSuchVolumeError,
    PathStat,
    Progress,
    RuntimeFaultError,
    RuntimeInfo,
    Usage,
    Volume,
    VolumeError,
)
from miniworker.runtime.fake_images import FakeImages
from miniworker.runtime.interactive import Command, Conversation, Size
from miniworker.runtime.oci import names
from miniworker.runtime.oci.digest import of_bytes

_KILLED = 137
_FIRST_PID = 1000


@dataclass(frozen=True, slots=True)
class Behavior:
    """What a command does once it is started."""

    exit_code: int | None = None
    """At once; None: it runs until it is stopped or finished."""
    output: tuple[tuple[str, bytes], ...] = ()
    """(stream, line) it begins with."""
    on_stop: int | None = 0
    """Its exit code when it gets its stop signal; None: it ignores the signal."""
    on_stop_output: tuple[tuple[str, bytes], ...] = ()
    start_error: str = ""
    """The text of the RuntimeFaultError that starting it raises."""
    echo: bool = False
    """It writes what it reads, and ends when there is no more."""


@dataclass(slots=True)
class _Entry:
    config: ContainerConfig
    image_id: str
    behavior: Behavior
    health: HealthCheck | None = None
    created_at_ns: int = 0
    started_at_ns: int = 0
    pid: int = 0
    exit: Exit | None = None
    input: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    lines: list[LogLine] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self) -> None:
        """Wake everybody who waits for a change of this container."""
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def status(self) -> ContainerStatus:
        if self.exit is not None:
            return ContainerStatus.EXITED
        return ContainerStatus.RUNNING if self.pid else ContainerStatus.CREATED


class FakeRuntime:
    """Implements `Runtime`; `images` implements `Images` beside it."""

    def __init__(
        self,
        behaviors: Mapping[tuple[str, ...], Behavior] | None = None,
        *,
        registry: tuple[str, ...] = (),
        clock: Clock | None = None,
    ) -> None:
        """`behaviors` by the words of a container's command and arguments; `registry`: what can be pulled."""
        self.images = FakeImages(self)
        self.volumes = FakeVolumes(self)
        self.calls: list[tuple[str, str]] = []
        """(method, container id or image) in order."""
        self.logins: dict[str, Login | None] = {}
        """Who each image was pulled as, last time."""
        self.talks: list[FakeTalk] = []
        """The commands that were run, in order."""
        self._behaviors = dict(behaviors or {})
        self._registry = {names.parse(reference).full for reference in registry}
        self._clock = clock or SystemClock()
        self._entries: dict[str, _Entry] = {}
        self._failures: dict[str, deque[MiniError]] = {}
        self._next_pid = _FIRST_PID

    # --- what a test does to it ---

    def finish(self, container_id: str, code: int = 0, *, oom_killed: bool = False) -> None:
        """The container ends by itself."""
        entry = self._entry(container_id)
        if entry.exit is None:
            entry.exit = Exit(code, oom_killed, self._clock.now_ns())
            entry.announce()

    def write(self, container_id: str, stream: str, data: bytes) -> None:
        """The container puts out a line."""
        entry = self._entry(container_id)
        entry.lines.append(LogLine(stream, self._clock.now_ns(), data))
        entry.announce()

    def fail_next(self, method: str, error: MiniError) -> None:
        """The next call of "pull", "create", "start", "stop" or "remove" raises this."""
        self._failures.setdefault(method, deque()).append(error)

    def echoes(self, container_id: str) -> bool:
        """Whether the container writes what it reads."""
        return self._entry(container_id).behavior.echo

    def config(self, container_id: str) -> ContainerConfig:
        """What `create` was given."""
        return self._entry(container_id).config

    def serves(self, name: str) -> bool:
        """Whether an image of this full name can be pulled."""
        return name in self._registry

    def serve(self, name: str) -> None:
        """From now on an image of this full name can be pulled."""
        self._registry.add(name)

    def users_of(self, volume: str) -> tuple[str, ...]:
        """The containers that were given this named volume."""
        return tuple(
            container_id
            for container_id, entry in self._entries.items()
            if any(mount.kind is MountKind.VOLUME and mount.source == volume for mount in entry.config.mounts)
        )

    # --- Runtime ---

    async def info(self) -> RuntimeInfo:
        return RuntimeInfo(name="fake", version="fake 1")

    async def pull(self, image: str, *, login: Login | None = None, progress: Progress | None = None) -> str:
        self._called("pull", image)
        self.logins[image] = login
        name = names.parse(image)
        if name.full in self._registry:
            if progress is not None:
                progress(f"pulling {name.familiar}")
            self.images.arrive(name.full, self._clock.now_ns())
        return self.images.find(image).id

    async def create(self, config: ContainerConfig) -> None:
        self._called("create", config.id)
        if config.id in self._entries:
            return
        image = self.images.find(config.image)
        self.volumes.make(
            mount.source for mount in config.mounts if mount.kind is MountKind.VOLUME and mount.source
        )
        behavior = self._behaviors.get((*config.command, *config.args), Behavior())
        self._entries[config.id] = _Entry(
            config, image.id, behavior, config.health.over(image.health), self._clock.now_ns()
        )

    async def start(self, container_id: str) -> int:
        self._called("start", container_id)
        entry = self._entry(container_id)
        if entry.pid:
            return entry.pid
        if entry.behavior.start_error:
            raise RuntimeFaultError(entry.behavior.start_error)
        self._next_pid += 1
        entry.pid = self._next_pid
        entry.started_at_ns = self._clock.now_ns()
        for stream, data in entry.behavior.output:
            self.write(container_id, stream, data)
        entry.announce()
        if entry.behavior.exit_code is not None:
            self.finish(container_id, entry.behavior.exit_code)
        return entry.pid

    async def wait(self, container_id: str) -> Exit:
        while True:
            entry = self._entry(container_id)
            if entry.exit is not None:
                return entry.exit
            await entry.changed.wait()

    async def health_check(self, container_id: str) -> HealthCheck | None:
        return self._entry(container_id).health

    async def write_names(self, config: ContainerConfig) -> None:
        self._called("write_names", config.id)
        entry = self._entry(config.id)
        entry.config = replace(entry.config, hosts=config.hosts, networks_dns=config.networks_dns)

    async def exec(self, container_id: str, command: tuple[str, ...], *, timeout_ns: int) -> Execution:
        """What a command does is looked up as a container's is; one that does not end by itself takes too long."""
        self._called("exec", container_id)
        entry = self._entry(container_id)
        if entry.status is not ContainerStatus.RUNNING:
            raise RuntimeFaultError(f"container {container_id} is not running")
        behavior = self._behaviors.get(command, Behavior())
        if behavior.start_error:
            return Execution(255, behavior.start_error.encode())
        output = b"".join(data + b"\n" for _, data in behavior.output)
        if behavior.exit_code is None:
            await self._clock.sleep_until(self._clock.now_ns() + timeout_ns)
            return Execution(_KILLED, output, timed_out=True)
        return Execution(behavior.exit_code, output)

    def script(self, command: tuple[str, ...], behavior: Behavior) -> None:
        """From now on the command does this."""
        self._behaviors[command] = behavior

    async def stop(self, container_id: str) -> None:
        self._called("stop", container_id)
        entry = self._entry(container_id)
        if entry.status is not ContainerStatus.RUNNING:
            return
        if entry.behavior.on_stop is None:
            until = self._clock.now_ns() + entry.config.stop_grace_period_ns
            await self._ended_or(entry, until)
            self.finish(container_id, _KILLED)
            return
        for stream, data in entry.behavior.on_stop_output:
            self.write(container_id, stream, data)
        self.finish(container_id, entry.behavior.on_stop)

    async def remove(self, container_id: str) -> None:
        self._called("remove", container_id)
        entry = self._entries.pop(container_id, None)
        if entry is not None:
            entry.announce()

    async def list(self) -> tuple[Container, ...]:
        return tuple(
            Container(
                id=entry.config.id,
                name=entry.config.name,
                status=entry.status,
                labels=entry.config.labels,
                pid=entry.pid if entry.status is ContainerStatus.RUNNING else 0,
                exit=entry.exit,
                image=entry.config.image,
                arguments=(*entry.config.command, *entry.config.args),
                created_at_ns=entry.created_at_ns,
                started_at_ns=entry.started_at_ns,
                tty=entry.config.tty,
                open_stdin=entry.config.open_stdin,
            )
            for entry in self._entries.values()
        )

    async def logs(
        self, container_id: str, wanted: LogQuery = ALL_LOGS
    ) -> AsyncIterator[tuple[LogLine, ...]]:
        entry = self._entry(container_id)
        position = 0 if wanted.tail is None else max(0, len(entry.lines) - wanted.tail)
        async for batch in self._lines(container_id, wanted, position):
            yield batch

    async def _lines(
        self, container_id: str, wanted: LogQuery, position: int
    ) -> AsyncIterator[tuple[LogLine, ...]]:
        entry = self._entry(container_id)
        while True:
            batch = tuple(filter(wanted.covers, entry.lines[position:]))
            position = len(entry.lines)
            if batch:
                yield batch
            if position < len(entry.lines):
                continue
            past = wanted.until_ns and entry.lines and entry.lines[-1].time_ns > wanted.until_ns
            if not wanted.follow or past or entry.exit is not None or container_id not in self._entries:
                return
            await entry.changed.wait()

    async def talk(self, container_id: str, command: Command) -> Conversation:
        self._called("talk", container_id)
        entry = self._entry(container_id)
        if entry.status is not ContainerStatus.RUNNING:
            raise RuntimeFaultError(f"container {container_id} is not running")
        behavior = self._behaviors.get(command.words, Behavior())
        if behavior.start_error:
            raise RuntimeFaultError(behavior.start_error)
        self.talks.append(FakeTalk(command, behavior))
        return self.talks[-1]

    async def attach(
        self, container_id: str, *, stdin: bool = False, from_start: bool = False
    ) -> Conversation:
        self._called("attach", container_id)
        entry = self._entry(container_id)
        if stdin and not entry.config.open_stdin:
            raise RuntimeFaultError(f"container {container_id} has no standard input to attach to")
        position = 0 if from_start else len(entry.lines)
        lines = self._lines(container_id, LogQuery(follow=True), position)
        return _FakeAttachment(self, container_id, lines)

    async def take(self, container_id: str, data: bytes) -> None:
        """The container's standard input got this; one that echoes writes it."""
        entry = self._entry(container_id)
        entry.input += data
        if entry.behavior.echo:
            for line in data.splitlines():
                self.write(container_id, "stdout", line)

    async def stat_path(self, container_id: str, path: str) -> PathStat:
        files = self._entry(container_id).files
        if path in files:
            return PathStat(path.rpartition("/")[2], len(files[path]), stat.S_IFREG | 0o644, 0)
        if path in ("/", "/tmp"):
            return PathStat(path.rpartition("/")[2] or "/", 0, stat.S_IFDIR | 0o755, 0)
        raise NoSuchPathError(f"{path}: No such file or directory")

    async def read_path(
        self, container_id: str, path: str, *, follow: bool = False
    ) -> AsyncIterator[PathStat | bytes]:
        """Regular files only."""
        about = await self.stat_path(container_id, path)
        yield about
        data = self._entry(container_id).files.get(path, b"")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            info = tarfile.TarInfo(about.name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        yield archive.getvalue()

    async def write_path(
        self, container_id: str, path: str, archive: AsyncIterator[bytes], *, keep_owners: bool = False
    ) -> None:
        await self.stat_path(container_id, path)
        data = b"".join([chunk async for chunk in archive])
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    self._entry(container_id).files[f"{path.rstrip('/')}/{member.name}"] = file.read()

    async def commit(self, container_id: str, commit: Commit) -> str:
        entry = self._entry(container_id)
        image_id = of_bytes(f"{entry.image_id} {container_id} {commit.changes}".encode())
        reference = names.parse(commit.reference).full if commit.reference else ""
        self.images.put(image_id, reference, self._clock.now_ns(), 0)
        return image_id

    async def usage(self, container_id: str) -> Usage | None:
        entry = self._entry(container_id)
        if entry.status is not ContainerStatus.RUNNING:
            return None
        return Usage(self._clock.now_ns(), 1_000_000, 1 << 20, 1 << 30, 10, 20, 0, 0, 1)

    async def processes(self, container_id: str) -> tuple[int, ...]:
        entry = self._entry(container_id)
        return (entry.pid,) if entry.status is ContainerStatus.RUNNING else ()

    async def details(self, container_id: str) -> Details:
        entry = self._entry(container_id)
        config = entry.config
        return Details(
            image_id=entry.image_id,
            arguments=(*config.command, *config.args),
            env=config.env,
            dir=config.dir or "/",
            user=config.user,
            hostname=config.hostname or config.id[:12],
            mounts=tuple(
                (each.kind.value, each.source, each.target, each.read_only) for each in config.mounts
            ),
        )

    async def close(self) -> None:
        return

    # --- inside ---

    def users(self, image_id: str) -> tuple[str, ...]:
        """The containers of this image."""
        return tuple(entry.config.id for entry in self._entries.values() if entry.image_id == image_id)

    async def _ended_or(self, entry: _Entry, until_ns: int) -> None:
        tasks = {
            asyncio.ensure_future(entry.changed.wait()),
            asyncio.ensure_future(self._sleep(until_ns)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _sleep(self, until_ns: int) -> bool:
        await self._clock.sleep_until(until_ns)
        return True

    def _called(self, method: str, subject: str) -> None:
        self.calls.append((method, subject))
        failures = self._failures.get(method)
        if failures:
            raise failures.popleft()

    def _entry(self, container_id: str) -> _Entry:
        try:
            return self._entries[container_id]
        except KeyError:
            raise NoSuchContainerError(f"No such container: {container_id}") from None


class FakeTalk:
    """A `Conversation` with a command that does what its `Behavior` says."""

    def __init__(self, command: Command, behavior: Behavior) -> None:
        self.command = command
        self._behavior = behavior
        self._output: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        for stream, data in behavior.output:
            self._output.put_nowait(("stdout" if command.tty else stream, data + b"\n"))
        if behavior.exit_code is not None:
            self._end(behavior.exit_code)
        elif behavior.echo and not command.stdin:
            self._end(0)

    async def read(self) -> tuple[str, bytes] | None:
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        if self._behavior.echo and not self._exit.done():
            self._output.put_nowait(("stdout", data))

    async def end_input(self) -> None:
        if self._behavior.echo:
            self._end(0)

    def resize(self, size: Size) -> None:
        return

    def send_signal(self, number: int) -> None:
        self._end(128 + number)

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def close(self) -> None:
        self._end(_KILLED)

    def _end(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)
            self._output.put_nowait(None)


class _FakeAttachment:
    """A `Conversation` with a container's first process."""

    def __init__(
        self, runtime: FakeRuntime, container_id: str, batches: AsyncIterator[tuple[LogLine, ...]]
    ) -> None:
        self._runtime = runtime
        self._id = container_id
        self._batches = batches
        self._pending: deque[tuple[str, bytes]] = deque()

    async def read(self) -> tuple[str, bytes] | None:
        while not self._pending:
            batch = await anext(self._batches, None)
            if batch is None:
                return None
            self._pending.extend((line.stream, line.data + b"\n") for line in batch)
        return self._pending.popleft()

    async def write(self, data: bytes) -> None:
        await self._runtime.take(self._id, data)

    async def end_input(self) -> None:
        if self._runtime.echoes(self._id):
            self._runtime.finish(self._id)

    def resize(self, size: Size) -> None:
        return

    def send_signal(self, number: int) -> None:
        self._runtime.finish(self._id, 128 + number)

    async def wait(self) -> int:
        return (await self._runtime.wait(self._id)).code

    async def close(self) -> None:
        return


class FakeVolumes:
    """Implements `Volumes`: names and labels, and nothing in them."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime
        self._labels: dict[str, Mapping[str, str]] = {}

    def make(self, names_: Iterable[str]) -> None:
        """Those that a container is given."""
        for name in names_:
            self._labels.setdefault(name, {})

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> Volume:
        self._labels.setdefault(name, dict(labels))
        return self._volume(name)

    async def list_volumes(self) -> tuple[Volume, ...]:
        return tuple(self._volume(name) for name in sorted(self._labels))

    async def get_volume(self, name: str) -> Volume:
        if name not in self._labels:
            raise NoSuchVolumeError(f"get {name}: no such volume")
        return self._volume(name)

    async def remove_volume(self, name: str) -> int:
        volume = await self.get_volume(name)
        if volume.used_by:
            raise VolumeError(f"remove {name}: volume is in use - [{', '.join(volume.used_by)}]")
        del self._labels[name]
        return 0

    def _volume(self, name: str) -> Volume:
        return Volume(name, f"/volumes/{name}/_data", 0, self._labels[name], self._runtime.users_of(name))
