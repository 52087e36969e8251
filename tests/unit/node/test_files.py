"""What the daemon keeps on disk, and the command lines it makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minicommon.paths import NodePaths
from miniproto.v1 import objects_pb2 as pb
from miniworker.node.config import ManagerPorts, parse_args, parse_listen
from miniworker.node.etcd import EtcdMember, etcd_child
from miniworker.node.joining import with_join_port
from miniworker.node.lock import DirectoryLock
from miniworker.node.membership import Membership, StagedMembership, load_membership, save_membership

MEMBERSHIP = Membership("node", "cluster", pb.NODE_ROLE_WORKER, "10.77.0.12", ("10.77.0.11:2378",))


def test_a_staged_membership_counts_only_once_it_is_committed(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path)
    stage = StagedMembership(paths)
    stage.write(stage.paths.node_key, b"key")
    save_membership(stage.paths, MEMBERSHIP)
    assert load_membership(paths) is None
    stage.commit()
    assert load_membership(paths) == MEMBERSHIP
    assert paths.node_key.read_bytes() == b"key"
    assert paths.node_key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["swarm"]


def test_a_discarded_stage_leaves_no_trace(tmp_path: Path) -> None:
    stage = StagedMembership(NodePaths(tmp_path))
    stage.write(stage.paths.node_key, b"key")
    stage.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_a_crash_left_is_swept_by_the_next(tmp_path: Path) -> None:
    StagedMembership(NodePaths(tmp_path)).write(tmp_path / "joining" / "swarm" / "old", b"x")
    fresh = StagedMembership(NodePaths(tmp_path))
    assert list(fresh.paths.swarm_dir.iterdir()) == []


def test_a_damaged_membership_is_named(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path)
    paths.swarm_dir.mkdir()
    paths.membership.write_text('{"node_id": "x"}')
    with pytest.raises(ValueError, match=r"membership\.json: expected the fields"):
        load_membership(paths)


def test_one_daemon_per_data_directory(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(FailedPreconditionError, match="is in use by another mini-worker"):
        DirectoryLock(tmp_path)
    lock.release()
    DirectoryLock(tmp_path).release()


def test_etcd_listens_with_mutual_tls_on_the_advertised_address_only() -> None:
    member = EtcdMember("n", "10.77.0.11", 2379, 2380, "c")
    argv = etcd_child(member, NodePaths(Path("/data")), version="3.4.23").argv
    flags = dict(word.removeprefix("--").split("=", 1) for word in argv[1:])
    assert argv[0] == "etcd"
    assert flags["listen-client-urls"] == flags["advertise-client-urls"] == "https://10.77.0.11:2379"
    assert flags["listen-peer-urls"] == "https://10.77.0.11:2380"
    assert flags["client-cert-auth"] == flags["peer-client-cert-auth"] == "true"
    assert flags["trusted-ca-file"] == "/data/swarm/etcd-pki/ca.pem"
    assert flags["max-txn-ops"] == "4096"
    assert flags["max-request-bytes"] == "8388608"
    assert flags["auto-compaction-retention"] == "24h"


def test_the_command_line() -> None:
    config = parse_args(
        ["--data-dir", "/a", "--run-dir", "/b", "--hostname", "h", "--insecure-registry", "r:5000"]
    )
    assert (config.paths.data_dir, config.paths.run_dir) == (Path("/a"), Path("/b"))
    assert (config.hostname, config.runtime, config.listen_address) == ("h", "auto", "0.0.0.0:2377")
    assert config.insecure_registries == ("r:5000",)
    assert not config.stop_all_on_exit


def test_one_number_moves_all_ports_of_a_manager() -> None:
    assert parse_listen("10.0.0.1:3000").ports == ManagerPorts(3000)
    ports = parse_listen("10.0.0.1").ports
    assert (ports.join, ports.control, ports.etcd_client, ports.etcd_peer) == (2377, 2378, 2379, 2380)
    with pytest.raises(InvalidArgumentError, match="listen address"):
        parse_listen("10.0.0.1:x")


def test_a_remote_address_has_the_join_port_if_it_names_none() -> None:
    assert with_join_port("10.77.0.11") == "10.77.0.11:2377"
    assert with_join_port("core-01:3000") == "core-01:3000"
