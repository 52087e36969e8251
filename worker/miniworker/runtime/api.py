"""The `Runtime` protocol: what the agent needs of whatever runs containers on this node.

Every call is idempotent and takes the task's id, so that an agent that was killed halfway repeats it. Containers
outlive the agent: `list` finds them again. One contract suite runs on every implementation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from minicommon.errors import MiniError

from miniworker.runtime.image_values import PrunedImages, PulledImage, PushedImage
from miniworker.runtime.interactive import Command, Conversation

SECOND = 1_000_000_000
"""Nanoseconds."""


class RuntimeFaultError(MiniError):
    """The runtime refused or failed; the text says what it said."""


class ImageError(MiniError):
    """The image cannot be had or is broken; a task that needs it is REJECTED. The text names the image."""


class NoSuchContainerError(MiniError):
    """The runtime knows no container of this id."""


@dataclass(frozen=True, slots=True)
class Limits:
    """0 means no limit."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0
    swap_bytes: int = 0
    """Besides memory; 0: the kernel's default; -1: no limit."""
    swappiness: int = -1
    """0 to 100; -1: the node's own setting."""


@dataclass(frozen=True, slots=True)
class Ulimit:
    """setrlimit(2); -1 means no limit."""

    name: str
    """"nofile"."""
    soft: int
    hard: int


class MountKind(Enum):
    VOLUME = "volume"
    BIND = "bind"
    TMPFS = "tmpfs"


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of the node's at a place in the container."""

    kind: MountKind
    target: str
    source: str = ""
    """A path of the node, or a volume's name; a volume without one goes with its container."""
    read_only: bool = False
    propagation: str = ""
    """Of a bind mount; empty: "rprivate"."""
    recursive: bool = True
    """Of a bind mount: with what is mounted below its source."""
    copy: bool = True
    """Into a volume that is empty goes what the image has at the target."""
    size_bytes: int = 0
    """Of a tmpfs; 0: no limit but memory."""
    mode: int = 0
    """Of a tmpfs; 0: 1777."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the node."""

    source: str
    target: str
    permissions: str = "rwm"
    """Read, write, make."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How to find out whether a container does its work; 0 means Docker's default, as does what is empty."""

    test: tuple[str, ...] = ()
    """("CMD", program, ...), ("CMD-SHELL", line), ("HTTP", "8080/path"), ("TCP", "5432"), ("NONE",); empty: the
    image's."""
    interval_ns: int = 0
    timeout_ns: int = 0
    retries: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0

    def over(self, image: HealthCheck) -> HealthCheck | None:
        """This check with the image's for what it leaves open; None: there is nothing to check."""
        test = self.test or image.test
        if not test or test[0] == "NONE":
            return None
        return HealthCheck(
            test=test,
            interval_ns=self.interval_ns or image.interval_ns,
            timeout_ns=self.timeout_ns or image.timeout_ns,
            retries=self.retries or image.retries,
            start_period_ns=self.start_period_ns or image.start_period_ns,
            start_interval_ns=self.start_interval_ns or image.start_interval_ns,
        )


NO_HEALTH_CHECK = HealthCheck()
"""It asks for nothing of its own."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """What is kept of a container's output."""

    keep: bool = True
    """False: nothing."""
    max_bytes: int = 0
    """A file of so many bytes is full, and another is begun; 0: no limit."""
    files: int = 1
    """So many are kept, the one that is written included."""
    compress: bool = False
    """Those that are full."""
    driver: str = "json-file"
    """Docker's name of how it is kept: "json-file", "local", "journald"."""


