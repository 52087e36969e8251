"""A small cluster in a memory store with a running cache: what servicers and the dispatcher stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from minicommon.clock import Clock, VirtualClock
from minicommon.ids import new_id
from minicommon.supervise import Supervisor
from minimanager.domain.objects import (
    Cluster,
    ContainerSpec,
    Network,
    NetworkSpec,
    Node,
    NodeRole,
    NodeSpec,
    NodeState,
    NodeStatus,
    Object,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
)
from minimanager.rpc.core import Core
from minimanager.store.cache import Cache
from minimanager.store.keys import Keys
from minimanager.store.memory import MemoryStore
from minimanager.store.writer import Writer

MANAGER = "manager00000000000000000a"
WORKER = "worker000000000000000000b"


@asynccontextmanager
async def running_core(
    *objects: Object, clock: Clock | None = None
) -> AsyncIterator[tuple[Core, Supervisor]]:
    """A core whose store holds a cluster, an ingress network and `objects`, and a group for its tasks."""
    chosen = clock or VirtualClock()
    store = MemoryStore(clock=chosen)
    keys = Keys(new_id())
    core = Core(
        cache=Cache(store, keys),
        writer=Writer(store, keys),
        store=store,
        keys=keys,
        clock=chosen,
        node_id=MANAGER,
    )
    base = (Cluster(id=new_id()), ingress())
    await core.writer.commit_all([core.writer.begin().create(obj) for obj in (*base, *objects)])
    async with Supervisor() as supervisor:
        supervisor.start("cache", core.cache.run())
        await core.settle()
        yield core, supervisor
        supervisor.cancel()


def ingress() -> Network:
    return Network(
        id="ingress000000000000000000",
        spec=NetworkSpec(name="ingress", ingress=True),
        subnet="10.0.0.0/24",
        gateway="10.0.0.1",
        vni=4096,
    )


def node(node_id: str = WORKER, *, role: NodeRole = NodeRole.WORKER) -> Node:
    return Node(id=node_id, spec=NodeSpec(role=role), ingress_address="10.0.0.2")


def ready(node_id: str = WORKER, *, manager: str = MANAGER) -> NodeStatus:
    return NodeStatus(id=node_id, state=NodeState.READY, address="10.77.0.12", session_manager=manager)


def service(name: str = "web") -> Service:
    return Service(
        id=new_id(),
        spec=ServiceSpec(name=name, task=TaskSpec(container=ContainerSpec(image="whoami:1"))),
    )


def task(owner: Service, *, node_id: str = WORKER, slot: int = 1) -> Task:
    return Task(
        id=new_id(),
        service_id=owner.id,
        service_name=owner.spec.name,
        slot=slot,
        node_id=node_id,
        spec=owner.spec.task,
        spec_version=owner.spec_version,
        state=TaskState.ASSIGNED,
    )


async def reached(core: Core, revision: int) -> None:
    """Wait until the cache shows `revision`."""
    await asyncio.wait_for(core.cache.wait_for(revision), 5)
