"""Finding containers: the Engine has ids of its own, and a label tells the task's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from miniworker.runtime.api import ContainerStatus, NoSuchContainerError, RuntimeFaultError
from miniworker.runtime.docker import read
from miniworker.runtime.docker.engine import Engine, NotFoundError
from miniworker.runtime.docker.join import HANDLE
from miniworker.runtime.docker.translate import OWNER, TASK


def no_such(container_id: str) -> NoSuchContainerError:
    return NoSuchContainerError(f"No such container: {container_id}")


class Lookup:
    """Knows the Engine's id of each task's container, once it was asked for."""

    def __init__(self, engine: Engine, *, owner: str) -> None:
        self._engine = engine
        self._owner = owner
        self._ids: dict[str, str] = {}

    def note(self, container_id: str, docker_id: str) -> None:
        self._ids[container_id] = docker_id

    def forget(self, container_id: str) -> NoSuchContainerError:
        """It is gone; the error that says so."""
        self._ids.pop(container_id, None)
        return no_such(container_id)

    async def id_of(self, container_id: str) -> str:
        """The Engine's. Raises NoSuchContainerError."""
        if container_id not in self._ids:
            found = await self._listed([f"{OWNER}={self._owner}", f"{TASK}={container_id}"])
            if not found:
                raise no_such(container_id)
            self._ids[container_id] = found[0]
        return self._ids[container_id]

    async def inspect(self, container_id: str) -> dict[str, Any]:
        """What the Engine tells of it. Raises NoSuchContainerError."""
        told = await self._inspect(await self.id_of(container_id))
        if told is None:
            raise self.forget(container_id)
        return told

    async def running(self, container_id: str) -> str:
        """The Engine's id of one that runs. Raises NoSuchContainerError, RuntimeFaultError."""
        told = await self.inspect(container_id)
        if read.status(told) is not ContainerStatus.RUNNING:
            raise RuntimeFaultError(f"container {container_id} is not running")
        return str(told["Id"])

    async def own(self) -> list[dict[str, Any]]:
        """What the Engine tells of all containers of tasks of this worker."""
        told = await self._inspect_all([f"{OWNER}={self._owner}", TASK])
        self._ids.update({read.task_id(each): each["Id"] for each in told})
        return told

    async def everything(self) -> list[dict[str, Any]]:
        """Of all containers of the Engine but handles."""
        told = await self._inspect_all([])
        return [each for each in told if HANDLE not in (each["Config"]["Labels"] or {})]

    async def task_ids(self) -> dict[str, str]:
        """The task of each container of a task, by the Engine's id."""
        return {each["Id"]: task for each in await self.everything() if (task := read.task_id(each))}

    async def _listed(self, labels: list[str]) -> list[str]:
        query: dict[str, str | int | bool] = {"all": True}
        if labels:
            query["filters"] = json.dumps({"label": labels})
        return [str(each["Id"]) for each in await self._engine.get("/containers/json", query)]

    async def _inspect_all(self, labels: list[str]) -> list[dict[str, Any]]:
        """Without those that go meanwhile."""
        told = await asyncio.gather(*map(self._inspect, await self._listed(labels)))
        return [each for each in told if each is not None]

    async def _inspect(self, docker_id: str) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = await self._engine.get(f"/containers/{docker_id}/json")
        except NotFoundError:
            return None
        return told
