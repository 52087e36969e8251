"""`minictl` as a process, against a real gRPC server with canned objects."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from miniproto.v1 import control_pb2 as control
from miniproto.v1 import node_pb2
from miniproto.v1 import objects_pb2 as objects
from support import canned
from support.control_server import World

from .conftest import MINICTL, Run

TOKEN = f"SWMTKN-1-{'a' * 50}-{'b' * 25}"


def test_service_ls(minictl: Run) -> None:
    done = minictl("service", "ls")
    assert done.stderr == ""
    assert done.stdout == (
        "ID             NAME      MODE         REPLICAS   IMAGE      PORTS\n"
        "api222222222   api       replicated   0/2        whoami:1   *:4567->4567/tcp\n"
        "web011111111   web       replicated   2/2        whoami:1   *:4567->4567/tcp\n"
    )


def test_filters_reach_the_daemon(minictl: Run, world: World) -> None:
    assert (
        minictl("service", "ls", "-f", "name=web", "-f", "name=api", "--filter", "label=a=b").returncode == 0
    )
    assert [(item.key, list(item.values)) for item in world.requests[-1].filters] == [
        ("name", ["web", "api"]),
        ("label", ["a=b"]),
    ]
    done = minictl("service", "ls", "-f", "nope=1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error response from daemon: invalid filter 'nope'\n"


def test_service_create_detached(minictl: Run, world: World) -> None:
    done = minictl("service", "create", "-d", "--name", "x", "-p", "80:80", "whoami:1", "sh", "-c", "echo hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "s" * 25 + "\n", "a warning\n")
    request = world.requests[-1]
    assert isinstance(request, control.CreateServiceRequest)
    assert list(request.spec.task.container.args) == ["sh", "-c", "echo hi"]


def test_service_create_refused(minictl: Run) -> None:
    done = minictl("service", "create", "--name", "web", "whoami:1")
    assert done.returncode == 1
    assert done.stderr == (
        "Error response from daemon: name conflicts with an existing object: service web already exists\n"
    )


def converging() -> list[control.ServiceProgress]:
    service = canned.service(replicas=1)
    return [
        control.ServiceProgress(service=service),
        control.ServiceProgress(service=service, tasks=[canned.task(1, state=320)]),
        control.ServiceProgress(service=service, tasks=[canned.task(1)]),
    ]


def test_service_create_waits_for_convergence(minictl: Run, world: World) -> None:
    world.progress = converging()
    world.hold_progress = True
    done = minictl("service", "create", "--name", "x", "whoami:1")
    assert (done.returncode, done.stderr) == (0, "a warning\n")
    assert done.stdout.splitlines() == [
        "s" * 25,
        "overall progress: 0 out of 1 tasks",
        "1/1:  ",
        "overall progress: 1 out of 1 tasks",
        "verify: Waiting 5 seconds to verify that tasks are stable...",
        "verify: Service converged",
    ]
    request = world.requests[-1]
    assert isinstance(request, control.WatchServiceRequest)
    assert (request.ref, request.min_revision) == ("s" * 25, 42)


@pytest.mark.parametrize("command", [("create", "--name", "x", "whoami:1"), ("scale", "web=1")])
def test_a_wait_that_sees_no_progress_is_given_up(
    minictl: Run, world: World, command: tuple[str, ...]
) -> None:
    service = canned.service(replicas=1)
    service.service.spec.update.progress_deadline_ns = 200_000_000
    waiting = canned.task(1, state=64, error="no suitable node")
    waiting.task.error = "no suitable node"
    waiting.task.node_id = ""
    for task, code in ((waiting, 4), (canned.task(1, state=320), 124)):
        world.progress = [control.ServiceProgress(service=service, tasks=[task])]
        world.hold_progress = True
        done = minictl("service", *command)
        assert done.returncode == code
        assert "no progress for 200ms; it goes on in the background\n" in done.stderr


@pytest.mark.parametrize(("state", "word"), [(1, "update"), (4, "rollback")])
def test_an_update_that_paused_is_an_error_of_its_own(
    minictl: Run, world: World, state: int, word: str
) -> None:
    service = canned.service(replicas=1)
    service.rollout.state = state  # type: ignore[assignment]
    service.rollout.message = f"{word} paused due to failure"
    world.progress = [control.ServiceProgress(service=service)]
    done = minictl("service", "scale", "web=1")
    assert (done.returncode, done.stderr) == (3, f"service {word} paused: {word} paused due to failure\n")


def test_a_service_removed_while_waiting_is_an_error(minictl: Run, world: World) -> None:
    world.progress = [*converging()[:2], control.ServiceProgress(removed=True)]
    done = minictl("service", "create", "-q", "--name", "x", "whoami:1")
    assert done.returncode == 1
    assert done.stdout == "s" * 25 + "\n"
    assert done.stderr.endswith(f"service {'s' * 25} was removed while waiting for it\n")


def test_interrupting_the_wait_on_a_terminal(minictl: Run, world: World, tmp_path: Path) -> None:
    """Bars are drawn on a terminal; Ctrl-C leaves the service alone and says how to look at it."""
    world.progress = converging()[:2]
    world.hold_progress = True
    ours, theirs = pty.openpty()
    command = [
        str(MINICTL),
        "-H",
        f"unix://{tmp_path}/mini.sock",
        "service",
        "create",
        "--name",
        "x",
        "whoami:1",
    ]
    process = subprocess.Popen(
        command,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # it may be ignored here, as in a job of nohup
    )
    os.close(theirs)
    printed = b""
    while b"preparing" not in printed:
        printed += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    while b"check progress" not in printed:
        printed += os.read(ours, 4096)
    os.close(ours)
    text = printed.decode()
    assert "1/1: preparing [=================================>                 ]" in text
    assert (
        f"Operation continuing in background.\r\nUse `minictl service ps {'s' * 25}` to check progress."
        in text
    )


def test_service_ps(minictl: Run, world: World) -> None:
    done = minictl("service", "ps", "web", "nope", "-f", "node=self")
    assert done.returncode == 1
    assert done.stderr == "no such service: nope\n"
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ID", "NAME"],
        ["t10000000000", "web.1"],
        ["t00000000000", "\\_"],
        ["t20000000000", "web.2"],
    ]
    assert [(item.key, list(item.values)) for item in world.requests[-1].filters] == [
        ("node", [canned.NODE_ID]),
        ("service", [canned.SERVICE_ID]),
    ]


def test_node_ps_is_about_this_node(minictl: Run, world: World) -> None:
    assert minictl("node", "ps").returncode == 0
    assert [(item.key, list(item.values)) for item in world.requests[-1].filters] == [
        ("node", [canned.NODE_ID])
    ]


def test_service_inspect(minictl: Run) -> None:
    done = minictl("service", "inspect", "web", "nope")
    assert (done.returncode, done.stderr) == (1, "no such service: nope\n")
    assert [service["Spec"]["Name"] for service in json.loads(done.stdout)] == ["web"]
    done = minictl("service", "inspect", "-f", "{{.Spec.Name}} {{json .Spec.Mode}}", "web")
    assert done.stdout == 'web {"Replicated":{"Replicas":2}}\n'
    assert minictl("service", "inspect", "--pretty", "web").stdout.startswith(
        f"\nID:\t\t{canned.SERVICE_ID}\n"
    )


def test_service_update_repeats_after_a_conflict(minictl: Run, world: World) -> None:
    world.conflicts = 2
    done = minictl("service", "update", "-d", "--no-resolve-image", "--image", "whoami:2", "web")
    assert (done.returncode, done.stdout, done.stderr) == (0, "web\n", "")
    updates = [request for request in world.requests if isinstance(request, control.UpdateServiceRequest)]
    assert len(updates) == 3
    assert updates[-1].spec.task.container.image == "whoami:2"
    assert updates[-1].version == 21
    assert updates[-1].ref == canned.SERVICE_ID


def test_service_scale_goes_on_after_an_error(minictl: Run, world: World) -> None:
    done = minictl("service", "scale", "-d", "nope=2", "web=5", "api=x")
    assert done.returncode == 1
    assert done.stdout == "web scaled to 5\n"
    assert done.stderr == (
        "nope: Error response from daemon: service nope not found\n"
        'api: invalid replicas value x: strconv.ParseUint: parsing "x": invalid syntax\n'
    )
    scales = [request for request in world.requests if isinstance(request, control.ScaleServiceRequest)]
    assert [(request.ref, request.replicas) for request in scales] == [("nope", 2), ("web", 5)]


def test_service_rm(minictl: Run) -> None:
    done = minictl("service", "rm", "web", "nope", "api")
    assert (done.returncode, done.stdout) == (1, "web\napi\n")
    assert done.stderr == "Error response from daemon: service nope not found\n"


def test_swarm_init(minictl: Run, world: World) -> None:
    done = minictl(
        "swarm",
        "init",
        "--advertise-addr",
        "10.77.0.11",
        "--default-addr-pool",
        "10.20.0.0/16",
        "--task-history-limit",
        "0",
    )
    assert done.stdout == (
        f"Swarm initialized: current node ({'n' * 25}) is now a manager.\n\n"
        "To add a worker to this swarm, run the following command:\n\n"
        f"    minictl swarm join --token {TOKEN} 10.77.0.11:2377\n\n"
        "To add a manager to this swarm, run 'minictl swarm join-token manager' and follow the instructions.\n"
    )
    request = world.requests[-1]
    assert isinstance(request, node_pb2.InitRequest)
    assert (request.advertise_address, list(request.default_address_pools)) == (
        "10.77.0.11",
        ["10.20.0.0/16"],
    )
    assert request.HasField("task_history_limit")
    assert request.task_history_limit == 0


def test_swarm_join(minictl: Run, world: World) -> None:
    done = minictl("swarm", "join", "--token", TOKEN, "10.77.0.11:2377", "--availability", "drain")
    assert done.stdout == "This node joined a swarm as a worker.\n"
    request = world.requests[-1]
    assert (request.token, list(request.remote_addresses)) == (TOKEN, ["10.77.0.11:2377"])
    assert request.availability == objects.AVAILABILITY_DRAIN
    done = minictl("swarm", "join", "10.77.0.11:2377")
    assert done.returncode == 1
    assert done.stderr == "Error response from daemon: token: expected SWMTKN-1-…, found nothing\n"


def test_swarm_join_token(minictl: Run, world: World) -> None:
    assert minictl("swarm", "join-token", "-q", "manager").stdout == f"{TOKEN}\n"
    assert world.requests[-1].role == objects.NODE_ROLE_MANAGER
    assert minictl("swarm", "join-token", "--rotate", "worker").stdout == (
        "Successfully rotated worker join token.\n\n"
        "To add a worker to this swarm, run the following command:\n\n"
        f"    minictl swarm join --token {TOKEN} 10.77.0.11:2377\n\n"
    )
    assert world.requests[-1].rotate


def test_swarm_leave_and_update(minictl: Run, world: World) -> None:
    assert minictl("swarm", "leave", "--force").stdout == "Node left the swarm.\n"
    assert world.requests[-1].force
    assert minictl("swarm", "update", "--cert-expiry", "48h").stdout == "Swarm updated.\n"
    request = world.requests[-1]
    assert request.version == 7
    assert request.spec.certificate_lifetime_ns == 48 * 3600 * canned.SECOND
    assert request.spec.task_history_limit == 5


def test_swarm_info_and_info(minictl: Run) -> None:
    assert " Version: 3.4.23\n Health: healthy\n" in minictl("swarm", "info").stdout
    assert minictl("swarm", "info", "-f", "{{.Etcd.Version}}").stdout == "3.4.23\n"
    assert minictl("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Nodes}}").stdout == "active 3\n"
    assert "  Is Manager: true\n" in minictl("info").stdout
    assert "\nServer:\n Version:           0.1.0\n" in minictl("version").stdout


def test_node_commands(minictl: Run, world: World) -> None:
    assert minictl("node", "ls").stdout.splitlines()[1].startswith(f"{'n' * 25} *   core-01")
    done = minictl(
        "node", "update", "--availability", "drain", "--label-add", "a=b", "--label-rm", "disk", "core-02"
    )
    assert (done.stdout, done.stderr) == ("core-02\n", "")
    spec = world.requests[-1].spec
    assert (spec.availability, dict(spec.labels)) == (objects.AVAILABILITY_DRAIN, {"a": "b"})
    done = minictl("node", "update", "--label-rm", "nope", "core-02")
    assert done.stderr == "key nope doesn't exist in node's labels\n"
    done = minictl("node", "rm", "core-02")
    assert done.stderr == "Error response from daemon: node core-02 is not down and can't be removed\n"
    assert minictl("node", "rm", "-f", "core-02").stdout == "core-02\n"


def test_networks(minictl: Run) -> None:
    assert [line.split() for line in minictl("network", "ls").stdout.splitlines()[1:]] == [
        ["backend03333", "backend", "overlay", "swarm"],
        ["ingressnet33", "ingress", "overlay", "swarm"],
    ]
    (network,) = json.loads(minictl("network", "inspect", "ingress").stdout)
    assert network["IPAM"]["Config"] == [{"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1"}]


def test_a_network_is_created_as_asked(minictl: Run, world: World) -> None:
    done = minictl(
        *("network", "create", "--driver", "overlay", "--attachable", "--internal", "--label", "a=b"),
        *("--subnet", "10.5.0.0/16", "--gateway", "10.5.0.9", "--ip-range", "10.5.1.0/24"),
        *("-o", "encrypted", "--opt", "com.docker.network.driver.mtu=1300", "backend"),
    )
    assert (done.stdout, done.stderr) == (f"{canned.NETWORK_ID}\n", "")
    spec = world.requests[-1].spec
    assert (spec.name, spec.driver, spec.attachable, spec.internal, spec.ingress) == (
        "backend",
        "overlay",
        True,
        True,
        False,
    )
    assert (spec.subnet, spec.gateway, spec.ip_range) == ("10.5.0.0/16", "10.5.0.9", "10.5.1.0/24")
    assert dict(spec.options) == {"encrypted": "", "com.docker.network.driver.mtu": "1300"}
    assert dict(spec.labels) == {"a": "b"}


def test_an_inspected_network_has_its_services_when_asked(minictl: Run) -> None:
    (network,) = json.loads(minictl("network", "inspect", "backend").stdout)
    assert network["Peers"] == [{"Name": "core-01", "IP": "10.77.0.11"}]
    assert "Services" not in network
    template = "{{.ID}} {{range $name, $service := .Services}}{{$name}}={{$service.VIP}}{{end}}"
    done = minictl("network", "inspect", "-v", "-f", template, "backend")
    assert done.stdout == f"{canned.NETWORK_ID} web=10.0.1.254\n"


def test_containers_are_connected_and_disconnected(minictl: Run, world: World) -> None:
    done = minictl("network", "connect", "--alias", "db,store", "--alias", "main", "backend", "one")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    asked = world.requests[-1]
    assert (asked.ref, asked.container, list(asked.aliases)) == ("backend", "one", ["db", "store", "main"])
    assert minictl("network", "disconnect", "-f", "backend", "one").stdout == ""
    assert (world.requests[-1].ref, world.requests[-1].container) == ("backend", "one")


def test_networks_are_removed(minictl: Run, world: World) -> None:
    done = minictl("network", "rm", "nope", "backend", "ingress")
    assert (done.returncode, done.stdout) == (1, "backend\n")
    assert done.stderr == (
        "Error response from daemon: network nope not found\n"
        "Error response from daemon: ingress network cannot be removed\n"
    )
    assert minictl("network", "rm", "-f", "nope").stdout == "nope\n"


def test_networks_are_pruned_after_a_question(minictl: Run, world: World) -> None:
    question = (
        "WARNING! This will remove all custom networks not used by at least one container.\n"
        "Are you sure you want to continue? [y/N] "
    )
    done = minictl("network", "prune", stdin=b"n\n")
    assert (done.returncode, done.stdout, world.requests) == (0, question, [])
    assert minictl("network", "prune").stdout == question
    deleted = "Deleted Networks:\nbackend\n\n"
    assert minictl("network", "prune", stdin=b"y\n").stdout == question + deleted
    assert (
        minictl("network", "prune", "-f", "--filter", "label!=keep", "--filter", "until=24h").stdout
        == deleted
    )
    assert [(each.key, list(each.values)) for each in world.requests[-1].filters] == [
        ("label!", ["keep"]),
        ("until", ["24h"]),
    ]


def test_images(minictl: Run, world: World, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"layer" * 300_000)
    loaded = f"Loaded image: whoami:1\nLoaded image ID: sha256:{'0' * 64}\n"
    assert minictl("image", "load", "-i", str(archive)).stdout == loaded
    assert bytes(world.uploaded) == archive.read_bytes()
    assert minictl("load", stdin=b"from a pipe").stdout == loaded
    assert world.uploaded.endswith(b"from a pipe")
    assert minictl("images", "-q").stdout == "abababababab\n"
    assert minictl("image", "ls", "other").stdout.count("\n") == 1
    assert minictl("rmi", "whoami:1").stdout == f"Untagged: whoami:1\nDeleted: sha256:{'0' * 64}\n"
    done = minictl("rmi", "none")
    assert (done.returncode, done.stderr) == (1, "Error response from daemon: No such image: none:latest\n")
    assert minictl("rmi", "-f", "none").returncode == 0


def test_task_inspect(minictl: Run) -> None:
    done = minictl("task", "inspect", "--format", "{{.Status.State}} {{.Slot}}", "t1" + "0" * 23)
    assert done.stdout == "running 1\n"


def test_task_why(minictl: Run, world: World) -> None:
    done = minictl("task", "why", "web.3")
    assert done.stdout.startswith("web.3 is pending: no suitable node")
    assert world.requests[-1].ref == "web.3"
    assert minictl("task", "why", "-f", "{{len .Refusals}}", "web.3").stdout == "2\n"


def test_the_host_comes_from_the_environment(minictl: Run, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "MINI_HOST": f"unix://{tmp_path}/mini.sock"}
    done = subprocess.run(
        [MINICTL, "service", "ls", "-q"], env=environment, capture_output=True, check=True, timeout=60
    )
    assert done.stdout == b"api222222222\nweb011111111\n"


def test_a_reader_that_has_enough_is_no_disaster(minictl: Run, tmp_path: Path) -> None:
    command = f"{MINICTL} -H unix://{tmp_path}/mini.sock service inspect web | head -c 1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (b"[", b"")
