"""What a service asks for its containers, from the command line to what is seen inside them, on a real node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, eventually, http_get
from support.hosts import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NODE = "box-01"


@pytest.fixture(scope="module")
def cluster(archives: dict[str, Path]) -> Iterator[Cluster]:
    """A cluster of one."""
    with Lab(f"c{os.getpid() % 10000}", (NODE,)) as lab:
        cluster = Cluster(lab, worker_options=("--allow", "device,pid-host"))
        cluster.start(NODE)
        cluster.ctl(NODE, "swarm", "init", "--advertise-addr", lab[NODE].address)
        for path in archives.values():
            cluster.ctl(NODE, "image", "load", "-i", str(path))
        yield cluster
        cluster.ctl(NODE, "swarm", "leave", "--force")


@pytest.fixture
def shared(cluster: Cluster, tmp_path: Path) -> Path:
    """A directory of the node's that containers may be given."""
    tmp_path.chmod(0o777)
    return tmp_path


def _create(cluster: Cluster, name: str, *words: str) -> None:
    cluster.ctl(NODE, "service", "create", "--detach", "--name", name, *words)


def _ps(cluster: Cluster, name: str) -> str:
    form = "{{.CurrentState}} {{.Error}}"
    return cluster.ctl(NODE, "service", "ps", name, "--no-trunc", "--format", form).stdout


def _remove(cluster: Cluster, name: str) -> None:
    cluster.ctl(NODE, "service", "rm", name)


def _report(cluster: Cluster, shared: Path, script: str, *flags: str) -> list[str]:
    """The lines that a script prints inside a container with these flags."""
    words = ["--mount", f"type=bind,source={shared},target=/out", *flags, "busybox:latest"]
    whole = f"({script}) > /out/.report 2>&1; mv /out/.report /out/report; exec sleep 600"
    _create(cluster, "inside", *words, "sh", "-c", whole)
    report = shared / "report"
    eventually(report.exists, "the container has reported")
    _remove(cluster, "inside")
    return report.read_text().splitlines()


def test_flags_take_effect_inside(cluster: Cluster, shared: Path) -> None:
    script = (
        "cat /proc/1/comm; cat /proc/sys/net/core/somaxconn; ulimit -Sn; tail -2 /etc/hosts | head -1;"
        "cat /etc/resolv.conf; df -k /dev/shm /scratch | awk 'NR>1 {print $2}'; cat /proc/self/oom_score_adj"
    )
    lines = _report(
        cluster,
        shared,
        script,
        *(
            "--init",
            "--sysctl",
            "net.core.somaxconn=77",
            "--ulimit",
            "nofile=64:128",
            "--host",
            "db:10.9.8.7",
        ),
        *("--dns", "10.0.0.1", "--dns-search", "lan", "--dns-option", "ndots:2"),
        *("--shm-size", "5m", "--tmpfs", "/scratch:size=1m", "--oom-score-adj", "500"),
    )
    assert lines == [
        *("docker-init", "77", "64", "10.9.8.7\tdb"),
        *("nameserver 10.0.0.1", "search lan", "options ndots:2"),
        *("5120", "1024", "500"),
    ]


def test_a_volume_outlives_its_service(cluster: Cluster, shared: Path) -> None:
    mount = ("--mount", "source=keep,target=/keep")
    assert _report(cluster, shared, "echo first > /keep/f", *mount) == []
    (shared / "report").unlink()
    assert _report(cluster, shared, "cat /keep/f", *mount) == ["first"]


def test_a_bind_mount_without_source_is_rejected_by_name(cluster: Cluster) -> None:
    mount = "type=bind,source=/no/such/place,target=/x"
    _create(cluster, "nowhere", "--restart-condition", "none", "--mount", mount, "busybox:latest")
    text = 'invalid mount config for type "bind": bind source path does not exist: /no/such/place'
    eventually(lambda: "Rejected" in (told := _ps(cluster, "nowhere")) and text in told, "it is rejected")
    _remove(cluster, "nowhere")


