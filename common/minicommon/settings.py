"""Settings that the node daemon writes and the manager reads: frozen dataclasses, JSON on disk.

Bytes are base64 in the JSON. Unknown or missing fields are errors: both sides come from one installation.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

JOIN_PORT = 2377
"""Server TLS only: root certificate and certificate requests with a token (Swarm's port)."""

CONTROL_PORT = 2378
"""Mutual TLS: control API, dispatcher, membership."""

MAX_TXN_OPS = 4096
"""Operations in one etcd transaction; etcd's own default of 128 would make group commit pointless."""

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""Bytes in one etcd request; etcd's own default is 1.5 MiB."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How the manager reaches etcd. Paths are PEM files; empty: no TLS on that side."""

    endpoints: tuple[str, ...]
    """URLs, for example https://10.77.0.11:2379."""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    managed: bool = True
    """This node's daemon runs the member; else the user does."""
    max_txn_ops: int = MAX_TXN_OPS
    """`--max-txn-ops`: a managed member is started with it, an external one must allow at least as much."""
    max_request_bytes: int = MAX_REQUEST_BYTES
    """`--max-request-bytes`, likewise."""


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    node_id: str
    cluster_id: str
    hostname: str
    advertise_host: str
    """The address other nodes dial, without a port."""
    listen_host: str
    etcd: EtcdSettings
    join_port: int = JOIN_PORT
    control_port: int = CONTROL_PORT


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What `swarm init` decided; the first manager turns it into the first objects in etcd."""

    root_ca_pem: bytes
    root_key_pem: bytes
    default_address_pools: tuple[str, ...]
    subnet_size: int
    task_history_limit: int
    heartbeat_period_ns: int
    certificate_lifetime_ns: int
    availability: int
    """Number of `mini.v1.Availability`."""
    autolock: bool = False


def write_json(path: Path, value: Any) -> None:
    """Write a settings dataclass to `path`, mode 0600, in one step: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(_encode(value), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path, kind: type[T]) -> T:
    """The settings dataclass stored at `path`. Raises ValueError, naming the field, when it does not fit."""
    decoded: T = _decode(json.loads(path.read_text()), kind, str(path))
    return decoded


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _decode(raw: Any, kind: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        names = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(raw, dict) or set(raw) != names:
            given = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
            raise ValueError(f"{where}: expected the fields {sorted(names)}, found {given}")
        hints = get_type_hints(kind)
        return kind(**{name: _decode(raw[name], hints[name], f"{where}: {name}") for name in raw})
    if kind is bytes:
        return base64.b64decode(raw)
    if getattr(kind, "__origin__", None) is tuple:
        return tuple(_decode(item, kind.__args__[0], where) for item in raw)
    if not isinstance(raw, kind):
        raise ValueError(f"{where}: expected {kind.__name__}, found {raw!r}")
    return raw
