"""The three files of /etc that belong to the container and not to its image: hosts, hostname, resolv.conf."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

_LOCAL = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::0", "ip6-localnet"),
    ("ff00::0", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)
"""What Docker writes first."""

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
SYSTEMD_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")
"""The real name servers, where /etc/resolv.conf only names systemd's own on 127.0.0.53."""


def hosts(lines: Iterable[tuple[str, str]]) -> str:
    """/etc/hosts with (address, names) lines after localhost's."""
    return "".join(f"{address}\t{names}\n" for address, names in (*_LOCAL, *lines))


def resolv_conf(
    dns: Iterable[str], *, host: str, search: Iterable[str] = (), options: Iterable[str] = ()
) -> str:
    """/etc/resolv.conf with these name servers, else the host's text without servers on its loopback.

    A loopback address of the host is another one inside the container: nobody answers there. `search` and `options`
    take the place of the host's; a search of "." is none.
    """
    servers, domains, settings = tuple(dns), tuple(search), tuple(options)
    replaced = {
        *(("search", "domain") if domains else ()),
        *(("options",) if settings else ()),
    }
    lines = [line for line in host.splitlines() if not _names_loopback(line) and _word(line) not in replaced]
    if servers:
        lines = [f"nameserver {server}" for server in servers]
    if domains and domains != (".",):
        lines.append(f"search {' '.join(domains)}")
    if settings:
        lines.append(f"options {' '.join(settings)}")
    return "".join(f"{line}\n" for line in lines)


def host_resolv_conf() -> str:
    """The host's name servers as a container could use them."""
    for path in (HOST_RESOLV_CONF, SYSTEMD_RESOLV_CONF):
        try:
            text = path.read_text()
        except OSError:
            continue
        if "nameserver" in resolv_conf((), host=text):
            return text
    return ""


def _word(line: str) -> str:
    return line.split(maxsplit=1)[0] if line.strip() else ""


def _names_loopback(line: str) -> bool:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return False
    try:
        return ipaddress.ip_address(words[1].partition("%")[0]).is_loopback
    except ValueError:
        return False
