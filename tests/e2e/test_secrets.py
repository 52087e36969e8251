"""Secrets on three real nodes: the tutorial's rows 12 to 18, rotation, the ledger, and a canary that is nowhere."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.canary import Canary
from support.cluster import Cluster, eventually, http_get
from support.hosts import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

NODES = ("core-01", "core-02", "core-03")
CANARY = "canary-5b1e9c-only-in-tmpfs"
ROTATED = "canary-5b1e9c-its-successor"


@pytest.fixture(scope="module")
def cluster(archives: dict[str, Path]) -> Iterator[Cluster]:
    """A manager and two workers."""
    with Lab(f"s{os.getpid() % 10000}", NODES) as lab:
        cluster = Cluster(lab, patient=True)
        cluster.start(*NODES)
        cluster.ctl("core-01", "swarm", "init", "--advertise-addr", lab["core-01"].address)
        token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
        for name in NODES[1:]:
            cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
        for name in NODES:
            for reference in ("busybox:latest", "secret:latest"):
                cluster.ctl(name, "image", "load", "-i", str(archives[reference]))
        yield cluster


def _ctl(cluster: Cluster, *words: str, input: str | None = None) -> str:
    return cluster.ctl("core-01", *words, input=input).stdout


def _quick(cluster: Cluster, *words: str) -> str:
    """Without the pauses that Swarm's defaults make after each task."""
    flags = ("--update-monitor", "100ms", "--rollback-monitor", "100ms", "--stop-grace-period", "1s")
    return _ctl(cluster, "service", "create", *flags, *words)


def _pid(cluster: Cluster, name: str, program: str) -> str:
    (pid,) = cluster.lab[name].run(["pidof", program]).stdout.split()
    return pid


def _inside(cluster: Cluster, name: str, program: str, *command: str, check: bool = True) -> str:
    """Run a command of the image in the container of the only such program on the node."""
    pid = _pid(cluster, name, program)
    done = cluster.lab[name].run(
        ["nsenter", f"--target={pid}", "--mount", "--pid", "--root", *command], check=check
    )
    return done.stdout + done.stderr


def _left(cluster: Cluster, name: str) -> str:
    """What of secrets is on the node: directories of tasks, and mounts."""
    script = "ls -A /run/mini/secrets; grep mini/secrets /proc/mounts"
    return cluster.lab[name].run(["sh", "-c", script], check=False).stdout


def _kill(cluster: Cluster, name: str, program: str) -> None:
    """End one of our programs without warning."""
    host = cluster.lab[name]
    for pid in host.run(["pgrep", "-f", f"bin/{program} --data-dir"]).stdout.split():
        host.run(["kill", "-9", pid])


# --- the tutorial ---


def test_a_secret_is_made_from_standard_input(cluster: Cluster) -> None:
    out = _ctl(cluster, "secret", "create", "my-password", "-", input="this is my password!\n")
    assert re.fullmatch(r"[0-9a-z]{25}\n", out)


def test_a_service_reads_it_and_every_node_answers(cluster: Cluster) -> None:
    words = ("--name", "secret", "--secret", "my-password", "-p", "4569:4567", "--replicas", "3")
    out = _quick(cluster, *words, "-e", "SECRET_PATH=/run/secrets/my-password", "secret:latest")
    assert "verify: Service converged" in out
    for name in NODES:
        assert http_get(cluster.lab.client, f"http://{name}:4569/") == "this is my password!\n"


def test_it_is_a_read_only_file_of_roots(cluster: Cluster) -> None:
    for name in NODES:
        listed = _inside(cluster, name, "httpd", "ls", "-l", "/run/secrets").splitlines()
        (line,) = [line for line in listed if "my-password" in line]
        assert line.split()[:5] == ["-r--r--r--", "1", "root", "root", "21"]
        assert _inside(cluster, name, "httpd", "cat", "/run/secrets/my-password") == "this is my password!\n"
        said = _inside(cluster, name, "httpd", "sh", "-c", "echo x > /run/secrets/my-password", check=False)
        assert "Read-only file system" in said
        mounts = _inside(cluster, name, "httpd", "cat", "/proc/self/mounts")
        (mount,) = [line for line in mounts.splitlines() if " /run/secrets " in line]
        assert mount.startswith("tmpfs /run/secrets tmpfs ro,")


