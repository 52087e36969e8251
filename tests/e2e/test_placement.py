"""Where tasks go on three real nodes: a label that was missing, a rule that changes, a node that is emptied."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually, http_get

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

WORKERS = ("core-02", "core-03")


def _where(cluster: Cluster, service: str) -> Counter[str]:
    """How many tasks of the service run on each node."""
    out = cluster.ctl(
        *("core-01", "service", "ps", service, "--filter", "desired-state=running"),
        *("--format", "{{.Node}} {{.CurrentState}}"),
    ).stdout
    return Counter(line.split()[0] for line in out.splitlines() if " Running " in f"{line} ")


def _settled(cluster: Cluster, service: str, wanted: dict[str, int]) -> None:
    eventually(lambda: _where(cluster, service) == wanted, f"{service} runs as {wanted}")


def _create(cluster: Cluster, name: str, *flags: str) -> None:
    cluster.ctl("core-01", "service", "create", "-d", "--name", name, *flags, "whoami:1")


def test_three_nodes_with_the_image(cluster: Cluster, archives: dict[str, Path]) -> None:
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in WORKERS:
        cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
    for name in ("core-01", *WORKERS):
        cluster.ctl(name, "image", "load", "-i", str(archives["whoami:1"]))


def test_a_task_that_no_node_may_have_says_why_and_what_helps(cluster: Cluster) -> None:
    create = ("service", "create", "-d", "--name", "web", "-p", "4567:4567", "--replicas", "2")
    cluster.ctl("core-01", *create, "--constraint", "node.labels.disk==ssd", "whoami:1")

    def told() -> str:
        out = cluster.ctl("core-01", "task", "why", "web.1").stdout
        return out if "pending" in out else ""

    text = eventually(told, "the reason is known")
    assert text.startswith(
        "web.1 is pending: no suitable node (scheduling constraints not satisfied on 3 nodes)\n"
    )
    assert "core-02   constraint   constraint node.labels.disk==ssd: it has none\n" in text
    assert text.endswith("What would help: minictl node update --label-add 'disk=ssd' core-01\n")


def test_the_help_helps(cluster: Cluster) -> None:
    cluster.ctl("core-01", "node", "update", "--label-add", "disk=ssd", "core-02")
    _settled(cluster, "web", {"core-02": 2})
    assert http_get(cluster.lab.client, "http://core-01:4567/peer").strip() == "10.77.0.99"


def test_tasks_follow_the_label(cluster: Cluster) -> None:
    cluster.ctl("core-01", "node", "update", "--label-add", "disk=ssd", "core-03")
    cluster.ctl("core-01", "node", "update", "--label-rm", "disk", "core-02")
    _settled(cluster, "web", {"core-03": 2})
    history = cluster.ctl("core-01", "service", "ps", "--no-trunc", "web").stdout
    assert '"assigned node no longer meets constraints"' in history


def test_a_drained_node_is_emptied(cluster: Cluster) -> None:
    remove = ("--constraint-rm", "node.labels.disk==ssd", "--constraint-add", "node.role==worker")
    cluster.ctl("core-01", "service", "update", "-d", *remove, "--replicas-max-per-node", "2", "web")
    assert _where(cluster, "web") == {"core-03": 2}  # they still fit: nothing moves
    cluster.ctl("core-01", "node", "update", "--availability", "drain", "core-03")
    _settled(cluster, "web", {"core-02": 2})
    http_get(cluster.lab.client, "http://core-03:4567/")
    eventually(
        lambda: not cluster.lab["core-03"].run(["pidof", "httpd"], check=False).stdout,
        "no container is left on core-03",
    )
    (line,) = cluster.ctl("core-01", "service", "ls", "--format", "{{.Replicas}}").stdout.splitlines()
    assert line == "2/2 (max 2 per node)"


SPEEDS = {"core-01": "1", "core-02": "5", "core-03": "9"}

PLACED = [
    (("--constraint", "node.labels.speed<5"), {"core-01": 1}),
    (("--constraint", "node.labels.speed>5"), {"core-03": 1}),
    (("--constraint", "node.hostname in (core-01,CORE-02)", "--replicas", "2"), {"core-01": 1, "core-02": 1}),
    (("--constraint", "node.hostname=~-0[3-9]$"), {"core-03": 1}),
    (("--affinity", "anchor"), {"core-02": 1}),
    (("--anti-affinity", "anchor", "--replicas", "4"), {"core-01": 2, "core-03": 2}),
]
"""What is asked for, and where it runs; the service `anchor` is on core-02."""


def test_every_operator_and_affinity_places_on_real_nodes(cluster: Cluster) -> None:
    cluster.ctl("core-01", "service", "rm", "web")
    cluster.ctl("core-01", "node", "update", "--availability", "active", "core-03")
    for node, speed in SPEEDS.items():
        cluster.ctl("core-01", "node", "update", "--label-add", f"speed={speed}", node)
    _create(cluster, "anchor", "--constraint", "node.labels.speed==5")
    _settled(cluster, "anchor", {"core-02": 1})
    for number, (flags, wanted) in enumerate(PLACED):
        _create(cluster, f"placed-{number}", *flags)
        _settled(cluster, f"placed-{number}", wanted)


def test_a_preference_fills_branches_evenly_before_nodes(cluster: Cluster) -> None:
    for node, zone in (("core-01", "a"), ("core-02", "a"), ("core-03", "b")):
        cluster.ctl("core-01", "node", "update", "--label-add", f"zone={zone}", node)
    _create(cluster, "branches", "--placement-pref", "spread=node.labels.zone", "--replicas", "4")
    _settled(cluster, "branches", {"core-01": 1, "core-02": 1, "core-03": 2})


def test_a_host_port_is_one_tasks_own_per_node(cluster: Cluster) -> None:
    _create(cluster, "ported", "-p", "mode=host,target=4567,published=8088", "--replicas", "4")
    _settled(cluster, "ported", dict.fromkeys(SPEEDS, 1))
    text = "no suitable node (host-mode port already in use on 3 nodes)"
    assert text in cluster.ctl("core-01", "service", "ps", "--no-trunc", "ported").stdout
    assert http_get(cluster.lab.client, "http://core-02:8088/peer").strip() == "10.77.0.99"


def test_bin_packing_fills_one_node_first(cluster: Cluster) -> None:
    _create(cluster, "packed", "--placement-strategy", "binpack", "--reserve-memory", "8m", "--replicas", "3")
    eventually(lambda: list(_where(cluster, "packed").values()) == [3], "all three are on one node")


def test_the_replica_that_is_one_too_many_per_node_waits(cluster: Cluster) -> None:
    _create(cluster, "single", "--replicas-max-per-node", "1", "--replicas", "4")
    _settled(cluster, "single", dict.fromkeys(SPEEDS, 1))
    text = "no suitable node (max replicas per node limit exceed)"
    assert text in cluster.ctl("core-01", "service", "ps", "--no-trunc", "single").stdout


def test_an_image_for_other_machines_waits_and_one_for_both_runs(cluster: Cluster, registry: str) -> None:
    create = ("service", "create", "-d", "--name")
    cluster.ctl("core-01", *create, "foreign", f"{registry}/app/foreign:1", "sleep", "600")
    text = "no suitable node (unsupported platform on 3 nodes)"
    eventually(lambda: text in cluster.ctl("core-01", "task", "why", "foreign.1").stdout, "it waits")
    assert text in cluster.ctl("core-01", "service", "ps", "--no-trunc", "foreign").stdout
    cluster.ctl("core-01", *create, "both", f"{registry}/app/both:1", "sleep", "600")
    eventually(lambda: sum(_where(cluster, "both").values()) == 1, "the node has taken its own of the two")


def test_a_task_that_ends_well_and_for_good_has_converged(cluster: Cluster) -> None:
    quick = ("--restart-condition", "none", "--update-monitor", "1s", "--name", "once")
    done = cluster.ctl("core-01", "service", "create", *quick, "--entrypoint", "true", "whoami:1")
    assert done.stdout.endswith("verify: Service converged\n")


def test_a_task_that_fails_for_good_ends_the_wait_at_once(cluster: Cluster) -> None:
    create = (
        "service",
        "create",
        "--restart-condition",
        "none",
        "--name",
        "failing",
        "--entrypoint",
        "false",
    )
    done = cluster.ctl("core-01", *create, "whoami:1", check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "task failing.1 failed and is not started again, as the restart policy says: task: non-zero exit (1)\n"
    )


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--constraint", "node.labels.nowhere==1"), 4),
        (("--health-tcp", "1", "--health-start-period", "1h"), 124),
    ],
)
def test_what_does_not_come_about_in_time_has_an_exit_code(
    cluster: Cluster, flags: tuple[str, ...], code: int
) -> None:
    name = f"late-{code}"
    create = ("service", "create", "-q", "--name", name, "--update-deadline", "2s", *flags, "whoami:1")
    done = cluster.ctl("core-01", *create, check=False)
    assert (done.returncode, "no progress for 2s; it goes on in the background" in done.stderr) == (
        code,
        True,
    )
    cluster.ctl("core-01", "service", "rm", name)