KEEP_ALL = LogLimits()


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """Everything that decides what a container is."""

    id: str
    """The task's id."""
    name: str
    """`<service>.<slot>.<task id>`."""
    image: str
    netns: Path | None = None
    """The network namespace to run in, ready with its addresses; None: one of its own with only loopback."""
    command: tuple[str, ...] = ()
    """Replaces the image's entrypoint, and its command with it, when not empty."""
    args: tuple[str, ...] = ()
    """Replaces the image's command when not empty."""
    env: tuple[str, ...] = ()
    """KEY=value, over the image's; a bare KEY removes it."""
    hostname: str = ""
    """Empty: the first 12 characters of the id."""
    user: str = ""
    groups: tuple[str, ...] = ()
    dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    stop_signal: str = ""
    """Empty: the image's, else SIGTERM."""
    stop_grace_period_ns: int = 10 * SECOND
    limits: Limits = Limits()
    hosts: tuple[tuple[str, str], ...] = ()
    """(address, name) lines for /etc/hosts, besides localhost's."""
    dns: tuple[str, ...] = ()
    """Name servers for /etc/resolv.conf; empty: the host's."""
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    networks_dns: str = ""
    """Who answers for the names of the container's networks: its only name server, which asks those of `dns` itself;
    empty: it is on none with names."""
    init: bool = False
    """An init of the runtime's is the first process: it passes signals on and reaps orphans."""
    tty: bool = False
    """A terminal instead of two pipes: all output is on "stdout"."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ulimits: tuple[Ulimit, ...] = ()
    shm_bytes: int = 0
    """Of /dev/shm; 0: 64 MiB."""
    oom_score_adj: int = 0
    mounts: tuple[Mount, ...] = ()
    health: HealthCheck = NO_HEALTH_CHECK
    privileged: bool = False
    """Every capability and device of the node, nothing masked, no seccomp."""
    devices: tuple[Device, ...] = ()
    host_pid: bool = False
    """It sees the node's processes."""
    seccomp_unconfined: bool = False
    no_new_privileges: bool = False
    """execve(2) gives nobody more than they have."""
    logs: LogLimits = KEEP_ALL
    open_stdin: bool = False
    """Its standard input can be attached to; it ends with the first that was. Else there is none."""


