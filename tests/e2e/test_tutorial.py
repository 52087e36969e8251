"""A team's first hour: each test is a step of one walk over three hosts, in order, and each asserts its outcome."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from support.cluster import BIN, Cluster, eventually, http_get
from support.images import counter, redis, write_docker_archive
from support.pty import OnTerminal

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

PATIENT = True
"""Daemons are killed and must find what they left, however long their start takes here."""

NODES = ("core-01", "core-02", "core-03")


def _rows(table: str) -> list[list[str]]:
    """A table's rows without its heading, split at the gaps between columns."""
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[1:]]


def _container_names(cluster: Cluster, service: str) -> set[str]:
    """The host names that the running tasks' containers have: the first 12 characters of their ids."""
    out = cluster.ctl(
        "core-01", "service", "ps", service, "--no-trunc", "--format", "{{.ID}} {{.CurrentState}}"
    ).stdout
    return {line.split()[0][:12] for line in out.splitlines() if line.split()[1] == "Running"}


def _errors(cluster: Cluster, service: str) -> list[str]:
    """The ERROR column of the service's tasks, in full, newest first."""
    return cluster.ctl(
        "core-01", "service", "ps", service, "--no-trunc", "--format", "{{.Error}}"
    ).stdout.splitlines()


def _processes(cluster: Cluster, name: str, program: str) -> list[str]:
    """The pids of a program on a host."""
    return cluster.lab[name].run(["pidof", "-x", program], check=False).stdout.split()


def test_images_are_loaded_on_every_node(cluster: Cluster, archives: dict[str, Path]) -> None:
    for name in NODES:
        for reference, path in archives.items():
            done = cluster.ctl(name, "image", "load", "-i", str(path))
            assert done.stdout == f"Loaded image: {reference}\n"
        listed = cluster.ctl(name, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        assert set(archives) <= set(listed)


def test_init_makes_a_cluster_of_one(cluster: Cluster) -> None:
    out = cluster.ctl("core-01", "swarm", "init", "--advertise-addr", "10.77.0.11").stdout
    assert re.match(r"Swarm initialized: current node \([0-9a-z]{25}\) is now a manager\.\n", out)
    assert re.search(
        r"    minictl swarm join --token SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25} 10\.77\.0\.11:2377\n", out
    )
    assert "minictl swarm join-token manager" in out


def test_the_others_join_by_token(cluster: Cluster) -> None:
    token = cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in ("core-02", "core-03"):
        done = cluster.ctl(name, "swarm", "join", "--token", token, "10.77.0.11:2377")
        assert done.stdout == "This node joined a swarm as a worker.\n"


def test_node_ls_shows_all_three(cluster: Cluster) -> None:
    out = cluster.ctl("core-01", "node", "ls").stdout
    heading = re.split(r"\s{2,}", out.splitlines()[0].strip())
    assert heading == ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"]
    rows = {row[1]: row for row in _rows(out)}
    assert set(rows) == set(NODES)
    assert rows["core-01"][0].endswith(" *")
    assert all(row[2:4] == ["Ready", "Active"] for row in rows.values())
    assert rows["core-01"][4] == "Leader"


def test_a_worker_refuses_cluster_commands(cluster: Cluster) -> None:
    done = cluster.ctl("core-02", "node", "ls", check=False)
    assert done.returncode == 1
    assert "This node is not a swarm manager." in done.stderr


def test_service_create_converges(cluster: Cluster) -> None:
    done = cluster.ctl("core-01", "service", "create", "--name", "whoami", "-p", "4567:4567", "whoami:1")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"[0-9a-z]{25}", lines[0])
    assert "overall progress: 1 out of 1 tasks" in done.stdout
    assert lines[-1].strip() == "verify: Service converged"


def test_service_ls_and_ps(cluster: Cluster) -> None:
    (row,) = _rows(cluster.ctl("core-01", "service", "ls").stdout)
    assert row[1:] == ["whoami", "replicated", "1/1", "whoami:1", "*:4567->4567/tcp"]
    (task,) = _rows(cluster.ctl("core-01", "service", "ps", "whoami").stdout)
    assert task[1:3] == ["whoami.1", "whoami:1"]
    assert task[3] in NODES
    assert task[4] == "Running"
    assert re.fullmatch(r"Running .* ago", task[5])


