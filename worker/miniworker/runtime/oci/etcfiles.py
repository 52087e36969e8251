"""The three files of /etc that belong to the container and not to its image: hosts, hostname, resolv.conf."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path

from miniworker.runtime.api import ContainerConfig

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


_HOSTNAME_LENGTH = 12


def hostname(config: ContainerConfig) -> str:
    """The container's, as Docker chooses it."""
    return config.hostname or config.id[:_HOSTNAME_LENGTH]


def texts(config: ContainerConfig) -> dict[str, str]:
    """Of the three files, by their names."""
    return {**names(config), "hostname": f"{hostname(config)}\n"}


def names(config: ContainerConfig) -> dict[str, str]:
    """Of those files that depend on the container's networks."""
    return {
        "hosts": hosts(config.hosts),
        "resolv.conf": resolv_conf(
            config.dns,
            host=host_resolv_conf(),
            search=config.dns_search,
            options=config.dns_options,
            networks_dns=config.networks_dns,
        ),
    }


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the files, in place, for they may be mounted already. Blocks."""
    for name, text in texts.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o644)


def hosts(lines: Iterable[tuple[str, str]]) -> str:
    """/etc/hosts with (address, names) lines after localhost's."""
    return "".join(f"{address}\t{names}\n" for address, names in (*_LOCAL, *lines))


def resolv_conf(
    dns: Iterable[str],
    *,
    host: str,
    search: Iterable[str] = (),
    options: Iterable[str] = (),
    networks_dns: str = "",
) -> str:
    """/etc/resolv.conf: the host's text without servers on its loopback; what is given takes the place of the host's.

    A loopback address of the host is another one inside the container: nobody answers there. A search of "." is none.
    With `networks_dns` it is the only name server, which asks the others itself, and a name is tried as it is before
    domains are added (`ndots:0`), unless the options say otherwise: names of services have no dots.
    """
    servers = (networks_dns,) if networks_dns else tuple(dns)
    domains, settings = tuple(search), tuple(options)
    replaced = {
        *(("nameserver",) if servers else ()),
        *(("search", "domain") if domains else ()),
        *(("options",) if settings else ()),
    }
    kept = [line for line in host.splitlines() if not _names_loopback(line) and _word(line) not in replaced]
    lines = [f"nameserver {server}" for server in servers] + kept
    if domains and domains != (".",):
        lines.append(f"search {' '.join(domains)}")
    if settings:
        lines.append(f"options {' '.join(settings)}")
    if networks_dns and not any(_sets_ndots(line) for line in lines):
        lines.append("options ndots:0")
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


def _sets_ndots(line: str) -> bool:
    return _word(line) == "options" and any(option.startswith("ndots:") for option in line.split())


def _names_loopback(line: str) -> bool:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return False
    try:
        return ipaddress.ip_address(words[1].partition("%")[0]).is_loopback
    except ValueError:
        return False
