"""The Engine API: requests, answers in pieces, and connections that become the two ends of a program's streams.

The version of the API is negotiated once: the newest that both know. A name that is not there, and an Engine that does
not answer, have errors of their own; every other refusal is the Engine's own sentence.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

from miniworker.runtime.api import RuntimeFaultError

OLDEST = (1, 41)
"""Of the API: Engine 20.10."""

NEWEST = (1, 47)
"""What this client was written against; later Engines still speak it."""

_PATIENCE_S = 5.0
"""How long the first answer may take."""

LINE_BYTES = 1 << 20
"""Of one JSON message in a stream."""

Query = Mapping[str, str | int | bool | tuple[str, ...]]
"""Of several values each is a parameter of that name."""


class EngineError(RuntimeFaultError):
    """The Engine refused; the text is what it said."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(EngineError):
    """There is nothing of that name."""


class EngineGoneError(RuntimeFaultError):
    """The Engine does not answer, or broke off."""


@dataclass(frozen=True, slots=True)
class Version:
    engine: str
    """"20.10.24"."""
    api: tuple[int, int]


class Engine:
    """Make it with `open_engine`; close it in the end."""

    def __init__(self, socket: Path, api: str) -> None:
        self._socket = socket
        self._prefix = f"/v{api}" if api else ""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket), limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=LINE_BYTES,
        )

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()

    async def get(self, path: str, query: Query | None = None) -> Any:
        async with self.stream("GET", path, query) as answer:
            return await _document(answer)

    async def post(self, path: str, body: object = None, query: Query | None = None) -> Any:
        async with self.stream("POST", path, query, body=body) as answer:
            return await _document(answer)

    async def delete(self, path: str, query: Query | None = None) -> Any:
        async with self.stream("DELETE", path, query) as answer:
            return await _document(answer)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: object = None,
        data: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer once it has begun. Raises EngineError, EngineGoneError, the latter also while it is read."""
        try:
            async with self._session.request(
                method,
                f"http://docker{self._target(path, query)}",
                json=body,
                data=data,
                headers=headers,
            ) as answer:
                if answer.status >= 400:
                    raise _refusal(answer.status, await answer.text())
                yield answer
        except (aiohttp.ClientError, ConnectionError, FileNotFoundError) as error:
            raise self._gone(error) from error

    async def take_over(self, path: str, body: object = None, query: Query | None = None) -> Connection:
        """Make the request and keep its connection: what follows is the program's. Raises as `stream`."""
        data = json.dumps(body).encode() if body is not None else b""
        head = (
            f"POST {self._target(path, query)} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=LINE_BYTES)
        except OSError as error:
            raise self._gone(error) from error
        try:
            writer.write(head.encode() + data)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
            status = int(answer.split(maxsplit=2)[1])
            if status >= 400:
                raise _refusal(status, (await _rest(reader, answer)).decode(errors="replace"))
        except (OSError, EOFError, ValueError, IndexError) as error:
            writer.close()
            raise self._gone(error) from error
        except BaseException:
            writer.close()
            raise
        return Connection(reader, writer)

    def _target(self, path: str, query: Query | None) -> str:
        words = {
            key: value if isinstance(value, tuple) else str(int(value) if isinstance(value, bool) else value)
            for key, value in (query or {}).items()
        }
        return f"{self._prefix}{quote(path, safe='/:@')}" + (
            f"?{urlencode(words, doseq=True)}" if words else ""
        )

    def _gone(self, error: Exception) -> EngineGoneError:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return EngineGoneError(f"the Docker Engine at {self._socket} does not answer: {why}")


@dataclass(frozen=True, slots=True)
class Connection:
    """Both ways of a program's streams."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            return  # it was broken already


async def ask_version(socket: Path) -> Version:
    """What listens there. Raises EngineError, EngineGoneError; RuntimeFaultError for one that is too old."""
    async with Engine(socket, "") as engine:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                told = await engine.get("/version")
        except TimeoutError:
            raise EngineGoneError(
                f"the Docker Engine at {socket} does not answer within {_PATIENCE_S:g} s"
            ) from None
    return Version(str(told.get("Version", "")), negotiate(told))


def negotiate(told: Mapping[str, Any]) -> tuple[int, int]:
    """The version of the API to speak, from the answer to /version. Raises RuntimeFaultError."""
    newest, oldest = _numbers(told.get("ApiVersion", "")), _numbers(told.get("MinAPIVersion", "1.0"))
    chosen = min(newest, NEWEST)
    if chosen < OLDEST or chosen < oldest:
        raise RuntimeFaultError(
            f"Docker Engine {told.get('Version', '')} speaks version {told.get('MinAPIVersion', '?')} to "
            f"{told.get('ApiVersion', '?')} of the API; this worker needs one of {OLDEST[0]}.{OLDEST[1]} "
            f"(Engine 20.10) to {NEWEST[0]}.{NEWEST[1]}"
        )
    return chosen


def _numbers(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


async def messages(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """JSON documents, one a line, as they come."""
    async for line in answer.content:
        if line.strip():
            yield json.loads(line)


async def _document(answer: aiohttp.ClientResponse) -> Any:
    text = await answer.read()
    return json.loads(text) if text.strip() and answer.content_type == "application/json" else None


def _refusal(status: int, text: str) -> EngineError:
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text.strip() or f"the Docker Engine answered with status {status}"
    return NotFoundError(status, message) if status == 404 else EngineError(status, message)


async def _rest(reader: asyncio.StreamReader, head: str) -> bytes:
    """The body of an answer that is no stream."""
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-length":
            return await reader.readexactly(int(value))
    return b""
