"""Container commands and logs on three real nodes, as a user would type them; each test goes on from the one before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cluster import BIN, Cluster, eventually, http_get
from support.pty import OnTerminal

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NODES = ("core-01", "core-02", "core-03")
TALKS = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"


@contextmanager
def _terminal(cluster: Cluster, *arguments: str) -> Iterator[OnTerminal]:
    with OnTerminal(cluster.lab["core-01"].command([str(BIN / "minictl"), *arguments])) as terminal:
        yield terminal


def _node_of(cluster: Cluster, task: str) -> str:
    out = cluster.ctl("core-01", "ps", "-a", "--filter", f"task={task}", "--format", "{{.Node}}").stdout
    return out.split()[0]


def _names(cluster: Cluster) -> list[str]:
    return cluster.ctl("core-01", "ps", "-a", "--format", "{{.Names}}").stdout.split()


def test_a_cluster_with_a_service(cluster: Cluster, archives: dict[str, Path]) -> None:
    for name in NODES:
        cluster.ctl(name, "image", "load", "-i", str(archives["busybox:latest"]))
    cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11")
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in NODES[1:]:
        cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
    cluster.ctl(
        "core-01", "service", "create", "--name", "web", "--replicas", "3", "busybox", "sh", "-c", TALKS
    )


def test_ps_lists_the_containers_of_all_nodes(cluster: Cluster) -> None:
    head, *rows = cluster.ctl("core-01", "ps").stdout.splitlines()
    assert re.split(r"\s{2,}", head) == [
        "CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NODE", "NAMES",
    ]  # fmt: skip
    assert sorted(re.search(r"core-0\d", row).group() for row in rows) == list(NODES)  # type: ignore[union-attr]
    assert all(" Up " in row and "busybox" in row for row in rows)


def test_a_container_found_by_ps_is_executed_in_wherever_it_is(cluster: Cluster) -> None:
    ids = cluster.ctl("core-01", "ps", "--filter", "name=web", "-q").stdout.split()
    assert len(ids) == 3
    for identity in ids:
        assert cluster.ctl("core-01", "exec", identity, "hostname").stdout == f"{identity}\n"
    done = cluster.ctl("core-01", "exec", "web.2", "sh", "-c", "echo out; echo err >&2; exit 4", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, "out\n", "err\n")


def test_a_worker_sees_its_own_containers(cluster: Cluster) -> None:
    out = cluster.ctl("core-02", "ps", "--format", "{{.ID}} {{.Task}}").stdout
    ((identity, task),) = [line.split() for line in out.splitlines()]
    assert _node_of(cluster, task) == "core-02"
    assert cluster.ctl("core-02", "exec", task, "hostname").stdout == f"{identity}\n"
    assert cluster.ctl("core-02", "exec", "-i", identity, "cat", input="typed\n").stdout == "typed\n"
    assert "line 1\n" in cluster.ctl("core-02", "logs", task).stdout
    other = next(name for name in ("web.1", "web.2", "web.3") if name != task)
    done = cluster.ctl("core-02", "exec", other, "true", check=False)
    assert f"No such container on this node: {other}" in done.stderr
    run = cluster.ctl("core-02", "run", "busybox", "true", check=False)
    assert (run.returncode, "This node is not a swarm manager." in run.stderr) == (125, True)


def test_exec_gives_input_user_directory_and_environment(cluster: Cluster) -> None:
    done = cluster.ctl("core-01", "exec", "-i", "web.1", "cat", input="typed\n")
    assert done.stdout == "typed\n"
    done = cluster.ctl(
        "core-01",
        "exec",
        "-u",
        "nobody",
        "-w",
        "/tmp",
        "-e",
        "A=b",
        "web.3",
        "sh",
        "-c",
        "id -un; pwd; echo $A",
    )
    assert done.stdout == "nobody\n/tmp\nb\n"


def test_exec_that_cannot_be_says_why_with_dockers_codes(cluster: Cluster) -> None:
    missing = cluster.ctl("core-01", "exec", "web.1", "nosuch", check=False)
    assert missing.returncode == 127
    assert 'exec: "nosuch": executable file not found in $PATH' in missing.stderr
    unknown = cluster.ctl("core-01", "exec", "nobody", "true", check=False)
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "Error response from daemon: No such container: nobody\n",
    )
    no_tty = cluster.ctl("core-01", "exec", "-it", "web.1", "sh", check=False, input="")
    assert (no_tty.returncode, no_tty.stderr) == (1, "the input device is not a TTY\n")


@pytest.mark.parametrize("task", ["web.1", "web.2", "web.3"])
def test_a_terminal_in_a_container_is_a_real_one(cluster: Cluster, task: str) -> None:
    with _terminal(cluster, "exec", "-it", task, "sh") as terminal:
        terminal.until(b"# ")
        assert terminal.is_raw
        terminal.type(b"tty; stty size\r")
        terminal.until(b"24 80\r\n")
        terminal.until(b"# ")
        terminal.resize(50, 132)
        terminal.type(b"while stty size | grep -q 24; do :; done; stty size\r")
        terminal.until(b"50 132\r\n")
        terminal.until(b"# ")
        terminal.type(b"sh -c 'echo begun; exec sleep 100'\r")
        terminal.until(b"begun\r\n")
        terminal.type(b"\x03")
        terminal.until(b"# ")
        terminal.type(b"exit 42\r")
        assert terminal.ended() == 42
        assert not terminal.is_raw


def test_the_detach_keys_leave_a_container_running(cluster: Cluster) -> None:
    with _terminal(
        cluster, "run", "-it", "--name", "shell", "--node", "core-02", "busybox", "sh"
    ) as terminal:
        terminal.until(b"# ")
        terminal.type(b"hostname\r")
        terminal.until(b"# ")
        terminal.type(b"\x10\x11")
        assert terminal.ended() == 0
    assert "shell" in cluster.ctl("core-01", "ps", "--format", "{{.Names}}").stdout.split()
    with _terminal(cluster, "attach", "shell") as terminal:
        terminal.type(b"\r")
        terminal.until(b"# ")
        terminal.type(b"exit 5\r")
        assert terminal.ended() == 5
    assert cluster.ctl("core-01", "rm", "shell").stdout == "shell\n"


def test_top_stats_and_inspect(cluster: Cluster) -> None:
    out = cluster.ctl("core-01", "top", "web.2").stdout
    assert out.split()[:2] == ["UID", "PID"]
    assert "line $i" in out
    rows = cluster.ctl(
        "core-01", "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}"
    ).stdout
    assert sorted(line.split(".")[1] for line in rows.splitlines() if line.startswith("web.")) == [
        "1",
        "2",
        "3",
    ]
    shown = cluster.ctl("core-01", "inspect", "web.3", "--format", "{{.Node.Name}} {{.State.Status}}").stdout
    assert shown == f"{_node_of(cluster, 'web.3')} running\n"


def test_run_gives_output_and_exit_code_and_is_gone(cluster: Cluster) -> None:
    for node in NODES:
        done = cluster.ctl(
            "core-01",
            "run",
            "--rm",
            "--node",
            node,
            "busybox",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert (
        cluster.ctl("core-01", "run", "--rm", "-i", "busybox", "wc", "-c", input="x" * 300_000).stdout
        == "300000\n"
    )
    assert all(name.startswith("web.") for name in _names(cluster))
    assert cluster.ctl("core-01", "service", "ls", "-q").stdout.count("\n") == 1


def test_a_container_that_is_kept_keeps_its_logs(cluster: Cluster) -> None:
    cluster.ctl("core-01", "run", "--name", "kept", "busybox", "echo", "remember")
    assert cluster.ctl("core-01", "logs", "kept").stdout == "remember\n"
    assert "Exited (0)" in cluster.ctl("core-01", "ps", "-a", "--filter", "name=^kept$").stdout
    cluster.ctl("core-01", "rm", "kept")
    eventually(lambda: "kept" not in _names(cluster), "its container is gone")


def test_an_image_made_of_a_container_is_run_where_it_is(cluster: Cluster) -> None:
    cluster.ctl("core-01", "exec", "web.2", "sh", "-c", "echo changed > /tmp/file")
    out = cluster.ctl("core-01", "commit", "-c", "ENV A=b", "web.2", "made").stdout
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", out)
    done = cluster.ctl("core-01", "run", "--rm", "made", "sh", "-c", "cat /tmp/file; echo $A")
    assert done.stdout == "changed\nb\n"


def test_files_are_copied_in_and_out(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "small").write_text("text")
    (folder / "large").write_bytes(bytes(range(256)) * 20_000)
    cluster.ctl("core-01", "cp", str(folder), "web.3:/tmp")
    assert cluster.ctl("core-01", "exec", "web.3", "cat", "/tmp/folder/small").stdout == "text"
    cluster.ctl("core-01", "cp", "web.3:/tmp/folder", str(tmp_path / "back"))
    for name in ("small", "large"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
    cluster.ctl("core-01", "cp", str(folder / "small"), "web.3:/tmp/renamed")
    cluster.ctl("core-01", "cp", "web.3:/tmp/renamed", str(tmp_path))
    assert (tmp_path / "renamed").read_text() == "text"
    missing = cluster.ctl("core-01", "cp", "web.3:/nowhere", str(tmp_path), check=False)
    assert missing.returncode == 1
    assert "/nowhere: No such file or directory" in missing.stderr


def test_a_port_is_forwarded(cluster: Cluster) -> None:
    serve = "while :; do echo -e 'HTTP/1.0 200 OK\\r\\n\\r\\nfrom inside' | nc -l -p 8000; done"
    cluster.ctl(
        "core-01", "run", "-d", "--rm", "--name", "server", "--node", "core-03", "busybox", "sh", "-c", serve
    )
    host = cluster.lab["core-01"]
    forward = host.start([str(BIN / "minictl"), "port-forward", "server", "8080:8000"], log="forward.log")
    eventually(lambda: "Forwarding from 127.0.0.1:8080 -> 8000" in host.log("forward.log"), "it listens")
    for _ in range(3):
        eventually(
            lambda: http_get(host, "http://127.0.0.1:8080/") == "from inside\n", "the container answers"
        )
    forward.terminate()
    forward.wait()
    cluster.ctl("core-01", "rm", "-f", "server")
    eventually(lambda: "server" not in _names(cluster), "it is gone")


def test_run_refuses_what_cannot_be(cluster: Cluster) -> None:
    missing = cluster.ctl("core-01", "run", "--rm", "busybox", "nosuch", check=False)
    assert missing.returncode == 127
    assert 'exec: "nosuch": executable file not found in $PATH' in missing.stderr
    network = cluster.ctl("core-01", "run", "--rm", "--network", "ingress", "busybox", "true", check=False)
    assert network.returncode == 125
    assert "Could not attach to network ingress: network ingress not manually attachable" in network.stderr
    eventually(lambda: all(name.startswith("web.") for name in _names(cluster)), "nothing is left of them")


def test_a_container_with_rm_goes_with_its_client(cluster: Cluster) -> None:
    with _terminal(cluster, "run", "--rm", "-it", "--name", "doomed", "busybox", "sh") as terminal:
        terminal.until(b"# ")
    eventually(lambda: "doomed" not in _names(cluster), "the container is gone with its client")


def test_logs_are_prefixed_and_in_order(cluster: Cluster) -> None:
    lines = cluster.ctl("core-01", "service", "logs", "-t", "web").stdout.splitlines()
    pattern = re.compile(r"\S+Z web\.([123])\.[0-9a-z]{12}@(core-0[123])    \| line \d+")
    matches = [pattern.fullmatch(line) for line in lines]
    assert all(matches), lines[:5]
    times = [line.split()[0] for line in lines]
    assert times == sorted(times)
    assert {match.group(2) for match in matches if match} == set(NODES)
    raw = cluster.ctl("core-01", "task", "logs", "--raw", "-n", "1", "web.1").stdout
    assert re.fullmatch(r"line \d+\n", raw)
    missing = cluster.ctl("core-01", "service", "logs", "nothing", check=False)
    assert (missing.returncode, missing.stderr) == (
        1, "Error response from daemon: no such task or service: nothing\n",
    )  # fmt: skip


def test_a_hundred_megabytes_of_logs_do_not_hurt_the_nodes(cluster: Cluster) -> None:
    line = "x" * 99
    script = f"yes {line} | head -c 104857600"
    cluster.ctl(
        "core-01", "run", "--name", "chatty", "--node", "core-02", "-d", "busybox", "sh", "-c", script
    )
    eventually(
        lambda: "Exited" in cluster.ctl("core-01", "ps", "-a", "--filter", "name=^chatty$").stdout,
        "it has written all",
        timeout=60,
    )
    command = f"{BIN}/minictl logs chatty | {{ head -c 1000 >/dev/null; sleep 3; head -c 5000000 | wc -c; }}"
    assert cluster.lab["core-01"].run(["sh", "-c", command]).stdout == "5000000\n"
    for name, program in (
        ("core-01", "mini-manager"),
        ("core-01", "mini-worker"),
        ("core-02", "mini-worker"),
    ):
        (pid,) = cluster.lab[name].run(["pidof", "-x", program]).stdout.split()
        status = cluster.lab[name].run(["grep", "VmHWM", f"/proc/{pid}/status"]).stdout
        assert int(status.split()[1]) < 250_000, f"{program} on {name} has used {status}"
    done = cluster.lab["core-01"].run(["sh", "-c", f"{BIN}/minictl logs chatty | wc -c"], timeout=150)
    assert done.stdout == "104857600\n"
    assert cluster.ctl("core-01", "node", "ls").stdout.count("Ready") == 3
    cluster.ctl("core-01", "rm", "chatty")


def test_following_loses_and_doubles_nothing_when_a_node_is_killed(cluster: Cluster) -> None:
    """Ten tasks on three nodes: of each task every line once and in order, whatever happens to a node meanwhile."""
    cluster.ctl("core-01", "service", "scale", "web=10")
    host = cluster.lab["core-01"]
    follower = host.start([str(BIN / "minictl"), "service", "logs", "-f", "web"], log="follow.log")

    def heard() -> dict[tuple[str, str], list[int]]:
        """The numbers of the lines of each task (name and id, node); a line that is being written is left out."""
        found: dict[tuple[str, str], list[int]] = {}
        whole = host.log("follow.log").rpartition("\n")[0]
        for task, node, number in re.findall(r"^(web\.\S+)@(\S+) +\| line (\d+)$", whole, re.MULTILINE):
            found.setdefault((task, node), []).append(int(number))
        return found

    eventually(lambda: len(heard()) == 10, "all ten tasks are heard")
    before = heard()
    cluster.lab["core-03"].power_off()
    lost = [key for key in before if key[1] == "core-03"]
    assert len(lost) in (3, 4)

    def goes_on() -> bool:
        now = heard()
        lives = all(len(now[key]) > len(before[key]) for key in before if key not in lost)
        return lives and len(now) == 10 + len(lost)

    eventually(goes_on, "the others go on, and those that took the lost ones' places are heard", timeout=90)
    warning = "WARNING: node core-03 went away: the logs of its tasks are incomplete"
    eventually(lambda: warning in host.log("follow.log"), "its silent connection has been given up")
    assert follower.poll() is None
    follower.kill()
    follower.wait()
    for key, numbers in heard().items():
        assert numbers == list(range(1, len(numbers) + 1)), key
    assert {key[0].rpartition(".")[0] for key in heard() if key not in before} == {
        key[0].rpartition(".")[0] for key in lost
    }
    done = cluster.ctl("core-01", "service", "logs", "-n", "1", "web")
    assert "WARNING: node core-03" in done.stderr
    assert done.stdout.count("line") >= 10
