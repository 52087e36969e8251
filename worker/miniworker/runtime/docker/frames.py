"""How the Engine puts two streams into one: a frame is the stream's number, three zeros, the length, the bytes."""

from __future__ import annotations

import asyncio

HEAD = 8
BLOCK = 64 << 10
"""Bytes that are read at once where there are no frames."""

_STREAMS = {1: "stdout", 2: "stderr"}


async def read_frame(reader: asyncio.StreamReader) -> tuple[str, bytes] | None:
    """The next frame; None at the end, also one that comes too early."""
    try:
        head = await reader.readexactly(HEAD)
        data = await reader.readexactly(int.from_bytes(head[4:], "big"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _STREAMS.get(head[0], "stdout"), data


async def read_raw(reader: asyncio.StreamReader) -> tuple[str, bytes] | None:
    """The next bytes of a terminal."""
    try:
        data = await reader.read(BLOCK)
    except ConnectionError:
        return None
    return ("stdout", data) if data else None


def split(buffer: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """The whole frames of the buffer, and what is left."""
    found, at = [], 0
    while len(buffer) - at >= HEAD:
        end = at + HEAD + int.from_bytes(buffer[at + 4 : at + HEAD], "big")
        if end > len(buffer):
            break
        found.append((_STREAMS.get(buffer[at], "stdout"), buffer[at + HEAD : end]))
        at = end
    return found, buffer[at:]
