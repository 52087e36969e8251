"""Opening the `docker` runtime: finds the Engine, and says exactly what is the matter when there is none."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from pathlib import Path

from minicommon.errors import FailedPreconditionError

from miniworker.runtime.api import RuntimeFaultError
from miniworker.runtime.docker.engine import Engine, Version, ask_version
from miniworker.runtime.docker.runtime import DockerRuntime
from miniworker.runtime.docker.settings import DockerSettings
from miniworker.runtime.oci.records import ensure_directory

logger = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")
"""struct ucred of socket(7): process, user, group."""


async def find_engine(settings: DockerSettings) -> Version:
    """What listens on the socket. Raises FailedPreconditionError."""
    try:
        return await ask_version(settings.socket)
    except RuntimeFaultError as error:
        raise FailedPreconditionError(
            f"the docker runtime is not available: {error}; use --runtime oci"
        ) from None


async def open_docker(settings: DockerSettings, version: Version) -> DockerRuntime:
    """The runtime, with what an earlier one left half done cleared away. Raises FailedPreconditionError."""
    if os.geteuid() != 0:
        raise FailedPreconditionError(
            "the docker runtime needs root: it makes network namespaces and looks into containers"
        )
    ensure_directory(settings.data_dir)
    if not await asyncio.to_thread(_shares_mounts, settings.socket):
        logger.warning(
            "The Docker Engine has a mount namespace of its own: bind mounts and secrets are as it sees them."
        )
    runtime = DockerRuntime(settings, Engine(settings.socket, f"{version.api[0]}.{version.api[1]}"), version)
    try:
        await runtime.recover()
    except BaseException as error:
        await runtime.close()
        if isinstance(error, RuntimeFaultError):
            raise FailedPreconditionError(f"the docker runtime is not available: {error}") from None
        raise
    return runtime


def _shares_mounts(path: Path) -> bool:
    """Whether who listens there sees the file systems that we see."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        told = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(told)
    try:
        return Path(f"/proc/{pid}/ns/mnt").samefile("/proc/self/ns/mnt")
    except OSError:
        return False
