"""What the Engine tells of a container, read into values. Pure functions of the answer to `inspect`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from miniworker.runtime.api import (
    NO_HEALTH_CHECK,
    Container,
    ContainerStatus,
    Details,
    Exit,
    HealthCheck,
)
from miniworker.runtime.docker.translate import ETC, RECORD, TASK, Record

_STATUSES = {
    "created": ContainerStatus.CREATED,
    "exited": ContainerStatus.EXITED,
    "dead": ContainerStatus.EXITED,
    "removing": ContainerStatus.EXITED,
}
"""Running, paused and restarting are the rest."""

_NOISE = re.compile(
    r"failed to create (?:shim task|shim): |OCI runtime (?:create|exec) failed: |runc create failed: |exec failed: "
    r"|unable to start container process: |container_linux\.go:\d+: |starting container process caused: "
    r"|: unknown$"
)

Document = Mapping[str, Any]


def record(told: Document) -> Record:
    return Record.parse(told["Config"]["Labels"][RECORD])


def status(told: Document) -> ContainerStatus:
    return _STATUSES.get(told["State"]["Status"], ContainerStatus.RUNNING)


def exit_of(told: Document) -> Exit | None:
    """None: it has not ended."""
    if status(told) is not ContainerStatus.EXITED:
        return None
    state = told["State"]
    return Exit(int(state["ExitCode"]), bool(state["OOMKilled"]), time_ns(state["FinishedAt"]))


def arguments(told: Document) -> tuple[str, ...]:
    """What its first process is started with."""
    return tuple(filter(None, (told["Path"], *told["Args"])))


def container(told: Document) -> Container:
    kept, seen = record(told), status(told)
    return Container(
        id=kept.id,
        name=kept.name,
        status=seen,
        labels=kept.labels,
        pid=int(told["State"]["Pid"]) if seen is ContainerStatus.RUNNING else 0,
        exit=exit_of(told),
        image=kept.image,
        arguments=arguments(told),
        created_at_ns=time_ns(told["Created"]),
        started_at_ns=time_ns(told["State"]["StartedAt"]),
        tty=bool(told["Config"]["Tty"]),
        open_stdin=bool(told["Config"]["OpenStdin"]),
    )


def details(told: Document) -> Details:
    config = told["Config"]
    return Details(
        image_id=told["Image"],
        arguments=arguments(told),
        env=tuple(config["Env"] or ()),
        dir=config["WorkingDir"] or "/",
        user=config["User"],
        hostname=record(told).hostname,
        mounts=tuple(_mounts(told)),
    )


def _mounts(told: Document) -> list[tuple[str, str, str, bool]]:
    """Those that it was given, without those that every container has."""
    etc = {f"/etc/{name}" for name in ETC}
    return [
        (each["Type"], "" if each["Type"] == "tmpfs" else each["Source"], each["Destination"], not each["RW"])
        for each in told["Mounts"]
        if each["Destination"] not in etc or each["Type"] != "bind"
    ]


def volumes(told: Document) -> tuple[str, ...]:
    """Names of the volumes that it has."""
    return tuple(each["Name"] for each in told["Mounts"] if each["Type"] == "volume")


def health(raw: Document | None) -> HealthCheck:
    """The `Healthcheck` of an image."""
    if not raw:
        return NO_HEALTH_CHECK
    return HealthCheck(
        test=tuple(raw.get("Test") or ()),
        interval_ns=int(raw.get("Interval") or 0),
        timeout_ns=int(raw.get("Timeout") or 0),
        retries=int(raw.get("Retries") or 0),
        start_period_ns=int(raw.get("StartPeriod") or 0),
        start_interval_ns=int(raw.get("StartInterval") or 0),
    )


def time_ns(text: str) -> int:
    """Of an RFC 3339 time; 0 for the Engine's "never" and for what is none."""
    found = re.fullmatch(r"(\d+-\d+-\d+T\d+:\d+:\d+)(?:\.(\d{1,9})\d*)?(Z|[+-]\d+:\d+)", text)
    if found is None or text.startswith("0001-"):
        return 0
    seconds, fraction, zone = found.groups()
    whole = datetime.fromisoformat(seconds + zone.replace("Z", "+00:00"))
    return int(whole.timestamp()) * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


def plain(message: str) -> str:
    """A complaint without its layers of prefixes: `exec: "foo": executable file not found in $PATH`."""
    return _NOISE.sub("", message.strip())


def task_id(told: Document) -> str:
    """Empty: it is no container of ours."""
    return str((told["Config"]["Labels"] or {}).get(TASK, ""))
