"""What the flags of `service create` and `service update` make of a spec."""

from __future__ import annotations

from pathlib import Path

import pytest
from minictl import flags, network_flags, service_flags
from minictl.client import messages
from minictl.errors import CliError
from miniproto.v1 import objects_pb2 as objects
from support import canned

SECOND = 1_000_000_000


def create(*words: str, environment: dict[str, str] | None = None) -> objects.ServiceSpec:
    parsed = flags.parse(service_flags.CREATE_FLAGS, words, interspersed=False)
    spec = service_flags.new_spec(parsed, environment or {})
    return objects.ServiceSpec.FromString(spec.SerializeToString())


def update(spec: objects.ServiceSpec, *words: str) -> objects.ServiceSpec:
    parsed = flags.parse(service_flags.UPDATE_FLAGS, words)
    changed = messages.ServiceSpec.FromString(spec.SerializeToString())
    service_flags.change_spec(changed, parsed, {"HOME": "/root"})
    return objects.ServiceSpec.FromString(changed.SerializeToString())


def test_defaults_are_spelled_out() -> None:
    spec = create("whoami:1")
    assert spec.replicas == 1
    assert spec.task.container.image == "whoami:1"
    assert spec.task.container.stop_grace_period_ns == 10 * SECOND
    assert spec.task.restart.delay_ns == 5 * SECOND
    adjective, _, surname = spec.name.partition("_")
    assert adjective
    assert surname


def test_every_flag_reaches_its_field() -> None:
    spec = create(
        *[
            "--name",
            "web",
            "--replicas",
            "3",
            "-p",
            "80:8080",
            "-p",
            "target=53,published=53,protocol=udp,mode=host",
            "-e",
            "A=1",
            "--hostname",
            "h",
        ],
        *[
            "-u",
            "me:us",
            "--group",
            "g1",
            "--group",
            "g2",
            "-w",
            "/srv",
            "-l",
            "x=y",
            "-l",
            "flag",
            "--container-label",
            "c=d",
            "--read-only",
        ],
        *[
            "--cap-add",
            "net_admin",
            "--cap-drop",
            "ALL",
            "--stop-signal",
            "SIGINT",
            "--stop-grace-period",
            "1m30s",
            "--limit-cpu",
            "1.5",
        ],
        *[
            "--limit-memory",
            "64m",
            "--limit-pids",
            "9",
            "--reserve-cpu",
            ".5",
            "--reserve-memory",
            "1g",
            "--restart-condition",
            "on-failure",
        ],
        *["--restart-delay", "2s", "--restart-max-attempts", "4", "--restart-window", "1h"],
        "--entrypoint",
        "sh -c 'a b'",
        "image",
        "cmd",
        "--not-a-flag",
    )
    container, task = spec.task.container, spec.task
    assert (spec.name, spec.replicas, dict(spec.labels)) == ("web", 3, {"x": "y", "flag": ""})
    assert [(p.protocol, p.target_port, p.published_port, p.publish_mode) for p in spec.ports] == [
        (objects.PORT_PROTOCOL_TCP, 8080, 80, objects.PUBLISH_MODE_INGRESS),
        (objects.PORT_PROTOCOL_UDP, 53, 53, objects.PUBLISH_MODE_HOST),
    ]
    assert list(container.command) == ["sh", "-c", "a b"]
    assert list(container.args) == ["cmd", "--not-a-flag"]
    assert (container.hostname, container.user, container.dir) == ("h", "me:us", "/srv")
    assert (list(container.groups), dict(container.labels)) == (["g1", "g2"], {"c": "d"})
    assert container.read_only
    assert (list(container.cap_add), list(container.cap_drop)) == (["CAP_NET_ADMIN"], ["ALL"])
    assert (container.stop_signal, container.stop_grace_period_ns) == ("SIGINT", 90 * SECOND)
    limits, reservations = task.resources.limits, task.resources.reservations
    assert (limits.nano_cpus, limits.memory_bytes, limits.pids) == (1_500_000_000, 64 << 20, 9)
    assert (reservations.nano_cpus, reservations.memory_bytes) == (500_000_000, 1 << 30)
    assert task.restart.condition == objects.RESTART_CONDITION_ON_FAILURE
    assert (task.restart.delay_ns, task.restart.max_attempts) == (2 * SECOND, 4)
    assert task.restart.window_ns == 3600 * SECOND


def test_environment(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\nA=file\n\n  B=file\nHOME\nUNSET\n")
    spec = create(
        "--env-file",
        str(file),
        "-e",
        "A=flag",
        "-e",
        "PATH",
        "-e",
        "NOT_SET",
        "i",
        environment={"HOME": "/h", "PATH": "/p"},
    )
    assert list(spec.task.container.env) == ["B=file", "HOME=/h", "A=flag", "PATH=/p"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A B=1\n", "variable 'A B' contains whitespaces"),
        ("=x\n", "no variable name on line '=x' of env file"),
    ],
)
def test_bad_env_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "env"
    file.write_text(text)
    with pytest.raises(CliError, match=message):
        create("--env-file", str(file), "i")


def test_update_without_flags_changes_nothing() -> None:
    spec = canned.service().service.spec
    assert update(spec) == spec


