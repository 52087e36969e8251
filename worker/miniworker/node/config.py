"""The daemon's settings, from its command line, and the ports that follow from its listen address."""

from __future__ import annotations

import argparse
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import get_args

from minicommon import __version__
from minicommon.clock import SECOND
from minicommon.errors import InvalidArgumentError, MiniError
from minicommon.grants import GRANTS
from minicommon.log import Format
from minicommon.paths import DEFAULT_DATA_DIR, DEFAULT_RUN_DIR, NodePaths
from minicommon.settings import JOIN_PORT
from minicommon.units import format_duration, parse_duration
from miniproto.v1 import objects_pb2 as pb

from miniworker.agent.encryption import KEY_PERIOD_NS
from miniworker.ingress.paths import IngressPath
from miniworker.network.wireguard.encryption import WIREGUARD_PORT
from miniworker.node.addresses import split_port
from miniworker.runtime.docker.settings import SOCKET

SHORTEST_KEY_PERIOD_NS = 10 * SECOND
"""Every change costs each peer a handshake."""

MAX_COUNT = 1_000_000_000
"""Of a generic resource: more is a slip of the finger."""

DAY_NS = 24 * 3600 * SECOND

DEFAULT_LISTEN = f"0.0.0.0:{JOIN_PORT}"


@dataclass(frozen=True, slots=True)
class ManagerPorts:
    """Four consecutive ports, so that one number moves a second daemon on a machine out of the way."""

    join: int = JOIN_PORT

    @property
    def control(self) -> int:
        return self.join + 1

    @property
    def etcd_client(self) -> int:
        return self.join + 2

    @property
    def etcd_peer(self) -> int:
        return self.join + 3


@dataclass(frozen=True, slots=True)
class ListenAddress:
    host: str
    ports: ManagerPorts


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    paths: NodePaths
    hostname: str = ""
    runtime: str = "auto"
    docker_socket: Path = SOCKET
    """Where the Docker Engine listens."""
    listen_address: str = DEFAULT_LISTEN
    insecure_registries: tuple[str, ...] = ()
    """Registries, beside loopback ones, that are spoken to over plain http."""
    allowed: frozenset[str] = frozenset()
    """What containers may have of the node; nothing by default."""
    generic_resources: tuple[pb.GenericResource, ...] = ()
    """What the node has besides processors and memory, as its owner says."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What constraints and preferences call `engine.labels`."""
    encryption_port: int = WIREGUARD_PORT
    """UDP: where nodes take traffic of encrypted networks; the same on all of them."""
    encryption_key_period_ns: int = KEY_PERIOD_NS
    stop_all_on_exit: bool = False
    """Also stop containers and children when the daemon is told to end."""
    ingress_path: IngressPath = "auto"
    """How connections from elsewhere get to the tasks of published ports; auto: in the kernel where that works."""
    backups: tuple[str, ...] = ()
    """Flags of scheduled backups, for this node's manager."""
    log_level: str = "info"
    log_format: Format = "text"


def parse_listen(text: str) -> ListenAddress:
    """Raises InvalidArgumentError."""
    host, port = split_port(text, field="listen address")
    return ListenAddress(host or "0.0.0.0", ManagerPorts(port or JOIN_PORT))


def parse_args(argv: Sequence[str] | None = None) -> DaemonConfig:
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        resources = _generic_resources(given.generic_resource)
    except InvalidArgumentError as error:
        parser.error(error.message)
    return DaemonConfig(
        paths=NodePaths(given.data_dir.absolute(), given.run_dir.absolute()),
        hostname=given.hostname or socket.gethostname(),
        runtime=given.runtime,
        docker_socket=given.docker_socket,
        listen_address=given.listen_addr,
        insecure_registries=tuple(given.insecure_registry),
        allowed=frozenset(given.allow),
        generic_resources=resources,
        labels=dict(given.label),
        encryption_port=given.encryption_port,
        encryption_key_period_ns=given.encryption_key_period,
        stop_all_on_exit=given.stop_all_on_exit,
        ingress_path=given.ingress_path,
        backups=_backups(given),
        log_level=given.log_level,
        log_format=given.log_format,
    )


def systemd_unit(program: Path) -> str:
    """The unit file that the package ships, starting `program`."""
    text = (resources.files("miniworker.systemd") / "mini-worker.service").read_text()
    return re.sub(r"(?m)^ExecStart=.*$", lambda _: f"ExecStart={program}", text)


class _PrintUnit(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(systemd_unit(Path(sys.argv[0]).absolute()))
        parser.exit()


def _grants(text: str) -> list[str]:
    words = text.split(",")
    for word in words:
        if word not in GRANTS:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(GRANTS)}, not {word!r}")
    return words


_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_NAME = re.compile(r"[!-+\--~]{1,200}")
"""Printable and without a comma, which separates names in the container's environment."""


def _generic_resource(text: str) -> list[tuple[str, str]]:
    """`GPU=UUID1`, `SSD=3`, or several with commas between, as Docker's node-generic-resources."""
    pairs = []
    for item in text.split(","):
        kind, _, value = item.partition("=")
        if not _KIND.fullmatch(kind) or not _NAME.fullmatch(value):
            raise argparse.ArgumentTypeError(
                f"must be KIND=NAME or KIND=COUNT, kinds of letters, digits, '_', '.' and '-', not {item!r}"
            )
        pairs.append((kind, value))
    return pairs


def _generic_resources(given: Sequence[Sequence[tuple[str, str]]]) -> tuple[pb.GenericResource, ...]:
    """One per kind. Raises InvalidArgumentError for a kind that is given by name and by number, or a name twice."""
    values: dict[str, list[str]] = {}
    for kind, value in (pair for pairs in given for pair in pairs):
        values.setdefault(kind, []).append(value)
    return tuple(_gathered(kind, found) for kind, found in sorted(values.items()))


