"""The modes on three real nodes: something on every node, something that ends, something that cannot stay up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NODES = ("core-01", "core-02", "core-03")


def _lines(cluster: Cluster, *arguments: str) -> list[str]:
    return cluster.ctl("core-01", *arguments).stdout.splitlines()


def test_three_nodes_with_the_image(cluster: Cluster, archives: dict[str, Path]) -> None:
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in NODES[1:]:
        cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
    for name in NODES:
        cluster.ctl(name, "image", "load", "-i", str(archives["whoami:1"]))


def test_a_global_service_is_on_every_node_and_leaves_the_one_that_is_drained(cluster: Cluster) -> None:
    out = cluster.ctl(
        "core-01", "service", "create", "--mode", "global", "--name", "agent", "whoami:1"
    ).stdout
    assert "overall progress: 3 out of 3 tasks\n" in out
    assert sorted(_lines(cluster, "service", "ps", "agent", "--format", "{{.Node}}")) == list(NODES)
    cluster.ctl("core-01", "node", "update", "--availability", "drain", "core-03")
    listed = ("service", "ls", "--format", "{{.Mode}} {{.Replicas}}")
    eventually(lambda: _lines(cluster, *listed) == ["global 2/2"], "core-03 is empty")
    cluster.ctl("core-01", "node", "update", "--availability", "active", "core-03")
    eventually(lambda: _lines(cluster, *listed) == ["global 3/3"], "core-03 has it again")
    cluster.ctl("core-01", "service", "rm", "agent")


def test_a_job_runs_to_completion(cluster: Cluster) -> None:
    create = ("service", "create", "--mode", "replicated-job", "--replicas", "5", "--max-concurrent", "2")
    done = cluster.ctl("core-01", *create, "--name", "batch", "--entrypoint", "sh -c 'exit 0'", "whoami:1")
    assert done.stdout.endswith("job complete\n")
    assert _lines(cluster, "service", "ls", "--format", "{{.Replicas}}") == ["0/0 (5/5 completed)"]
    states = _lines(cluster, "service", "ps", "batch", "--format", "{{.Name}} {{.CurrentState}}")
    assert [line.split()[:2] for line in states] == [[f"batch.{slot}", "Complete"] for slot in range(1, 6)]
    cluster.ctl("core-01", "service", "rm", "batch")


def test_a_job_that_fails_is_an_error(cluster: Cluster) -> None:
    create = ("service", "create", "--mode", "global-job", "--restart-condition", "none", "--name", "bad")
    failing = ("--no-resolve-image", "--entrypoint", "sh -c 'exit 3'", "whoami:1")
    done = cluster.ctl("core-01", *create, *failing, check=False)
    assert done.returncode == 1
    assert done.stderr == "job failed: 3 out of 3 tasks failed and will not be tried again\n"
    errors = _lines(cluster, "service", "ps", "bad", "--format", "{{.Error}}")
    assert errors == ['"task: non-zero exit (3)"'] * 3
    cluster.ctl("core-01", "service", "rm", "bad")


def test_a_crash_loop_is_slowed_down_and_shown(cluster: Cluster) -> None:
    create = ("service", "create", "-d", "--name", "loop", "--restart-delay", "2s")
    cluster.ctl("core-01", *create, "--entrypoint", "sh -c 'exit 1'", "whoami:1")

    def third_restart() -> bool:
        errors = _lines(cluster, "service", "ps", "loop", "--format", "{{.Error}}")
        return re.fullmatch(r'"restart 3 in [1-8] seconds"', errors[0]) is not None

    eventually(third_restart, "the third restart is waited for")
