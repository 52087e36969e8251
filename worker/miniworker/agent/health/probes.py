"""One probe: a command inside the container, or a request of the agent's own from inside its network namespace.

The latter need no shell and no client in the image, and cost no process.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import Protocol

from minicommon.clock import SECOND
from minicommon.errors import MiniError

from miniworker.runtime.api import Execution, Runtime

MAX_OUTPUT = 4096
"""Bytes of a probe's answer that are read (Docker's `maxOutputLen`)."""

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Target:
    """The container that is asked."""

    task_id: str
    address: str
    """Its own, where its traffic comes in; empty: it is on no network and listens for itself."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    succeeded: bool
    output: str = ""


class Sockets(Protocol):
    """Makes sockets inside a task's network namespace."""

    async def open_socket(self, task_id: str) -> socket.socket:
        """A TCP socket, not connected and not blocking. Raises NetworkError."""


class Prober:
    """Runs any kind of probe. What goes wrong is a failed probe, never an error."""

    def __init__(self, runtime: Runtime, sockets: Sockets) -> None:
        self._runtime = runtime
        self._sockets = sockets

    async def probe(self, test: tuple[str, ...], target: Target, *, timeout_ns: int) -> ProbeResult:
        """`test` is a health check's, of any kind but NONE."""
        try:
            match test:
                case ("CMD", *command):
                    return await self._execute(target, tuple(command), timeout_ns)
                case ("CMD-SHELL", line):
                    return await self._execute(target, ("/bin/sh", "-c", line), timeout_ns)
                case ("HTTP", where):
                    async with asyncio.timeout(timeout_ns / SECOND):
                        return await self._http(target, where)
                case ("TCP", port):
                    async with asyncio.timeout(timeout_ns / SECOND):
                        return await self._tcp(target, int(port))
                case _:
                    return ProbeResult(False, f"unknown type of health check: {' '.join(test)}")
        except TimeoutError:
            return _too_long(timeout_ns)
        except MiniError as error:
            return ProbeResult(False, error.message)
        except OSError as error:
            return ProbeResult(False, os.strerror(error.errno) if error.errno else str(error))

    async def _execute(self, target: Target, command: tuple[str, ...], timeout_ns: int) -> ProbeResult:
        done: Execution = await self._runtime.exec(target.task_id, command, timeout_ns=timeout_ns)
        if done.timed_out:
            return _too_long(timeout_ns)
        return ProbeResult(done.code == 0, done.output[:MAX_OUTPUT].decode(errors="replace").strip())

    async def _tcp(self, target: Target, port: int) -> ProbeResult:
        connected = await self._connect(target, port)
        connected.close()
        return ProbeResult(True)

    async def _http(self, target: Target, where: str) -> ProbeResult:
        port, _, path = where.partition("/")
        reader, writer = await asyncio.open_connection(sock=await self._connect(target, int(port)))
        try:
            host = target.address or _LOOPBACK
            request = f"GET /{path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: mini-health\r\n"
            writer.write(f"{request}Connection: close\r\n\r\n".encode())
            status = (await reader.readline()).decode(errors="replace").strip()
        finally:
            writer.close()
        words = status.split()
        good = len(words) > 1 and words[0].startswith("HTTP/") and words[1].isdigit()
        return ProbeResult(good and 200 <= int(words[1]) < 400, status or "no answer")

    async def _connect(self, target: Target, port: int) -> socket.socket:
        opened = await self._sockets.open_socket(target.task_id)
        try:
            address = (target.address or _LOOPBACK, port)
            await asyncio.get_running_loop().sock_connect(opened, address)
        except BaseException:
            opened.close()
            raise
        return opened


def _too_long(timeout_ns: int) -> ProbeResult:
    return ProbeResult(False, f"Health check exceeded timeout ({timeout_ns / SECOND:g}s)")
