"""Where the private keys of etcd's certificates are.

At rest they are in `etcd-pki`, or in the keyring while managers are locked. etcd and the manager read copies in the run
directory, which is memory (tmpfs) on every systemd machine and empty after a boot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from minicommon.identity import pem
from minicommon.paths import NodePaths

NAMES: Final = ("ca", "server", "peer", "client")


def at_rest(paths: NodePaths) -> dict[str, bytes]:
    """Those that are on the disk in clear, by name."""
    files = {name: paths.etcd_pki / f"{name}.key" for name in NAMES}
    return {name: file.read_bytes() for name, file in files.items() if file.exists()}


def put_to_use(paths: NodePaths, keys: Mapping[str, bytes]) -> None:
    """Write the copies that processes read; the authority's own is for nobody to read."""
    paths.etcd_keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in keys.items():
        if name != "ca":
            pem.write(paths.etcd_keys / f"{name}.key", content)


def put_at_rest(paths: NodePaths, keys: Mapping[str, bytes]) -> None:
    """Write them to the disk in clear."""
    for name, content in keys.items():
        pem.write(paths.etcd_pki / f"{name}.key", content)


def take_from_rest(paths: NodePaths) -> None:
    """Remove them from the disk."""
    for name in NAMES:
        (paths.etcd_pki / f"{name}.key").unlink(missing_ok=True)


def in_use(paths: NodePaths) -> bool:
    """Whether etcd can be started now: its keys are there, or none are needed."""
    return (paths.etcd_keys / "server.key").exists()