def test_update() -> None:
    spec = canned.service().service.spec
    changed = update(
        spec,
        *[
            "--image",
            "whoami:2",
            "--replicas",
            "7",
            "--env-add",
            "B=3",
            "--env-add",
            "HOME",
            "--env-rm",
            "A",
            "--label-add",
            "new=1",
            "--label-rm",
            "tier",
        ],
        *[
            "--publish-add",
            "90:9000",
            "--publish-rm",
            "4567",
            "--limit-cpu",
            "2",
            "--restart-max-attempts",
            "2",
            "--force",
            "--cap-drop",
            "NET_ADMIN",
        ],
        *["--container-label-add", "z=1", "--group-add", "wheel", "--hostname", "other"],
        "--args",
        "one 'two three'",
    )
    container = changed.task.container
    assert (container.image, changed.replicas, changed.task.force_update) == ("whoami:2", 7, 1)
    assert list(container.env) == ["B=3", "HOME=/root"]
    assert dict(changed.labels) == {"new": "1"}
    assert [(port.published_port, port.target_port) for port in changed.ports] == [(90, 9000)]
    assert (list(container.cap_add), list(container.cap_drop)) == ([], ["CAP_NET_ADMIN"])
    assert list(container.args) == ["one", "two three"]
    assert (list(container.groups), dict(container.labels), container.hostname) == (
        ["wheel"],
        {"z": "1"},
        "other",
    )
    assert changed.task.resources.limits.nano_cpus == 2 * SECOND
    assert changed.task.resources.limits.memory_bytes == spec.task.resources.limits.memory_bytes
    assert changed.task.restart.delay_ns == spec.task.restart.delay_ns
    assert changed.task.restart.max_attempts == 2


def test_networks_in_both_forms() -> None:
    spec = create(
        "--network", "front", "--network", "name=back,alias=db,alias=store", "--endpoint-mode", "dnsrr", "x"
    )
    assert [(use.network, list(use.aliases)) for use in spec.task.networks] == [
        ("front", []),
        ("back", ["db", "store"]),
    ]
    assert spec.endpoint_mode == objects.ENDPOINT_MODE_DNSRR
    assert update(spec, "--endpoint-mode", "vip").endpoint_mode == objects.ENDPOINT_MODE_VIP
    assert update(spec, "--image", "y").endpoint_mode == objects.ENDPOINT_MODE_DNSRR


def change_networks(spec: objects.ServiceSpec, *words: str) -> list[tuple[str, list[str]]]:
    """After `update`, where a network's id is its name in capitals."""
    parsed = flags.parse(service_flags.UPDATE_FLAGS, words)
    changed = messages.ServiceSpec.FromString(spec.SerializeToString())
    network_flags.apply_change(changed, parsed, str.upper)
    return [(use.network, list(use.aliases)) for use in changed.task.networks]


def test_networks_are_joined_and_left() -> None:
    spec = create("--network", "name=ONE,alias=a", "--network", "TWO", "x")
    assert change_networks(spec, "--network-rm", "two", "--network-add", "name=three,alias=t") == [
        ("ONE", ["a"]),
        ("THREE", ["t"]),
    ]
    assert change_networks(spec, "--network-rm", "one", "--network-add", "name=one,alias=b") == [
        ("TWO", []),
        ("ONE", ["b"]),
    ]
    with pytest.raises(CliError, match="service is already attached to network one"):
        change_networks(spec, "--network-add", "one")


def test_ports_have_options() -> None:
    options = "host_ip=10.77.0.11,local=only,sticky,proxy_protocol=v2"
    spec = create("-p", f"target=80,published=8080,{options}", "x")
    (port,) = spec.ports
    assert (port.host_ip, port.locality, port.sticky, port.proxy_protocol) == (
        "10.77.0.11",
        objects.PORT_LOCALITY_ONLY,
        True,
        2,
    )
    assert update(spec, "--publish-add", "81:81").ports[1].proxy_protocol == 2
    (changed,) = update(spec, "--publish-add", "target=80,published=8080,local=prefer").ports
    assert (changed.host_ip, changed.locality) == ("", objects.PORT_LOCALITY_PREFER)
    assert not update(spec, "--publish-rm", "80").ports


def test_capabilities_can_be_reset() -> None:
    spec = update(canned.service().service.spec, "--cap-add", "RESET", "--cap-add", "chown")
    assert list(spec.task.container.cap_add) == ["CAP_CHOWN"]


def test_no_docker_flag_is_unknown() -> None:
    """Each of Docker's flags is either there or refused by name: none falls to `unknown flag`."""
    docker = """cap-add cap-drop config constraint container-label credential-spec detach dns dns-option dns-search
        endpoint-mode entrypoint env env-file generic-resource group health-cmd health-interval health-retries
        health-start-interval health-start-period health-timeout host hostname init isolation label limit-cpu
        limit-memory limit-pids log-driver log-opt max-concurrent mode mount name network no-healthcheck
        no-resolve-image oom-score-adj placement-pref publish quiet read-only replicas replicas-max-per-node
        reserve-cpu reserve-memory restart-condition restart-delay restart-max-attempts restart-window rollback-delay
        rollback-failure-action rollback-max-failure-ratio rollback-monitor rollback-order rollback-parallelism secret
        stop-grace-period stop-signal sysctl tty ulimit update-delay update-failure-action update-max-failure-ratio
        update-monitor update-order update-parallelism user with-registry-auth workdir"""
    assert set(docker.split()) <= {flag.name for flag in service_flags.CREATE_FLAGS}
