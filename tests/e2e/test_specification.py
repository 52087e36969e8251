"""What a service reserves, limits, names and logs in with: from the command line to a real container on a real node."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from miniworker.runtime.oci import cgroups
from support.cluster import BIN, Cluster, eventually
from support.hosts import Lab
from support.images import whoami
from support.ports import free_port
from support.registry import PROGRAM, serve

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NODE = "box-01"
REGISTRY = "10.77.0.99:5001"
"""On the client's machine, in plain HTTP, and only for those who log in."""

USER, PASSWORD = "ann", "open sesame"
HTPASSWD = f"{USER}:$2b$04$qSk5Btt.nIUschvBrMg48ux9/RFdl8IsOUnH/wj6cZY0FCpDSAjGC\n"
"""bcrypt of the password, which is all that docker-registry takes."""


@pytest.fixture(scope="module")
def cluster(archives: dict[str, Path]) -> Iterator[Cluster]:
    """A cluster of one, with two graphics cards and three disks."""
    with Lab(f"s{os.getpid() % 10000}", (NODE,)) as lab:
        options = (
            *("--allow", "device", "--insecure-registry", REGISTRY, "--label", "rack=7"),
            *("--generic-resource", "GPU=UUID1,GPU=UUID2", "--generic-resource", "SSD=3"),
        )
        cluster = Cluster(lab, worker_options=options)
        cluster.start(NODE)
        cluster.ctl(NODE, "swarm", "init", "--advertise-addr", lab[NODE].address)
        for path in archives.values():
            cluster.ctl(NODE, "image", "load", "-i", str(path))
        yield cluster
        cluster.ctl(NODE, "swarm", "leave", "--force")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory of the node's that containers may be given."""
    tmp_path.chmod(0o777)
    return tmp_path


def _create(cluster: Cluster, name: str, *words: str) -> str:
    quick = ("--detach", "--stop-grace-period", "0s", "--name", name)
    return cluster.ctl(NODE, "service", "create", *quick, *words).stderr


def _ps(cluster: Cluster, name: str) -> list[str]:
    form = "{{.CurrentState}} {{.Error}}"
    return cluster.ctl(NODE, "service", "ps", name, "--no-trunc", "--format", form).stdout.splitlines()


def _remove(cluster: Cluster, *names: str) -> None:
    """Until the last of their containers is gone."""
    cluster.ctl(NODE, "service", "rm", *names)
    eventually(lambda: not _containers(cluster, *names), "their tasks are gone")


def _containers(cluster: Cluster, *services: str) -> list[str]:
    folder = cluster.lab[NODE].directory / "data" / "oci" / "containers"
    records = [json.loads(path.read_text()) for path in folder.glob("*/container.json")]
    return [each["id"] for each in records if each["labels"]["com.docker.swarm.service.name"] in services]


def _says(cluster: Cluster, shared: Path, script: str, *flags: str, name: str = "inside") -> list[str]:
    """The lines that a script prints inside a container with these flags, which goes on running."""
    out = shared / name
    mount = ("--mount", f"type=bind,source={shared},target=/out")
    whole = f"({script}) > /out/.{name} 2>&1; mv /out/.{name} /out/{name}; exec sleep 600"
    _create(cluster, name, *mount, *flags, "busybox:latest", "sh", "-c", whole)
    eventually(out.exists, "the container has reported")
    return out.read_text().splitlines()


# --- generic resources ---


def test_named_and_counted_resources_are_one_containers_own(cluster: Cluster, shared: Path) -> None:
    asked = ("--generic-resource", "GPU=1", "--generic-resource", "SSD=2")
    script = "env | grep ^DOCKER_RESOURCE_ | sort"
    assert _says(cluster, shared, script, *asked, name="first") == [
        "DOCKER_RESOURCE_GPU=UUID1",
        "DOCKER_RESOURCE_SSD=2",
    ]
    only = ("--generic-resource", "GPU=1")
    assert _says(cluster, shared, script, *only, name="second") == ["DOCKER_RESOURCE_GPU=UUID2"]
    _create(cluster, "third", *only, "busybox:latest", "sleep", "600")
    eventually(lambda: "insufficient resources on 1 node" in _ps(cluster, "third")[0], "it waits")
    why = cluster.ctl(NODE, "task", "why", "third.1").stdout
    assert "needs 1 GPU, 0 of 2 are free" in why
    _remove(cluster, "first")
    eventually(lambda: _ps(cluster, "third")[0].startswith("Running"), "it runs once a card is free")
    (task,) = json.loads(cluster.ctl(NODE, "task", "inspect", "third.1").stdout)
    assert task["GenericResources"] == [{"NamedResourceSpec": {"Kind": "GPU", "Value": "UUID1"}}]
    _remove(cluster, "second", "third")


