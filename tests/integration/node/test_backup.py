"""A backup of a real cluster, and the cluster back on a machine that knows nothing of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually
from support.hosts import Lab
from support.images import write_tutorial_archives

pytestmark = pytest.mark.root

MANAGER, WORKER, SPARE = "core-01", "core-02", "core-03"
PASSPHRASE = "correct horse"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tutorial_archives(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("backups")
    (folder / "passphrase").write_text(PASSPHRASE + "\n")
    options = [
        *("--backup-dir", str(folder / "scheduled"), "--backup-keep", "1", "--backup-interval", "10s"),
        *("--backup-passphrase-file", str(folder / "passphrase")),
    ]
    with Lab(f"b{os.getpid() % 10000}", (MANAGER, WORKER, SPARE)) as lab:
        cluster = Cluster(lab, worker_options=options)
        cluster.folder = folder  # type: ignore[attr-defined]
        cluster.start(MANAGER, WORKER, SPARE)
        yield cluster
    for daemon in cluster.daemons.values():
        daemon.wait()


def folder_of(cluster: Cluster) -> Path:
    folder: Path = cluster.folder  # type: ignore[attr-defined]
    return folder


def states(cluster: Cluster, host: str) -> dict[str, str]:
    done = cluster.ctl(host, "node", "ls", "--format", "{{.Hostname}} {{.Status}}", check=False)
    return dict(line.split() for line in done.stdout.splitlines()) if done.returncode == 0 else {}


def running(cluster: Cluster, host: str) -> dict[str, str]:
    """Hosts of the service's running tasks, by slot name."""
    done = cluster.ctl(
        *(host, "service", "ps", "web", "--filter", "desired-state=running"),
        *("--format", "{{.Name}} {{.Node}} {{.CurrentState}}"),
        check=False,
    )
    rows = [line.split() for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {row[0]: row[1] for row in rows if row[2] == "Running"}


def has_secret(cluster: Cluster, host: str, task: str) -> bool:
    """Whether the task reads the secret's content. Raises AssertionError, with what it says instead."""
    done = cluster.ctl(host, "exec", task, "cat", "/run/secrets/token", check=False)
    assert done.stdout == "s3cret", done.stdout + done.stderr
    return True


def test_a_backup_and_its_file(cluster: Cluster, archives: dict[str, Path]) -> None:
    cluster.ctl(MANAGER, "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl(MANAGER, "swarm", "join-token", "-q", "worker").stdout.strip()
    cluster.ctl(WORKER, "swarm", "join", "--token", token, "10.77.0.11:2377")
    for host in (MANAGER, WORKER):
        cluster.ctl(host, "image", "load", "-i", str(archives["busybox:latest"]))
    cluster.ctl(MANAGER, "secret", "create", "token", "-", input="s3cret")
    cluster.ctl(MANAGER, "network", "create", "--driver", "overlay", "back")
    cluster.ctl(
        *(MANAGER, "service", "create", "--name", "web", "--replicas", "2", "--secret", "token"),
        *("--network", "back", "--publish", "8080:8080", "busybox:latest", "sleep", "100000"),
    )
    file = folder_of(cluster) / "cluster.backup"
    made = cluster.ctl(
        MANAGER, "swarm", "backup", "--passphrase-file", "-", str(file), input=PASSPHRASE + "\n"
    )
    assert "sealed with a passphrase" in made.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    assert not list(folder_of(cluster).glob("*.partial"))
    again = cluster.ctl(MANAGER, "swarm", "backup", "--passphrase-file", "-", str(file), check=False)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    content = file.read_bytes()
    assert b"s3cret" not in content
    assert b"busybox" not in content

    good = cluster.ctl(SPARE, "swarm", "backup", "verify", str(file), input=PASSPHRASE + "\n")
    assert "Objects:  2 nodes, 1 service, 2 tasks, 2 networks, 1 secret, 0 configs" in good.stdout
    assert good.stdout.endswith(f"{file} is good.\n")
    wrong = cluster.ctl(SPARE, "swarm", "backup", "verify", str(file), input="wrong horse\n", check=False)
    assert (wrong.returncode, "the passphrase is wrong" in wrong.stderr) == (1, True)
    cut = folder_of(cluster) / "cut"
    cut.write_bytes(content[:-100])
    damaged = cluster.ctl(SPARE, "swarm", "restore", str(cut), input=PASSPHRASE + "\n", check=False)
    assert (damaged.returncode, "cut off or damaged" in damaged.stderr) == (1, True)
    assert not (cluster.lab[SPARE].directory / "data" / "swarm").exists()
    member = cluster.ctl(MANAGER, "swarm", "restore", str(file), input=PASSPHRASE + "\n", check=False)
    assert (member.returncode, "already part of a swarm" in member.stderr) == (1, True)
    assert "Backups/Create" in cluster.ctl(MANAGER, "audit", "ls").stdout


def test_scheduled_backups_are_kept_in_number(cluster: Cluster) -> None:
    directory = folder_of(cluster) / "scheduled"
    first = eventually(lambda: sorted(directory.glob("mini-*.backup")), "a first scheduled backup")
    second = eventually(
        lambda: [path for path in directory.glob("mini-*.backup") if path not in first],
        "the next one",
        timeout=60,
    )
    eventually(lambda: list(directory.glob("*.backup")) == second, "the older one is removed")
    cluster.ctl(SPARE, "swarm", "backup", "verify", str(second[0]), input=PASSPHRASE + "\n")


def test_the_manager_is_lost_and_restored_under_its_address(
    cluster: Cluster, archives: dict[str, Path]
) -> None:
    file = folder_of(cluster) / "cluster.backup"
    cluster_id = cluster.ctl(MANAGER, "info", "--format", "{{.Swarm.Cluster.ID}}").stdout
    cluster.ctl(MANAGER, "service", "create", "--name", "later", "--replicas", "0", "busybox:latest")
    host = cluster.lab[MANAGER]
    host.power_off()
    cluster.daemons[MANAGER].wait()
    eventually(
        lambda: "Swarm: active" not in cluster.ctl(WORKER, "info").stdout, "the worker sees that it is lost"
    )
    shutil.rmtree(host.directory / "data")
    host.power_on()
    cluster.start(MANAGER)
    cluster.ctl(MANAGER, "image", "load", "-i", str(archives["busybox:latest"]))

    done = cluster.ctl(MANAGER, "swarm", "restore", str(file), input=PASSPHRASE + "\n")
    assert "workers come back by themselves" in done.stdout
    assert cluster.ctl(MANAGER, "info", "--format", "{{.Swarm.Cluster.ID}}").stdout == cluster_id
    # Not by what the manager lists: it has the worker's state from the backup.
    eventually(
        lambda: "Swarm: active" in cluster.ctl(WORKER, "info").stdout, "the worker has a session", timeout=90
    )
    eventually(
        lambda: states(cluster, MANAGER) == {MANAGER: "Ready", WORKER: "Ready"}, "and is Ready", timeout=60
    )
    for task in ("web.1", "web.2"):
        eventually(
            lambda task=task: has_secret(cluster, MANAGER, task),  # type: ignore[misc]
            "both tasks run and have the secret",
            timeout=60,
        )
    names = cluster.ctl(MANAGER, "service", "ls", "--format", "{{.Name}}").stdout
    assert names == "web\n", "what came after the backup is not known"
    cluster.ctl(MANAGER, "service", "scale", "web=3")
    eventually(lambda: len(running(cluster, MANAGER)) == 3, "it scales", timeout=60)
    token = cluster.ctl(MANAGER, "swarm", "join-token", "-q", "worker").stdout.strip()
    assert (
        "joined a swarm as a worker"
        in cluster.ctl(SPARE, "swarm", "join", "--token", token, "10.77.0.11:2377").stdout
    )
    whole = cluster.ctl(MANAGER, "secret", "audit", "--verify", check=False)
    assert whole.returncode == 0, whole.stdout + whole.stderr


def test_autolock_and_another_address(cluster: Cluster) -> None:
    """Sealed with the unlock key; the restored manager is locked like the old one."""
    cluster.ctl(SPARE, "swarm", "leave")
    cluster.ctl(MANAGER, "swarm", "update", "--autolock=true")
    key = cluster.ctl(MANAGER, "swarm", "unlock-key", "-q").stdout
    file = folder_of(cluster) / "locked.backup"
    made = cluster.ctl(MANAGER, "swarm", "backup", str(file))
    assert "sealed with the unlock key" in made.stdout
    cluster.lab[MANAGER].power_off()
    done = cluster.ctl(SPARE, "swarm", "restore", "--advertise-addr", "10.77.0.13", str(file), input=key)
    assert "Workers look for it at 10.77.0.11:2377; it is at 10.77.0.13:2377 now." in done.stdout
    command = next(line for line in done.stdout.splitlines() if "swarm join" in line).split()
    cluster.ctl(WORKER, "swarm", "leave")
    cluster.ctl(WORKER, *command[1:])
    listing = ("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
    eventually(
        lambda: (
            {f"{SPARE} Ready", f"{WORKER} Ready"} <= set(cluster.ctl(SPARE, *listing).stdout.splitlines())
        ),
        "the worker has joined",
        timeout=60,
    )
    data = cluster.lab[SPARE].directory / "data" / "swarm"
    eventually(lambda: not (data / "etcd-pki" / "server.key").exists(), "etcd's keys are in the keyring")
