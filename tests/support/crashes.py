"""Writers that remember what was acknowledged, while manager and etcd are killed at random moments.

Used by `tests/integration/manager/test_crashes.py` in short and by `scripts/soak.py` for as long as one likes.
"""

from __future__ import annotations

import asyncio
import itertools
from random import Random

import grpc
from miniproto.v1 import control_pb2, objects_pb2
from support.etcd import EtcdProcess
from support.manager import Client, ManagerProcess

WRITERS = 4

_UNKNOWN = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
"""Answers that leave it open whether the write was done: it may be there, and need not."""


class Crashes:
    """`round` writes, kills everything at once, starts it again and checks; `acknowledged` grows."""

    def __init__(self, etcd: EtcdProcess, manager: ManagerProcess, random: Random) -> None:
        self._etcd = etcd
        self._manager = manager
        self._random = random
        self._numbers = itertools.count()
        self.acknowledged: dict[str, str] = {}
        """The label that each service was last told to have, by the service's name."""
        self._revisions: dict[str, int] = {}
        """Of the acknowledged labels: answers may arrive in another order than the writes were done."""
        self.writes = 0
        """How many were acknowledged."""
        self._attempted: dict[str, set[str]] = {}
        """Labels whose write has no answer; one of them may have replaced the acknowledged one."""

    async def round(self) -> None:
        """One loss of power. Raises AssertionError when an acknowledged write is gone, or an object is not valid."""
        writers = [asyncio.create_task(self._write(await self._manager.local())) for _ in range(WRITERS)]
        await asyncio.sleep(self._random.uniform(0.02, 0.4))  # the moment of the loss is what is tried out
        self._etcd.kill()
        self._manager.kill()
        await asyncio.gather(*writers)
        await self._etcd.start()
        await self._manager.start()
        await self._check()

    async def _write(self, client: Client) -> None:
        """Create services and change them until the power is gone."""
        while True:
            number = next(self._numbers)
            known = sorted(self.acknowledged)
            name = f"s{number}"
            change = bool(known) and self._random.random() < 0.5
            if change:
                name = self._random.choice(known)
            label = str(number)
            self._attempted.setdefault(name, set()).add(label)
            try:
                if change:
                    revision = await _update(client, name, label)
                else:
                    created = await client.services.Create(
                        control_pb2.CreateServiceRequest(spec=_spec(name, label))
                    )
                    revision = created.revision
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ABORTED:
                    self._attempted[name].discard(label)  # another writer was faster: certainly not done
                    continue
                if error.code() not in _UNKNOWN:
                    raise
                return
            self.writes += 1
            self._attempted[name].discard(label)
            if revision > self._revisions.get(name, 0):
                self._revisions[name] = revision
                self.acknowledged[name] = label

    async def _check(self) -> None:
        client = await self._manager.local()
        listed = await client.services.List(control_pb2.ListRequest(), wait_for_ready=True)
        found = {view.service.spec.name: view.service for view in listed.services}
        assert len(found) == len(listed.services), "two services have one name"
        lost = sorted(set(self.acknowledged) - set(found))
        assert not lost, f"acknowledged and gone: {lost}"
        for name, service in found.items():
            label = service.spec.labels["label"]
            allowed = {self.acknowledged.get(name)} | self._attempted.get(name, set())
            assert label in allowed, f"{name}: {label} is there, {sorted(map(str, allowed))} may be"
            self.acknowledged[name] = label
            self._attempted[name] = set()
        for name in set(self._attempted) - set(found):
            del self._attempted[name]


def _spec(name: str, label: str) -> objects_pb2.ServiceSpec:
    return objects_pb2.ServiceSpec(
        name=name,
        replicas=1,
        labels={"label": label},
        task=objects_pb2.TaskSpec(container=objects_pb2.ContainerSpec(image="whoami:1")),
    )


async def _update(client: Client, name: str, label: str) -> int:
    """The revision of the change."""
    view = await client.services.Get(control_pb2.GetRequest(ref=name))
    view.service.spec.labels["label"] = label
    changed = await client.services.Update(
        control_pb2.UpdateServiceRequest(ref=name, version=view.service.meta.version, spec=view.service.spec)
    )
    revision: int = changed.revision
    return revision
