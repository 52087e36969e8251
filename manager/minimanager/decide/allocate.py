"""Addresses: every task of a service with ingress ports gets one on the ingress network, and gives it back at its end.

An address that is given back in this pass is not given out in the same pass: the store claims each as a key of its
own, and the next pass finds it free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from minicommon.errors import ResourceExhaustedError

from minimanager.decide.overlay import Overlay
from minimanager.decide.slots import age, is_active, wants_ingress
from minimanager.domain.addresses import AddressPool
from minimanager.domain.objects import Network, NetworkAttachment, Task, TaskState
from minimanager.domain.snapshot import Snapshot

PENDING_MESSAGE = "pending task scheduling"
"""What a task shows that has all it needs but a node (swarmkit `manager/allocator`)."""

HELD_MESSAGE = "waiting for the restart delay"
"""What a task shows that no node may prepare yet."""

NO_INGRESS = "the cluster has no ingress network to publish ports on"


def allocate(overlay: Overlay, service_ids: Sequence[str]) -> None:
    """Take back the addresses of ended tasks and give new tasks theirs; the latter become PENDING."""
    pool: AddressPool | None = None
    for service_id in service_ids:
        for task in overlay.of_service(service_id):
            if task.attachments and overlay.finished(task):
                overlay.put(replace(task, attachments=()))
            elif task.state is TaskState.NEW and is_active(task):
                ingress = overlay.snapshot.ingress
                if ingress is not None and pool is None and wants_ingress(task.ports):
                    pool = _pool(overlay.snapshot, ingress)
                _admit(overlay, task, ingress, pool)


def _admit(overlay: Overlay, task: Task, ingress: Network | None, pool: AddressPool | None) -> None:
    attachments: tuple[NetworkAttachment, ...] = ()
    if wants_ingress(task.ports):
        if ingress is None or pool is None:
            overlay.put(replace(task, error=NO_INGRESS))
            return
        try:
            attachments = (NetworkAttachment(ingress.id, str(pool.take())),)
        except ResourceExhaustedError as error:
            overlay.put(replace(task, error=f"network {ingress.spec.name}: {error}"))
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


def _pool(snapshot: Snapshot, ingress: Network) -> AddressPool:
    """The ingress network's addresses, continued after the one that was given out last."""
    newest: tuple[tuple[int, str], str] = ((-1, ""), "")
    used: set[IPv4Address] = {IPv4Address(ingress.gateway)} if ingress.gateway else set()
    used.update(IPv4Address(node.ingress_address) for node in snapshot.nodes.values() if node.ingress_address)
    for task, address in _claims(snapshot, ingress.id):
        used.add(IPv4Address(address))
        newest = max(newest, (age(task), address))
    after = IPv4Address(newest[1]) if newest[1] else None
    return AddressPool(IPv4Network(ingress.subnet), used, after=after)


def _claims(snapshot: Snapshot, network_id: str) -> Iterator[tuple[Task, str]]:
    for task in snapshot.tasks.values():
        for attachment in task.attachments:
            if attachment.network_id == network_id:
                yield task, attachment.address