def test_an_update_changes_what_is_reserved(cluster: Cluster) -> None:
    _create(cluster, "changing", "--generic-resource", "SSD=1", "busybox:latest", "sleep", "600")
    change = ("--generic-resource-add", "GPU=1", "--generic-resource-rm", "SSD")
    cluster.ctl(NODE, "service", "update", "--detach", *change, "changing")
    (service,) = json.loads(cluster.ctl(NODE, "service", "inspect", "changing").stdout)
    reserved = service["Spec"]["TaskTemplate"]["Resources"]["Reservations"]
    assert reserved == {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "GPU", "Value": 1}}]}
    _remove(cluster, "changing")


def test_the_node_shows_what_it_has_and_allows(cluster: Cluster) -> None:
    (node,) = json.loads(cluster.ctl(NODE, "node", "inspect", "self").stdout)
    assert node["Description"]["Resources"]["GenericResources"] == [
        {"NamedResourceSpec": {"Kind": "GPU", "Value": "UUID1"}},
        {"NamedResourceSpec": {"Kind": "GPU", "Value": "UUID2"}},
        {"DiscreteResourceSpec": {"Kind": "SSD", "Value": 3}},
    ]
    assert node["Description"]["Allowed"] == ["device"]
    pretty = cluster.ctl(NODE, "node", "inspect", "--pretty", "self").stdout
    assert "GPU=UUID1,UUID2 SSD=3" in pretty


# --- what the scheduler knows of a node ---


def test_a_label_that_the_daemon_was_given_counts_in_constraints(cluster: Cluster) -> None:
    for name, operator in (("here", "=="), ("elsewhere", "!=")):
        flags = ("--constraint", f"engine.labels.rack{operator}7")
        _create(cluster, name, *flags, "busybox:latest", "sleep", "600")
    eventually(lambda: _ps(cluster, "here")[0].startswith("Running"), "it runs on the labeled node")
    text = "no suitable node (scheduling constraints not satisfied on 1 node)"
    eventually(lambda: text in _ps(cluster, "elsewhere")[0], "the other waits")
    assert "engine.labels.rack!=7: it has '7'" in cluster.ctl(NODE, "task", "why", "elsewhere.1").stdout
    assert " - rack=7" in cluster.ctl(NODE, "node", "inspect", "--pretty", "self").stdout
    _remove(cluster, "here", "elsewhere")


def test_what_no_node_allows_waits_and_says_what_would_help(cluster: Cluster) -> None:
    flags = ("--privileged", "--device", "/dev/zero")
    _create(cluster, "mighty", *flags, "busybox:latest", "sleep", "600")
    text = "no suitable node (device, privileged not allowed on 1 node)"
    eventually(lambda: text in _ps(cluster, "mighty")[0], "it waits with the reason")
    why = cluster.ctl(NODE, "task", "why", "mighty.1").stdout
    assert "it does not allow privileged" in why
    assert f"What would help: start mini-worker on {NODE} with --allow privileged" in why
    _remove(cluster, "mighty")


# --- limits ---


def test_limits_are_the_kernels(cluster: Cluster, shared: Path) -> None:
    limits = ("--limit-cpu", "0.5", "--limit-memory", "64m", "--limit-pids", "50")
    if cgroups.is_unified():
        script = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
        quota = "50000 100000"
    else:
        script = "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes pids/pids.max"
        quota = "50000"
    assert _says(cluster, shared, script, *limits) == [quota, str(64 << 20), "50"]
    _remove(cluster, "inside")


def test_swappiness_is_set_or_refused_never_ignored(cluster: Cluster, shared: Path) -> None:
    flags = ("--limit-memory", "64m", "--memory-swappiness", "7")
    if cgroups.is_unified():
        _create(cluster, "inside", "--restart-condition", "none", *flags, "busybox:latest")
        eventually(lambda: "needs cgroup v1" in _ps(cluster, "inside")[0], "it is rejected")
    else:
        assert _says(cluster, shared, "cat /sys/fs/cgroup/memory/memory.swappiness", *flags) == ["7"]
    _remove(cluster, "inside")


# --- ends, told truthfully ---


def test_a_container_out_of_memory_says_so(cluster: Cluster) -> None:
    greedy = ("sh", "-c", "x=0123456789; while :; do x=$x$x; done")
    flags = ("--limit-memory", "8m", "--memory-swap", "0", "--restart-condition", "none")
    _create(cluster, "greedy", *flags, "busybox:latest", *greedy)
    eventually(lambda: _ps(cluster, "greedy")[0].startswith("Failed"), "it has failed")
    assert '"task: non-zero exit (137): out of memory"' in _ps(cluster, "greedy")[0]
    _remove(cluster, "greedy")


def test_a_crash_loop_shows_each_end_and_when_it_goes_on(cluster: Cluster) -> None:
    _create(cluster, "loop", "--restart-delay", "100ms", "busybox:latest", "sh", "-c", "exit 3")

    def looped() -> bool:
        lines = _ps(cluster, "loop")
        ends = [line for line in lines if line.startswith("Failed")]
        return len(ends) >= 3 and all('"task: non-zero exit (3)"' in line for line in ends)

    eventually(looped, "three tries have failed, each with its exit code")
    eventually(lambda: any("restart" in line for line in _ps(cluster, "loop")), "it says when it goes on")
    _remove(cluster, "loop")


