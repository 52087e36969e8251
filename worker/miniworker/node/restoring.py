"""`swarm restore`: the file is read whole, and found good, before anything on this machine changes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from minicommon.backup_file import Backup, read_backup
from miniproto.v1 import node_pb2 as pb

from miniworker.node.addresses import HostAddresses
from miniworker.node.init import InitPlan, plan_init


async def received(content: AsyncIterator[bytes], key: str, directory: Path) -> Backup:
    """The backup that comes in these pieces, opened with its passphrase or unlock key.

    Raises BackupError, InvalidArgumentError. On the disk there is only what is sealed, and no longer than this takes.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        async for data in content:
            await asyncio.to_thread(file.write, data)
        return await asyncio.to_thread(_read, file, key)


def _read(file: BinaryIO, key: str) -> Backup:
    file.seek(0)
    return read_backup(file, key)


def plan_restore(
    options: pb.RestoreOptions, backup: Backup, *, hostname: str, default_listen: str, host: HostAddresses
) -> InitPlan:
    """This machine as the manager that made the backup. Raises MiniError.

    Its node id stays, so its tasks, its address on the ingress network and its labels are this node's. Without an
    address given it is the one that the workers know, if this machine has it.
    """
    manifest = backup.manifest
    advertised = options.advertise_address
    if not advertised and host.has(manifest.advertise_host):
        advertised = manifest.advertise_host
    request = pb.InitRequest(
        advertise_address=advertised,
        listen_address=options.listen_address,
        certificate_lifetime_ns=manifest.certificate_lifetime_ns,
    )
    plan = plan_init(request, hostname=hostname, default_listen=default_listen, host=host)
    return replace(plan, node_id=manifest.node_id, cluster_id=manifest.cluster_id)
