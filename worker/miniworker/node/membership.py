"""What this node is a member of, as membership.json holds it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from minicommon.paths import NodePaths
from minicommon.settings import read_json, write_json
from miniproto.v1 import objects_pb2 as pb


@dataclass(frozen=True, slots=True)
class Membership:
    node_id: str
    cluster_id: str
    role: int
    """Number of `mini.v1.NodeRole`."""
    advertise_host: str
    """Where other nodes send this one's traffic."""
    managers: tuple[str, ...]
    """host:port of the control API of the managers known when the node joined."""
    control_port: int = 0
    """Of this node's own manager; 0 on a worker."""
    managed_etcd: bool = False
    """The daemon runs etcd on this node."""

    @property
    def is_manager(self) -> bool:
        return self.role == pb.NODE_ROLE_MANAGER


def load_membership(paths: NodePaths) -> Membership | None:
    """None when the node is no member. Raises ValueError when the file is damaged."""
    if not paths.membership.exists():
        return None
    return read_json(paths.membership, Membership)


class StagedMembership:
    """A directory in the making: `commit` makes it the node's own in one rename, `discard` removes every trace."""

    def __init__(self, paths: NodePaths) -> None:
        self._final = paths.swarm_dir
        stage_data = paths.data_dir / "joining"
        shutil.rmtree(stage_data, ignore_errors=True)
        self.paths = NodePaths(stage_data, paths.run_dir)
        self.paths.swarm_dir.mkdir(parents=True, mode=0o700)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the staging directory, for root only."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_bytes(content)

    def commit(self) -> None:
        shutil.rmtree(self._final, ignore_errors=True)
        self.paths.swarm_dir.rename(self._final)
        self.discard()

    def discard(self) -> None:
        shutil.rmtree(self.paths.data_dir, ignore_errors=True)


def save_membership(paths: NodePaths, membership: Membership) -> None:
    write_json(paths.membership, membership)
