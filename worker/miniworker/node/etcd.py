"""The command line of the managed etcd member."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass

from minicommon.clock import SECOND
from minicommon.errors import FailedPreconditionError
from minicommon.paths import NodePaths

from miniworker.node.children import ChildSpec

MAX_TXN_OPS = 4096
"""Operations in one transaction; etcd's default is 128, and a burst of task changes is larger."""

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""Bytes of one transaction; etcd's default is 1.5 MiB."""

QUOTA_BYTES = 8 * 1024 * 1024 * 1024
"""The largest database that etcd recommends (etcd documentation, `--quota-backend-bytes`)."""

HISTORY = "24h"
"""How much history compaction keeps."""

_OLDEST = (3, 4)


@dataclass(frozen=True, slots=True)
class EtcdMember:
    name: str
    host: str
    client_port: int
    peer_port: int
    cluster_token: str

    @property
    def client_url(self) -> str:
        return f"https://{self.host}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"https://{self.host}:{self.peer_port}"


async def etcd_version() -> str:
    """Of the etcd on the PATH. Raises FailedPreconditionError when there is none, or one that is too old."""
    program = shutil.which("etcd")
    if program is None:
        raise FailedPreconditionError(
            "etcd is not installed: install etcd 3.4 or later (Debian and Ubuntu: apt install etcd-server), "
            "or name a running one with --etcd-endpoints"
        )
    process = await asyncio.create_subprocess_exec(
        program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    match = re.search(r"etcd Version: (\d+)\.(\d+)(\S*)", output)
    if match is None:
        raise FailedPreconditionError(f"{program} --version does not tell etcd's version: {output!r}")
    if (int(match[1]), int(match[2])) < _OLDEST:
        raise FailedPreconditionError(
            f"etcd {match[1]}.{match[2]}{match[3]} is too old: 3.4 or later is needed"
        )
    return f"{match[1]}.{match[2]}{match[3]}"


def etcd_child(member: EtcdMember, paths: NodePaths, *, version: str) -> ChildSpec:
    """The member alone in its cluster, with mutual TLS on both ports, on the advertised address only.

    Not on loopback too: Debian's own etcd service may have that.
    """
    pki = paths.etcd_pki
    flags = {
        "name": member.name,
        "data-dir": paths.etcd_data,
        "listen-client-urls": member.client_url,
        "advertise-client-urls": member.client_url,
        "listen-peer-urls": member.peer_url,
        "initial-advertise-peer-urls": member.peer_url,
        "initial-cluster": f"{member.name}={member.peer_url}",
        "initial-cluster-state": "new",
        "initial-cluster-token": member.cluster_token,
        "client-cert-auth": "true",
        "trusted-ca-file": pki / "ca.pem",
        "cert-file": pki / "server.pem",
        "key-file": paths.etcd_keys / "server.key",
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": pki / "ca.pem",
        "peer-cert-file": pki / "peer.pem",
        "peer-key-file": paths.etcd_keys / "peer.key",
        "max-txn-ops": MAX_TXN_OPS,
        "max-request-bytes": MAX_REQUEST_BYTES,
        "quota-backend-bytes": QUOTA_BYTES,
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": HISTORY,
        "logger": "zap",
        "log-outputs": "stderr",
        "log-level": "warn",
    }
    argv = ("etcd", *(f"--{flag}={value}" for flag, value in flags.items()))
    return ChildSpec("etcd", argv, version, stop_grace_ns=20 * SECOND)
