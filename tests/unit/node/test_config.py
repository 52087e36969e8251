"""The daemon's command line, and the unit that starts it."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from minicommon.clock import SECOND
from minicommon.paths import NodePaths
from miniworker.node.config import parse_args, parse_listen, systemd_unit


def test_the_defaults_are_those_of_an_installed_node() -> None:
    config = parse_args([])
    assert config.paths == NodePaths(Path("/var/lib/mini"), Path("/run/mini"))
    assert parse_listen(config.listen_address).ports.control == 2378


def test_the_unit_starts_this_installation_and_leaves_containers_alone() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(systemd_unit(Path("/opt/mini/bin/mini-worker")))
    assert unit["Service"]["ExecStart"] == "/opt/mini/bin/mini-worker"
    assert unit["Service"]["KillMode"] == "process"
    assert unit["Service"]["RuntimeDirectoryPreserve"] == "yes"


def test_the_unit_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/mini-worker"])
    with pytest.raises(SystemExit, match="0"):
        parse_args(["--print-unit"])
    assert "\nExecStart=/usr/local/bin/mini-worker\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runtime", "podman"],
        ["--nonsense"],
        ["--log-level", "loud"],
        ["--ingress-path", "sctp"],
        ["--encryption-port", "65536"],
        ["--encryption-key-period", "9s"],
        ["--encryption-key-period", "12"],
        ["--backup-dir", "/b", "--backup-interval", "9s"],
        ["--backup-dir", "/b", "--backup-keep", "0"],
    ],
)
def test_what_is_not_known_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_args(arguments)
    assert arguments[-1] in capsys.readouterr().err


def test_labels_are_the_last_said_of_each_key() -> None:
    config = parse_args(["--label", "disk=ssd", "--label", "a.b/c=x=y", "--label", "disk="])
    assert dict(config.labels) == {"disk": "", "a.b/c": "x=y"}


@pytest.mark.parametrize("given", ["disk", "=ssd", "a b=c"])
def test_labels_that_are_no_labels(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_args(["--label", given])
    assert f"must be KEY=VALUE, keys of letters, digits, '_', '.', '/' and '-', not {given!r}" in (
        capsys.readouterr().err
    )


def test_encryption_is_as_customary_unless_the_node_is_told() -> None:
    assert (parse_args([]).encryption_port, parse_args([]).encryption_key_period_ns) == (
        51820,
        12 * 3600 * SECOND,
    )
    config = parse_args(["--encryption-port=51900", "--encryption-key-period=90m"])
    assert (config.encryption_port, config.encryption_key_period_ns) == (51900, 5400 * SECOND)


def test_generic_resources_are_by_name_or_by_number() -> None:
    config = parse_args(
        [
            "--generic-resource",
            "GPU=UUID1",
            "--generic-resource",
            "GPU=UUID2,SSD=3",
            "--generic-resource=A.b=x",
        ]
    )
    assert [(each.kind, list(each.ids), each.count) for each in config.generic_resources] == [
        ("A.b", ["x"], 0),
        ("GPU", ["UUID1", "UUID2"], 0),
        ("SSD", [], 3),
    ]
    assert parse_args([]).generic_resources == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["GPU"], "must be KIND=NAME or KIND=COUNT"),
        (["=x"], "must be KIND=NAME or KIND=COUNT"),
        (["G U=x"], "must be KIND=NAME or KIND=COUNT"),
        (["GPU=a b"], "must be KIND=NAME or KIND=COUNT"),
        (["GPU=a", "GPU=2"], "GPU must be one number or only names, not a, 2"),
        (["GPU=1", "GPU=2"], "GPU must be one number or only names, not 1, 2"),
        (["GPU=a", "GPU=a"], "GPU has a name twice: a, a"),
        (["SSD=0"], "SSD must be 1 to 1000000000, not 0"),
    ],
)
def test_generic_resources_that_make_no_sense(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_args([word for each in given for word in ("--generic-resource", each)])
    assert message in capsys.readouterr().err


def test_the_manager_is_told_where_backups_go() -> None:
    assert parse_args([]).backups == ()
    given = ["--backup-dir", "/b", "--backup-interval", "6h", "--backup-passphrase-file", "/etc/p"]
    assert parse_args(given).backups == (
        "--backup-dir=/b",
        "--backup-interval=6h0m0s",
        "--backup-keep=7",
        "--backup-passphrase-file=/etc/p",
    )
