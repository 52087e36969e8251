"""The daemon with everything real around it: etcd, mini-manager, mini-ingress, two hosts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import BIN, RUN_DIR, Cluster, eventually
from support.hosts import Host, Lab
from support.images import write_tutorial_archives

pytestmark = pytest.mark.root

FIRST, SECOND = "core-01", "core-02"
NOT_A_MEMBER = (
    "Error response from daemon: This node is not a swarm manager. "
    'Use "minictl swarm init" or "minictl swarm join" to connect this node to swarm and try again.\n'
)

_PROBE = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.load_cert_chain(sys.argv[1], sys.argv[2])
with context.wrap_socket(socket.create_connection(("10.77.0.11", 2379))) as link:
    link.sendall(b"GET /version HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(link.recv(100))
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Lab(f"n{os.getpid() % 10000}", (FIRST, SECOND)) as lab:
        cluster = Cluster(lab, patient=True)
        cluster.start(FIRST, SECOND)
        yield cluster
    for daemon in cluster.daemons.values():
        daemon.wait()


def ctl(cluster: Cluster, host: str, *words: str) -> tuple[int, str]:
    done = cluster.ctl(host, *words, check=False)
    return done.returncode, done.stdout + done.stderr


def init(cluster: Cluster) -> str:
    """Make a cluster of the first host; its token for workers."""
    code, output = ctl(cluster, FIRST, "swarm", "init", "--advertise-addr", "10.77.0.11")
    assert code == 0, output
    match = re.search(r"--token (SWMTKN-1-\S+) 10\.77\.0\.11:2377", output)
    assert match, output
    return match[1]


def pids(host: Host, name: str) -> list[str]:
    return host.run(["pgrep", "-f", f"^(\\S*/python\\S* )?\\S*{name}( |$)"], check=False).stdout.split()


def assert_nothing_left(host: Host) -> None:
    """No membership, no child, nothing of ours in the kernel."""
    for name in ("etcd", "mini-manager", "mini-ingress"):
        assert pids(host, name) == []
    assert not (host.directory / "data" / "swarm").exists()
    assert not (host.directory / "data" / "joining").exists()
    assert host.run(["cat", "/run/mini/dns-table.pb"], check=False).returncode == 1
    links = host.run(["ip", "-br", "link"]).stdout.split("\n")
    assert sorted(link.split()[0].partition("@")[0] for link in links if link) == ["eth0", "lo"]
    assert host.run(["nft", "list", "ruleset"]).stdout == ""


def node_states(cluster: Cluster) -> dict[str, str]:
    listed = cluster.ctl(FIRST, "node", "ls", "--format", "{{.Hostname}} {{.Status}}").stdout
    return dict(line.split() for line in listed.splitlines())


def works_again(cluster: Cluster) -> None:
    """Wait until the first host, alone in its cluster, has its session again."""
    eventually(
        lambda: (
            ctl(cluster, FIRST, "node", "ls", "--format", "{{.Status}}") == (0, "Ready\n")
            and "Swarm: active" in ctl(cluster, FIRST, "info")[1]
        ),
        "the node is Ready",
    )


def test_outside_a_cluster(cluster: Cluster) -> None:
    assert ctl(cluster, FIRST, "service", "ls") == (1, NOT_A_MEMBER)
    assert ctl(cluster, FIRST, "swarm", "leave") == (
        1,
        "Error response from daemon: This node is not part of a swarm\n",
    )
    code, output = ctl(cluster, FIRST, "swarm", "init", "--advertise-addr", "10.99.0.1")
    assert (code, "is not an address of this machine (10.77.0.11)" in output) == (1, True)
    assert_nothing_left(cluster.lab[FIRST])
    host = cluster.lab[FIRST]
    data, run = str(host.directory / "data"), str(host.directory / "run")
    second = host.run([str(BIN / "mini-worker"), "--data-dir", data, "--run-dir", run], check=False)
    assert second.returncode == 1
    assert f"data directory {data} is in use by another mini-worker (pid " in second.stderr


def test_a_worker_comes_and_goes_and_the_manager_leaves_nothing(cluster: Cluster) -> None:
    token = init(cluster)
    first, second = cluster.lab[FIRST], cluster.lab[SECOND]
    code, output = ctl(cluster, FIRST, "swarm", "init")
    assert (code, "This node is already part of a swarm." in output) == (1, True)

    manager_token = cluster.ctl(FIRST, "swarm", "join-token", "-q", "manager").stdout.strip()
    code, output = ctl(cluster, SECOND, "swarm", "join", "--token", manager_token, "10.77.0.11")
    assert code == 1
    assert node_states(cluster) == {FIRST: "Ready"}, output
    assert_nothing_left(second)

    done = cluster.ctl(SECOND, "swarm", "join", "--token", token, "10.77.0.11:2377")
    assert done.stdout == "This node joined a swarm as a worker.\n"
    assert node_states(cluster) == {FIRST: "Ready", SECOND: "Ready"}
    code, output = ctl(cluster, SECOND, "node", "ls")
    assert (code, "Worker nodes can't be used to view or modify cluster state." in output) == (1, True)

    swarm = first.directory / "data" / "swarm"
    assert swarm.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in swarm.rglob("*") if path.is_file()} == {0}
    assert not (swarm / "bootstrap.json").exists()

    cluster.ctl(SECOND, "swarm", "leave")
    assert node_states(cluster) == {FIRST: "Ready", SECOND: "Down"}
    assert_nothing_left(second)
    code, output = ctl(cluster, FIRST, "swarm", "leave")
    assert (code, "Removing the last manager erases all current state" in output) == (1, True)
    cluster.ctl(FIRST, "swarm", "leave", "--force")
    assert_nothing_left(first)
    assert ctl(cluster, FIRST, "service", "ls") == (1, NOT_A_MEMBER)
    init(cluster)


def test_a_nodes_certificate_does_not_open_etcd(cluster: Cluster) -> None:
    init(cluster)
    host = cluster.lab[FIRST]
    swarm = host.directory / "data" / "swarm"
    probe = [str(BIN / "python"), "-c", _PROBE]
    own = host.run([*probe, str(swarm / "etcd-pki/client.pem"), str(swarm / "etcd-pki/client.key")])
    assert "200 OK" in own.stdout
    other = host.run([*probe, str(swarm / "node.pem"), str(swarm / "node.key")], check=False)
    assert other.returncode != 0
    assert "ssl" in other.stderr.lower()


def test_children_survive_the_daemon_and_are_found_again(cluster: Cluster) -> None:
    init(cluster)
    host = cluster.lab[FIRST]
    names = ("etcd", "mini-manager", "mini-ingress")
    before = {name: pids(host, name) for name in names}
    assert all(len(found) == 1 for found in before.values()), before

    cluster.kill(FIRST)
    assert {name: pids(host, name) for name in names} == before
    cluster.start(FIRST)
    works_again(cluster)
    assert {name: pids(host, name) for name in names} == before

    for name in names:
        host.run(["kill", "-9", *before[name]])
        eventually(lambda name=name: pids(host, name) not in ([], before[name]), f"{name} is started again")  # type: ignore[misc]
    works_again(cluster)


def test_sigint_stops_all_and_sigterm_only_the_daemon(cluster: Cluster) -> None:
    init(cluster)
    host = cluster.lab[FIRST]
    for signal, left in (("TERM", True), ("INT", False)):
        host.run(["kill", f"-{signal}", *pids(host, "mini-worker")])
        assert cluster.daemons[FIRST].wait(timeout=40) == 0
        assert bool(pids(host, "etcd")) is left
        assert bool(pids(host, "mini-manager")) is left
        assert host.run(["test", "-e", str(RUN_DIR / "mini.sock")], check=False).returncode == 1
        cluster.start(FIRST)
        works_again(cluster)


def test_a_start_that_fails_leaves_nothing_and_says_why(cluster: Cluster) -> None:
    host = cluster.lab[SECOND]
    tools = host.directory / "tools"
    tools.mkdir()
    (tools / "etcd").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "etcd Version: 3.4.23" && exit\necho "disk is full" >&2; exit 1\n'
    )
    (tools / "etcd").chmod(0o755)
    cluster.kill(SECOND)
    worker = str(BIN / "mini-worker")
    cluster.daemons[SECOND] = host.start(
        [worker, "--data-dir", str(host.directory / "data")],
        log="mini-worker.log",
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
    )
    eventually(lambda: ctl(cluster, SECOND, "info")[0] == 0, "the daemon answers")
    code, output = ctl(cluster, SECOND, "swarm", "init")
    assert code == 1
    assert output == "Error response from daemon: etcd ended with exit code 1: disk is full\n"
    assert_nothing_left(host)


def test_an_etcd_of_the_users_own_is_used_and_left_alone(cluster: Cluster) -> None:
    first, second = cluster.lab[FIRST], cluster.lab[SECOND]
    url = "http://10.77.0.12:12379"
    flags = ["--listen-client-urls", url, "--advertise-client-urls", url]
    etcd = second.start(["etcd", "--data-dir", str(second.directory / "etcd"), *flags], log="etcd.log")
    done = cluster.ctl(FIRST, "swarm", "init", "--advertise-addr", "10.77.0.11", "--etcd-endpoints", url)
    assert "is now a manager" in done.stdout
    assert pids(first, "etcd") == []
    assert node_states(cluster) == {FIRST: "Ready"}
    cluster.ctl(FIRST, "swarm", "leave", "--force")
    assert_nothing_left(first)
    assert etcd.poll() is None
    second.run(["kill", *pids(second, "etcd")])
    etcd.wait()


def test_the_membership_file_holds_no_secret(cluster: Cluster) -> None:
    token = init(cluster)
    stored = (cluster.lab[FIRST].directory / "data" / "swarm" / "membership.json").read_text()
    assert token.rpartition("-")[2] not in stored
    assert json.loads(stored)["managers"] == ["10.77.0.11:2378"]


def test_containers_survive_the_daemon_and_are_told_of_when_they_end(
    cluster: Cluster, tmp_path: Path
) -> None:
    init(cluster)
    host = cluster.lab[FIRST]
    archive = write_tutorial_archives(tmp_path)["whoami:1"]
    cluster.ctl(FIRST, "image", "load", "-i", str(archive))
    cluster.ctl(FIRST, "service", "create", "-d", "--name", "web", "--restart-condition", "none", "whoami:1")

    def state() -> str:
        listed = cluster.ctl(FIRST, "service", "ps", "web", "--format", "{{.CurrentState}} {{.Error}}")
        return listed.stdout.strip()

    def container() -> str:
        found = (host.directory / "data" / "oci" / "containers").glob("*/pid")
        return next(found).read_text().strip()

    eventually(lambda: state().startswith("Running"), "the task runs")
    pid = container()
    cluster.kill(FIRST)
    assert host.run(["kill", "-0", pid]).returncode == 0
    cluster.start(FIRST)
    works_again(cluster)
    assert state().startswith("Running")
    assert container() == pid

    cluster.kill(FIRST)
    host.run(["kill", "-9", pid])
    cluster.start(FIRST)
    works_again(cluster)
    eventually(lambda: state().startswith("Failed"), "the end is told")
    assert "task: non-zero exit (137)" in cluster.ctl(FIRST, "service", "ps", "web", "--no-trunc").stdout
    cluster.ctl(FIRST, "swarm", "leave", "--force")
    assert_nothing_left(host)
