"""Addresses: every task gets one on each of its networks, and gives them back at its end.

Its networks are those of its specification, and the ingress network when it publishes ports there. A task gets all its
addresses or none. One that is given back in this pass is not given out in the same pass: the store claims each as a key
of its own, and the next pass finds it free.

A container of `minictl run` may change its networks while it runs: its task follows those of its service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from minicommon.errors import MiniError, NotFoundError, ResourceExhaustedError

from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import is_active, wants_ingress
from minimanager.domain.addresses import AddressPool
from minimanager.domain.leases import present_network, task_pool
from minimanager.domain.objects import NetworkAttachment, NetworkUse, Task, TaskState
from minimanager.domain.one_off import one_off
from minimanager.domain.snapshot import Snapshot

PENDING_MESSAGE = "pending task scheduling"
"""What a task shows that has all it needs but a node (swarmkit `manager/allocator`)."""

HELD_MESSAGE = "waiting for the restart delay"
"""What a task shows that no node may prepare yet."""

NO_INGRESS = "the cluster has no ingress network to publish ports on"


def allocate(overlay: Overlay, service_ids: Sequence[str]) -> None:
    """Take back the addresses of ended tasks and give new tasks theirs; the latter become PENDING."""
    pools = _Pools(overlay.snapshot)
    for service_id in service_ids:
        service = overlay.snapshot.services.get(service_id)
        follows = service if service is not None and one_off(service) else None
        for task in overlay.of_service(service_id):
            if task.attachments and overlay.finished(task):
                overlay.put(replace(task, attachments=()))
            elif task.state is TaskState.NEW and is_active(task):
                _admit(overlay, task, pools)
            elif follows is not None and is_active(task) and task.spec.networks != follows.spec.task.networks:
                _reconnect(overlay, task, follows.spec.task.networks, pools)


class _Pools:
    """The addresses of each network that a task of the pass needs, looked up once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._pools: dict[str, AddressPool] = {}
        self._full: dict[str, MiniError] = {}
        """The networks that have no address, each with the reason."""

    def take(self, network_ids: Sequence[str]) -> tuple[NetworkAttachment, ...]:
        """An address on each network. Raises NotFoundError and ResourceExhaustedError, having taken none."""
        for network_id in network_ids:
            self._ensure_free(network_id)
        return tuple(
            NetworkAttachment(network_id, str(self._pools[network_id].take())) for network_id in network_ids
        )

    def _ensure_free(self, network_id: str) -> None:
        if network_id in self._full:
            raise self._full[network_id]
        try:
            if network_id not in self._pools:
                self._pools[network_id] = task_pool(
                    self._snapshot, present_network(self._snapshot, network_id)
                )
            self._pools[network_id].ensure_free()
        except NotFoundError as error:
            self._full[network_id] = error
            raise
        except ResourceExhaustedError as error:
            name = self._snapshot.networks[network_id].spec.name
            self._full[network_id] = ResourceExhaustedError(f"network {name}: {error.message}")
            raise self._full[network_id] from error


def _admit(overlay: Overlay, task: Task, pools: _Pools) -> None:
    networks = [use.network for use in task.spec.networks]
    if wants_ingress(task.ports):
        if (ingress := overlay.snapshot.ingress) is None:
            overlay.put(replace(task, error=NO_INGRESS))
            return
        networks.insert(0, ingress.id)
    try:
        attachments = pools.take(networks)
    except (NotFoundError, ResourceExhaustedError) as error:
        overlay.put(replace(task, error=error.message))
        return
    overlay.put(
        replace(
            task,
            state=TaskState.PENDING,
            state_since_ns=overlay.now_ns,
            message=HELD_MESSAGE if task.held else PENDING_MESSAGE,
            error="",
            attachments=attachments,
        )
    )


def _reconnect(overlay: Overlay, task: Task, uses: tuple[NetworkUse, ...], pools: _Pools) -> None:
    """Take back the addresses on networks that the task is to leave, and give it those that it has not.

    Without an address on one of them it stays as it is, and the next pass about it tries again.
    """
    wanted = [use.network for use in uses]
    before = [use.network for use in task.spec.networks]
    kept = [each for each in task.attachments if each.network_id in wanted or each.network_id not in before]
    present = {each.network_id for each in kept}
    try:
        taken = pools.take([network_id for network_id in wanted if network_id not in present])
    except (NotFoundError, ResourceExhaustedError):
        return
    overlay.put(replace(task, spec=replace(task.spec, networks=uses), attachments=(*kept, *taken)))
