"""Resources, output and registries on the command line; and that no flag of Docker's is forgotten."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from minictl import flags, registry, service_flags
from minictl.errors import CliError, UsageError
from minictl.views import node, service, service_pretty
from miniproto.v1 import control_pb2 as control
from miniproto.v1 import objects_pb2 as objects
from support import canned

from .test_service_flags import create, update

CREATE = """
cap-add cap-drop config constraint container-label credential-spec detach dns dns-option dns-search endpoint-mode
entrypoint env env-file generic-resource group health-cmd health-interval health-retries health-start-interval
health-start-period health-timeout host hostname init isolation label limit-cpu limit-memory limit-pids log-driver
log-opt max-concurrent memory-swap memory-swappiness mode mount name network no-healthcheck no-resolve-image
oom-score-adj placement-pref publish quiet read-only replicas replicas-max-per-node reserve-cpu reserve-memory
restart-condition restart-delay restart-max-attempts restart-window rollback-delay rollback-failure-action
rollback-max-failure-ratio rollback-monitor rollback-order rollback-parallelism secret stop-grace-period stop-signal
sysctl tty ulimit update-delay update-failure-action update-max-failure-ratio update-monitor update-order
update-parallelism user with-registry-auth workdir
"""
"""docker/cli `docs/reference/commandline/service_create.md`, and the two of its newest release for swap."""

UPDATE = """
args cap-add cap-drop config-add config-rm constraint-add constraint-rm container-label-add container-label-rm
credential-spec detach dns-add dns-option-add dns-option-rm dns-rm dns-search-add dns-search-rm endpoint-mode
entrypoint env-add env-rm force generic-resource-add generic-resource-rm group-add group-rm health-cmd
health-interval health-retries health-start-interval health-start-period health-timeout host-add host-rm hostname
image init isolation label-add label-rm limit-cpu limit-memory limit-pids log-driver log-opt max-concurrent
memory-swap memory-swappiness mount-add mount-rm network-add network-rm no-healthcheck no-resolve-image oom-score-adj
placement-pref-add placement-pref-rm publish-add publish-rm quiet read-only replicas replicas-max-per-node
reserve-cpu reserve-memory restart-condition restart-delay restart-max-attempts restart-window rollback
rollback-delay rollback-failure-action rollback-max-failure-ratio rollback-monitor rollback-order
rollback-parallelism secret-add secret-rm stop-grace-period stop-signal sysctl-add sysctl-rm tty ulimit-add ulimit-rm
update-delay update-failure-action update-max-failure-ratio update-monitor update-order update-parallelism user
with-registry-auth workdir
"""
"""docker/cli `docs/reference/commandline/service_update.md`."""


@pytest.mark.parametrize(
    ("dockers", "ours"),
    [(CREATE, service_flags.CREATE_FLAGS), (UPDATE, service_flags.UPDATE_FLAGS)],
    ids=["create", "update"],
)
def test_every_flag_of_dockers_is_known(dockers: str, ours: tuple[flags.Flag, ...]) -> None:
    names = [flag.name for flag in ours]
    assert len(set(names)) == len(names)
    assert set(dockers.split()) <= set(names)


@pytest.mark.parametrize("flag", ["credential-spec", "isolation"])
def test_what_is_for_windows_says_so(flag: str) -> None:
    with pytest.raises(UsageError, match=f"the flag --{flag} is for Windows containers: the nodes"):
        create(f"--{flag}", "x", "whoami:1")


def test_resources_reach_their_fields_and_are_shown() -> None:
    spec = create(
        *("--generic-resource", "GPU=2", "--generic-resource", "SSD=1", "--memory-swappiness", "0"),
        *("--log-driver", "json-file", "--log-opt", "max-size=10m", "whoami:1"),
    )
    generic = spec.task.resources.reservations.generic
    assert [(item.kind, item.count) for item in generic] == [("GPU", 2), ("SSD", 1)]
    assert spec.task.resources.limits.HasField("swappiness")
    assert spec.task.resources.limits.swappiness.percent == 0
    shown = service.task_json(spec.task)
    assert shown["Resources"] == {
        "Reservations": {
            "GenericResources": [
                {"DiscreteResourceSpec": {"Kind": "GPU", "Value": 2}},
                {"DiscreteResourceSpec": {"Kind": "SSD", "Value": 1}},
            ]
        },
        "MemorySwappiness": 0,
    }
    assert shown["LogDriver"] == {"Name": "json-file", "Options": {"max-size": "10m"}}
    view = canned.service()
    view.service.spec.task.resources.reservations.generic.extend(generic)
    assert "\n  GPU:\t\t2\n  SSD:\t\t1\n" in service_pretty.render(view)


def test_without_the_flags_nothing_is_said() -> None:
    spec = create("whoami:1")
    assert not spec.task.resources.limits.HasField("swappiness")
    assert not spec.task.HasField("log_driver")
    shown = service.task_json(spec.task)
    assert "LogDriver" not in shown
    assert shown["Resources"] == {}


def test_an_update_adds_replaces_and_removes() -> None:
    spec = create("--generic-resource", "GPU=2", "--generic-resource", "SSD=1", "whoami:1")
    spec.task.log_driver.options["max-size"] = "1m"
    spec.task.log_driver.name = "json-file"
    assert update(spec, "--quiet") == spec
    changed = update(
        spec,
        *("--generic-resource-add", "GPU=1", "--generic-resource-add", "FPGA=3"),
        *("--generic-resource-rm", "SSD=1", "--memory-swappiness", "50"),
    )
    assert [(item.kind, item.count) for item in changed.task.resources.reservations.generic] == [
        ("FPGA", 3),
        ("GPU", 1),
    ]
    assert changed.task.resources.limits.swappiness.percent == 50
    assert update(changed, "--memory-swappiness", "-1").task.resources.limits.swappiness.percent == -1
    assert dict(update(spec, "--log-opt", "max-size=2m").task.log_driver.options) == {"max-size": "2m"}
    none = update(spec, "--log-driver", "none").task.log_driver
    assert (none.name, dict(none.options)) == ("none", {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--generic-resource", "GPU"), "invalid generic resource specification: GPU"),
        (("--generic-resource", "GPU=UUID1"), "`GPU=UUID1`, Named Generic Resources is not supported for"),
        (("--memory-swappiness", "101"), "must be 0 to 100, or -1"),
        (("--memory-swappiness", "-2"), "must be 0 to 100, or -1"),
        (("--log-opt", "max-size"), "must be NAME=VALUE"),
    ],
)
def test_what_cannot_be_read(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create(*words, "whoami:1")


def test_a_node_shows_what_it_has_and_allows() -> None:
    view: control.NodeView = canned.node()
    view.status.description.generic_resources.extend(
        [objects.GenericResource(kind="GPU", ids=["U1", "U2"]), objects.GenericResource(kind="SSD", count=3)]
    )
    view.status.description.allowed.extend(["device", "privileged"])
    description = node.to_json(view)["Description"]
    assert description["Resources"]["GenericResources"] == [
        {"NamedResourceSpec": {"Kind": "GPU", "Value": "U1"}},
        {"NamedResourceSpec": {"Kind": "GPU", "Value": "U2"}},
        {"DiscreteResourceSpec": {"Kind": "SSD", "Value": 3}},
    ]
    assert description["Allowed"] == ["device", "privileged"]
    pretty = node.pretty(view)
    assert " Generic:\t\tGPU=U1,U2 SSD=3\n" in pretty
    assert "Allowed:\t\tdevice, privileged\n" in pretty


# --- who is logged in where ---


def config(folder: Path, **content: object) -> dict[str, str]:
    """An environment with this configuration of Docker's."""
    (folder / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": str(folder)}


def encoded(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("reg.example:5000", "reg.example:5000"),
        ("https://reg.example/v1/", "reg.example"),
        (registry.HUB_KEY, "docker.io"),
    ],
)
def test_a_login_is_found_by_the_registrys_name(tmp_path: Path, key: str, domain: str) -> None:
    environment = config(tmp_path, auths={key: encoded("ann:a:b"), "other": encoded("x:y")})
    assert registry.login(environment, domain) == ("ann", "a:b")
    assert registry.login(environment, "else.where") is None