def _gathered(kind: str, values: list[str]) -> pb.GenericResource:
    field = "--generic-resource"
    numbers = [value for value in values if value.isascii() and value.isdigit()]
    if not numbers:
        if len(set(values)) < len(values):
            raise InvalidArgumentError(f"{field}: {kind} has a name twice: {', '.join(values)}")
        return pb.GenericResource(kind=kind, ids=values)
    if len(values) > 1:
        raise InvalidArgumentError(
            f"{field}: {kind} must be one number or only names, not {', '.join(values)}"
        )
    if not 0 < int(numbers[0]) <= MAX_COUNT:
        raise InvalidArgumentError(f"{field}: {kind} must be 1 to {MAX_COUNT}, not {numbers[0]}")
    return pb.GenericResource(kind=kind, count=int(numbers[0]))


_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not _LABEL.fullmatch(key):
        raise argparse.ArgumentTypeError(
            f"must be KEY=VALUE, keys of letters, digits, '_', '.', '/' and '-', not {text!r}"
        )
    return key, value


def _backups(given: argparse.Namespace) -> tuple[str, ...]:
    """As `mini-manager` takes them."""
    if given.backup_dir is None:
        return ()
    flags = [
        f"--backup-dir={given.backup_dir.absolute()}",
        f"--backup-interval={format_duration(given.backup_interval)}",
        f"--backup-keep={given.backup_keep}",
    ]
    if given.backup_passphrase_file is not None:
        flags.append(f"--backup-passphrase-file={given.backup_passphrase_file.absolute()}")
    return tuple(flags)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, not {text!r}")
    return int(text)


def _period(text: str) -> int:
    try:
        period_ns = parse_duration(text)
    except MiniError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if period_ns < SHORTEST_KEY_PERIOD_NS:
        raise argparse.ArgumentTypeError(
            f"must be {format_duration(SHORTEST_KEY_PERIOD_NS)} or longer, not {text!r}"
        )
    return period_ns


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mini-worker", description="The node's daemon.")
    add = parser.add_argument
    add("--data-dir", type=Path, default=DEFAULT_DATA_DIR, metavar="DIR", help="what survives a reboot")
    add("--run-dir", type=Path, default=DEFAULT_RUN_DIR, metavar="DIR", help="sockets and pid files")
    add("--hostname", default="", metavar="NAME", help="default: the machine's")
    add(
        "--runtime",
        choices=("auto", "oci", "docker"),
        default="auto",
        help="what runs containers; auto: the Docker Engine where one answers, else our own (default: auto)",
    )
    add(
        "--docker-socket",
        type=Path,
        default=SOCKET,
        metavar="FILE",
        help="where the Docker Engine listens (default: %(default)s)",
    )
    add(
        "--listen-addr",
        default=DEFAULT_LISTEN,
        metavar="ADDRESS[:PORT]",
        help="a manager's join port; control, etcd and etcd's peers get the next three (default: %(default)s)",
    )
    add(
        "--insecure-registry",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="speak plain http with this registry; may be repeated",
    )
    add(
        "--allow",
        action="extend",
        type=_grants,
        default=[],
        metavar="GRANT[,GRANT...]",
        help=f"what containers here may ask for, of {', '.join(GRANTS)}; by default none of it",
    )
    add(
        "--generic-resource",
        action="append",
        default=[],
        type=_generic_resource,
        metavar="KIND=NAME|COUNT",
        help="something that tasks can reserve here: by name (GPU=UUID1), repeated for more of it, or a number of it "
        "(SSD=3)",
    )
    add(
        "--label",
        action="append",
        default=[],
        type=_label,
        metavar="KEY=VALUE",
        help="a label of this node that only its owner changes, engine.labels.KEY in constraints; may be repeated",
    )
    add(
        "--encryption-port",
        type=_port,
        default=WIREGUARD_PORT,
        metavar="PORT",
        help="UDP port for traffic of encrypted networks, the same on every node (default: %(default)s)",
    )
    add(
        "--encryption-key-period",
        type=_period,
        default=KEY_PERIOD_NS,
        metavar="DURATION",
        help="how long a key of this node for encrypted networks is used (default: 12h)",
    )
    add(
        "--stop-all-on-exit",
        action="store_true",
        help="stop containers and child processes on SIGTERM too, as Ctrl-C does; by default they go on",
    )
    add(
        "--ingress-path",
        choices=get_args(IngressPath),
        default="auto",
        help="how connections from elsewhere get to tasks; auto: in the kernel where it can (default: %(default)s)",
    )
    add(
        "--backup-dir",
        type=Path,
        metavar="DIR",
        help="on a manager: make backups of the cluster into this directory; by default none",
    )
    add(
        "--backup-interval",
        type=_period,
        default=DAY_NS,
        metavar="DURATION",
        help="between two backups (default: 24h)",
    )
    add(
        "--backup-keep",
        type=_count,
        default=7,
        metavar="COUNT",
        help="so many of the newest backups stay (default: %(default)s)",
    )
    add(
        "--backup-passphrase-file",
        type=Path,
        metavar="FILE",
        help="what the backups are sealed with; by default the unlock key, with autolock",
    )
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    add("--log-format", choices=("text", "json"), default="text")
    add(
        "--print-unit",
        action=_PrintUnit,
        nargs=0,
        help="print the systemd unit for this installation and exit",
    )
    add("--version", action="version", version=f"mini-worker {__version__}")
    return parser
