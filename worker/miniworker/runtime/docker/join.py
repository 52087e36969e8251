"""How a container gets the network namespace that the data plane has made for its task.

The Engine gives a container a namespace of its own, or that of another container. So for the moment of a start there is
another one, the handle, whose only process enters the task's namespace; the task's container joins it before its own
first process runs, and keeps the namespace when the handle is removed again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from miniworker.runtime.api import RuntimeFaultError
from miniworker.runtime.docker import handle, read
from miniworker.runtime.docker.engine import Engine, EngineError, NotFoundError
from miniworker.runtime.docker.translate import OWNER, Record, handle_name

HANDLE = "io.minicluster.handle"
"""The label of handles, with the task's id."""

_ENTERS_S = 10.0
"""How long the handle may take for its three system calls on a busy machine."""

_POLL_S = 0.002


class Handles:
    """Makes them, and knows which a killed agent left."""

    def __init__(self, engine: Engine, *, owner: str) -> None:
        self._engine = engine
        self._owner = owner

    @asynccontextmanager
    async def of(self, record: Record) -> AsyncIterator[None]:
        """While a handle is in the task's namespace. Raises RuntimeFaultError."""
        name = handle_name(record.id)
        await self._remove(name)
        try:
            with _opened(record.netns) as source:
                await self._create(name, record, source)
                await self._engine.post(f"/containers/{name}/start")
            await self._entered(name, Path(record.netns))
            yield
        finally:
            await self._remove(name)

    async def recover(self) -> None:
        """Remove those whose start was broken off."""
        wanted = f'{{"label": ["{HANDLE}", "{OWNER}={self._owner}"]}}'
        for found in await self._engine.get("/containers/json", {"all": True, "filters": wanted}):
            await self._remove(found["Id"])

    async def _create(self, name: str, record: Record, source: str) -> None:
        image = handle.image()
        body = {
            "Image": image.id,
            "Hostname": record.hostname,
            "Labels": {OWNER: self._owner, HANDLE: record.id},
            "HostConfig": {
                "NetworkMode": "none",
                "CapDrop": ["ALL"],
                "CapAdd": ["SYS_ADMIN"],  # what setns(2) asks for
                "SecurityOpt": ["label=disable"],
                "ReadonlyRootfs": True,
                "LogConfig": {"Type": "none"},
                "Mounts": [{"Type": "bind", "Source": source, "Target": handle.NETNS, "ReadOnly": True}],
            },
        }
        try:
            await self._engine.post("/containers/create", body, {"name": name})
        except NotFoundError:
            async with self._engine.stream("POST", "/images/load", data=image.archive) as answer:
                await answer.read()
            await self._engine.post("/containers/create", body, {"name": name})

    async def _entered(self, name: str, netns: Path) -> None:
        """Return once its process is in there."""
        pid = int((await self._engine.get(f"/containers/{name}/json"))["State"]["Pid"])
        try:
            async with asyncio.timeout(_ENTERS_S):
                while not (pid and _same(Path(f"/proc/{pid}/ns/net"), netns)):
                    await asyncio.sleep(_POLL_S)
                    told = await self._engine.get(f"/containers/{name}/json")
                    if read.exit_of(told) is not None:
                        raise RuntimeFaultError(
                            f"no container can enter the network namespace at {netns}: the Engine's security rules "
                            "forbid setns(2) even with CAP_SYS_ADMIN"
                        )
                    pid = int(told["State"]["Pid"])
        except TimeoutError:
            raise RuntimeFaultError(
                f"the Engine's containers are not seen in /proc, or cannot enter {netns}: the worker and the "
                "Engine must run on the same host, outside of containers"
            ) from None

    async def _remove(self, name: str) -> None:
        try:
            await self._engine.delete(f"/containers/{name}", {"force": True, "v": True})
        except NotFoundError:
            return
        except EngineError as error:
            if error.status != 409:  # somebody removes it already
                raise


@contextmanager
def _opened(netns: str) -> Iterator[str]:
    """Where the Engine finds the namespace, also when it does not see the mounts that keep it."""
    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeFaultError(f"cannot open the network namespace at {netns}: {error.strerror}") from error
    try:
        if os.fstat(descriptor).st_dev != Path("/proc/self/ns/net").stat().st_dev:
            raise RuntimeFaultError(f"{netns} is no network namespace: a reboot took it away")
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
