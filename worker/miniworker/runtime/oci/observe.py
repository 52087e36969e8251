"""What a container is doing, read from its files and from /proc; and waiting for its end."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from miniworker.runtime.api import ContainerStatus, Exit, RuntimeFaultError
from miniworker.runtime.oci import cgroups, processes
from miniworker.runtime.oci.conmon import Supervisor
from miniworker.runtime.oci.records import ContainerFiles, ContainerRecord, Containers, read_number

LOST = 255
"""The exit code of a container whose end nobody saw: the host went down, or conmon was killed (Docker's choice)."""


@dataclass(frozen=True, slots=True)
class Observed:
    status: ContainerStatus
    pid: int = 0
    exit: Exit | None = None
    waiting: bool = False
    """Created in the kernel and only to be let go."""


class Observer:
    """Reads; changes nothing."""

    def __init__(self, containers: Containers, supervisor: Supervisor) -> None:
        self._containers = containers
        self._supervisor = supervisor

    def observe(self, record: ContainerRecord) -> Observed:
        files = self._containers.files(record.id)
        pid = read_number(files.pid)
        if pid is None:
            return Observed(ContainerStatus.CREATED)
        # The order matters: conmon writes the code before it ends, so a code missing after its end never comes.
        supervised = self._conmon_lives(record.id)
        alive = cgroups.holds(pid, record.id)
        code = read_number(files.exits / record.id)
        if code is not None:
            return Observed(ContainerStatus.EXITED, pid, self._exit(record.id, files, code))
        if not alive and not supervised:
            return Observed(ContainerStatus.EXITED, pid, self._exit(record.id, files, LOST))
        if alive and self._supervisor.is_waiting(record.id):
            return Observed(ContainerStatus.CREATED, pid, waiting=True)
        return Observed(ContainerStatus.RUNNING, pid)

    def pid(self, container_id: str) -> int:
        """Of its first process. Raises RuntimeFaultError when conmon has written none."""
        pid = read_number(self._containers.files(container_id).pid)
        if pid is None:
            raise RuntimeFaultError(f"container {container_id} has no pid file")
        return pid

    def send(self, container_id: str, number: int) -> None:
        """Signal its first process, if that lives."""
        pid = read_number(self._containers.files(container_id).pid)
        if pid is not None:
            processes.send(pid, number, lambda: cgroups.holds(pid, container_id))

    async def ended(self, container_id: str) -> None:
        """Return when both its first process and its conmon have ended."""
        files = self._containers.files(container_id)
        conmon = read_number(files.conmon_pid)
        if conmon is not None:
            await processes.ended(conmon, lambda: self._conmon_lives(container_id))
        pid = read_number(files.pid)
        if pid is not None:
            await processes.ended(pid, lambda: cgroups.holds(pid, container_id))

    async def abandon(self, container_id: str) -> None:
        """Kill a conmon that is still creating its container, together with the runtime it has called."""
        conmon = read_number(self._containers.files(container_id).conmon_pid)
        if conmon is not None and self._conmon_lives(container_id):
            with suppress(ProcessLookupError):
                os.killpg(conmon, signal.SIGKILL)  # it leads a session of its own
            await self.ended(container_id)

    def _conmon_lives(self, container_id: str) -> bool:
        pid = read_number(self._containers.files(container_id).conmon_pid)
        return pid is not None and processes.command_line_has(pid, container_id)

    def _exit(self, container_id: str, files: ContainerFiles, code: int) -> Exit:
        marker = files.exits / container_id
        when = marker if marker.exists() else files.log
        return Exit(
            code=code,
            oom_killed=(files.state / "oom").exists() or cgroups.oom_killed(container_id),
            finished_at_ns=when.stat().st_mtime_ns,
        )
