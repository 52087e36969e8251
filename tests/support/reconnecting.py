"""A client that makes a new connection for each request, until SIGINT; then it tells what failed, as JSON.

A program of its own, which imports nothing of ours: `python reconnecting.py ADDRESS PORT`.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time

_PAUSE_S = 0.002


def _request(node: str, port: int) -> None:
    """One request on a connection of its own. Raises OSError."""
    with socket.create_connection((node, port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise OSError(f"the answer is {answer!r}")


def main(node: str, port: int) -> None:
    """Requests one after the other until SIGINT."""
    # A plain list: a handler that took an Event's lock would wait for ever if it came while `wait` held it.
    over: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: over.append(number))
    requests, failures = 0, []
    while not over:
        requests += 1
        try:
            _request(node, port)
        except OSError as error:
            failures.append(f"request {requests} through {node}: {error}")
        time.sleep(_PAUSE_S)
    sys.stdout.write(json.dumps({"requests": requests, "failures": failures}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
