"""A container's output as the Engine tells it: frames of one line each, with its time before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp

from miniworker.runtime.api import SECOND, LogLine, LogQuery
from miniworker.runtime.docker import frames
from miniworker.runtime.docker.engine import Engine, EngineGoneError
from miniworker.runtime.docker.read import time_ns


async def read(
    engine: Engine, container: str, wanted: LogQuery, *, tty: bool
) -> AsyncIterator[tuple[LogLine, ...]]:
    """The lines that are wanted, many at a time."""
    query: dict[str, str | int | bool] = {
        "stdout": True,
        "stderr": True,
        "timestamps": True,
        "follow": wanted.follow,
        "tail": "all" if wanted.tail is None else wanted.tail,
    }
    if wanted.tail == 0 and not wanted.follow:
        return  # to the Engine no number means all
    async with engine.stream("GET", f"/containers/{container}/logs", query) as answer:
        parse = _terminal if tty else _framed
        rest = b""
        while block := await _next(answer, wanted):
            lines, rest = parse(rest + block)
            if covered := tuple(line for line in lines if wanted.covers(line)):
                yield covered
            if wanted.until_ns and lines and lines[-1].time_ns > wanted.until_ns:
                return


async def _next(answer: aiohttp.ClientResponse, wanted: LogQuery) -> bytes:
    """None at the end, also when the time is over or the container was removed."""
    limit = (wanted.until_ns - time.time_ns()) / SECOND if wanted.follow and wanted.until_ns else None
    try:
        async with asyncio.timeout(None if limit is None else max(0.0, limit) + 1):
            return await answer.content.readany()
    except TimeoutError:
        return b""
    except aiohttp.ClientPayloadError as error:
        raise EngineGoneError(f"the Docker Engine broke off the output of a container: {error}") from error


def _framed(buffer: bytes) -> tuple[list[LogLine], bytes]:
    found, rest = frames.split(buffer)
    lines = (_line(stream, data) for stream, data in found)
    return [line for line in lines if line is not None], rest


def _terminal(buffer: bytes) -> tuple[list[LogLine], bytes]:
    *whole, rest = buffer.split(b"\n")
    lines = (_line("stdout", data + b"\n") for data in whole)
    return [line for line in lines if line is not None], rest


def _line(stream: str, data: bytes) -> LogLine | None:
    head, _, text = data.partition(b" ")
    moment = time_ns(head.decode(errors="replace"))
    if not moment:
        return None
    return LogLine(stream, moment, text.removesuffix(b"\n"), partial=not text.endswith(b"\n"))