def test_traffic_comes_with_the_first_success_of_the_check(cluster: Cluster, shared: Path) -> None:
    mount = ("--mount", f"type=bind,source={shared},target=/out")
    check = (
        "--health-cmd",
        "test -e /out/ready",
        "--health-interval",
        "100ms",
        "--health-start-period",
        "1h",
    )
    starts = ("--health-start-interval", "100ms")
    _create(cluster, "late", "-p", "4567:4567", *mount, *check, *starts, "whoami:1")
    eventually(lambda: _ps(cluster, "late").startswith("Starting"), "it has been started")
    with pytest.raises(AssertionError):
        http_get(cluster.lab.client, f"http://{NODE}:4567/")
    (shared / "ready").touch()
    eventually(lambda: http_get(cluster.lab.client, f"http://{NODE}:4567/"), "it answers")
    assert _ps(cluster, "late").startswith("Running")
    _remove(cluster, "late")


def test_an_unhealthy_container_has_failed_and_says_so(cluster: Cluster, shared: Path) -> None:
    mount = ("--mount", f"type=bind,source={shared},target=/out")
    check = ("--health-cmd", "test ! -e /out/sick", "--health-interval", "100ms", "--health-retries", "2")
    policy = ("--restart-condition", "none", "--stop-grace-period", "0s")
    _create(cluster, "frail", *mount, *check, *policy, "busybox:latest", "sleep", "600")
    eventually(lambda: _ps(cluster, "frail").startswith("Running"), "it is healthy")
    (shared / "sick").touch()
    eventually(lambda: _ps(cluster, "frail").startswith("Failed"), "it has failed")
    assert "task: non-zero exit (137): unhealthy container" in _ps(cluster, "frail")
    _remove(cluster, "frail")


def test_readiness_takes_traffic_and_gives_it_back_without_a_restart(cluster: Cluster, shared: Path) -> None:
    mount = ("--mount", f"type=bind,source={shared},target=/out")
    check = ("--ready-cmd", "test -e /out/ready || { echo warming up; false; }", "--ready-interval", "100ms")
    _create(cluster, "moody", "-p", "4569:4567", *mount, *check, "--ready-retries", "2", "whoami:1")
    url = f"http://{NODE}:4569/"
    eventually(lambda: _ps(cluster, "moody").startswith("Starting"), "it has been started")
    eventually(
        lambda: "readiness check failed: warming up" in _ps(cluster, "moody"), "it says what is missing"
    )
    with pytest.raises(AssertionError):
        http_get(cluster.lab.client, url)
    (shared / "ready").touch()
    first = eventually(lambda: http_get(cluster.lab.client, url), "it answers")
    (shared / "ready").unlink()
    eventually(lambda: _ps(cluster, "moody").startswith("Running (not ready)"), "it is not ready")
    with pytest.raises(AssertionError):
        http_get(cluster.lab.client, url)
    listed = ("service", "ls", "--filter", "name=moody", "--format", "{{.Replicas}}")
    assert cluster.ctl(NODE, *listed).stdout == "0/1\n"
    (shared / "ready").touch()
    assert eventually(lambda: http_get(cluster.lab.client, url), "it answers again") == first
    assert len(_ps(cluster, "moody").splitlines()) == 1, "it was not restarted"
    _remove(cluster, "moody")


