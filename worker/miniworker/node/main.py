"""`mini-worker`: the command that a node's init system starts.

SIGTERM ends the daemon alone: containers and children go on, and the next daemon finds them. Ctrl-C (SIGINT), or
SIGTERM with --stop-all-on-exit, also ends containers and children; the node stays a member for the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from random import Random
from typing import Any

from minicommon.clock import SystemClock
from minicommon.core_dumps import forbid_core_dumps, keep_out_of_swap
from minicommon.errors import MiniError
from minicommon.log import configure, fields

from miniworker.agent.description import describe_node
from miniworker.network.plane import KernelDataPlane
from miniworker.network.wireguard.encryption import Encryption
from miniworker.network.wireguard.keys import KeyFile
from miniworker.node.config import DaemonConfig, parse_args, parse_listen
from miniworker.node.daemon import NodeDaemon
from miniworker.node.lock import DirectoryLock
from miniworker.node.member import Site
from miniworker.node.serving import serve_local
from miniworker.runtime.api import Runtime
from miniworker.runtime.docker.settings import DockerSettings
from miniworker.runtime.oci.settings import OciSettings
from miniworker.runtime.select import RuntimeSettings, open_runtime

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    config = parse_args(argv)
    configure(format=config.log_format, level=config.log_level)
    forbid_core_dumps()
    if not keep_out_of_swap():
        logger.warning("This process may be swapped out: it has no CAP_IPC_LOCK.")
    try:
        return asyncio.run(run(config))
    except (MiniError, OSError, ValueError) as error:
        print(f"mini-worker: {error}", file=sys.stderr)  # noqa: T201  the command line's own answer
        return 1


async def run(config: DaemonConfig) -> int:
    """Serve until a signal. Raises what keeps the daemon from working."""
    parse_listen(config.listen_address)
    # Taken out of the environment: etcd and conmon would speak to it for us.
    init_system = os.environ.pop("NOTIFY_SOCKET", "")
    _make_directories(config)
    with ExitStack() as held:
        held.callback(DirectoryLock(config.paths.data_dir).release)
        runtime, site = await _open_site(config)
        try:
            return await _serve(site, init_system=init_system)
        finally:
            await runtime.close()


async def _open_site(config: DaemonConfig) -> tuple[Runtime, Site]:
    paths = config.paths
    settings = RuntimeSettings(
        OciSettings(
            data_dir=paths.runtime_dir,
            run_dir=paths.run_dir / "oci",
            insecure_registries=config.insecure_registries,
        ),
        DockerSettings(data_dir=paths.docker_dir, socket=config.docker_socket),
        kind=config.runtime,
    )
    clock = SystemClock()

    def open_data_plane() -> KernelDataPlane:
        keys = KeyFile(paths.encryption_keys)
        encryption = Encryption(keys, clock=clock, port=config.encryption_port)
        return KernelDataPlane(paths.netns_dir, encryption, clock=clock)

    runtime, images, volumes = await open_runtime(settings)
    description = describe_node(
        config.hostname,
        await runtime.info(),
        generic_resources=config.generic_resources,
        allowed=config.allowed,
        labels=config.labels,
    )
    return runtime, Site(
        config=config,
        runtime=runtime,
        images=images,
        volumes=volumes,
        open_data_plane=open_data_plane,
        description=description,
        clock=clock,
        random=Random(),
    )


async def _serve(site: Site, *, init_system: str) -> int:
    told = _signals()
    daemon = NodeDaemon(site)
    await daemon.resume()
    async with serve_local(daemon, site):
        notify_init_system(init_system, "READY=1")
        logger.info("The node's daemon is ready.", extra=fields(socket=site.paths.local_socket))
        ends: set[asyncio.Future[Any]] = {told, daemon.failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        notify_init_system(init_system, "STOPPING=1")
    stop_all = told.done() and (told.result() is signal.SIGINT or site.config.stop_all_on_exit)
    logger.info("The node's daemon ends.", extra=fields(stop_all=stop_all))
    await daemon.close(stop_all=stop_all)
    if daemon.failed.done():
        logger.error("A part that must run for ever ended.", exc_info=daemon.failed.exception())
        return 1
    return 0


def _signals() -> asyncio.Future[signal.Signals | None]:
    """Gets the first signal that asks the daemon to end."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[signal.Signals | None] = loop.create_future()

    def tell(number: signal.Signals) -> None:
        if not told.done():
            told.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number)
    return told


def _make_directories(config: DaemonConfig) -> None:
    for directory in (config.paths.data_dir, config.paths.run_dir):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)


def notify_init_system(address: str, message: str) -> None:
    """Tell systemd (sd_notify(3)); an empty address: it did not start us."""
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(message.encode())


if __name__ == "__main__":
    sys.exit(main())