# --- output ---


def test_output_is_kept_within_its_limit_or_not_at_all(cluster: Cluster, shared: Path) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i >&3; i=$((i+1)); done"
    limits = ("--log-driver", "json-file", "--log-opt", "max-size=10k")
    for name, flags in (("limited", limits), ("mute", ("--log-driver", "none"))):
        _says(cluster, shared, script.replace(">&3", "> /proc/1/fd/1"), *flags, name=name)
    folder = cluster.lab[NODE].directory / "data" / "oci" / "containers"
    (limited,), (mute,) = _containers(cluster, "limited"), _containers(cluster, "mute")
    assert 0 < (folder / limited / "output.log").stat().st_size <= 10 << 10
    assert (folder / limited / "output.log").read_text().endswith("line 1999\n")
    assert (folder / mute / "output.log").read_text() == ""
    _remove(cluster, "limited", "mute")


# --- volumes ---


def test_named_volumes_are_listed_and_kept_from_removal_while_in_use(cluster: Cluster, shared: Path) -> None:
    mount = ("--mount", "source=keep,target=/keep")
    _says(cluster, shared, "echo data > /keep/f", *mount)
    assert cluster.ctl(NODE, "volume", "create", "--label", "a=b", "spare").stdout == "spare\n"
    assert cluster.ctl(NODE, "volume", "ls").stdout.splitlines() == [
        "DRIVER    VOLUME NAME",
        "local     keep",
        "local     spare",
    ]
    assert cluster.ctl(NODE, "volume", "ls", "-q", "-f", "dangling=true").stdout == "spare\n"
    (volume,) = json.loads(cluster.ctl(NODE, "volume", "inspect", "keep").stdout)
    assert volume["Driver"] == "local"
    assert (Path(volume["Mountpoint"]) / "f").read_text() == "data\n"
    (container,) = _containers(cluster, "inside")
    done = cluster.ctl(NODE, "volume", "rm", "keep", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"Error response from daemon: remove keep: volume is in use - [{container}]\n",
    )
    _remove(cluster, "inside")
    done = cluster.ctl(NODE, "volume", "prune", "--all", "--force")
    assert done.stdout.startswith("Deleted Volumes:\nkeep\nspare\n\nTotal reclaimed space: ")
    done = cluster.ctl(NODE, "volume", "rm", "keep", check=False)
    assert done.stderr == "Error response from daemon: get keep: no such volume\n"


# --- images: digest, platforms, and a registry that wants a login ---


@pytest.fixture(scope="module")
def private(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reference in a registry that only those may use who log in."""
    folder = tmp_path_factory.mktemp("registry")
    address = f"127.0.0.1:{free_port()}"
    with serve(folder, address) as filling:
        filling.push_index(whoami(), "app/whoami:2")
    (folder / "htpasswd").write_text(HTPASSWD)
    config = folder / "config.yml"
    login = f"auth: {{htpasswd: {{realm: here, path: {folder / 'htpasswd'}}}}}\n"
    config.write_text(config.read_text().replace(address, REGISTRY) + login)
    client = cluster.lab.client
    client.start([PROGRAM, "serve", str(config)], log="registry.log")
    eventually(lambda: "listening on" in client.log("registry.log"), "the registry listens")
    return f"{REGISTRY}/app/whoami:2"


def test_a_private_image_needs_the_login_which_nobody_can_read_again(
    cluster: Cluster, private: str, tmp_path: Path
) -> None:
    warned = _create(cluster, "refused", "--restart-condition", "none", private)
    assert "could not be accessed on a registry to record" in warned
    eventually(lambda: "unauthorized" in _ps(cluster, "refused")[0], "it is rejected")
    _remove(cluster, "refused")

    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {REGISTRY: {"auth": auth}}}))
    minictl = ["env", f"DOCKER_CONFIG={tmp_path}", str(BIN / "minictl")]
    words = ["service", "create", "-q", "--with-registry-auth", "--name", "private", private]
    done = cluster.lab[NODE].run([*minictl, *words])
    assert done.stderr == ""
    shown = cluster.ctl(NODE, "service", "inspect", "private").stdout
    template = json.loads(shown)[0]["Spec"]["TaskTemplate"]
    assert template["ContainerSpec"]["Image"].startswith(f"{private}@sha256:")
    (platform,) = template["Placement"]["Platforms"]
    assert platform["OS"] == "linux"
    assert cluster.ctl(NODE, "service", "ls", "--format", "{{.Image}}").stdout == f"{private}\n"
    assert PASSWORD not in shown
    for path in (cluster.lab[NODE].directory / "data").rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert PASSWORD.encode() not in path.read_bytes(), f"the password is in {path}"
    _remove(cluster, "private")
