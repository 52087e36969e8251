"""What the API shows of the cluster's objects: the objects themselves and what follows from several of them."""

from __future__ import annotations

from dataclasses import replace

from miniproto.v1 import control_pb2, objects_pb2

from minimanager.ca.issuer import signing_key
from minimanager.codec import to_proto
from minimanager.decide.scheduler.why import Answer
from minimanager.decide.slots import is_released
from minimanager.decide.upkeep import roots_digest
from minimanager.decide.wants import last_tries, wants
from minimanager.domain.objects import (
    Cluster,
    JoinToken,
    Network,
    Node,
    NodeRole,
    NodeState,
    NodeStatus,
    Service,
    ServiceMode,
    Task,
    TaskState,
)
from minimanager.domain.snapshot import Snapshot


def cluster(value: Cluster) -> objects_pb2.Cluster:
    """The cluster without its sealed fields."""
    bare = replace(
        value,
        sealed_root_key=b"",
        worker_token=JoinToken(expires_at_ns=value.worker_token.expires_at_ns),
        manager_token=JoinToken(expires_at_ns=value.manager_token.expires_at_ns),
        sealed_unlock_key=b"",
        sealed_former_unlock_key=b"",
        sealed_next_key=b"",
        root_rotation=replace(value.root_rotation, sealed_root_key=b""),
    )
    message: objects_pb2.Cluster = to_proto(bare)
    return message


def node(snapshot: Snapshot, value: Node, *, leader: str) -> control_pb2.NodeView:
    """`leader`: id of the manager that leads now; empty: none does."""
    status = snapshot.node_statuses.get(value.id)
    return control_pb2.NodeView(
        node=to_proto(value),
        status=None if status is None else to_proto(status),
        leader=value.id == leader,
        reachable=value.spec.role is NodeRole.MANAGER
        and status is not None
        and status.state is NodeState.READY,
        tls_status=_tls_status(snapshot, status),
    )


def _tls_status(snapshot: Snapshot, status: NodeStatus | None) -> str:
    """Docker's words: whether the node's certificate and trust are what the cluster wants."""
    if status is None or not status.certificate_issuer or snapshot.cluster is None:
        return "Unknown"
    wanted = (signing_key(snapshot.cluster), roots_digest(snapshot.cluster))
    return "Ready" if (status.certificate_issuer, status.trusted_roots) == wanted else "Needs Rotation"


def running(snapshot: Snapshot, value: Service) -> int:
    """Tasks observed running, ready, and wanted to run, on nodes that are not down."""
    return sum(
        1
        for task in snapshot.of_service(value.id).values()
        if is_released(task) and snapshot.up(task) and not _on_lost_node(snapshot, task)
    )


def service(snapshot: Snapshot, value: Service) -> control_pb2.ServiceView:
    """The service with its rollout, if it has one.

    Without its former revisions, which are asked for by themselves, and what its nodes show the registry.
    """
    wanted = wants(snapshot, value)
    rollout = snapshot.rollouts.get(value.id)
    return control_pb2.ServiceView(
        service=to_proto(replace(value, revisions=(), sealed_registry_auth=b"")),
        rollout=None if rollout is None else to_proto(rollout),
        running=running(snapshot, value),
        desired=wanted.now,
        completed=wanted.completed,
        given_up=wanted.given_up,
    )


def task(snapshot: Snapshot, value: Task) -> control_pb2.TaskView:
    """The task with what its node observed; the later of the two states counts, and its text with it."""
    status = snapshot.statuses.get(value.id)
    view = control_pb2.TaskView(
        task=to_proto(value),
        state=objects_pb2.TaskState.ValueType(value.state),
        state_since_ns=value.state_since_ns,
        error=value.error,
        node_hostname=hostname(snapshot, value.node_id),
    )
    if status is not None:
        view.status.CopyFrom(to_proto(status))
        if status.state >= value.state:
            view.state = objects_pb2.TaskState.ValueType(status.state)
            view.state_since_ns = status.state_since_ns
            view.error = status.error or value.error
    return view


def why(snapshot: Snapshot, value: Task, answer: Answer) -> control_pb2.WhyResponse:
    """The answer to why the task is where it is, with its nodes by host name."""
    refusals = [
        control_pb2.NodeRefusal(
            node_id=refusal.node_id,
            hostname=hostname(snapshot, refusal.node_id),
            filter=refusal.obstacles[0].filter,
            reason=refusal.obstacles[0].reason,
            others=[obstacle.reason for obstacle in refusal.obstacles[1:]],
        )
        for refusal in answer.refusals
    ]
    return control_pb2.WhyResponse(
        task=task(snapshot, value),
        summary=answer.summary,
        refusals=sorted(refusals, key=lambda refusal: (refusal.hostname, refusal.node_id)),
        help=answer.help,
        revision=snapshot.revision,
    )


def network(value: Network) -> objects_pb2.Network:
    message: objects_pb2.Network = to_proto(value)
    return message


def hostname(snapshot: Snapshot, node_id: str) -> str:
    """The node's host name; empty for a node that never connected or is gone."""
    status = snapshot.node_statuses.get(node_id)
    return "" if status is None else status.description.hostname


def live_tasks(snapshot: Snapshot, service_id: str) -> list[Task]:
    """The service's tasks that have not ended, by slot, those of a job that are done, and those that none follows.

    A task of a global service whose node is down is not there: nobody waits for it, and none takes its place.
    """
    service = snapshot.services.get(service_id)
    mode = service.spec.mode if service is not None else ServiceMode.REPLICATED
    last = {task.id for task in last_tries(snapshot, service)} if service is not None else set()
    tasks = [
        task
        for task in snapshot.of_service(service_id).values()
        if not (mode.is_global and _on_lost_node(snapshot, task))
        and (
            not snapshot.state(task).finished
            or (mode.is_job and task.desired_state is TaskState.COMPLETE)
            or task.id in last
        )
    ]
    return sorted(tasks, key=lambda task: (task.slot, task.bound_node_id, task.id))


def stopped_tasks(snapshot: Snapshot, service_id: str) -> list[Task]:
    """The service's tasks that may have had traffic and were told to stop, and have; the oldest first."""
    tasks = [
        task
        for task in snapshot.of_service(service_id).values()
        if (status := snapshot.statuses.get(task.id)) is not None
        and status.state.finished
        and status.stop.told_at_ns
    ]
    return sorted(tasks, key=lambda task: (task.meta.created_at_ns, task.id))


def _on_lost_node(snapshot: Snapshot, value: Task) -> bool:
    status = snapshot.node_statuses.get(value.node_id)
    return status is not None and status.state is NodeState.DOWN
