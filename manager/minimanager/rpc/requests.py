"""What requests have in common: they are checked before they are looked at, and they refer to objects."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message
from minicommon.errors import ConflictError, FailedPreconditionError, InvalidArgumentError
from miniproto.v1 import control_pb2, objects_pb2

from minimanager.codec import refuse_unknown_fields
from minimanager.domain.filters import node_name
from minimanager.domain.objects import Cluster, Meta, Network, Node, Service, Task, TaskState
from minimanager.domain.resolve import resolve
from minimanager.domain.snapshot import Snapshot

OUT_OF_SEQUENCE = "update out of sequence"
"""SwarmKit's words for an update that is based on an older version than the present one."""


MAX_AUTH_BYTES = 16_384
"""Of a registry's user name and password together: some registries give tokens of a few thousand."""


def check(request: Message) -> None:
    """Raises InvalidArgumentError for a field that this version does not know, and would silently not obey."""
    refuse_unknown_fields(request)


def check_registry_auth(auth: objects_pb2.RegistryAuth) -> None:
    """Raises InvalidArgumentError, and says nothing of what was given."""
    if not auth.username or not auth.password:
        raise InvalidArgumentError("registry_auth: must have both a username and a password")
    if len(auth.username) + len(auth.password) > MAX_AUTH_BYTES:
        raise InvalidArgumentError(f"registry_auth: must be at most {MAX_AUTH_BYTES} characters")
    if ":" in auth.username or any(ord(char) < 32 for char in auth.username + auth.password):
        raise InvalidArgumentError(
            "registry_auth: the username must have no colon, and neither part a control character (RFC 7617)"
        )


def filters_of(filters: Iterable[control_pb2.Filter]) -> dict[str, list[str]]:
    """The values asked for by key; a key given twice has the values of both."""
    found: dict[str, list[str]] = {}
    for each in filters:
        found.setdefault(each.key, []).extend(each.values)
    return found


def ensure_version(meta: Meta, version: int) -> None:
    """Raises ConflictError unless the change is based on the present version."""
    if meta.version != version:
        raise ConflictError(
            f"{OUT_OF_SEQUENCE}: version {version} was given, the object is at {meta.version}"
        )


def require_cluster(snapshot: Snapshot) -> Cluster:
    """Raises FailedPreconditionError before the first manager has written the cluster."""
    if snapshot.cluster is None:
        raise FailedPreconditionError("the cluster has not been created yet")
    return snapshot.cluster


def find_service(snapshot: Snapshot, ref: str) -> Service:
    """A service by id, name or beginning of its id. One that is being removed answers to its full id only."""
    exact = snapshot.services.get(ref)
    if exact is not None:
        return exact
    present = {key: service for key, service in snapshot.services.items() if not service.removing}
    return resolve("service", ref, present, name=lambda service: service.spec.name)


def find_node(snapshot: Snapshot, ref: str) -> Node:
    """A node by id, host name or beginning of its id."""
    return resolve("node", ref, snapshot.nodes, name=lambda node: node_name(snapshot, node))


def find_task(snapshot: Snapshot, ref: str) -> Task:
    """A task by id, name or beginning of its id.

    Of a name that several tasks have had it is the newest of those that are to run, else the newest of all.
    """
    present = {
        key: task
        for key, task in snapshot.tasks.items()
        if task.desired_state < TaskState.SHUTDOWN and not snapshot.state(task).finished
    }
    for tasks in (present, snapshot.tasks):
        if named := [task for task in tasks.values() if task.name == ref]:
            return max(named, key=lambda task: (task.meta.created_at_ns, task.id))
    return resolve("task", ref, snapshot.tasks, name=lambda task: task.name)


def find_network(snapshot: Snapshot, ref: str) -> Network:
    """A network by id, name or beginning of its id. One that is being removed cannot be used any more."""
    present = {key: network for key, network in snapshot.networks.items() if not network.removing}
    return resolve("network", ref, present, name=lambda network: network.spec.name)
