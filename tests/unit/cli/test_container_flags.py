"""What a container is given besides its program: flags in, inspection out."""

from __future__ import annotations

import pytest
from minictl import dependency_flags, disconnect_flags, flags, service_flags
from minictl.client import messages
from minictl.errors import CliError, UsageError
from minictl.views import service, service_pretty
from miniproto.v1 import objects_pb2 as objects
from support import canned


def test_pretty_shows_every_other_field_of_a_container() -> None:
    view = canned.service()
    view.service.spec.CopyFrom(
        create(
            *(
                "--hostname",
                "box",
                "--entrypoint",
                "/bin/run -x",
                "--group",
                "adm",
                "--container-label",
                "a=b",
            ),
            *("--host", "db:10.0.0.5", "--dns", "10.0.0.1", "--dns-search", "lan", "--dns-option", "ndots:2"),
            *("--stop-signal", "SIGINT", "--stop-grace-period", "3s", "--tty", "--read-only", "--privileged"),
            *("--pid", "host", "--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"),
            *("--shm-size", "64m", "--oom-score-adj", "7", "--device", "/dev/zero:/dev/nothing:r"),
        )
    )
    lines = service_pretty.render(view).splitlines()
    wanted = [
        *(" Command:\t/bin/run -x", " Hostname:\tbox", " Groups:\tadm", " Labels:\ta=b"),
        *(" Hosts:\tdb:10.0.0.5", " DNS:\t10.0.0.1", " DNS Search:\tlan", " DNS Options:\tndots:2"),
        *(" Stop Signal:\tSIGINT", " Stop Grace Period:\t3s", " TTY:\ttrue", " Read Only:\ttrue"),
        *(" Privileged:\ttrue", " Pid Mode:\thost"),
        " Security Options:\tno-new-privileges seccomp=unconfined",
        *(" Shm Size:\t64MiB", " Oom Score Adj:\t7", " Devices:", "  /dev/zero:/dev/nothing:r"),
    ]
    start = lines.index(wanted[0])
    assert lines[start : start + len(wanted)] == wanted


def test_pretty_shows_swap_and_where_the_output_goes() -> None:
    view = canned.service()
    memory = ("--limit-memory", "64m", "--memory-swap", "-1", "--memory-swappiness", "0")
    view.service.spec.CopyFrom(create(*memory, "--log-driver", "json-file", "--log-opt", "max-size=1m"))
    text = service_pretty.render(view)
    assert "\n  Memory:\t64MiB\n Swap:\t\tunlimited\n Swappiness:\t0\n" in text
    assert "\nLog Driver:\tjson-file\n max-size=1m\n" in text


SECOND = 1_000_000_000


def create(*words: str) -> objects.ServiceSpec:
    parsed = flags.parse(service_flags.CREATE_FLAGS, [*words, "whoami:1"], interspersed=False)
    return objects.ServiceSpec.FromString(service_flags.new_spec(parsed, {}).SerializeToString())


def update(spec: objects.ServiceSpec, *words: str) -> objects.ServiceSpec:
    parsed = flags.parse(service_flags.UPDATE_FLAGS, words)
    changed = messages.ServiceSpec.FromString(spec.SerializeToString())
    service_flags.change_spec(changed, parsed, {})
    return objects.ServiceSpec.FromString(changed.SerializeToString())


def full() -> objects.ServiceSpec:
    return create(
        *("--init", "-t", "--oom-score-adj", "-500", "--shm-size", "128m"),
        *("--limit-memory", "64m", "--memory-swap", "-1"),
        *("--dns", "10.0.0.1", "--dns-search", "lan", "--dns-option", "ndots:2"),
        *("--host", "db:10.0.0.5", "--host", "v6:[::1]"),
        *("--sysctl", "net.core.somaxconn=1024", "--ulimit", "nofile=64:128", "--ulimit", "core=0"),
        *("--mount", "type=bind,src=/srv,dst=/data,ro,bind-propagation=rslave"),
        *("--mount", "source=cache,target=/cache,volume-nocopy"),
        *("--mount", "type=tmpfs,destination=/run,tmpfs-size=1m,tmpfs-mode=0700"),
        *("--tmpfs", "/tmp:size=2m,ro"),
    )


