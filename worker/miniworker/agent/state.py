"""What the agent must still know after a crash: its assignments and what it last said of each task.

One sqlite file in WAL mode, so that a crash at any moment leaves the state before or after a change. It is a local
cache of what the manager knows, never of a secret: assignments name them and do not carry them (`deliveries.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb

_SCHEMA = """
CREATE TABLE IF NOT EXISTS assignment (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS status (task_id TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manager (address TEXT PRIMARY KEY) WITHOUT ROWID;
"""

_BUSY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Stored:
    """What the file held when the agent started."""

    assignments: dict[str, dispatch.Assignment]
    statuses: dict[str, pb.TaskStatus]
    managers: tuple[str, ...]


class AgentState:
    """The file. Calls take well under a millisecond and so run on the event loop."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        path.chmod(0o600)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA)

    def load(self) -> Stored:
        rows = self._database.execute
        return Stored(
            assignments={
                key: dispatch.Assignment.FromString(value)
                for key, value in rows("SELECT key, value FROM assignment")
            },
            statuses={
                task_id: pb.TaskStatus.FromString(value)
                for task_id, value in rows("SELECT task_id, value FROM status")
            },
            managers=tuple(address for (address,) in rows("SELECT address FROM manager ORDER BY address")),
        )

    def save_assignments(self, changed: dict[str, dispatch.Assignment], removed: Iterable[str]) -> None:
        """Write a message's changes in one transaction."""
        with self._transaction() as database:
            database.executemany("DELETE FROM assignment WHERE key = ?", [(key,) for key in removed])
            database.executemany(
                "INSERT OR REPLACE INTO assignment VALUES (?, ?)",
                [(key, item.SerializeToString()) for key, item in changed.items()],
            )

    def save_status(self, status: pb.TaskStatus) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO status VALUES (?, ?)", (status.id, status.SerializeToString())
        )

    def forget_status(self, task_id: str) -> None:
        self._database.execute("DELETE FROM status WHERE task_id = ?", (task_id,))

    def save_managers(self, addresses: Iterable[str]) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM manager")
            database.executemany(
                "INSERT OR IGNORE INTO manager VALUES (?)", [(address,) for address in addresses]
            )

    def close(self) -> None:
        self._database.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._database)


class _Transaction:
    """BEGIN on entry; COMMIT, or ROLLBACK when an exception passes."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._database.execute("BEGIN IMMEDIATE")
        return self._database

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._database.execute("ROLLBACK" if kind else "COMMIT")
