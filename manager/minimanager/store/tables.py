"""The cache's dictionaries: one per kind and the indexes of tasks, copied on the first write after a snapshot."""

from __future__ import annotations

from typing import Any, Final, cast

from minimanager.domain.objects import Cluster, Object, Task
from minimanager.domain.snapshot import Snapshot
from minimanager.store.keys import Kind

_FIELDS: Final = {
    Kind.NODE: "nodes",
    Kind.NODE_STATUS: "node_statuses",
    Kind.SERVICE: "services",
    Kind.ROLLOUT: "rollouts",
    Kind.NETWORK: "networks",
    Kind.SECRET: "secrets",
    Kind.CONFIG: "configs",
    Kind.TASK: "tasks",
    Kind.STATUS: "statuses",
    Kind.TOKEN: "tokens",
    Kind.CLIENT: "clients",
}
"""The snapshot's field of each kind. The cluster is one object, so it has a field of its own."""


class _Shared:
    """A dictionary that snapshots may hold: `writable` copies it when one does."""

    __slots__ = ("data", "held")

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.held = False

    def writable(self) -> dict[str, Any]:
        if self.held:
            self.data = self.data.copy()
            self.held = False
        return self.data


class _Index:
    """Tasks by some id of theirs, in groups; a group is copied on its first write after a snapshot, as is the whole."""

    __slots__ = ("_groups", "_own")

    def __init__(self) -> None:
        self._groups = _Shared()
        self._own: set[str] = set()
        """The groups that no snapshot holds."""

    def hold(self) -> dict[str, Any]:
        self._groups.held = True
        self._own.clear()
        return self._groups.data

    def move(self, task_id: str, old: str | None, new: str | None, task: Task | None) -> None:
        """Take the task out of group `old` and put it in group `new`; None: it was, or is, in no group."""
        if old is not None and old != new:
            group = self._group(old)
            del group[task_id]
            if not group:
                del self._groups.writable()[old]
                self._own.discard(old)
        if new is not None and task is not None:
            self._group(new)[task_id] = task

    def _group(self, name: str) -> dict[str, Task]:
        groups = self._groups.writable()
        if name not in self._own:
            groups[name] = dict(groups.get(name, {}))
            self._own.add(name)
        return cast("dict[str, Task]", groups[name])


class Tables:
    """The objects at one revision."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._tables = {kind: _Shared() for kind in _FIELDS}
        self._by_service = _Index()
        self._by_node = _Index()
        self._by_network = _Index()
        self._snapshot: Snapshot | None = None

    def snapshot(self, revision: int) -> Snapshot:
        """The objects as a value that later changes leave alone."""
        if self._snapshot is None:
            fields: dict[str, Any] = {}
            for kind, table in self._tables.items():
                table.held = True
                fields[_FIELDS[kind]] = table.data
            self._snapshot = Snapshot(
                revision=revision,
                cluster=self._cluster,
                tasks_by_service=self._by_service.hold(),
                tasks_by_node=self._by_node.hold(),
                tasks_by_network=self._by_network.hold(),
                **fields,
            )
        return self._snapshot

    def at(self, revision: int) -> None:
        """The objects are now those of `revision`."""
        if self._snapshot is not None and self._snapshot.revision != revision:
            self._snapshot = None

    def keys(self) -> set[tuple[Kind, str]]:
        """Every object there is."""
        found = {(kind, object_id) for kind, table in self._tables.items() for object_id in table.data}
        return found | {(Kind.CLUSTER, self._cluster.id)} if self._cluster else found

    def get(self, kind: Kind, object_id: str) -> Object | None:
        """The object, if there is one."""
        if kind is Kind.CLUSTER:
            return self._cluster if self._cluster and self._cluster.id == object_id else None
        return cast("Object | None", self._tables[kind].data.get(object_id))

    def put(self, kind: Kind, object_id: str, obj: Object | None) -> Object | None:
        """Store the object, or remove it when None; returns what was there before."""
        old = self.get(kind, object_id)
        self._snapshot = None
        if kind is Kind.CLUSTER:
            self._cluster = cast("Cluster | None", obj)
            return old
        table = self._tables[kind].writable()
        if obj is None:
            table.pop(object_id, None)
        else:
            table[object_id] = obj
        if kind is Kind.TASK:
            self._index(object_id, cast("Task | None", old), cast("Task | None", obj))
        return old

    def _index(self, task_id: str, old: Task | None, new: Task | None) -> None:
        for index, before, after in (
            (self._by_service, old.service_id if old else None, new.service_id if new else None),
            (self._by_node, old.node_id if old else None, new.node_id if new else None),
        ):
            index.move(task_id, before, after, new)
        left, present = _networks(old), _networks(new)
        for network_id in left - present:
            self._by_network.move(task_id, network_id, None, None)
        for network_id in present:
            self._by_network.move(task_id, None, network_id, new)


def _networks(task: Task | None) -> set[str]:
    return {each.network_id for each in task.attachments} if task else set()