def test_flags_reach_their_fields() -> None:
    spec = full()
    container = spec.task.container
    assert (container.init, container.tty, container.oom_score_adj) == (True, True, -500)
    assert container.shm_size_bytes == 128 << 20
    assert spec.task.resources.limits.swap_bytes == -1
    assert container.dns == objects.DnsConfig(nameservers=["10.0.0.1"], search=["lan"], options=["ndots:2"])
    assert [(entry.name, entry.address) for entry in container.hosts] == [("db", "10.0.0.5"), ("v6", "::1")]
    assert dict(container.sysctls) == {"net.core.somaxconn": "1024"}
    assert [(item.name, item.soft, item.hard) for item in container.ulimits] == [
        ("nofile", 64, 128),
        ("core", 0, 0),
    ]
    assert list(container.mounts) == [
        objects.Mount(
            type=objects.MOUNT_TYPE_BIND, source="/srv", target="/data", read_only=True, propagation="rslave"
        ),
        objects.Mount(source="cache", target="/cache", no_copy=True),
        objects.Mount(type=objects.MOUNT_TYPE_TMPFS, target="/run", size_bytes=1 << 20, mode=0o700),
        objects.Mount(type=objects.MOUNT_TYPE_TMPFS, target="/tmp", size_bytes=2 << 20, read_only=True),
    ]


def test_an_update_without_them_changes_nothing() -> None:
    spec = full()
    assert update(spec, "--quiet") == spec


