"""Files of a container that does not run, through the Engine: of one that does, its processes' own view is used.

The Engine tells a file's mode as Go has it, with the kinds in high bits.
"""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import AsyncIterator
from typing import Any

from miniworker.runtime.api import NoSuchPathError, PathStat, RuntimeFaultError
from miniworker.runtime.docker.engine import Engine, EngineError, NotFoundError
from miniworker.runtime.docker.read import time_ns

BLOCK = 64 << 10
"""Bytes that are passed on at once."""

_MAX_LINKS = 40
"""That are followed, as in the kernel."""

_KINDS = {
    1 << 31: stat.S_IFDIR,
    1 << 27: stat.S_IFLNK,
    1 << 26 | 1 << 21: stat.S_IFCHR,
    1 << 26: stat.S_IFBLK,
    1 << 25: stat.S_IFIFO,
    1 << 24: stat.S_IFSOCK,
}
"""Go's `fs.FileMode`; a character device has the device's bit, too."""

_BITS = {1 << 23: stat.S_ISUID, 1 << 22: stat.S_ISGID, 1 << 20: stat.S_ISVTX}


def mode_of(go: int) -> int:
    """st_mode of a Go file mode."""
    kind = next((value for bits, value in _KINDS.items() if go & bits == bits), stat.S_IFREG)
    return kind | go & 0o777 | sum(value for bit, value in _BITS.items() if go & bit)


async def stat_path(engine: Engine, container: str, path: str) -> PathStat:
    try:
        async with engine.stream("HEAD", f"/containers/{container}/archive", {"path": path}) as answer:
            return _path_stat(answer.headers["X-Docker-Container-Path-Stat"])
    except NotFoundError:
        raise _missing(path) from None


async def read_path(
    engine: Engine, container: str, path: str, *, follow: bool
) -> AsyncIterator[PathStat | bytes]:
    """What is there, then its archive in pieces."""
    for _ in range(_MAX_LINKS if follow else 0):
        found = await stat_path(engine, container, path)
        if not found.link:
            break
        path = found.link  # the Engine tells it whole
    try:
        async with engine.stream("GET", f"/containers/{container}/archive", {"path": path}) as answer:
            yield _path_stat(answer.headers["X-Docker-Container-Path-Stat"])
            async for data in answer.content.iter_chunked(BLOCK):
                yield data
    except NotFoundError:
        raise _missing(path) from None


async def write_path(
    engine: Engine, container: str, path: str, archive: AsyncIterator[bytes], *, keep_owners: bool
) -> None:
    query: dict[str, str | int | bool] = {"path": path, "copyUIDGID": keep_owners}
    try:
        async with engine.stream("PUT", f"/containers/{container}/archive", query, data=archive):
            return
    except NotFoundError:
        raise _missing(path) from None
    except EngineError as error:
        raise RuntimeFaultError(f"{path}: {error}") from None


def _missing(path: str) -> NoSuchPathError:
    return NoSuchPathError(f"{path}: No such file or directory")


def _path_stat(header: str) -> PathStat:
    raw: dict[str, Any] = json.loads(base64.b64decode(header))
    return PathStat(
        name=raw["name"],
        size=int(raw["size"]),
        mode=mode_of(int(raw["mode"])),
        modified_at_ns=time_ns(raw["mtime"]),
        link=raw.get("linkTarget", ""),
    )
