"""Thousands of connections through the userspace path of a real mini-ingress: as many as the machine's limit allows."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys

import pytest
from miniworker.ingress.limits import connection_limits
from miniworker.network.api import Attachment, Sandbox
from support.cluster import eventually
from support.hosts import Lab
from support.ingress_site import NETWORK, SUBNET, Node, Site, published

pytestmark = pytest.mark.root

PORT, TARGET = 4567, 8000

WANTED = 10_000
"""Connections; each costs this process' children two descriptors, and 20,000 is what some machines allow."""

BYTES_EACH = 8192
"""Of mini-ingress' own memory; two sockets' objects in Python and what joins them."""

_ECHO = """
import asyncio
async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "0.0.0.0", 8000, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

_CLIENT = """
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
for word in (b"a", b"b"):
    for client in clients:
        client.sendall(word)
    assert all(client.recv(1) == word for client in clients)
    print("answered", flush=True)
    sys.stdin.readline()
"""


def test_idle_connections_are_kept_and_answered_with_little_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with Lab(f"i{os.getpid() % 10000}", ["core-01"]) as lab:
            site = Site(lab)
            try:
                _fill(site, min(WANTED, connection_limits(hard).per_port))
            finally:
                site.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _fill(site: Site, count: int) -> None:
    node, task = site.add_node("core-01", 1), "task1aaaaaaaaaaaaaaaaaaaa"
    site.spread_fabric()
    attached = node.driver.call("attach", Sandbox(task, (Attachment(NETWORK, SUBNET[10]),)))
    server = ["nsenter", f"--net={attached.netns}", sys.executable, "-I", "-c", _ECHO]
    node.host.start(server, log="echo.log")
    eventually(lambda: "ready" in node.host.log("echo.log"), "the server listens")
    assert not node.apply(published(PORT, TARGET, {task: SUBNET[10]})).problems
    before = _resident_bytes(node)
    client = [sys.executable, "-I", "-c", _CLIENT, str(PORT), str(count)]
    process = subprocess.Popen(
        node.host.command(client), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "answered\n"
    assert (_resident_bytes(node) - before) / count < BYTES_EACH
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "answered\n"
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


def _resident_bytes(node: Node) -> int:
    pids = node.host.run(["pgrep", "-f", f"mini-ingress --data-dir={node.run_dir}"]).stdout.split()
    status = [node.host.run(["cat", f"/proc/{pid}/status"]).stdout for pid in pids]
    return max(int(found[1]) * 1024 for text in status if (found := re.search(r"VmRSS:\s+(\d+) kB", text)))
