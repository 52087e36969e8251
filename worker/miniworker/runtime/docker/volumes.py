"""The Engine's named volumes."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from miniworker.runtime.api import NoSuchVolumeError, Volume, VolumeError
from miniworker.runtime.docker import read
from miniworker.runtime.docker.engine import Engine, EngineError, NotFoundError
from miniworker.runtime.oci.mounts import VOLUME_NAME

_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
"""The name of one that goes with its container."""

Containers = Callable[[], Awaitable[list[dict[str, Any]]]]
"""What `inspect` tells of all containers of the Engine, ours and others."""


class DockerVolumes:
    """Implements `Volumes`."""

    def __init__(self, engine: Engine, containers: Containers) -> None:
        self._engine = engine
        self._containers = containers

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> Volume:
        _check(name)
        try:
            await self._engine.get(f"/volumes/{name}")
        except NotFoundError:
            try:
                await self._engine.post("/volumes/create", {"Name": name, "Labels": dict(labels)})
            except EngineError as error:
                raise VolumeError(str(error)) from None
        return await self.get_volume(name)

    async def list_volumes(self) -> tuple[Volume, ...]:
        told = await self._engine.get("/volumes")
        users = await self._users()
        named = [each for each in told["Volumes"] or () if not _ANONYMOUS.fullmatch(each["Name"])]
        return tuple(_volume(each, users) for each in sorted(named, key=lambda each: str(each["Name"])))

    async def get_volume(self, name: str) -> Volume:
        return _volume(await self._inspect(name), await self._users())

    async def remove_volume(self, name: str) -> int:
        volume = await self.get_volume(name)
        if volume.used_by:
            raise VolumeError(f"remove {name}: volume is in use - [{', '.join(volume.used_by)}]")
        size = await asyncio.to_thread(_size, volume.mountpoint)
        try:
            await self._engine.delete(f"/volumes/{name}")
        except NotFoundError:
            raise NoSuchVolumeError(f"get {name}: no such volume") from None
        except EngineError as error:
            raise VolumeError(str(error)) from None
        return size

    async def _inspect(self, name: str) -> dict[str, Any]:
        if not VOLUME_NAME.fullmatch(name):
            raise NoSuchVolumeError(f"get {name}: no such volume")
        try:
            found: dict[str, Any] = await self._engine.get(f"/volumes/{name}")
        except NotFoundError:
            raise NoSuchVolumeError(f"get {name}: no such volume") from None
        return found

    async def _users(self) -> dict[str, list[str]]:
        """By volume: the task's id of a container of ours, the Engine's of another."""
        found: dict[str, list[str]] = {}
        for told in await self._containers():
            for name in read.volumes(told):
                found.setdefault(name, []).append(read.task_id(told) or told["Id"])
        return found


def _check(name: str) -> None:
    if not VOLUME_NAME.fullmatch(name):
        raise VolumeError(
            f'create {name}: "{name}" includes invalid characters for a local volume name, '
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
        )


def _volume(told: Mapping[str, Any], users: Mapping[str, list[str]]) -> Volume:
    return Volume(
        name=told["Name"],
        mountpoint=told["Mountpoint"],
        created_at_ns=read.time_ns(told.get("CreatedAt", "")),
        labels=told.get("Labels") or {},
        used_by=tuple(sorted(users.get(told["Name"], ()))),
    )


def _size(path: str) -> int:
    """Bytes on the disk; 0 where another host or driver has them."""
    told = subprocess.run(["du", "--summarize", "--bytes", "--", path], capture_output=True, text=True)
    size = told.stdout.partition("\t")[0]
    return int(size) if size.isdigit() else 0
