"""Containers of `minictl run` on other networks than they were started with.

Such a container is a service of one task. Its service says which networks it is to be on, and the leader gives its task
the addresses; that is no other revision of the service, for the task goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from minicommon.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    PermissionDeniedError,
    ResourceExhaustedError,
)

from minimanager.domain.leases import task_pool, virtual_addresses
from minimanager.domain.objects import Network, NetworkUse, Service, Task
from minimanager.domain.one_off import one_off
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.validate_task import check_networks
from minimanager.rpc.claims import guard_networks
from minimanager.rpc.container_refs import find_container, shown_name
from minimanager.rpc.core import Core
from minimanager.rpc.requests import find_network
from minimanager.store.claims import claims_of

FOLLOWED_SECONDS = 5.0
"""How long a call waits until the leader has given the address, or taken it back."""

Uses = tuple[NetworkUse, ...]


async def connect(core: Core, ref: str, container: str, aliases: tuple[str, ...]) -> int:
    """Let the container be on the network, too; the revision that says so.

    Raises NotFoundError, PermissionDeniedError for a network that is not attachable, AlreadyExistsError when it is
    there, FailedPreconditionError when it has ended or is a service's, ResourceExhaustedError.
    """

    def change(snapshot: Snapshot, network: Network, task: Task, uses: Uses) -> Uses:
        name = network.spec.name
        if not network.spec.attachable:
            raise PermissionDeniedError(
                f"Could not attach to network {name}: network {name} not manually attachable"
            )
        if any(use.network == network.id for use in uses):
            raise AlreadyExistsError(
                f"endpoint with name {shown_name(snapshot, task)} already exists in network {name}"
            )
        if snapshot.state(task).finished:
            raise FailedPreconditionError(f"container {shown_name(snapshot, task)} is not running")
        _ensure_address(snapshot, network)
        return (*uses, NetworkUse(network.id, aliases))

    return await _change(core, ref, container, change)


async def disconnect(core: Core, ref: str, container: str) -> int:
    """Take the container off the network; the revision that says so.

    Raises NotFoundError, and FailedPreconditionError when it is not there or is a service's.
    """

    def change(snapshot: Snapshot, network: Network, task: Task, uses: Uses) -> Uses:
        left = tuple(use for use in uses if use.network != network.id)
        if left == uses:
            raise FailedPreconditionError(
                f"container {shown_name(snapshot, task)} is not connected to network {network.spec.name}"
            )
        return left

    return await _change(core, ref, container, change)


async def _change(
    core: Core, ref: str, container: str, change: Callable[[Snapshot, Network, Task, Uses], Uses]
) -> int:
    async def attempt(snapshot: Snapshot) -> tuple[int, str]:
        network = find_network(snapshot, ref)
        task = find_container(snapshot, container)
        service = _own_service(snapshot, task)
        uses = change(snapshot, network, task, service.spec.task.networks)
        check_networks(uses)
        spec = replace(service.spec, task=replace(service.spec.task, networks=uses))
        changed = replace(
            service,
            spec=spec,
            virtual_addresses=virtual_addresses(snapshot, spec, service),
            meta=replace(service.meta, updated_at_ns=core.clock.now_ns()),
        )
        return await _replace(core, snapshot, service, changed), task.id

    revision, task_id = await core.retried(attempt)
    await core.read(revision)
    await _followed(core, task_id)
    return revision


async def _replace(core: Core, snapshot: Snapshot, service: Service, changed: Service) -> int:
    before, after = claims_of(core.keys, service), claims_of(core.keys, changed)
    transaction = core.writer.begin().replace(changed)
    guard_networks(transaction, snapshot, changed.spec)
    for key in sorted(after - before):
        transaction.claim(key, service.id)
    for key in sorted(before - after):
        transaction.release(key)
    return await core.commit(transaction)


async def _followed(core: Core, task_id: str) -> None:
    """Wait for the leader. Should it be busy, what was asked for is written all the same."""
    with core.cache.subscribe() as changes:
        try:
            async with asyncio.timeout(FOLLOWED_SECONDS):
                while _is_behind(core.cache.snapshot(), task_id):
                    await changes.next()
        except (TimeoutError, StopAsyncIteration):
            return


def _is_behind(snapshot: Snapshot, task_id: str) -> bool:
    task = snapshot.tasks.get(task_id)
    service = snapshot.services.get(task.service_id) if task is not None else None
    if task is None or service is None or snapshot.state(task).finished:
        return False
    return task.spec.networks != service.spec.task.networks


def _own_service(snapshot: Snapshot, task: Task) -> Service:
    service = snapshot.services.get(task.service_id)
    if service is None or service.removing:
        raise FailedPreconditionError(f"container {task.name} is being removed")
    if one_off(service) is None:
        raise FailedPreconditionError(
            f"container {task.name} belongs to service {service.spec.name}: change the networks of the service"
        )
    return service


def _ensure_address(snapshot: Snapshot, network: Network) -> None:
    try:
        task_pool(snapshot, network).ensure_free()
    except ResourceExhaustedError as error:
        raise ResourceExhaustedError(f"network {network.spec.name}: {error.message}") from error
