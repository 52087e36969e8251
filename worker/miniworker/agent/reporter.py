"""What waits to be told to the manager, coalesced: of each task only the newest status.

Nothing is delayed: the session takes what there is as soon as the stream accepts it, and while it is busy newer
statuses replace older ones. A stream that breaks may have lost what was written last, so a new session is told every
status again; states only grow, which makes the repetition harmless.
"""

from __future__ import annotations

import asyncio

from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb

_MOST_PER_MESSAGE = 1000
"""Statuses in one message, to stay far below gRPC's 4 MiB."""


class Reporter:
    def __init__(self) -> None:
        self._last: dict[str, pb.TaskStatus] = {}
        self._waiting: dict[str, pb.TaskStatus] = {}
        self._applied = 0
        self._applied_sent = 0
        self._certificate: dispatch.NodeCertificate | None = None
        self._wake = asyncio.Event()

    def put(self, status: pb.TaskStatus) -> None:
        """Tell this status of its task, in place of an older one."""
        self._last[status.id] = status
        self._waiting[status.id] = status
        self._wake.set()

    def forget(self, task_id: str) -> None:
        """The task is not assigned here any more: nobody wants to hear of it."""
        self._last.pop(task_id, None)
        self._waiting.pop(task_id, None)

    def applied(self, revision: int) -> None:
        """Everything up to `revision` is in the kernel."""
        self._applied = revision
        self._wake.set()

    def certificate(self, certificate: dispatch.NodeCertificate) -> None:
        """The node uses this certificate."""
        self._certificate = certificate
        self._wake.set()

    def restart(self) -> None:
        """A new session begins: all is told again."""
        self._waiting = dict(self._last)
        self._applied = self._applied_sent = 0
        if self._waiting:
            self._wake.set()

    async def take(self) -> tuple[dispatch.WorkerMessage, ...]:
        """What is to be sent now; waits until there is something."""
        while not (self._waiting or self._certificate or self._applied > self._applied_sent):
            self._wake.clear()
            await self._wake.wait()
        statuses = tuple(self._waiting.values())
        self._waiting.clear()
        messages = [
            dispatch.WorkerMessage(
                status=dispatch.StatusReport(statuses=statuses[start : start + _MOST_PER_MESSAGE])
            )
            for start in range(0, len(statuses), _MOST_PER_MESSAGE)
        ]
        if self._certificate is not None:
            messages.append(dispatch.WorkerMessage(certificate=self._certificate))
            self._certificate = None
        if self._applied > self._applied_sent:
            self._applied_sent = self._applied
            messages.append(dispatch.WorkerMessage(applied=dispatch.Applied(revision=self._applied)))
        return tuple(messages)