def test_it_is_read_from_any_node_and_not_in_an_image_of_the_container(cluster: Cluster) -> None:
    ids = _ctl(cluster, "ps", "--filter", "name=secret", "-q").split()
    assert len(ids) == len(NODES)
    for each in ids:
        (line,) = _ctl(cluster, "exec", each, "ls", "-l", "/run/secrets").strip().splitlines()[-1:]
        assert line.split()[:5] == ["-r--r--r--", "1", "root", "root", "21"]
        assert _ctl(cluster, "exec", each, "cat", "/run/secrets/my-password") == "this is my password!\n"
    own = _local_container(cluster)
    _ctl(cluster, "commit", own, "committed_secret")
    words = ("run", "--rm", "--entrypoint", "cat", "committed_secret", "/run/secrets/my-password")
    done = cluster.ctl("core-01", *words, check=False)
    assert done.returncode != 0
    assert "No such file or directory" in done.stdout + done.stderr
    for name in NODES:
        found = cluster.lab[name].run(
            ["find", str(cluster.lab[name].directory / "data" / "oci"), "-xdev", "-name", "my-password"]
        )
        assert found.stdout == ""


def _local_container(cluster: Cluster) -> str:
    """The id of the container on the manager."""
    form = "{{.ID}} {{.Node}}"
    tasks = _ctl(cluster, "service", "ps", "secret", "--no-trunc", "--format", form).splitlines()
    (task,) = [line.split()[0] for line in tasks if line.endswith("core-01")]
    return task


def test_who_has_it_and_what_the_ledger_says(cluster: Cluster) -> None:
    rows = _ctl(cluster, "secret", "who", "my-password", "--format", "{{.Name}} {{.Node}} {{.Version}}")
    assert sorted(line.split()[1:] for line in rows.splitlines()) == [[name, "1"] for name in NODES]
    form = "{{.Event}} {{.Secret}} {{.Node}}"

    def confirmed() -> bool:
        events = sorted(_ctl(cluster, "secret", "audit", "--format", form).splitlines())
        return events == sorted(
            f"{event} my-password {node}" for event in ("delivered", "received") for node in NODES
        )

    eventually(confirmed, "both deliveries have their receipts")
    assert _ctl(cluster, "secret", "audit", "--since", "1h", "my-password").count("delivered") == len(NODES)
    said = _ctl(cluster, "secret", "audit", "--verify")
    assert said == "The ledger is whole: 6 records, 3 receipts, 0 deliveries without one\n"


def test_the_agent_may_be_killed_and_comes_back_to_the_same_files(cluster: Cluster) -> None:
    before = _pid(cluster, "core-02", "httpd")
    cluster.kill("core-02")
    assert http_get(cluster.lab.client, "http://core-02:4569/") == "this is my password!\n"
    cluster.start("core-02")
    eventually(lambda: _ctl(cluster, "node", "ls").count("Ready") == len(NODES), "core-02 is back")
    assert _pid(cluster, "core-02", "httpd") == before
    assert _inside(cluster, "core-02", "httpd", "cat", "/run/secrets/my-password") == "this is my password!\n"


def test_it_is_not_removed_while_it_is_in_use(cluster: Cluster) -> None:
    done = cluster.ctl("core-01", "secret", "rm", "my-password", check=False)
    assert done.returncode == 1
    assert "secret 'my-password' is in use by the following service: secret" in done.stderr


def test_a_service_lets_go_of_it(cluster: Cluster) -> None:
    out = _ctl(cluster, "service", "update", "--secret-rm", "my-password", "secret")
    assert "verify: Service converged" in out
    for each in _ctl(cluster, "ps", "--filter", "name=secret", "-q").split():
        done = cluster.ctl("core-01", "exec", each, "cat", "/run/secrets/my-password", check=False)
        assert "No such file or directory" in done.stdout + done.stderr
    for name in NODES:
        eventually(lambda name=name: _left(cluster, name) == "", f"nothing is left on {name}")  # type: ignore[misc]