def test_a_service_waits_for_those_it_depends_on(cluster: Cluster, shared: Path) -> None:
    refused = cluster.ctl(
        *(NODE, "service", "create", "--depends-on", "nowhere=healthy", "--name", "app", "whoami:1"),
        check=False,
    )
    assert refused.returncode == 1
    assert "depends_on: service nowhere not found" in refused.stderr
    mount = ("--mount", f"type=bind,source={shared},target=/out")
    wait = "until test -e /out/done; do sleep 0.1; done"
    job = ("--mode", "replicated-job", *mount, "busybox:latest", "sh", "-c", wait)
    _create(cluster, "setup", *job)
    _create(
        cluster, "base", *mount, "--health-cmd", "test -e /out/well", "--health-interval", "100ms", "whoami:1"
    )
    _create(cluster, "app", "--depends-on", "setup=completed", "--depends-on", "base=healthy", "whoami:1")
    circle = cluster.ctl(NODE, "service", "update", "-d", "--depends-on-add", "app", "base", check=False)
    assert "would wait for each other: base -> app -> base" in circle.stderr
    words = ("setup to complete: 0 of 1 tasks are done", "base to be healthy: 0 of 1 tasks are")
    eventually(lambda: all(each in _ps(cluster, "app") for each in words), "it says what it waits for")
    (task,) = cluster.ctl(NODE, "service", "ps", "-q", "app").stdout.split()
    assert all(each in cluster.ctl(NODE, "task", "why", task).stdout for each in words)
    (shared / "well").touch()
    eventually(lambda: "base" not in _ps(cluster, "app"), "only the job is waited for")
    assert _ps(cluster, "app").startswith("Pending")
    (shared / "done").touch()
    eventually(lambda: _ps(cluster, "app").startswith("Running"), "it runs")
    for name in ("app", "base", "setup"):
        _remove(cluster, name)


@pytest.mark.parametrize("check", [("--health-http", "4567/peer"), ("--health-tcp", "4567")])
def test_checks_that_need_nothing_in_the_image(cluster: Cluster, check: tuple[str, str]) -> None:
    """The task runs once its server has answered the agent, inside the task's namespace."""
    _create(cluster, "checked", "-p", "4568:4567", *check, "whoami:1")
    eventually(lambda: _ps(cluster, "checked").startswith("Running"), "it is healthy")
    assert http_get(cluster.lab.client, f"http://{NODE}:4568/peer").strip() == "10.77.0.99"
    _remove(cluster, "checked")


def test_a_port_that_nobody_listens_on_is_unhealthy(cluster: Cluster) -> None:
    check = ("--health-tcp", "81", "--health-interval", "100ms", "--health-retries", "1")
    _create(cluster, "deaf", "--restart-condition", "none", *check, "whoami:1")
    eventually(lambda: "unhealthy container" in _ps(cluster, "deaf"), "it has failed")
    _remove(cluster, "deaf")


def test_placeholders_stand_for_the_task_and_its_node(cluster: Cluster, shared: Path) -> None:
    (shared / "inside").mkdir(mode=0o777)
    lines = _report(
        cluster,
        shared,
        "hostname; echo $WHERE; ls -d /by/*",
        *("--hostname", "{{.Service.Name}}-{{.Task.Slot}}"),
        *("--env", 'WHERE={{.Node.Hostname}} {{index .Service.Labels "a.b"}}', "--label", "a.b=c"),
        *("--mount", f"type=bind,source={shared}/{{{{.Service.Name}}}},target=/by/{{{{.Node.Hostname}}}}"),
    )
    assert lines == ["inside-1", f"{NODE} c", f"/by/{NODE}"]


def test_a_container_has_of_the_node_what_its_owner_allows(cluster: Cluster, shared: Path) -> None:
    lines = _report(
        cluster,
        shared,
        "cat /proc/1/comm; head -c 3 /dev/nothing | wc -c",
        *("--pid", "host", "--device", "/dev/zero:/dev/nothing:r"),
    )
    assert lines[0] != "sh"
    assert lines[1] == "3"
    _create(cluster, "mighty", "--restart-condition", "none", "--privileged", "busybox:latest")
    text = "no suitable node (privileged not allowed on 1 node)"
    eventually(lambda: text in _ps(cluster, "mighty"), "it waits for a node that allows it")
    _remove(cluster, "mighty")


SHOWS = """
grep -E '^(Groups|CapEff|NoNewPrivs):' /proc/self/status | tr -s '[:space:]' ' '; echo
pwd; echo "$A $B $C"; test -t 0 && echo terminal
"""


