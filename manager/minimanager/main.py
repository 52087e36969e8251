"""`mini-manager`: reads the settings that the node daemon wrote, and serves until it is told to stop.

It is started and restarted by the node daemon; run by hand it behaves the same.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from minicommon import __version__
from minicommon.clock import SystemClock
from minicommon.core_dumps import forbid_core_dumps, keep_out_of_swap
from minicommon.errors import MiniError
from minicommon.log import configure, fields, keep_grpc_quiet
from minicommon.paths import DEFAULT_DATA_DIR, DEFAULT_RUN_DIR, NodePaths
from minicommon.settings import ManagerSettings, read_json

from minimanager.backup.schedule import BackupSchedule, schedule_of

logger = logging.getLogger(__name__)

EXIT_FAILURE = 1
"""The manager could not start or had to give up; its log says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 after a clean stop."""
    options = _parser().parse_args(arguments)
    configure(format=options.log_format, level=options.log_level)
    forbid_core_dumps()
    if not keep_out_of_swap():
        logger.warning("This process may be swapped out: it has no CAP_IPC_LOCK.")
    keep_grpc_quiet()
    if options.verify_backup is not None:
        from minimanager.backup import report  # imports gRPC, as `_run` does

        return report.main(options.verify_backup)
    failed = False
    try:
        backups = schedule_of(
            options.backup_dir, options.backup_interval, options.backup_keep, options.backup_passphrase_file
        )
        asyncio.run(_run(NodePaths(options.data_dir, options.run_dir), backups))
    except* (MiniError, OSError, ValueError) as errors:
        failed = True
        for error in _single(errors):
            logger.error("The manager cannot go on.", extra=fields(error=str(error)))
    return EXIT_FAILURE if failed else 0


def _single(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    """The errors in a group and in the groups inside it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _single(error)
        else:
            yield error


async def _run(paths: NodePaths, backups: BackupSchedule | None) -> None:
    from minimanager.app import serve  # imports gRPC, which looks at its environment then

    settings = read_json(paths.manager_settings, ManagerSettings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(paths, settings, clock=SystemClock(), stop=stop, backups=backups)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mini-manager", description="Control API, dispatcher, certificate authority and control loops."
    )
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help="default: %(default)s")
    parser.add_argument("--run-dir", type=Path, default=DEFAULT_RUN_DIR, help="default: %(default)s")
    parser.add_argument("--backup-dir", type=Path, help="where backups are written from time to time")
    parser.add_argument("--backup-interval", default="24h", help="between two backups (default: %(default)s)")
    parser.add_argument("--backup-keep", type=int, default=7, help="so many stay (default: %(default)s)")
    parser.add_argument("--backup-passphrase-file", type=Path, help="default: sealed with the unlock key")
    parser.add_argument(
        "--verify-backup",
        type=Path,
        metavar="FILE",
        help="look through a backup, with its passphrase or unlock key on standard input, print JSON and exit",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
