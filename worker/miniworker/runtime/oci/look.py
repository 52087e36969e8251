"""Looking at a container: what it was told to be, what it uses, and as whom a command would run in it. Blocks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miniworker.runtime.api import ContainerStatus, Details, Usage
from miniworker.runtime.interactive import Command
from miniworker.runtime.oci import bundle, cgroups, rooted, users
from miniworker.runtime.oci.records import ContainerFiles, ContainerRecord


def started_at_ns(files: ContainerFiles, status: ContainerStatus) -> int:
    """When conmon wrote the first process's pid."""
    try:
        return files.pid.stat().st_mtime_ns if status is not ContainerStatus.CREATED else 0
    except FileNotFoundError:
        return 0


def process_of(files: ContainerFiles, command: Command) -> Mapping[str, Any]:
    """The `process` document of a command. Raises RuntimeFaultError for a user that the container does not know."""
    document = json.loads(files.document.read_text())
    identity = None
    if command.user:
        identity = users.identify(
            command.user,
            (),
            passwd=rooted.read_text(files.rootfs, "/etc/passwd"),
            group=rooted.read_text(files.rootfs, "/etc/group"),
        )
    return bundle.command_process(document["process"], command, identity)


def details(record: ContainerRecord, files: ContainerFiles) -> Details:
    document = json.loads(files.document.read_text())
    process = document["process"]
    user = process["user"]
    return Details(
        image_id=record.image_id,
        arguments=tuple(process["args"]),
        env=tuple(process["env"]),
        dir=process["cwd"],
        user=f"{user['uid']}:{user['gid']}" if user["uid"] or user["gid"] else "",
        hostname=document["hostname"],
        mounts=tuple(_mounts(document["mounts"], files)),
    )


def _mounts(mounts: list[dict[str, Any]], files: ContainerFiles) -> list[tuple[str, str, str, bool]]:
    """Those that it was given, without those that every container has."""
    found = []
    for each in mounts:
        source, kind = str(each.get("source", "")), str(each.get("type", ""))
        bound = (
            kind == "bind"
            and not source.startswith(f"{files.etc}/")
            and each["destination"] != bundle.INIT_PATH
        )
        given = kind == "tmpfs" and each["destination"] not in ("/dev", "/dev/shm")
        if bound or given:
            shown = ("volume" if "/volumes/" in source else "bind") if bound else "tmpfs"
            found.append((shown, source if bound else "", str(each["destination"]), "ro" in each["options"]))
    return found


def usage(group: str, pid: int) -> Usage:
    """Of the control group at that path, and of the network namespace of that process."""
    used = cgroups.usage(group)
    received, sent = _traffic(pid)
    limit = used.memory_limit_bytes
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Usage(
        time_ns=time.time_ns(),
        cpu_ns=used.cpu_ns,
        memory_bytes=used.memory_bytes,
        memory_limit_bytes=min(limit, total) if limit else total,
        received_bytes=received,
        sent_bytes=sent,
        read_bytes=used.read_bytes,
        written_bytes=used.written_bytes,
        pids=used.pids,
    )


def _traffic(pid: int) -> tuple[int, int]:
    """Bytes received and sent on all interfaces of the process's network namespace but loopback."""
    received = sent = 0
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, rest = line.partition(":")
        if name.strip() != "lo":
            numbers = rest.split()
            received += int(numbers[0])
            sent += int(numbers[8])
    return received, sent