def test_then_it_is_removed(cluster: Cluster) -> None:
    assert _ctl(cluster, "secret", "rm", "my-password") == "my-password\n"
    assert _ctl(cluster, "secret", "ls").split() == ["ID", "NAME", "DRIVER", "CREATED", "UPDATED"]
    _ctl(cluster, "service", "rm", "secret")


# --- more than the tutorial ---


def test_targets_owners_modes_and_templates(cluster: Cluster) -> None:
    _ctl(cluster, "secret", "create", "key", "-", input="k3y")
    template = (
        'node={{.Node.Hostname}} slot={{.Task.Slot}} mode={{env "MODE"}} key={{secret "/etc/app/key"}}\n'
    )
    _ctl(cluster, "config", "create", "--template-driver", "golang", "app.conf", "-", input=template)
    _ctl(cluster, "config", "create", "plain", "-", input="as it is {{.Task.Slot}}\n")
    _quick(
        cluster,
        *("--name", "reader", "--user", "web", "--read-only", "-e", "MODE=on"),
        *("--secret", "source=key,target=/etc/app/key,uid=1000,gid=1000,mode=0400"),
        *("--config", "source=app.conf,target=/etc/app/app.conf", "--config", "plain"),
        *("--constraint", "node.hostname==core-02", "busybox:latest", "sleep", "600"),
    )
    show = "id -u; cat /etc/app/app.conf /plain; ls -ln /etc/app/key"
    lines = cluster.lab["core-02"].run(
        [
            *("nsenter", f"--target={_pid(cluster, 'core-02', 'sleep')}", "--mount", "--root"),
            *("--setuid=1000", "--setgid=1000", "sh", "-c", show),
        ]
    )
    user, text, plain, listed = lines.stdout.splitlines()
    assert (user, plain) == ("1000", "as it is {{.Task.Slot}}")
    assert text == "node=core-02 slot=1 mode=on key=k3y"
    assert listed.split()[:5] == ["-r--------", "1", "1000", "1000", "3"]
    (shown,) = json.loads(_ctl(cluster, "service", "inspect", "reader"))
    assert shown["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["File"]["Mode"] == 0o400
    _ctl(cluster, "service", "rm", "reader")
    for kind, name in (("config", "app.conf"), ("config", "plain"), ("secret", "key")):
        assert _ctl(cluster, kind, "rm", name) == f"{name}\n"


def test_a_rotation_reaches_every_task_and_the_old_content_goes(cluster: Cluster) -> None:
    _ctl(cluster, "secret", "create", "rotating", "-", input=CANARY)
    words = ("--name", "rolled", "--secret", "rotating", "-p", "4570:4567", "--replicas", "3")
    _quick(cluster, *words, "-e", "SECRET_PATH=/run/secrets/rotating", "secret:latest")
    assert http_get(cluster.lab.client, "http://core-02:4570/") == CANARY
    out = _ctl(cluster, "secret", "rotate", "rotating", "-", "--grace", "0s", input=ROTATED)
    assert out.splitlines()[0] == "rotating: version 2 goes to rolled"
    assert out.splitlines()[1].startswith("rotating: no task uses version 1 any more")
    for name in NODES:
        assert http_get(cluster.lab.client, f"http://{name}:4570/") == ROTATED
    assert _ctl(cluster, "secret", "who", "rotating", "--format", "{{.Version}}").split() == ["2", "2", "2"]


def test_a_rotation_whose_tasks_fail_is_taken_back(cluster: Cluster) -> None:
    _ctl(cluster, "secret", "create", "checked", "-", input="good")
    check = "grep -q good /run/secrets/checked || exit 3; exec sleep 600"
    _quick(
        cluster,
        *("--name", "strict", "--secret", "checked", "--restart-delay", "100ms"),
        *("busybox:latest", "sh", "-c", check),
    )
    done = cluster.ctl("core-01", "secret", "rotate", "checked", "-", check=False, input="bad")
    assert done.returncode == 1
    assert "checked: version 1 is in use again, because version 2 failed: service strict" in done.stderr
    (shown,) = json.loads(_ctl(cluster, "secret", "inspect", "checked"))
    assert (shown["CurrentVersion"], shown["Rotation"]["State"]) == (1, "reverted")
    eventually(lambda: "1/1" in _ctl(cluster, "service", "ls", "--filter", "name=strict"), "it runs again")
    _ctl(cluster, "service", "rm", "strict")


# --- the canary ---


SEARCH = Canary(CANARY, ROTATED)


def test_the_canary_is_in_the_tmpfs_and_nowhere_else(cluster: Cluster) -> None:
    """After creation, delivery, rotation, a commit, refusals, a backup, and a crash of all that have had it."""
    held = [found for name in NODES for found in SEARCH.held(cluster.lab[name])]
    assert len(held) == len(NODES), "the search would find it"
    (task,) = _ctl(cluster, "ps", "--filter", "name=rolled", "--filter", "node=core-01", "-q").split()
    _ctl(cluster, "commit", task, "committed_canary")
    refused = _refusals(cluster)
    backup = cluster.lab["core-01"].directory / "swarm.backup"
    passphrase = "correct horse battery staple\n"
    _ctl(cluster, "swarm", "backup", "--passphrase-file", "-", str(backup), input=passphrase)
    for program in ("mini-worker", "mini-ingress"):
        _kill(cluster, "core-03", program)
    cluster.daemons["core-03"].wait(30)
    cluster.start("core-03")
    _kill(cluster, "core-01", "mini-manager")
    cluster.lab["core-01"].run(["kill", "-9", _pid(cluster, "core-01", "etcd")])
    eventually(lambda: http_get(cluster.lab.client, "http://core-01:4570/") == ROTATED, "it still answers")
    eventually(
        lambda: cluster.ctl("core-01", "secret", "ls", check=False).returncode == 0, "the manager is back"
    )
    shown = "".join(
        _ctl(cluster, *words)
        for words in (
            ("service", "inspect", "rolled"),
            ("service", "ps", "--no-trunc", "rolled"),
            ("service", "history", "rolled"),
            ("secret", "inspect", "rotating"),
            ("secret", "audit", "--no-trunc"),
            ("secret", "who", "rotating"),
            ("audit", "ls", "--format", "{{json .}}"),
            ("info",),
        )
    )
    assert "canary-" not in shown + refused
    for name in NODES:
        assert SEARCH.elsewhere(cluster.lab[name]) == []


def _refusals(cluster: Cluster) -> str:
    """What is said to requests that have the content and cannot be."""
    attempts = (
        ("secret", "create", "rotating", "-"),
        ("secret", "create", "no name!", "-"),
        ("secret", "create", "--template-driver", "golang", "templated", "-"),
        ("secret", "rotate", "nope", "-"),
    )
    said = ""
    for words in attempts:
        done = cluster.ctl("core-01", *words, check=False, input=f"{{{{{CANARY}}}}}")
        assert done.returncode == 1, words
        said += done.stdout + done.stderr
    return said


_DUMP = """
import asyncio, sys
from pathlib import Path
from minicommon.clock import SystemClock
from minicommon.paths import NodePaths
from minicommon.settings import ManagerSettings, read_json
from minimanager.store.etcd.client import EtcdStore

async def dump():
    settings = read_json(NodePaths(Path(sys.argv[1])).manager_settings, ManagerSettings)
    store = EtcdStore(settings.etcd, clock=SystemClock())
    patterns = [line.encode() for line in sys.stdin.read().split()]
    items = (await store.list("/")).items
    found = [item.key for item in items if any(each in item.value for each in patterns)]
    print(len(items), sum(item.key.startswith("/mini/sealed/") for item in items), *found)
    await store.close()

asyncio.run(dump())
"""
"""Prints how many keys there are, how many contents, and the keys with a pattern of standard input in their value."""


def test_the_canary_is_not_in_what_etcd_tells(cluster: Cluster) -> None:
    directory = cluster.lab["core-01"].directory / "data"
    script = f"{sys.executable} -c '{_DUMP}' {directory}"
    keys, contents, *found = SEARCH.search(cluster.lab["core-01"], script)
    assert int(keys) > 20
    assert int(contents) >= 1
    assert found == []


def test_leaving_takes_every_secret_along(cluster: Cluster) -> None:
    for name in NODES[1:]:
        cluster.ctl(name, "swarm", "leave")
        assert _left(cluster, name) == ""
    cluster.ctl("core-01", "swarm", "leave", "--force")
