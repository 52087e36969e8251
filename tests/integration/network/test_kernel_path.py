"""The table of published ports in a kernel, in a namespace without anything else."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from miniworker.ingress.kernel import KernelPath, kernel_path_works
from miniworker.ingress.table import Port, PortKey, PortTable
from miniworker.network.namespaces import in_new_namespace, remove_namespace

pytestmark = pytest.mark.root

WEB = Port(PortKey("tcp", 80), 8000, "web", (IPv4Address("10.0.0.5"),), sticky=True)
DNS = Port(PortKey("udp", 53), 53, "dns", (IPv4Address("10.0.0.6"), IPv4Address("10.0.0.7")))


def table(*ports: Port) -> PortTable:
    return {port.key: port for port in ports}


def rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def test_rules_are_put_back_after_somebody_flushed_them(tmp_path: Path) -> None:
    def inside() -> None:
        assert kernel_path_works()
        assert rules() == ""
        path = KernelPath()
        assert not path.repair()
        path.program(table(WEB, DNS))
        written = rules()
        assert not path.repair()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert path.repair()
        assert rules() == written
        assert not path.repair()

    _in_namespace(tmp_path, inside)


def test_a_new_process_replaces_what_an_earlier_one_left(tmp_path: Path) -> None:
    def inside() -> None:
        KernelPath().program(table(WEB, DNS))
        KernelPath().program(table(DNS))
        after = rules()
        assert "tcp" not in after.replace("tcp reset", "").replace("l4proto tcp reject", "")
        KernelPath().clear()
        assert rules() == ""
        KernelPath().program(table(DNS))
        assert rules() == after

    _in_namespace(tmp_path, inside)


def _in_namespace(tmp_path: Path, work: Callable[[], None]) -> None:
    path = tmp_path / "netns"
    try:
        in_new_namespace(path, work)
    finally:
        remove_namespace(path)