def test_update_adds_replaces_and_removes() -> None:
    container = update(
        full(),
        *("--init=false", "--memory-swap", "1g"),
        *("--dns-add", "10.0.0.9", "--dns-rm", "10.0.0.1", "--dns-option-rm", "ndots:2"),
        *("--host-add", "new:10.0.0.6", "--host-rm", "db:10.0.0.5"),
        *("--sysctl-add", "net.ipv4.ip_forward=1", "--sysctl-rm", "net.core.somaxconn"),
        *("--ulimit-add", "nofile=10", "--ulimit-rm", "core"),
        *("--mount-add", "type=tmpfs,dst=/cache", "--mount-rm", "/run", "--mount-rm", "/tmp"),
    ).task.container
    assert not container.init
    assert container.dns == objects.DnsConfig(nameservers=["10.0.0.9"], search=["lan"])
    assert [entry.name for entry in container.hosts] == ["v6", "new"]
    assert dict(container.sysctls) == {"net.ipv4.ip_forward": "1"}
    assert [(item.name, item.soft, item.hard) for item in container.ulimits] == [("nofile", 10, 10)]
    assert [(mount.target, mount.type) for mount in container.mounts] == [("/cache", 2), ("/data", 1)]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("mount", "type=bind,src=/x", "target is required"),
        ("mount", "type=nfs,dst=/x", "invalid mount type: nfs: must be volume, bind, tmpfs"),
        ("mount", "dst=/x,colour=red", "unexpected key 'colour' in 'colour=red'"),
        ("mount", "dst=/x,loud", "invalid field 'loud' must be a key=value pair"),
        ("mount", "dst=/x,ro=perhaps", "invalid value for readonly: perhaps"),
        ("mount", "type=tmpfs,dst=/x,tmpfs-size=big", "invalid value for tmpfs-size: big"),
        ("mount", "type=tmpfs,dst=/x,tmpfs-mode=rwx", "invalid value for tmpfs-mode: rwx"),
        ("mount", "dst=/x,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'volume'"),
        ("tmpfs", "/x:exec", 'invalid tmpfs option "exec": must be size=, mode=, ro or rw'),
        ("ulimit", "nofile", "invalid ulimit argument: nofile"),
        ("ulimit", "nofile=many", 'strconv.ParseInt: parsing "many": invalid syntax'),
        ("host", "db", 'bad format for add-host: "db"'),
        ("sysctl", "net.core.somaxconn", "invalid sysctl: net.core.somaxconn: must be NAME=VALUE"),
    ],
)
def test_what_cannot_be_read_is_named(flag: str, value: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        create(f"--{flag}", value)
    assert message in str(caught.value)


def test_inspect_shows_all_of_it() -> None:
    spec = full()
    shown = service.task_json(spec.task)
    assert shown["Resources"]["SwapBytes"] == -1
    container = shown["ContainerSpec"]
    assert container["Hosts"] == ["10.0.0.5 db", "::1 v6"]
    assert container["DNSConfig"] == {"Nameservers": ["10.0.0.1"], "Search": ["lan"], "Options": ["ndots:2"]}
    assert container["Ulimits"][0] == {"Name": "nofile", "Hard": 128, "Soft": 64}
    assert container["Mounts"][0] == {
        "Type": "bind",
        "Source": "/srv",
        "Target": "/data",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave"},
    }
    assert {"Init", "TTY", "Sysctls", "ShmSize", "OomScoreAdj"} <= container.keys()


def test_pretty_shows_mounts_and_limits() -> None:
    view = canned.service()
    view.service.spec.CopyFrom(full())
    text = service_pretty.render(view)
    assert "\n Target:\t/data\n  Source:\t/srv\n  ReadOnly:\ttrue\n  Type:\t\tbind\n" in text
    assert "\nUlimits:\n nofile: 64:128\n core: 0:0\n" in text
    assert "\nSysCtls:\n net.core.somaxconn: 1024\n" in text


SECOND = 1_000_000_000


def test_health_flags_reach_the_check() -> None:
    numbers = ("--health-interval", "10s", "--health-timeout", "1s", "--health-retries", "5")
    starts = ("--health-start-period", "1m", "--health-start-interval", "2s")
    check = create("--health-cmd", "curl -f localhost", *numbers, *starts).task.container.health
    assert check == objects.HealthCheck(
        test=["CMD-SHELL", "curl -f localhost"],
        interval_ns=10 * SECOND,
        timeout_ns=SECOND,
        retries=5,
        start_period_ns=60 * SECOND,
        start_interval_ns=2 * SECOND,
    )


@pytest.mark.parametrize(
    ("words", "test"),
    [
        (("--health-http", ":8080/healthz"), ["HTTP", "8080/healthz"]),
        (("--health-http", "http://localhost:80"), ["HTTP", "80"]),
        (("--health-tcp", "5432"), ["TCP", "5432"]),
        (("--no-healthcheck",), ["NONE"]),
    ],
)
def test_kinds_of_health_checks(words: tuple[str, ...], test: list[str]) -> None:
    assert list(create(*words).task.container.health.test) == test


def test_update_changes_a_health_check() -> None:
    spec = create("--health-cmd", "true", "--health-retries", "5")
    changed = update(spec, "--health-tcp", "80", "--health-interval", "1s").task.container.health
    assert changed == objects.HealthCheck(test=["TCP", "80"], retries=5, interval_ns=SECOND)
    none = update(spec, "--no-healthcheck")
    assert none.task.container.health == objects.HealthCheck(test=["NONE"])
    again = update(none, "--health-retries", "2").task.container.health
    assert again == objects.HealthCheck(retries=2)
    assert update(spec, "--health-cmd", "").task.container.health == objects.HealthCheck(retries=5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--no-healthcheck", "--health-retries", "1"), "--no-healthcheck conflicts with --health-* options"),
        (("--health-cmd", "a", "--health-tcp", "1"), "--health-cmd conflicts with --health-tcp"),
        (("--health-http", "healthz"), 'must be a port, not "healthz"'),
        (("--health-tcp", "0"), 'must be a port, not "0"'),
    ],
)
def test_health_flags_that_make_no_sense(words: tuple[str, ...], message: str) -> None:
    with pytest.raises((CliError, UsageError)) as caught:
        create(*words)
    assert message in str(caught.value)


def test_inspect_shows_the_health_check() -> None:
    view = canned.service()
    view.service.spec.CopyFrom(create("--health-http", "80/x", "--health-interval", "10s"))
    assert service.task_json(view.service.spec.task)["ContainerSpec"]["Healthcheck"] == {
        "Test": ["HTTP", "80/x"],
        "Interval": 10 * SECOND,
    }
    assert "\n Healthcheck:\n  Test = HTTP 80/x\n  Interval = 10s\n" in service_pretty.render(view)