def test_every_node_answers_with_the_clients_own_address(cluster: Cluster) -> None:
    (container,) = _container_names(cluster, "whoami")
    for name in NODES:
        url = f"http://{name}:4567"
        assert http_get(cluster.lab.client, f"{url}/").strip() == container
        assert http_get(cluster.lab.client, f"{url}/peer").strip() == "10.77.0.99"


def test_a_node_answers_its_own_clients(cluster: Cluster) -> None:
    (container,) = _container_names(cluster, "whoami")
    for name in NODES:
        for address in ("localhost", cluster.lab[name].address):
            assert http_get(cluster.lab[name], f"http://{address}:4567/").strip() == container


def test_one_node_sees_another_as_client(cluster: Cluster) -> None:
    assert http_get(cluster.lab["core-02"], "http://core-03:4567/peer").strip() == "10.77.0.12"


def test_scale_spreads_over_the_nodes_and_all_get_traffic(cluster: Cluster) -> None:
    done = cluster.ctl("core-01", "service", "scale", "whoami=5")
    assert done.stdout.startswith("whoami scaled to 5\n")
    assert "overall progress: 5 out of 5 tasks" in done.stdout
    out = cluster.ctl("core-01", "service", "ps", "whoami", "--format", "{{.Node}}").stdout.split()
    assert sorted(Counter(out).values()) == [1, 2, 2]
    containers = _container_names(cluster, "whoami")
    assert len(containers) == 5
    for name in NODES:
        seen: set[str] = set()

        def all_seen(name: str = name, seen: set[str] = seen) -> bool:
            seen.add(http_get(cluster.lab.client, f"http://{name}:4567/").strip())
            return seen >= containers

        eventually(all_seen, f"all five answer through {name}", interval=0)
        assert seen == containers


def test_a_killed_container_is_replaced(cluster: Cluster) -> None:
    before = _container_names(cluster, "whoami")
    node = cluster.lab["core-02"]
    pids = node.run(["pidof", "httpd"], check=False).stdout.split()
    assert pids
    node.run(["kill", "-9", pids[0]])

    def replaced() -> bool:
        now = _container_names(cluster, "whoami")
        return len(now) == 5 and now != before

    eventually(replaced, "five tasks run again, one of them new", timeout=40)
    history = cluster.ctl("core-01", "service", "ps", "whoami").stdout
    assert re.search(r" \\_ whoami\.\d .*Failed .*ago", history)
    assert '"task: non-zero exit (137)"' in history


def test_a_host_mode_port_answers_on_the_tasks_node_alone(cluster: Cluster) -> None:
    port = "published=4600,target=4567,mode=host"
    cluster.ctl("core-01", "service", "create", "--name", "hosted", "--publish", port, "whoami:1")
    (node,) = cluster.ctl("core-01", "service", "ps", "hosted", "--format", "{{.Node}}").stdout.split()
    assert http_get(cluster.lab.client, f"http://{node}:4600/peer").strip() == "10.77.0.99"
    other = next(name for name in NODES if name != node)
    with pytest.raises(AssertionError, match="Failed to connect"):
        http_get(cluster.lab.client, f"http://{other}:4600/")
    assert cluster.ctl("core-01", "service", "rm", "hosted").stdout == "hosted\n"


def test_a_udp_port_answers_on_every_node(cluster: Cluster) -> None:
    create = (
        "service",
        "create",
        "--name",
        "datagrams",
        "--replicas",
        "2",
        "-p",
        "4568:4567/udp",
        "whoami-udp:1",
    )
    cluster.ctl("core-01", *create)
    ask = "exec 3<>/dev/udp/{}/4568 && echo hello >&3 && timeout 2 head -n 1 <&3"
    for name in NODES:

        def answer(name: str = name) -> str:
            return cluster.lab.client.run(["bash", "-c", ask.format(name)], check=False).stdout

        containers = _container_names(cluster, "datagrams")
        seen: set[str] = set()

        def all_seen(seen: set[str] = seen, containers: set[str] = containers) -> bool:
            container, peer = answer().split()
            assert peer == "10.77.0.99"
            seen.add(container)
            return seen == containers

        eventually(all_seen, f"both answer through {name}", interval=0)
        local = cluster.lab[name].run(["bash", "-c", ask.format("127.0.0.1")]).stdout
        assert local.split()[0] in containers
    assert cluster.ctl("core-01", "service", "rm", "datagrams").stdout == "datagrams\n"