def test_a_process_has_the_rights_and_surroundings_that_its_flags_say(cluster: Cluster, shared: Path) -> None:
    file = shared / "env"
    file.write_text("# a comment\nA=from a file\nB=replaced\n")
    lines = _report(
        cluster,
        shared,
        SHOWS,
        *("--cap-add", "CAP_SYS_TIME", "--cap-drop", "CHOWN", "--group", "4321"),
        *("--security-opt", "no-new-privileges", "--workdir", "/var", "--tty"),
        *("--env-file", str(file), "--env", "B=given", "--env", "C=3"),
    )
    # Docker's default capabilities are a80425fb: with SYS_TIME (25), without CHOWN (0).
    assert lines == [
        "Groups: 4321 CapEff: 00000000aa0425fa NoNewPrivs: 1 ",
        *("/var", "from a file given 3", "terminal"),
    ]


def test_an_update_adds_and_removes_one_by_one(cluster: Cluster, shared: Path) -> None:
    script = (
        "(env | grep -E '^(KEPT|GONE|NEW)=' | sort; grep -E 'kept|gone|new' /etc/hosts; cat /etc/resolv.conf;"
        "cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_default_ttl; ulimit -Sn; ls -d /old /fresh;"
        "grep -E '^(Groups|CapEff):' /proc/self/status | tr -s '[:space:]' ' ')"
        " > /out/.report 2>/dev/null; mv /out/.report /out/report; exec sleep 600"
    )
    before = (
        *("--env", "KEPT=1", "--env", "GONE=1", "--host", "kept:10.1.0.1", "--host", "gone:10.1.0.2"),
        *("--dns", "10.0.0.1", "--dns-search", "old", "--dns-option", "ndots:2"),
        *("--sysctl", "net.core.somaxconn=77", "--ulimit", "nofile=64", "--cap-drop", "CHOWN"),
        *("--mount", "type=tmpfs,target=/old", "--group", "11", "--container-label", "old=1"),
    )
    mount = ("--mount", f"type=bind,source={shared},target=/out", "--stop-grace-period", "0s")
    _create(cluster, "changing", *mount, *before, "busybox:latest", "sh", "-c", script)
    report = shared / "report"
    eventually(report.exists, "it has reported")
    assert report.read_text().splitlines() == [
        *("GONE=1", "KEPT=1", "10.1.0.1\tkept", "10.1.0.2\tgone"),
        *("nameserver 10.0.0.1", "search old", "options ndots:2", "77", "64", "64", "/old"),
        "Groups: 11 CapEff: 00000000a80425fa ",
    ]
    report.unlink()
    changes = (
        *(
            "--env-rm",
            "GONE",
            "--env-add",
            "NEW=1",
            "--host-rm",
            "gone:10.1.0.2",
            "--host-add",
            "new:10.1.0.3",
        ),
        *(
            "--dns-rm",
            "10.0.0.1",
            "--dns-add",
            "10.0.0.2",
            "--dns-search-rm",
            "old",
            "--dns-search-add",
            "lan",
        ),
        *("--dns-option-rm", "ndots:2", "--dns-option-add", "ndots:3"),
        *("--sysctl-rm", "net.core.somaxconn", "--sysctl-add", "net.ipv4.ip_default_ttl=33"),
        *("--ulimit-rm", "nofile", "--ulimit-add", "nofile=65", "--cap-add", "CHOWN"),
        *(
            "--mount-rm",
            "/old",
            "--mount-add",
            "type=tmpfs,target=/fresh",
            "--group-rm",
            "11",
            "--group-add",
            "12",
        ),
        *("--container-label-rm", "old", "--container-label-add", "new=2"),
    )
    cluster.ctl(NODE, "service", "update", "--detach", *changes, "changing")
    eventually(report.exists, "the new one has reported")
    assert report.read_text().splitlines() == [
        *("KEPT=1", "NEW=1", "10.1.0.1\tkept", "10.1.0.3\tnew"),
        *("nameserver 10.0.0.2", "search lan", "options ndots:3"),
        *("4096", "33", "65", "/fresh", "Groups: 12 CapEff: 00000000a80425fb "),
    ]
    labels = ("ps", "--filter", "name=changing", "--format", "{{.Labels}}")
    shown = cluster.ctl(NODE, *labels).stdout
    assert ("new=2" in shown, "old=1" in shown) == (True, False)
    _remove(cluster, "changing")


