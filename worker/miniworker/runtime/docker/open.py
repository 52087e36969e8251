"""Opening the `docker` runtime: finds the Engine, and says exactly what is the matter when there is none."""

from __future__ import annotations

import os

from minicommon.errors import FailedPreconditionError

from miniworker.runtime.api import RuntimeFaultError
from miniworker.runtime.docker.engine import Engine, Version, ask_version
from miniworker.runtime.docker.runtime import DockerRuntime
from miniworker.runtime.docker.settings import DockerSettings
from miniworker.runtime.oci.records import ensure_directory


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
    runtime = DockerRuntime(settings, Engine(settings.socket, f"{version.api[0]}.{version.api[1]}"), version)
    try:
        await runtime.recover()
    except BaseException as error:
        await runtime.close()
        if isinstance(error, RuntimeFaultError):
            raise FailedPreconditionError(f"the docker runtime is not available: {error}") from None
        raise
    return runtime