def test_an_image_is_pulled_from_a_registry(cluster: Cluster, registry: str) -> None:
    image = f"{registry}/app/whoami:2"
    cluster.ctl("core-01", "service", "create", "--name", "pulled", "--replicas", "3", image)
    nodes = cluster.ctl("core-01", "service", "ps", "pulled", "--format", "{{.Node}}").stdout.split()
    assert sorted(nodes) == list(NODES)
    assert cluster.ctl("core-01", "service", "rm", "pulled").stdout == "pulled\n"


def test_an_image_that_is_nowhere_is_explained_and_not_tried_in_a_hurry(
    cluster: Cluster, registry: str
) -> None:
    cluster.ctl("core-01", "service", "create", "-d", "--name", "missing", f"{registry}/app/none:1")

    def refused() -> bool:
        return any("No such image" in line for line in _errors(cluster, "missing"))

    eventually(refused, "the task is rejected")
    assert len(_errors(cluster, "missing")) <= 3, "one try, and one for each restart delay of 5 s"
    cluster.ctl("core-01", "service", "rm", "missing")


def test_a_port_in_use_is_refused_by_name(cluster: Cluster) -> None:
    done = cluster.ctl(
        "core-01", "service", "create", "--name", "other", "-p", "4567:80", "whoami:1", check=False
    )
    assert done.returncode == 1
    assert "port '4567' is already in use by service 'whoami'" in done.stderr
    assert "other" not in cluster.ctl("core-01", "service", "ls").stdout


def test_inspect_speaks_dockers_json(cluster: Cluster) -> None:
    (service,) = json.loads(cluster.ctl("core-01", "service", "inspect", "whoami").stdout)
    assert service["Spec"]["Name"] == "whoami"
    assert service["Spec"]["Mode"] == {"Replicated": {"Replicas": 5}}
    assert service["Endpoint"]["Ports"][0]["PublishedPort"] == 4567


def test_killing_our_own_processes_disturbs_nothing(cluster: Cluster) -> None:
    before = _container_names(cluster, "whoami")
    host = cluster.lab["core-01"]
    for program in ("mini-manager", "mini-ingress", "etcd"):
        (pid,) = _processes(cluster, "core-01", program)
        host.run(["kill", "-9", pid])
        assert http_get(cluster.lab.client, "http://core-01:4567/").strip() in before
        eventually(lambda: _processes(cluster, "core-01", program) not in ([], [pid]), f"{program} is back")  # noqa: B023
    cluster.kill("core-01")
    assert http_get(cluster.lab.client, "http://core-01:4567/").strip() in before
    cluster.start("core-01")

    def same() -> bool:
        nodes = cluster.ctl("core-01", "node", "ls", check=False)
        if nodes.returncode != 0:
            assert "This node's manager does not answer" in nodes.stderr
            return False
        return nodes.stdout.count("Ready") == 3 and _container_names(cluster, "whoami") == before

    eventually(same, "three nodes are ready and run the same containers")


def test_a_node_that_is_cut_off_is_replaced_and_comes_back_to_exactly_the_right_number(
    cluster: Cluster,
) -> None:
    cut = cluster.lab["core-03"]
    assert _processes(cluster, "core-03", "httpd")
    cut.link(up=False)

    def elsewhere() -> bool:
        out = cluster.ctl(
            "core-01", "service", "ps", "whoami", "--format", "{{.Node}} {{.CurrentState}}"
        ).stdout
        return len([line for line in out.splitlines() if "Running" in line and "core-03" not in line]) == 5

    eventually(elsewhere, "five tasks run on the other two nodes", timeout=60)
    assert re.search(r"core-03 +Down", cluster.ctl("core-01", "node", "ls").stdout)
    containers = _container_names(cluster, "whoami") - {""}
    assert http_get(cluster.lab.client, "http://core-02:4567/").strip() in containers
    cut.link(up=True)
    eventually(
        lambda: cluster.ctl("core-01", "node", "ls").stdout.count("Ready") == 3, "core-03 is back", timeout=60
    )
    eventually(lambda: not _processes(cluster, "core-03", "httpd"), "its surplus tasks have stopped")