def test_without_a_configuration_nobody_is_logged_in(tmp_path: Path) -> None:
    assert registry.login({"HOME": str(tmp_path)}, "reg.example") is None
    home = tmp_path / ".docker"
    home.mkdir()
    config(home, auths={"reg.example": {"username": "ann", "password": "p"}})
    assert registry.login({"HOME": str(tmp_path)}, "reg.example") == ("ann", "p")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"auths": {"reg.example": encoded("nocolon")}}, "is not user and password"),
        ({"auths": {"reg.example": {"auth": "%%"}}}, "is not user and password"),
        ({"auths": {"reg.example": {"identitytoken": "t"}}}, "is an identity token"),
        ({"credsStore": "no-such-helper"}, "docker-credential-no-such-helper cannot be asked"),
    ],
)
def test_a_login_that_cannot_be_used_is_an_error(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    with pytest.raises(CliError, match=message):
        registry.login(config(tmp_path, **content), "reg.example")


def test_a_configuration_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CliError, match=r"config\.json cannot be read"):
        registry.login({"DOCKER_CONFIG": str(tmp_path)}, "reg.example")


HELPER = """#!/bin/sh
read -r registry
case "$1 $registry" in
  "get reg.example") echo '{"ServerURL": "reg.example", "Username": "ann", "Secret": "s3"}' ;;
  "get token.example") echo '{"Username": "<token>", "Secret": "t"}' ;;
  "get broken.example") echo oops ;;
  "get locked.example") echo 'the keyring is locked'; exit 1 ;;
  *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with a credential helper for everything."""
    program = tmp_path / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return config(tmp_path, credsStore="test", auths={"reg.example": {}})


def test_a_helper_is_asked(helper: dict[str, str]) -> None:
    assert registry.login(helper, "reg.example") == ("ann", "s3")
    assert registry.login(helper, "unknown.example") is None


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ("token.example", "is an identity token"),
        ("broken.example", "did not answer as a credential helper"),
        ("locked.example", "failed: the keyring is locked"),
    ],
)
def test_a_helper_that_is_of_no_use(helper: dict[str, str], domain: str, message: str) -> None:
    with pytest.raises(CliError, match=message):
        registry.login(helper, domain)


def test_a_registrys_own_helper_comes_first(helper: dict[str, str]) -> None:
    folder = Path(helper["DOCKER_CONFIG"])
    environment = config(folder, credsStore="none", credHelpers={"reg.example": "test"})
    assert registry.login(environment, "reg.example") == ("ann", "s3")