def test_what_a_container_may_have_of_its_node() -> None:
    spec = create(
        *("--privileged", "--pid", "host", "--security-opt", "seccomp=unconfined"),
        *("--security-opt", "no-new-privileges", "--device", "/dev/fuse", "--device", "/dev/a:/dev/b:rw"),
        *("--device", "/dev/c:r"),
    )
    container = spec.task.container
    assert container.privileged
    assert container.host_pid
    assert container.seccomp_unconfined
    assert container.no_new_privileges
    assert [(item.source, item.target, item.permissions) for item in container.devices] == [
        ("/dev/fuse", "/dev/fuse", "rwm"),
        ("/dev/a", "/dev/b", "rw"),
        ("/dev/c", "/dev/c", "r"),
    ]
    shown = service.task_json(spec.task)["ContainerSpec"]
    assert shown["Privileges"] == {"NoNewPrivileges": True, "Seccomp": {"Mode": "unconfined"}}
    assert {"Privileged", "PidMode", "Devices"} <= shown.keys()
    assert update(spec, "--quiet") == spec
    less = update(
        spec,
        *("--privileged=false", "--pid", "", "--security-opt", "seccomp=builtin"),
        *("--security-opt", "no-new-privileges=false", "--device-rm", "/dev/b", "--device-rm", "/dev/c"),
        *("--device-add", "/dev/zero:/dev/fuse"),
    ).task.container
    assert [(item.source, item.target) for item in less.devices] == [("/dev/zero", "/dev/fuse")]
    assert not any((less.privileged, less.host_pid, less.seccomp_unconfined, less.no_new_privileges))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pid", "container:x"), '--pid: must be "host" or empty'),
        (("--security-opt", "apparmor=none"), "must be no-new-privileges[=true|false]"),
        (("--device", "/dev/a:/dev/b:rx"), "invalid device mode: rx"),
        (("--device", "a:b:c:d"), "invalid device specification"),
    ],
)
def test_privileges_that_make_no_sense(words: tuple[str, ...], message: str) -> None:
    with pytest.raises((CliError, UsageError)) as caught:
        create(*words)
    assert message in str(caught.value)


def test_readiness_flags_reach_their_check_and_an_empty_command_takes_it_away() -> None:
    numbers = ("--ready-interval", "1s", "--ready-timeout", "2s", "--ready-retries", "5")
    spec = create("--ready-http", ":80/up", *numbers, "--ready-start-period", "1m")
    check = spec.task.container.ready
    assert list(check.test) == ["HTTP", "80/up"]
    assert (check.interval_ns, check.timeout_ns, check.retries, check.start_period_ns) == (
        SECOND,
        2 * SECOND,
        5,
        60 * SECOND,
    )
    assert not spec.task.container.HasField("health")
    changed = update(spec, "--ready-tcp", "81").task.container.ready
    assert (list(changed.test), changed.retries) == (["TCP", "81"], 5)
    assert not update(spec, "--ready-cmd", "").task.container.HasField("ready")
    with pytest.raises(CliError, match="--ready-cmd conflicts with --ready-tcp"):
        create("--ready-cmd", "true", "--ready-tcp", "80")


@pytest.mark.parametrize(("text", "stored"), [("5s", 5 * SECOND), ("0", -1)])
def test_the_drain_timeout_may_be_nothing(text: str, stored: int) -> None:
    assert create("--drain-timeout", text).task.container.drain_timeout_ns == stored
    assert create().task.container.drain_timeout_ns == 0


@pytest.mark.parametrize(("text", "stored"), [("keep", 0), ("stop=30s", 30 * SECOND)])
def test_what_a_node_without_a_manager_does_with_tasks(text: str, stored: int) -> None:
    spec = create("--on-disconnect", text)
    assert spec.task.disconnect_stop_ns == stored
    assert disconnect_flags.shown(spec.task) == ("" if text == "keep" else text)
    assert update(spec, "--on-disconnect", "keep").task.disconnect_stop_ns == 0
    assert update(spec, "--replicas", "2").task.disconnect_stop_ns == stored


@pytest.mark.parametrize("text", ["stop", "stop=", "stop=0s", "stop=soon", "keep=30s", "", "leave"])
def test_a_policy_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="on-disconnect"):
        create("--on-disconnect", text)


def test_dependencies() -> None:
    spec = create("--depends-on", "db=healthy", "--depends-on", "cache")
    assert dependency_flags.to_json(spec) == [
        {"Service": "db", "Condition": "healthy"},
        {"Service": "cache", "Condition": "started"},
    ]
    changed = update(spec, "--depends-on-add", "setup=completed", "--depends-on-rm", "cache")
    assert dependency_flags.to_json(changed) == [
        {"Service": "db", "Condition": "healthy"},
        {"Service": "setup", "Condition": "completed"},
    ]
    with pytest.raises(UsageError, match="must be one of started, healthy, completed"):
        create("--depends-on", "db=up")
    with pytest.raises(UsageError, match="must be SERVICE or SERVICE=CONDITION"):
        create("--depends-on", "=healthy")