def test_a_container_is_stopped_by_the_signal_that_it_wants(cluster: Cluster, shared: Path) -> None:
    mount = ("--mount", f"type=bind,source={shared},target=/out")
    script = "trap 'touch /out/stopped; exit' USR1; touch /out/runs; while :; do sleep 0.1; done"
    _create(cluster, "polite", *mount, "--stop-signal", "SIGUSR1", "busybox:latest", "sh", "-c", script)
    eventually((shared / "runs").exists, "it runs")
    _remove(cluster, "polite")
    eventually((shared / "stopped").exists, "it has had the signal")


def test_attempts_come_to_an_end_which_is_an_error(cluster: Cluster) -> None:
    policy = ("--restart-max-attempts", "1", "--restart-delay", "0s")
    done = cluster.ctl(
        *(NODE, "service", "create", "--name", "trying", *policy, "--entrypoint", "false", "whoami:1"),
        check=False,
    )
    assert done.returncode == 1
    assert "task trying.1 failed and is not started again, as the restart policy says" in done.stderr
    assert [line.split()[0] for line in _ps(cluster, "trying").splitlines()] == ["Failed", "Failed"]
    _remove(cluster, "trying")


def test_an_update_gives_and_takes_files_and_devices(cluster: Cluster, shared: Path) -> None:
    for kind in ("secret", "config"):
        cluster.ctl(NODE, kind, "create", "given", "-", input=f"a {kind}")
    script = (
        "(cat /run/secrets/given /etc/given; echo; ls /dev/first /dev/second) > /out/.report 2>/dev/null;"
        "mv /out/.report /out/report; exec sleep 600"
    )
    mount = ("--mount", f"type=bind,source={shared},target=/out", "--stop-grace-period", "0s")
    device = ("--device", "/dev/null:/dev/first")
    _create(cluster, "taking", *mount, *device, "busybox:latest", "sh", "-c", script)
    report = shared / "report"

    def reported() -> list[str]:
        eventually(report.exists, "it has reported")
        lines = report.read_text().splitlines()
        report.unlink()
        return lines

    def update(*words: str) -> None:
        cluster.ctl(NODE, "service", "update", "--detach", *words, "taking")

    assert reported() == ["", "/dev/first"]
    update(
        *("--secret-add", "given", "--config-add", "source=given,target=/etc/given"),
        *("--device-rm", "/dev/first", "--device-add", "/dev/zero:/dev/second"),
    )
    assert reported() == ["a secreta config", "/dev/second"]
    update("--secret-rm", "given", "--config-rm", "given")
    assert reported() == ["", "/dev/second"]
    _remove(cluster, "taking")


def test_the_times_of_checks_and_checks_that_are_taken_away(cluster: Cluster) -> None:
    slow = ("--health-cmd", "sleep 60", "--health-timeout", "100ms", "--health-interval", "100ms")
    policy = ("--health-retries", "1", "--restart-condition", "none", "--stop-grace-period", "0s")
    _create(cluster, "slow", *slow, *policy, "busybox:latest", "sleep", "600")
    eventually(lambda: "unhealthy container" in _ps(cluster, "slow"), "its check takes too long")
    cluster.ctl(NODE, "service", "update", "--detach", "--no-healthcheck", "slow")
    eventually(lambda: _ps(cluster, "slow").startswith("Running"), "nothing is checked any more")
    _remove(cluster, "slow")

    ready = ("--ready-interval", "100ms", "--ready-timeout", "1s", "--ready-start-period", "1s")
    _create(cluster, "open", "--ready-tcp", "4567", *ready, "whoami:1")
    _create(cluster, "closed", "--ready-tcp", "1", *ready, "whoami:1")
    eventually(
        lambda: (told := _ps(cluster, "open")).startswith("Running") and "not" not in told, "it is ready"
    )
    eventually(lambda: "readiness check failed" in _ps(cluster, "closed"), "it says that it is not")
    for name in ("open", "closed"):
        _remove(cluster, name)
