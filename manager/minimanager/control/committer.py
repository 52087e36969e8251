"""From actions to guarded transactions.

Each action is a transaction of its own, checked against what the decision saw, and all of them leave together: the
writer groups them. So one that has been overtaken loses alone, and is decided anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from minicommon.errors import ConflictError

from minimanager.decide.actions import (
    NETWORKS,
    Action,
    CreateTask,
    DeleteNetwork,
    DeleteService,
    DeleteTask,
    RollBack,
    SaveRollout,
    UpdateTask,
)
from minimanager.domain.objects import Service, Task
from minimanager.domain.snapshot import Snapshot
from minimanager.store.api import Compare
from minimanager.store.claims import claims_of
from minimanager.store.keys import Kind
from minimanager.store.transaction import FencedError, Transaction
from minimanager.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Loser:
    """An action that the store refused, the service to look at again, and why."""

    action: Action
    service_id: str
    error: ConflictError


@dataclass(frozen=True, slots=True)
class Committed:
    """`revision`: the last one that was written; 0 when nothing was."""

    revision: int
    losers: tuple[Loser, ...]


class Committer:
    """Writes decisions, as long as the fence holds."""

    def __init__(self, writer: Writer, fence: Compare | None = None) -> None:
        self._writer = writer
        self._fence = fence

    async def commit(self, snapshot: Snapshot, actions: tuple[Action, ...]) -> Committed:
        """Write the actions, decided on `snapshot`.

        Raises FencedError when this manager leads no more, and UnavailableError when it is not known what was done.
        """
        transactions = [await self._transaction(snapshot, action) for action in actions]
        outcomes = await self._writer.commit_all(transactions, fence=self._fence)
        revision, losers = 0, []
        for action, outcome in zip(actions, outcomes, strict=True):
            if isinstance(outcome, FencedError):
                raise outcome
            if isinstance(outcome, ConflictError):
                losers.append(Loser(action, service_of(snapshot, action), outcome))
            else:
                revision = max(revision, outcome)
        return Committed(revision, tuple(losers))

    async def barrier(self) -> int:
        """Write something that means nothing; who has seen its revision has seen all that was written before.

        Raises FencedError and UnavailableError.
        """
        return await self._writer.commit(self._writer.begin().barrier(), fence=self._fence)

    async def _transaction(self, snapshot: Snapshot, action: Action) -> Transaction:
        transaction = self._writer.begin()
        match action:
            case CreateTask(task, service_version):
                transaction.create(task).guard_id(Kind.SERVICE, task.service_id, version=service_version)
                self._move_addresses(transaction, task.id, None, task)
            case UpdateTask(task):
                transaction.replace(task)
                self._move_addresses(transaction, task.id, snapshot.tasks.get(task.id), task)
            case DeleteTask(task_id, version):
                transaction.delete_id(Kind.TASK, task_id, version=version)
                transaction.delete_id(Kind.STATUS, task_id, version=None)
                self._move_addresses(transaction, task_id, snapshot.tasks.get(task_id), None)
            case DeleteService(service_id, version):
                transaction.delete_id(Kind.SERVICE, service_id, version=version)
                transaction.delete_id(Kind.ROLLOUT, service_id, version=None)
                await self._release_claims(transaction, snapshot, service_id)
            case SaveRollout(rollout):
                transaction.save(rollout)
            case RollBack(service):
                transaction.replace(service)
                for use in service.spec.task.networks:
                    transaction.guard(snapshot.networks[use.network])
                self._move_claims(transaction, snapshot.services[service.id], service)
            case DeleteNetwork(network_id, version):
                transaction.delete_id(Kind.NETWORK, network_id, version=version)
        return transaction

    def _move_claims(self, transaction: Transaction, old: Service, new: Service) -> None:
        """Claim what the service gains, give back what it loses. Its version guards both."""
        before, after = claims_of(self._writer.keys, old), claims_of(self._writer.keys, new)
        for key in sorted(after - before):
            transaction.claim(key, new.id)
        for key in sorted(before - after):
            transaction.release(key)

    def _move_addresses(
        self, transaction: Transaction, owner: str, old: Task | None, new: Task | None
    ) -> None:
        """Claim what the task gains, give back what it loses. The task's version guards both."""
        before, after = self._addresses(old), self._addresses(new)
        for key in sorted(after - before):
            transaction.claim(key, owner)
        for key in sorted(before - after):
            transaction.release(key)

    def _addresses(self, task: Task | None) -> set[str]:
        attachments = task.attachments if task else ()
        keys = self._writer.keys
        return {keys.address(found.network_id, found.address) for found in attachments if found.address}

    async def _release_claims(self, transaction: Transaction, snapshot: Snapshot, service_id: str) -> None:
        """Give back the service's name, ports and addresses, where it still has them.

        The API gives them back as soon as removal is asked for, and another service may own them by now. So the
        store is asked who does.
        """
        service = snapshot.services.get(service_id)
        if service is None:
            return
        for key in sorted(claims_of(self._writer.keys, service)):
            claim = await self._writer.claim(key)
            if claim is not None and claim.value.decode() == service_id:
                transaction.release(key, version=claim.mod_revision)


def service_of(snapshot: Snapshot, action: Action) -> str:
    """The service that an action is about; "" when the task that it names is gone."""
    match action:
        case CreateTask(task) | UpdateTask(task):
            return task.service_id
        case DeleteTask(task_id):
            known = snapshot.tasks.get(task_id)
            return known.service_id if known else ""
        case DeleteService(service_id):
            return service_id
        case SaveRollout(rollout):
            return rollout.id
        case RollBack(service):
            return service.id
        case DeleteNetwork():
            return NETWORKS
