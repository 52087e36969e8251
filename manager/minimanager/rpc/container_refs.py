"""Which container a client means, and what the manager knows of containers that their nodes do not."""

from __future__ import annotations

from minicommon.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from miniproto.v1 import streams_pb2 as pb

from minimanager.codec import to_proto
from minimanager.domain.names import container_name
from minimanager.domain.objects import Task, TaskState
from minimanager.domain.one_off import one_off_name
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc import views


def shown_name(snapshot: Snapshot, task: Task) -> str:
    """What a list calls the task's container: its own name, or the one that `minictl run` was given."""
    return one_off_name(snapshot, task) or container_name(task)


def find_container(snapshot: Snapshot, ref: str) -> Task:
    """The task of the container that `ref` names: an id or its beginning, a task's or a container's name.

    A name that several tasks have had means the one that is to run, else the latest. Raises NotFoundError or
    InvalidArgumentError.
    """
    if not ref:
        raise InvalidArgumentError("container: a name or id must be given")
    if (exact := snapshot.tasks.get(ref)) is not None:
        return exact
    named = [task for task in snapshot.tasks.values() if ref in (task.name, shown_name(snapshot, task))]
    if named:
        return max(named, key=lambda task: (_is_present(snapshot, task), task.meta.created_at_ns, task.id))
    found = [task for key, task in snapshot.tasks.items() if key.startswith(ref)]
    if not found:
        raise NotFoundError(f"No such container: {ref}")
    if len(found) > 1:
        raise InvalidArgumentError(f"container {ref} is ambiguous ({len(found)} matches found)")
    return found[0]


def placed(snapshot: Snapshot, task: Task) -> Task:
    """The task. Raises FailedPreconditionError while it has no node."""
    if not task.node_id:
        raise FailedPreconditionError(
            f"task {task.name} has no container: {task.error or task.message or 'it has no node yet'}"
        )
    return task


def enrich(snapshot: Snapshot, info: pb.ContainerInfo, node_id: str) -> None:
    """Add what only the manager knows."""
    info.node_id = node_id
    info.node_hostname = views.hostname(snapshot, node_id)
    task = snapshot.tasks.get(info.id)
    if task is None:
        return
    info.task_name, info.service_name = task.name, task.service_name
    if name := one_off_name(snapshot, task):
        info.name, info.one_off = name, True
    status = snapshot.statuses.get(task.id)
    if status is not None:
        info.ports.extend(to_proto(port) for port in status.host_ports)
    info.attachments.extend(to_proto(each) for each in task.attachments)


def _is_present(snapshot: Snapshot, task: Task) -> bool:
    return task.desired_state < TaskState.SHUTDOWN and not snapshot.state(task).finished
