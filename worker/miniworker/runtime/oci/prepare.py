"""Making a container's directory: record, bundle, files of /etc, mounted file system. Blocks: runs in a thread."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from miniworker.runtime.api import ContainerConfig, LogLimits, MountKind, RuntimeFaultError
from miniworker.runtime.oci import bundle, etcfiles, mounts, overlay, rooted, users
from miniworker.runtime.oci.image_index import ImageRecord
from miniworker.runtime.oci.image_store import ImageStore
from miniworker.runtime.oci.processes import signal_number
from miniworker.runtime.oci.records import ContainerFiles, ContainerRecord, ensure_directory

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_LOG_DRIVERS = ("json-file", "local")
"""Both are kept in conmon's format, with the rules of the driver for their number and size."""

_DEFAULT_STOP_SIGNAL = "SIGTERM"


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What containers are given of the node."""

    volumes: Path
    """Where named volumes are."""
    init: str
    """The program for --init; empty: there is none."""
    unified: bool
    """Whether the node has only cgroup v2."""


def check_id(container_id: str) -> None:
    """Ids become file names. Raises RuntimeFaultError for one that cannot."""
    if not _ID.fullmatch(container_id):
        raise RuntimeFaultError(f"container id {container_id!r} is not letters, digits, '_', '.' and '-'")


def check_log_driver(logs: LogLimits) -> None:
    """Raises RuntimeFaultError for one that only an Engine has."""
    if logs.keep and logs.driver not in _LOG_DRIVERS:
        raise RuntimeFaultError(
            f"log driver {logs.driver!r} is not there with the oci runtime: {', '.join(_LOG_DRIVERS)} and none are"
        )


def prepare(
    config: ContainerConfig, image: ImageRecord, store: ImageStore, files: ContainerFiles, *, node: NodeParts
) -> ContainerRecord:
    """Everything but starting it; the record, which the caller enters when this has succeeded.

    Raises ImageError, or RuntimeFaultError naming what cannot be.
    """
    settings = store.config(image)
    record = ContainerRecord(
        id=config.id,
        name=config.name,
        image_id=image.id,
        chain=image.chain,
        stop_signal=_stop_signal(config.stop_signal or settings.stop_signal),
        stop_grace_period_ns=config.stop_grace_period_ns,
        labels=dict(config.labels),
        tty=config.tty,
        health=config.health.over(settings.health),
        volumes=named_volumes(config),
        logs=config.logs,
        image=config.image,
        arguments=bundle.arguments(config, settings),
        open_stdin=config.open_stdin,
        created_at_ns=time.time_ns(),
    )
    for directory in (files.root, files.etc):
        ensure_directory(directory)
    files.log.touch(mode=0o600)
    etcfiles.write(files.etc, etcfiles.texts(config))
    overlay.mount(files, store.lower(image.chain))
    identity = users.identify(
        config.user or settings.user,
        config.groups,
        passwd=rooted.read_text(files.rootfs, "/etc/passwd"),
        group=rooted.read_text(files.rootfs, "/etc/group"),
    )
    own = mounts.prepare(config.mounts, files, volumes=node.volumes)
    if config.init:
        own = (*own, _init(node.init))
    document = bundle.build(config, settings, identity, files=files, unified=node.unified, own_mounts=own)
    files.document.write_text(json.dumps(document))
    return record


def named_volumes(config: ContainerConfig) -> tuple[str, ...]:
    """The volumes that outlive it."""
    return tuple(mount.source for mount in config.mounts if mount.kind is MountKind.VOLUME and mount.source)


def _init(program: str) -> mounts.OciMount:
    if not program:
        raise RuntimeFaultError(
            "--init needs an init on the node; on Debian and Ubuntu: apt-get install tini"
        )
    return mounts.bind(bundle.INIT_PATH, Path(program), read_only=True)


def _stop_signal(text: str) -> str:
    signal = text or _DEFAULT_STOP_SIGNAL
    if signal_number(signal) is None:
        raise RuntimeFaultError(f"invalid stop signal: {signal!r}; see signal(7)")
    return signal
