"""The socket of `wireguard-go`: the cross-platform userspace interface, https://www.wireguard.com/xplatform/.

The program listens on it while it lives. A private key goes through it and nowhere else.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from miniworker.network.errors import NetworkError
from miniworker.network.names import CARRIER
from miniworker.network.wireguard.settings import Change, Peer, Settings

SOCKET = Path("/run/wireguard") / f"{CARRIER}.sock"
"""Where the program puts it; Debian's is built so."""

_SECONDS = 10.0


def read_settings(path: Path = SOCKET) -> Settings:
    """Raises NetworkError."""
    return parse(_exchange(path, "get=1\n\n"))


def apply_change(change: Change, *, port: int, path: Path = SOCKET) -> None:
    """`port`: where the peers listen. Raises NetworkError."""
    _exchange(path, "".join(f"{line}\n" for line in lines_of(change, port=port)) + "\n")


def lines_of(change: Change, *, port: int) -> Iterator[str]:
    """The request: pure."""
    yield "set=1"
    if change.private_key:
        yield f"private_key={_hex(change.private_key)}"
    if change.port:
        yield f"listen_port={change.port}"
    for peer in change.put:
        yield f"public_key={_hex(peer.public_key)}"
        yield "replace_allowed_ips=true"
        if peer.vtep is not None:
            yield f"endpoint={peer.vtep}:{port}"
            yield f"allowed_ip={peer.vtep}/32"
    for key in change.removed:
        yield f"public_key={_hex(key)}"
        yield "remove=true"
    for interval in (1, 0):  # beginning to keep alive sends something at once
        for key in change.greeted:
            yield f"public_key={_hex(key)}"
            yield "update_only=true"
            yield f"persistent_keepalive_interval={interval}"


def parse(lines: Iterable[str]) -> Settings:
    """What the answer to `get=1` says: pure."""
    private_key, port = "", 0
    peers: dict[str, IPv4Address | None] = {}
    peer = ""
    for line in lines:
        key, _, value = line.partition("=")
        if key == "private_key":
            private_key = _base64(value)
        elif key == "listen_port":
            port = int(value)
        elif key == "public_key":
            peer = _base64(value)
            peers[peer] = None
        elif key == "allowed_ip":
            peers[peer] = IPv4Address(value.partition("/")[0])
    return Settings(private_key, port, frozenset(Peer(key, vtep) for key, vtep in peers.items()))


def _exchange(path: Path, request: str) -> list[str]:
    """The lines of the answer, which ends with an empty one; the last of them tells the error number."""
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as link:
            link.settimeout(_SECONDS)
            link.connect(str(path))
            link.sendall(request.encode())
            while not answer.endswith(b"\n\n"):
                data = link.recv(1 << 16)
                if not data:
                    raise NetworkError("wireguard-go broke off")
                answer += data
    except OSError as error:
        raise NetworkError(f"wireguard-go does not answer at {path}: {error}") from error
    lines = answer.decode().splitlines()
    number = next((line.partition("=")[2] for line in lines if line.startswith("errno=")), "none")
    if number != "0":
        raise NetworkError(f"wireguard-go refused the settings: error {number}")
    return lines


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()


def _base64(key: str) -> str:
    return base64.b64encode(bytes.fromhex(key)).decode()
