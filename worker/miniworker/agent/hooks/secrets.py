"""The hook for secrets and configs: fetched for the task, written to its tmpfs, mounted in its container, forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from minicommon.errors import UnavailableError
from miniproto.v1 import dispatcher_pb2 as dispatch

from miniworker.agent.content_files import ContentFile, ContentFiles
from miniworker.agent.deliveries import files_of
from miniworker.agent.hooks.api import Prepared


class Source(Protocol):
    """`miniworker.agent.deliveries` has the real one."""

    async def fetch(self, task: dispatch.AssignedTask) -> tuple[ContentFile, ...]:
        """The task's files with their contents. Raises MiniError."""


class SecretsHook:
    """Holds contents in memory only between their arrival and the moment when they are written."""

    def __init__(self, files: ContentFiles, source: Source) -> None:
        self._files = files
        self._source = source
        self._arrived: dict[str, tuple[ContentFile, ...]] = {}

    async def wait_ready(self, task: dispatch.AssignedTask) -> None:
        if files_of(task) and not self._files.is_complete(task.id):
            self._arrived[task.id] = await self._source.fetch(task)

    async def prepare(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared:
        files = files_of(task)
        if not files:
            return prepared
        config = prepared.config
        taken = [mount.target for mount in config.mounts]
        if not self._files.is_complete(task.id):
            arrived = self._arrived.pop(task.id, None)
            if arrived is None:
                raise UnavailableError("the task's secrets have not been fetched")
            await asyncio.to_thread(self._files.write, task.id, arrived, taken=taken)
        mounts = self._files.mounts(task.id, files, taken=taken)
        return replace(prepared, config=replace(config, mounts=(*config.mounts, *mounts)))

    async def change(self, task: dispatch.AssignedTask, prepared: Prepared) -> Prepared | None:
        return None

    async def cleanup(self, task_id: str) -> None:
        self._arrived.pop(task_id, None)
        await asyncio.to_thread(self._files.forget, task_id)
