"""Calling `files`, which reads and writes inside a container, and passing its bytes on as they are taken."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from miniworker.runtime.api import NoSuchPathError, PathStat, RuntimeFaultError

BLOCK = 64 << 10
"""Bytes that are passed on at once."""


async def stat(root: Path, path: str) -> PathStat:
    async with _helper("stat", root, path) as process:
        output = await _output(process).read()
        await _check(process, path)
    return _path_stat(json.loads(output))


async def read(root: Path, path: str, *, follow: bool) -> AsyncIterator[PathStat | bytes]:
    """What is there, then its archive in pieces."""
    async with _helper("read", root, path, *(["follow"] if follow else [])) as process:
        output = _output(process)
        if head := await output.readline():
            yield _path_stat(json.loads(head))
            while data := await output.read(BLOCK):
                yield data
        await _check(process, path)


async def write(root: Path, path: str, chunks: AsyncIterator[bytes], *, keep_owners: bool) -> None:
    async with _helper("write", root, path, *(["keep"] if keep_owners else [])) as process:
        assert process.stdin is not None
        with suppress(ConnectionError):  # it has said why on its other pipe
            async for chunk in chunks:
                process.stdin.write(chunk)
                await process.stdin.drain()
            process.stdin.close()
            await process.stdin.wait_closed()
        await _check(process, path)


@asynccontextmanager
async def _helper(
    mode: str, root: Path, path: str, *options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "miniworker.runtime.oci.files", mode, str(root), path, *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _output(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    assert process.stdout is not None
    return process.stdout


async def _check(process: asyncio.subprocess.Process, path: str) -> None:
    """Raises NoSuchPathError or RuntimeFaultError with what the helper said."""
    assert process.stderr is not None
    errors = await process.stderr.read()
    if await process.wait() == 0:
        return
    last = errors.decode(errors="replace").strip().rpartition("\n")[2]
    try:
        said: dict[str, str] = json.loads(last)
    except ValueError:
        raise RuntimeFaultError(f"{path}: {last or 'the helper ended without a word'}") from None
    cls = NoSuchPathError if said["kind"] == "missing" else RuntimeFaultError
    raise cls(f"{path}: {said['error']}")


def _path_stat(raw: dict[str, Any]) -> PathStat:
    return PathStat(**raw)
