"""Which runtime this node uses: the one place that knows them all."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from minicommon.errors import FailedPreconditionError, InvalidArgumentError

from miniworker.runtime.api import Images, Runtime, Volumes
from miniworker.runtime.docker.open import find_engine, open_docker
from miniworker.runtime.docker.settings import DockerSettings
from miniworker.runtime.oci.open import open_oci
from miniworker.runtime.oci.registry.auth import Keyring
from miniworker.runtime.oci.settings import OciSettings

logger = logging.getLogger(__name__)

KINDS = ("auto", "oci", "docker")


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    oci: OciSettings
    docker: DockerSettings
    kind: str = "auto"
    """One of KINDS; "auto" is "docker" where an Engine answers, else "oci"."""


async def open_runtime(
    settings: RuntimeSettings, *, keyring: Keyring | None = None
) -> tuple[Runtime, Images, Volumes]:
    """The runtime, its images and its volumes; close the runtime when done.

    Raises InvalidArgumentError for an unknown kind, FailedPreconditionError when it cannot run here.
    """
    if settings.kind not in KINDS:
        raise InvalidArgumentError(f"--runtime must be one of {', '.join(KINDS)}, not {settings.kind!r}")
    if settings.kind != "oci":
        try:
            version = await find_engine(settings.docker)
        except FailedPreconditionError as error:
            if settings.kind == "docker":
                raise
            logger.info("The oci runtime is used: no Docker Engine answers.", extra={"reason": str(error)})
        else:
            docker = await open_docker(settings.docker, version)
            return docker, docker.images, docker.volumes
    oci = await open_oci(settings.oci, keyring=keyring)
    return oci, oci.images, oci.volumes
