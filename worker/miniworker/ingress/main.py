"""`mini-ingress`: started and kept up by the node's daemon, which tells it published ports and names."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom
from typing import get_args

from minicommon import __version__
from minicommon.clock import SystemClock
from minicommon.errors import MiniError
from minicommon.log import configure, fields
from minicommon.paths import DEFAULT_DATA_DIR, DEFAULT_RUN_DIR, NodePaths
from minicommon.rpc.server import listen_unix, local_server
from miniproto.v1 import ingress_pb2_grpc

from miniworker.ingress.dns.server import DnsServer, DnsSettings
from miniworker.ingress.paths import IngressPath
from miniworker.ingress.service import IngressPorts, IngressService

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    configure(format=given.log_format, level=given.log_level)
    paths = NodePaths(given.data_dir.absolute(), given.run_dir.absolute())
    try:
        asyncio.run(run(paths, path=given.ingress_path))
    except (MiniError, OSError) as error:
        print(f"mini-ingress: {error}", file=sys.stderr)  # noqa: T201  the command line's own answer
        return 1
    return 0


async def run(paths: NodePaths, *, path: IngressPath) -> None:
    """Serve until SIGTERM or SIGINT."""
    paths.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    ports = IngressPorts(clock=SystemClock(), path=path)
    await ports.start()
    dns = DnsServer(
        DnsSettings(table=paths.dns_table, netns_dir=paths.netns_dir),
        clock=SystemClock(),
        random=SystemRandom(),
    )
    await dns.restore()
    server = local_server()
    ingress_pb2_grpc.add_IngressServicer_to_server(IngressService(ports, dns), server)
    listen_unix(server, paths.ingress_socket)
    await server.start()
    logger.info("Ingress ready.", extra=fields(socket=paths.ingress_socket))
    try:
        await ended.wait()
    finally:
        await server.stop(grace=None)
        await ports.close()
        await dns.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mini-ingress", description="The node's published ports and names.")
    add = parser.add_argument
    add("--data-dir", type=Path, default=DEFAULT_DATA_DIR, metavar="DIR", help="what survives a reboot")
    add("--run-dir", type=Path, default=DEFAULT_RUN_DIR, metavar="DIR", help="sockets")
    add(
        "--ingress-path",
        choices=get_args(IngressPath),
        default="auto",
        help="how connections from elsewhere get to tasks; auto: in the kernel where it can",
    )
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    add("--log-format", choices=("text", "json"), default="text")
    add("--version", action="version", version=f"mini-ingress {__version__}")
    return parser