def test_a_network_is_created(cluster: Cluster) -> None:
    """Row 9."""
    create = ("network", "create", "--attachable", "--driver", "overlay", "backend")
    assert re.fullmatch(r"[0-9a-z]{25}\n", cluster.ctl("core-01", *create).stdout)
    rows = _rows(cluster.ctl("core-01", "network", "ls").stdout)
    assert [row[1:] for row in rows] == [["backend", "overlay", "swarm"], ["ingress", "overlay", "swarm"]]


def test_redis_is_reached_by_its_name_on_its_network_and_from_nowhere_else(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Row 10. Redis' own client on a terminal stands for telnet: Debian's static busybox looks up no names."""
    archive = write_docker_archive(tmp_path / "images.tar", redis(), counter())
    for name in NODES:
        cluster.ctl(name, "image", "load", "-i", str(archive))
    out = cluster.ctl("core-01", "service", "create", "--name", "redis", "--network", "backend", "redis")
    assert out.stdout.rstrip().endswith("verify: Service converged")
    (node,) = cluster.ctl("core-01", "service", "ps", "redis", "--format", "{{.Node}}").stdout.split()
    where = ("--constraint", f"node.hostname!={node}")
    client = ("--entrypoint", "/usr/bin/redis-cli", "redis", "-h", "redis")
    run = ("run", "--rm", "-it", "--network", "backend", *where, *client)
    with OnTerminal(cluster.lab["core-01"].command([str(BIN / "minictl"), *run])) as terminal:
        terminal.until(b"redis:6379>")
        terminal.type(b"ping\r")
        terminal.until(b"PONG")
        terminal.type(b"quit\r")
        assert terminal.process.wait(timeout=30) == 0
    elsewhere = cluster.ctl("core-01", "run", "--rm", *client, "ping", check=False)
    assert elsewhere.returncode == 1
    (network,) = json.loads(cluster.ctl("core-01", "network", "inspect", "backend").stdout)
    (task,) = network["Containers"].values()
    address = task["IPv4Address"].partition("/")[0]
    for host in (cluster.lab.client, *(cluster.lab[name] for name in NODES)):
        for target in (address, *NODES):
            dial = ["timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{target}/6379"]
            reached = host.run(dial, check=False).returncode == 0
            assert not reached or (host.name == node and target == address), f"{host.name} reaches {target}"


def test_the_counters_take_turns_and_each_counts(cluster: Cluster) -> None:
    """Row 11."""
    create = ("service", "create", "--name", "counter", "--network", "backend", "--replicas", "3")
    cluster.ctl("core-01", *create, "-e", "REDIS_HOST=redis", "-p", "4568:4567", "counter")
    nodes = cluster.ctl("core-01", "service", "ps", "counter", "--format", "{{.Node}}").stdout.split()
    assert sorted(nodes) == list(NODES)
    containers = _container_names(cluster, "counter")
    for _ in range(9):
        page = http_get(cluster.lab.client, "http://core-01:4568/")
    counts = {host: int(count) for host, count in (line.split(" > ") for line in page.splitlines())}
    assert counts == dict.fromkeys(containers, 3)


def test_the_logs_of_all_tasks_on_all_nodes_are_followed(cluster: Cluster) -> None:
    """Row 21."""
    host = cluster.lab["core-01"]
    follow = host.start([str(BIN / "minictl"), "service", "logs", "-f", "counter"], log="logs.log")
    eventually(lambda: host.log("logs.log").count("request 3") == 3, "what was is shown")
    for _ in range(3):
        http_get(cluster.lab.client, "http://core-01:4568/")
    eventually(lambda: host.log("logs.log").count("request 4") == 3, "what comes is shown")
    follow.terminate()
    lines = [line for line in host.log("logs.log").splitlines() if "request" in line]
    prefix = re.compile(r"counter\.([123])\.[0-9a-z]+@(core-0[123]) +\| request [1-4]")
    found = {match.groups() for line in lines if (match := prefix.fullmatch(line))}
    assert len(lines) == 12
    assert len(found) == 3, lines
    assert {node for _, node in found} == set(NODES)


def _where(cluster: Cluster, *services: str) -> list[str]:
    """The nodes of the tasks that run and are to run on: those of a lost node show what it said last."""
    form = "{{.Node}} {{.CurrentState}}"
    wanted = ("--filter", "desired-state=running", "--format", form)
    told = [cluster.ctl("core-01", "service", "ps", name, *wanted).stdout for name in services]
    return sorted(
        line.split()[0] for out in told for line in out.splitlines() if line.split()[1] == "Running"
    )


def test_a_drained_node_is_emptied_and_used_again(cluster: Cluster) -> None:
    """Row 19; that no request fails meanwhile is shown in test_traffic.py."""
    cluster.ctl("core-01", "node", "update", "--availability", "drain", "core-02")
    all_of_them = ("counter", "redis", "whoami")

    def elsewhere() -> bool:
        nodes = _where(cluster, *all_of_them)
        return len(nodes) == 3 + 1 + 5 and "core-02" not in nodes

    eventually(elsewhere, "its tasks run elsewhere")
    cluster.ctl("core-01", "node", "update", "--availability", "active", "core-02")
    cluster.ctl("core-01", "service", "update", "--force", "counter")
    assert _where(cluster, "counter") == list(NODES)


def test_a_node_that_loses_its_power_is_replaced(cluster: Cluster) -> None:
    """Row 20."""
    lost = cluster.lab["core-03"]
    lost.power_off()

    def elsewhere() -> bool:
        nodes = _where(cluster, "counter", "redis", "whoami")
        return "core-03" not in nodes and len(nodes) == 3 + 1 + 5

    eventually(elsewhere, "all tasks run on the other two nodes", timeout=60)
    for name in ("core-01", "core-02"):
        for port in (4567, 4568):
            url = f"http://{name}:{port}/"
            eventually(lambda url=url: http_get(cluster.lab.client, url), f"{name}:{port} answers")  # type: ignore[misc]
    lost.power_on()
    cluster.start("core-03")
    eventually(
        lambda: cluster.ctl("core-01", "node", "ls").stdout.count("Ready") == 3, "core-03 is back", timeout=60
    )
    for service in ("counter", "redis"):
        cluster.ctl("core-01", "service", "rm", service)
    assert cluster.ctl("core-01", "network", "rm", "backend").stdout == "backend\n"


def test_scale_down_and_remove(cluster: Cluster) -> None:
    cluster.ctl("core-01", "service", "scale", "whoami=2")
    eventually(lambda: len(_container_names(cluster, "whoami")) == 2, "two tasks are left")
    assert cluster.ctl("core-01", "service", "rm", "whoami").stdout == "whoami\n"
    assert _rows(cluster.ctl("core-01", "service", "ls").stdout) == []
    for name in NODES:
        eventually(
            lambda name=name: not cluster.lab[name].run(["pidof", "httpd"], check=False).stdout,  # type: ignore[misc]
            f"no container is left on {name}",
        )
    with pytest.raises(AssertionError, match="Failed to connect"):
        http_get(cluster.lab.client, "http://core-02:4567/")


def test_a_worker_leaves_and_is_removed(cluster: Cluster) -> None:
    assert cluster.ctl("core-03", "swarm", "leave").stdout == "Node left the swarm.\n"
    eventually(lambda: "Down" in cluster.ctl("core-01", "node", "ls").stdout, "core-03 is down")
    assert cluster.ctl("core-01", "node", "rm", "core-03").stdout == "core-03\n"
    assert "core-03" not in cluster.ctl("core-01", "node", "ls").stdout


def test_the_last_manager_leaves_only_by_force(cluster: Cluster) -> None:
    refused = cluster.ctl("core-01", "swarm", "leave", check=False)
    assert refused.returncode == 1
    assert "`--force`" in refused.stderr
    assert cluster.ctl("core-01", "swarm", "leave", "--force").stdout == "Node left the swarm.\n"
    assert cluster.lab["core-01"].run(["pidof", "etcd"], check=False).stdout == ""
