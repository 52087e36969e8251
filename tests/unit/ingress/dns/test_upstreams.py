"""Which servers are asked for other names."""

from __future__ import annotations

import os
from pathlib import Path

from miniworker.ingress.dns.upstreams import HostServers, nameservers, usable


def test_what_a_resolv_conf_names() -> None:
    text = "# nameserver 1.1.1.1\nsearch lan\nnameserver 9.9.9.9 # quad\n  nameserver\tfe80::1%eth0\nnameserver\n"
    assert nameservers(text) == ("9.9.9.9", "fe80::1%eth0")


def test_at_most_three_that_are_not_ours() -> None:
    servers = ("10.0.1.1", "name", "1.1.1.1", "2.2.2.2", "::1", "4.4.4.4")
    assert usable(servers, own=frozenset({"10.0.1.1"})) == ("1.1.1.1", "2.2.2.2", "::1")


def test_the_hosts_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    servers = HostServers(path)
    assert servers() == ()
    path.write_text("nameserver 1.1.1.1\n")
    assert servers() == servers() == ("1.1.1.1",)
    path.write_text("nameserver 2.2.2.2\n")
    os.utime(path, ns=(1, 1))
    assert servers() == ("2.2.2.2",)
    new = tmp_path / "new"
    new.write_text("nameserver 3.3.3.3\n")
    new.replace(path)
    assert servers() == ("3.3.3.3",)
    path.unlink()
    assert servers() == ()
