"""`OciRuntime`: the `Runtime` protocol over this node's kernel.

Nothing about a container is kept only in memory: every answer is read from its directory and from /proc, so a new agent
that opens the same directory knows as much as the one that was killed.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
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
    NoSuchContainerError,
    PathStat,
    Progress,
    RuntimeFaultError,
    RuntimeInfo,
    Usage,
)
from miniworker.runtime.interactive import Command, Conversation
from miniworker.runtime.oci import (
    cgroups,
    etcfiles,
    logfiles,
    logs,
    look,
    names,
    overlay,
    processes,
    transfer,
)
from miniworker.runtime.oci.attach import Attachment, connect
from miniworker.runtime.oci.commit import write_layer
from miniworker.runtime.oci.conmon import Programs, Supervisor
from miniworker.runtime.oci.image_service import OciImages
from miniworker.runtime.oci.image_store import ImageStore
from miniworker.runtime.oci.locks import KeyedLocks
from miniworker.runtime.oci.observe import Observed, Observer
from miniworker.runtime.oci.prepare import NodeParts, check_id, check_log_driver, named_volumes, prepare
from miniworker.runtime.oci.pull import Puller
from miniworker.runtime.oci.push import Pusher
from miniworker.runtime.oci.records import ContainerFiles, ContainerRecord, Containers
from miniworker.runtime.oci.registry.auth import Keyring
from miniworker.runtime.oci.registry.client import RegistryClient
from miniworker.runtime.oci.rotation import Rotator
from miniworker.runtime.oci.settings import OciSettings
from miniworker.runtime.oci.volumes import OciVolumes


class OciRuntime:
    """One per data directory at a time. Make it with `open_oci`."""

    def __init__(
        self,
        settings: OciSettings,
        *,
        programs: Programs,
        store: ImageStore,
        containers: Containers,
        keyring: Keyring | None = None,
    ) -> None:
        self._store = store
        self._containers = containers
        self._supervisor = Supervisor(programs, settings.run_dir)
        self._observer = Observer(containers, self._supervisor)
        self._client = RegistryClient(insecure=settings.insecure_registries, keyring=keyring)
        self._puller = Puller(store, self._client, parallel=settings.parallel_downloads)
        self._starting = asyncio.Semaphore(settings.parallel_starts)
        self._executing = asyncio.Semaphore(settings.parallel_execs)
        self._locks = KeyedLocks()
        self._changed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._node = NodeParts(
            volumes=settings.data_dir / "volumes", init=programs.init, unified=cgroups.is_unified()
        )
        self._rotator = Rotator()
        self.volumes = OciVolumes(self._node.volumes, containers.all)
        self.images = OciImages(
            store, containers.all, puller=self._puller, pusher=Pusher(store, self._client)
        )

    async def recover(self) -> None:
        """Clear what a killed agent left half made or half removed."""
        await asyncio.to_thread(self._store.recover)
        await asyncio.to_thread(self.volumes.recover)
        for files in self._containers.unfinished():
            await self._clear(files.root.name, files)
        for record in self._containers.all():
            if self._observer.observe(record).status is ContainerStatus.RUNNING:
                self._attend(record)

    def _attend(self, record: ContainerRecord) -> None:
        """Its output is rotated while it runs."""
        files = self._containers.files(record.id)
        self._rotator.attend(record.id, files, record.logs, ended=lambda: self._gone(record.id))

    async def info(self) -> RuntimeInfo:
        return RuntimeInfo(name="oci", version=await self._supervisor.version())

    async def pull(self, image: str, *, login: Login | None = None, progress: Progress | None = None) -> str:
        record = await self._puller.pull(names.parse(image), login=login, progress=progress)
        return record.id

    async def create(self, config: ContainerConfig) -> None:
        check_id(config.id)
        check_log_driver(config.logs)
        async with self._locks.of(config.id):
            if self._containers.get(config.id) is not None:
                return
            image, _ = self.images.find(config.image)
            files = self._containers.files(config.id)
            try:
                with self.volumes.given(config.id, named_volumes(config)):
                    record = await asyncio.to_thread(
                        prepare, config, image, self._store, files, node=self._node
                    )
                    self._containers.put(record)
            except BaseException:
                await self._clear(config.id, files)
                raise

    async def start(self, container_id: str) -> int:
        async with self._locks.of(container_id):
            record = self._record(container_id)
            seen = self._observer.observe(record)
            if seen.status is not ContainerStatus.CREATED:
                return seen.pid
            async with self._starting:
                pid = await self._start(record, seen)
        self._announce(container_id)
        return pid

    async def _start(self, record: ContainerRecord, seen: Observed) -> int:
        files = self._containers.files(record.id)
        if not seen.waiting:
            # A start that was interrupted may still be under way in conmon: end it, then begin anew.
            await self._observer.abandon(record.id)
            if self._supervisor.is_known(record.id):
                await self._supervisor.delete(record.id)
            await asyncio.to_thread(overlay.mount, files, self._store.lower(record.chain))
            await self._supervisor.create(
                record.id,
                record.name,
                files,
                tty=record.tty,
                stdin=record.open_stdin,
                limits=record.logs,
            )
        pid = self._observer.pid(record.id)
        await self._supervisor.start(record.id)
        self._attend(record)
        return pid

    async def wait(self, container_id: str) -> Exit:
        while True:
            seen = self._observer.observe(self._record(container_id))
            if seen.exit is not None:
                return seen.exit
            if seen.status is ContainerStatus.CREATED:
                await self._changed[container_id].wait()
            else:
                await self._observer.ended(container_id)

    async def health_check(self, container_id: str) -> HealthCheck | None:
        return self._record(container_id).health

    async def write_names(self, config: ContainerConfig) -> None:
        self._record(config.id)
        await asyncio.to_thread(etcfiles.write, self._containers.files(config.id).etc, etcfiles.names(config))

    async def exec(self, container_id: str, command: tuple[str, ...], *, timeout_ns: int) -> Execution:
        if self._observer.observe(self._record(container_id)).status is not ContainerStatus.RUNNING:
            raise RuntimeFaultError(f"container {container_id} is not running")
        async with self._executing:
            return await self._supervisor.exec(
                container_id, command, self._containers.files(container_id), timeout_ns=timeout_ns
            )

    async def stop(self, container_id: str) -> None:
        async with self._locks.of(container_id):  # a start under way is seen through first
            record = self._record(container_id)
            seen = self._observer.observe(record)
        if seen.status is not ContainerStatus.RUNNING:
            return
        number = processes.signal_number(record.stop_signal) or signal.SIGTERM
        self._observer.send(container_id, number)
        try:
            async with asyncio.timeout(record.stop_grace_period_ns / SECOND):
                await self.wait(container_id)
        except TimeoutError:
            self._observer.send(container_id, signal.SIGKILL)
            await self.wait(container_id)

    async def remove(self, container_id: str) -> None:
        async with self._locks.of(container_id):
            files = self._containers.files(container_id)
            if files.root.exists():
                record = self._containers.get(container_id)
                self._observer.send(container_id, signal.SIGKILL)
                await self._observer.ended(container_id)
                await self._rotator.leave(container_id)
                self._containers.forget(container_id)
                await self._clear(container_id, files)
                if record is not None and self._store.index.get(record.image_id) is None:
                    await self._collect()
        self._announce(container_id)

    async def list(self) -> tuple[Container, ...]:
        return await asyncio.to_thread(self._list)

    def _list(self) -> tuple[Container, ...]:
        found = []
        for record in self._containers.all():
            seen = self._observer.observe(record)
            pid = seen.pid if seen.status is ContainerStatus.RUNNING else 0
            found.append(
                Container(
                    id=record.id,
                    name=record.name,
                    status=seen.status,
                    labels=record.labels,
                    pid=pid,
                    exit=seen.exit,
                    image=record.image,
                    arguments=record.arguments,
                    created_at_ns=record.created_at_ns,
                    started_at_ns=look.started_at_ns(self._containers.files(record.id), seen.status),
                    tty=record.tty,
                    open_stdin=record.open_stdin,
                )
            )
        return tuple(found)

    async def logs(
        self, container_id: str, wanted: LogQuery = ALL_LOGS
    ) -> AsyncIterator[tuple[LogLine, ...]]:
        self._record(container_id)
        async for batch in self._lines(container_id, wanted):
            yield batch

    def _lines(
        self, container_id: str, wanted: LogQuery, *, start: logfiles.Position | None = None
    ) -> AsyncIterator[tuple[LogLine, ...]]:
        def ended() -> asyncio.Future[None]:
            return asyncio.ensure_future(self._gone(container_id))

        return logs.read(self._containers.files(container_id).log, wanted, ended=ended, start=start)

    async def talk(self, container_id: str, command: Command) -> Conversation:
        if self._observer.observe(self._record(container_id)).status is not ContainerStatus.RUNNING:
            raise RuntimeFaultError(f"container {container_id} is not running")
        files = self._containers.files(container_id)
        process = await asyncio.to_thread(look.process_of, files, command)
        return await self._supervisor.talk(container_id, process, files, command)

    async def attach(
        self, container_id: str, *, stdin: bool = False, from_start: bool = False
    ) -> Conversation:
        record = self._record(container_id)
        files = self._containers.files(container_id)
        if stdin and not record.open_stdin:
            raise RuntimeFaultError(f"container {container_id} has no standard input to attach to")
        start = None if from_start else logfiles.end_of(files.log)
        return Attachment(
            self._lines(container_id, LogQuery(follow=True), start=start),
            files=files,
            connection=connect(files, container_id) if stdin else None,
            tty=record.tty,
            ended=lambda: self.wait(container_id),
            send=lambda number: self._observer.send(container_id, number),
        )

    async def stat_path(self, container_id: str, path: str) -> PathStat:
        return await transfer.stat(self._root_of(container_id), path)

    async def read_path(
        self, container_id: str, path: str, *, follow: bool = False
    ) -> AsyncIterator[PathStat | bytes]:
        async for part in transfer.read(self._root_of(container_id), path, follow=follow):
            yield part

    async def write_path(
        self, container_id: str, path: str, archive: AsyncIterator[bytes], *, keep_owners: bool = False
    ) -> None:
        await transfer.write(self._root_of(container_id), path, archive, keep_owners=keep_owners)

    def _root_of(self, container_id: str) -> Path:
        """Its file system, as its processes see it while there are any."""
        seen = self._observer.observe(self._record(container_id))
        if seen.status is ContainerStatus.RUNNING:
            return Path(f"/proc/{seen.pid}/root")
        return self._containers.files(container_id).rootfs

    async def commit(self, container_id: str, commit: Commit) -> str:
        record = self._record(container_id)
        running = self._observer.observe(record).status is ContainerStatus.RUNNING
        paused = commit.pause and running
        if paused:
            await self._supervisor.pause(container_id)
        try:
            upper = self._containers.files(container_id).upper
            return await self.images.commit(record, commit, write=lambda path: write_layer(upper, path))
        finally:
            if paused:
                await self._supervisor.resume(container_id)

    async def usage(self, container_id: str) -> Usage | None:
        seen = self._observer.observe(self._record(container_id))
        if seen.status is not ContainerStatus.RUNNING:
            return None
        return await asyncio.to_thread(look.usage, cgroups.path_of(container_id), seen.pid)

    async def processes(self, container_id: str) -> tuple[int, ...]:
        self._record(container_id)
        return await asyncio.to_thread(cgroups.members, cgroups.path_of(container_id))

    async def details(self, container_id: str) -> Details:
        record = self._record(container_id)
        return await asyncio.to_thread(look.details, record, self._containers.files(container_id))

    async def _gone(self, container_id: str) -> None:
        """Return when it has exited or was removed."""
        try:
            await self.wait(container_id)
        except NoSuchContainerError:
            return

    async def close(self) -> None:
        await self._rotator.close()
        await self._puller.close()
        await self._client.close()

    async def _collect(self) -> None:
        used = {chain_id for record in self._containers.all() for chain_id in record.chain}
        await asyncio.to_thread(self._store.collect, used=used)

    async def _clear(self, container_id: str, files: ContainerFiles) -> None:
        """Take away everything of it from runtime, kernel and disk."""
        if self._supervisor.is_known(container_id):
            await self._supervisor.delete(container_id)
        await asyncio.to_thread(_remove_tree, files)

    def _announce(self, container_id: str) -> None:
        """Wake those who wait for it to start, or for it at all."""
        event = self._changed.pop(container_id, None)
        if event is not None:
            event.set()

    def _record(self, container_id: str) -> ContainerRecord:
        record = self._containers.get(container_id)
        if record is None:
            raise NoSuchContainerError(f"No such container: {container_id}")
        return record


def _remove_tree(files: ContainerFiles) -> None:
    overlay.unmount(files)
    if files.root.exists():
        shutil.rmtree(files.root)