class ContainerStatus(Enum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended."""

    code: int
    """128 + n when signal n ended it."""
    oom_killed: bool
    finished_at_ns: int


@dataclass(frozen=True, slots=True)
class Execution:
    """How a command ended that was run in a container."""

    code: int
    """128 + n when signal n ended it."""
    output: bytes = b""
    """The first bytes of its stdout and stderr."""
    timed_out: bool = False
    """It was killed because it took too long."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the runtime sees it."""

    id: str
    name: str
    status: ContainerStatus
    labels: Mapping[str, str]
    pid: int = 0
    """0 unless it runs."""
    exit: Exit | None = None
    """Set once it has exited."""
    image: str = ""
    """As it was asked for."""
    arguments: tuple[str, ...] = ()
    """What its first process was started with."""
    created_at_ns: int = 0
    started_at_ns: int = 0
    """0: it was never started."""
    tty: bool = False
    open_stdin: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    name: str
    """"oci" or "docker"."""
    version: str
    """As the runtime tells it: "runc 1.1.5"."""


@dataclass(frozen=True, slots=True)
class LogLine:
    stream: str
    """"stdout" or "stderr"."""
    time_ns: int
    data: bytes
    """Without the line's end; `partial` lines continue in the next of the same stream."""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Login:
    """Who a pull is made as."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r}, ...)"


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines of a container's output are wanted."""

    follow: bool = False
    """Also those to come, until it has exited."""
    tail: int | None = None
    """Of those that are there the last so many, before the times are looked at."""
    since_ns: int = 0
    until_ns: int = 0
    """0: no end."""

    def covers(self, line: LogLine) -> bool:
        """Whether the line's time is within."""
        return line.time_ns >= self.since_ns and (not self.until_ns or line.time_ns <= self.until_ns)


ALL_LOGS = LogQuery()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container uses, at one moment."""

    time_ns: int
    cpu_ns: int
    """Since it started."""
    memory_bytes: int
    """Without the page cache that the kernel can take back at once."""
    memory_limit_bytes: int
    """The node's memory when it has no limit."""
    received_bytes: int
    sent_bytes: int
    read_bytes: int
    written_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class Details:
    """What a container is, beyond what `list` tells."""

    image_id: str
    arguments: tuple[str, ...]
    env: tuple[str, ...]
    dir: str
    user: str
    hostname: str
    mounts: tuple[tuple[str, str, str, bool], ...]
    """(kind, source, destination, read only)."""


class NoSuchPathError(MiniError):
    """There is nothing at a path in a container; the text names it."""


@dataclass(frozen=True, slots=True)
class PathStat:
    """What is at a path in a container."""

    name: str
    """Its last part."""
    size: int
    mode: int
    """st_mode."""
    modified_at_ns: int
    link: str = ""
    """Where a symbolic link leads."""


@dataclass(frozen=True, slots=True)
class Commit:
    """How an image is to be made of a container."""

    reference: str = ""
    """Its name; empty: it has only its id."""
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    """Dockerfile instructions: "ENV A=b"."""
    pause: bool = True
    """The container stands still meanwhile."""


Progress = Callable[[str], None]
"""Told what is being done, in a few words: "pulling whoami:1: 3.2MB/7.1MB"."""


class Runtime(Protocol):
    """Raises RuntimeFaultError, or what a method names."""

    async def info(self) -> RuntimeInfo:
        """Name and version of what runs here."""

    async def pull(self, image: str, *, login: Login | None = None, progress: Progress | None = None) -> str:
        """Make the image present, from its registry when it is newer there; its digest or id.

        Without `login` the registry is asked as anybody.

        A failed pull falls back to a local copy, as Swarm does. Raises ImageError when there is none.
        """

    async def create(self, config: ContainerConfig) -> None:
        """Make the container ready to start. One of the same id is left as it is. Raises ImageError.

        Named volumes are made as they are needed and outlive their containers.
        """

    async def start(self, container_id: str) -> int:
        """Start it; the pid of its first process. Started already: the same answer."""

    async def wait(self, container_id: str) -> Exit:
        """Return when it has exited, at once if it has. Raises NoSuchContainerError."""

    async def health_check(self, container_id: str) -> HealthCheck | None:
        """The check that its configuration and its image ask for together. Raises NoSuchContainerError."""

    async def write_names(self, config: ContainerConfig) -> None:
        """Give its /etc/hosts and /etc/resolv.conf what the configuration says now. Raises NoSuchContainerError."""

    async def exec(self, container_id: str, command: tuple[str, ...], *, timeout_ns: int) -> Execution:
        """Run a command in the running container, as its user and with its environment, until it ends.

        One that cannot be started has another code than 0, and says why. Raises NoSuchContainerError, RuntimeFaultError
        when the container does not run.
        """

    async def stop(self, container_id: str) -> None:
        """Send its stop signal, wait its grace period, then kill; return when it has exited. Exited: nothing."""

    async def remove(self, container_id: str) -> None:
        """Kill it if need be and remove every trace of it. Unknown id: nothing."""

    async def list(self) -> tuple[Container, ...]:
        """Every container that this runtime's `create` made and `remove` has not removed."""

    def logs(self, container_id: str, wanted: LogQuery = ALL_LOGS) -> AsyncIterator[tuple[LogLine, ...]]:
        """Its output, oldest first, as many lines at a time as are there. Raises NoSuchContainerError."""

    async def talk(self, container_id: str, command: Command) -> Conversation:
        """Run a command in the running container; close the conversation in the end, which ends the command.

        Raises NoSuchContainerError, RuntimeFaultError when the container does not run or the command cannot be started.
        """

    async def attach(
        self, container_id: str, *, stdin: bool = False, from_start: bool = False
    ) -> Conversation:
        """Talk to its first process, also before it is started; closing the conversation leaves it running.

        What it has written is read from the start or from now on. Raises NoSuchContainerError, RuntimeFaultError when
        standard input is asked for and the container has none.
        """

    async def stat_path(self, container_id: str, path: str) -> PathStat:
        """What is there, with the volumes of a container that runs. Raises NoSuchContainerError, NoSuchPathError."""

    def read_path(
        self, container_id: str, path: str, *, follow: bool = False
    ) -> AsyncIterator[PathStat | bytes]:
        """What is there, then a tar archive of it, named by its last part. Raises as `stat_path`."""

    async def write_path(
        self, container_id: str, path: str, archive: AsyncIterator[bytes], *, keep_owners: bool = False
    ) -> None:
        """Unpack a tar archive in the directory there. Raises as `stat_path`."""

    async def commit(self, container_id: str, commit: Commit) -> str:
        """Make an image of it as it is; its id. Raises NoSuchContainerError, ImageError for a name that cannot be."""

    async def usage(self, container_id: str) -> Usage | None:
        """What it uses; None unless it runs. Raises NoSuchContainerError."""

    async def processes(self, container_id: str) -> tuple[int, ...]:
        """The pids, on the node, of all its processes. Raises NoSuchContainerError."""

    async def details(self, container_id: str) -> Details:
        """Raises NoSuchContainerError."""

    async def close(self) -> None:
        """Let go of the runtime; containers go on."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    id: str
    """sha256:... of the image's configuration."""
    references: tuple[str, ...]
    digests: tuple[str, ...]
    created_at_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """What a reference stands for in its registry."""

    digest: str
    """sha256:... of the manifest or index."""
    platforms: tuple[tuple[str, str], ...] = ()
    """(operating system, architecture) of the images behind it, as images name them."""


class RegistryUnreachableError(ImageError):
    """The registry did not answer at all: no name, no route, no listener, no valid certificate."""


@dataclass(frozen=True, slots=True)
class ImageRemoval:
    untagged: tuple[str, ...]
    deleted: tuple[str, ...]


class Images(Protocol):
    """The node's images, for `minictl image`. Raises ImageError."""

    async def load(self, chunks: AsyncIterator[bytes]) -> tuple[str, ...]:
        """Load a docker-archive or OCI archive (tar, gzip or zstd); the references or ids loaded."""

    async def list_images(self) -> tuple[ImageInfo, ...]:
        """Every image, newest first."""

    async def resolve(self, ref: str, *, login: Login | None = None) -> ResolvedImage:
        """Ask the registry what the reference stands for; nothing is fetched.

        Raises RegistryUnreachableError, soon where the image is here anyway.
        """

    async def fetch(
        self, ref: str, *, login: Login | None = None, progress: Progress | None = None
    ) -> PulledImage:
        """Make the image present as its registry has it; unlike a task's pull, a registry that fails is an error."""

    async def push(
        self, ref: str, *, login: Login | None = None, progress: Progress | None = None
    ) -> PushedImage:
        """Give the image to the registry that its name is of."""

    def save(self, refs: tuple[str, ...]) -> AsyncIterator[bytes]:
        """The images as an archive that `load` takes, with the names that they were asked for by, in pieces."""

    async def tag(self, ref: str, name: str) -> None:
        """Give the image one more name, which another image loses."""

    async def prune(self, *, every: bool = False) -> PrunedImages:
        """Remove the images without a tag, or all, that no container uses."""

    async def remove_image(self, ref: str, *, force: bool = False) -> ImageRemoval:
        """Untag, and delete what is left without a name. Refused while a container uses it, unless forced."""


class VolumeError(MiniError):
    """A volume cannot be made or removed; the text says why."""


class NoSuchVolumeError(VolumeError):
    """The node has no volume of this name."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume of the node."""

    name: str
    mountpoint: str
    created_at_ns: int
    labels: Mapping[str, str]
    used_by: tuple[str, ...] = ()
    """Ids of the containers, ended ones too, that were given it."""


class Volumes(Protocol):
    """The node's named volumes, for `minictl volume`; containers make those that they name. Raises VolumeError."""

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> Volume:
        """One that is there already is left as it is."""

    async def list_volumes(self) -> tuple[Volume, ...]:
        """By name."""

    async def get_volume(self, name: str) -> Volume:
        """Raises NoSuchVolumeError."""

    async def remove_volume(self, name: str) -> int:
        """The bytes that this freed. Refused while a container has it. Raises NoSuchVolumeError."""
