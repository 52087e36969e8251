"""Opening the `oci` runtime: finds its programs, and says exactly what is missing."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from minicommon.errors import FailedPreconditionError

from miniworker.runtime.oci import cgroups
from miniworker.runtime.oci.conmon import Programs
from miniworker.runtime.oci.image_store import ImageStore
from miniworker.runtime.oci.records import Containers, ensure_directory
from miniworker.runtime.oci.registry.auth import Keyring
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/podman:/usr/lib/podman"
"""Where distributions put them, whatever PATH the daemon was started with."""

_INITS = ("tini-static", "docker-init", "catatonit")
"""Inits that need nothing of the container they are put into; any of them will do for --init."""


async def open_oci(settings: OciSettings, *, keyring: Keyring | None = None) -> OciRuntime:
    """The runtime, with what an earlier one left half done cleared away.

    Raises FailedPreconditionError when a program is missing or this is not root.
    """
    programs = find_programs(settings)
    if os.geteuid() != 0:
        raise FailedPreconditionError(
            "the oci runtime needs root: it makes mounts, namespaces and control groups"
        )
    runtime = await asyncio.to_thread(_build, settings, programs, keyring)
    await runtime.recover()
    return runtime


def find_programs(settings: OciSettings, *, search: str = "", unified: bool | None = None) -> Programs:
    """Absolute paths of conmon and the runtime. Raises FailedPreconditionError, naming all that is missing.

    crun is chosen where it is installed and the host has only cgroup v2: it starts containers in two thirds of the
    time. On hosts with version 1 it is less proven, and runc is taken.
    """
    where = search or f"{os.environ.get('PATH', '')}:{_SEARCH}"
    wants_crun = cgroups.is_unified() if unified is None else unified
    candidates = (settings.binary,) if settings.binary else (("crun", "runc") if wants_crun else ("runc",))
    runtime = next(filter(None, (shutil.which(name, path=where) for name in candidates)), None)
    conmon = shutil.which(settings.conmon, path=where)
    missing = [
        *([] if runtime else [" or ".join(candidates)]),
        *([] if conmon else [settings.conmon]),
    ]
    if runtime is None or conmon is None:
        raise FailedPreconditionError(
            f"the oci runtime needs {' and '.join(missing)}, not found in {where}; "
            "on Debian and Ubuntu: apt-get install runc conmon"
        )
    init = next(filter(None, (shutil.which(name, path=where) for name in _INITS)), "")
    return Programs(conmon=str(Path(conmon)), runtime=str(Path(runtime)), init=init)


def _build(settings: OciSettings, programs: Programs, keyring: Keyring | None) -> OciRuntime:
    ensure_directory(settings.data_dir)
    ensure_directory(settings.run_dir)
    return OciRuntime(
        settings,
        programs=programs,
        store=ImageStore(settings.data_dir),
        containers=Containers(settings.data_dir),
        keyring=keyring,
    )
