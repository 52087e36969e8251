"""Which runtime this node uses: the one place that knows them all."""

from __future__ import annotations

from dataclasses import dataclass

from minicommon.errors import FailedPreconditionError, InvalidArgumentError

from miniworker.runtime.api import Images, Runtime, Volumes
from miniworker.runtime.oci.open import open_oci
from miniworker.runtime.oci.registry.auth import Keyring
from miniworker.runtime.oci.settings import OciSettings

KINDS = ("auto", "oci", "docker")


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    oci: OciSettings
    kind: str = "auto"
    """One of KINDS. "auto" is "oci" in this version."""


async def open_runtime(
    settings: RuntimeSettings, *, keyring: Keyring | None = None
) -> tuple[Runtime, Images, Volumes]:
    """The runtime, its images and its volumes; close the runtime when done.

    Raises InvalidArgumentError for an unknown kind, FailedPreconditionError when it cannot run here.
    """
    if settings.kind not in KINDS:
        raise InvalidArgumentError(f"--runtime must be one of {', '.join(KINDS)}, not {settings.kind!r}")
    if settings.kind == "docker":
        raise FailedPreconditionError(
            "the docker runtime is not available in this version; use --runtime oci"
        )
    runtime = await open_oci(settings.oci, keyring=keyring)
    return runtime, runtime.images, runtime.volumes
