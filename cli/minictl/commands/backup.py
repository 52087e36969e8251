"""`minictl swarm backup` and `restore`: the cluster in a file, and back."""

from __future__ import annotations

import sys

from minictl import values
from minictl.command import Command
from minictl.errors import CliError, FailedError
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from miniproto.v1.node_pb2 import RestoreChunk, RestoreOptions

    from minictl.context import Context
    from minictl.flags import Parsed

CHUNK_BYTES = 256 << 10
"""Bytes per message of an upload; well below gRPC's default limit of 4 MiB."""

MAX_PASSPHRASE_BYTES = 1024


def _backup(context: Context, parsed: Parsed) -> int:
    import os

    from minictl.client import messages

    (path,) = parsed.arguments
    if os.path.exists(path) and not parsed["force"]:
        raise CliError(f"{path} exists already: choose another name, or replace it with --force")
    passphrase = _new_passphrase(context, parsed)
    request = messages.CreateBackupRequest(passphrase=passphrase.encode())
    size = _write_new(path, context.channel.stream("Backups/Create", request))
    from minicommon.units import human_size

    sealed = "a passphrase" if passphrase else "the unlock key"
    context.print(f"Backup written to {path} ({human_size(size)}, sealed with {sealed}).")
    return 0


def _new_passphrase(context: Context, parsed: Parsed) -> str:
    """Empty: the unlock key will do, since the managers are locked."""
    from minictl.client import messages

    if parsed["passphrase-file"]:
        return _line_of(parsed["passphrase-file"])
    if context.call("Clusters/Get", messages.GetClusterRequest()).cluster.spec.autolock:
        return ""
    if not sys.stdin.isatty():
        raise CliError(
            "a passphrase is needed: give --passphrase-file FILE (- for standard input), or turn autolock on"
        )
    from getpass import getpass

    first = getpass("Passphrase for the backup: ")
    if getpass("The same again: ") != first:
        raise CliError("the passphrases differ")
    if not first:
        raise CliError("the passphrase is empty")
    return first


def _line_of(path: str) -> str:
    """The first line of a file, or of standard input."""
    try:
        if path == "-":
            return sys.stdin.readline().rstrip("\r\n")
        with open(path, encoding="utf-8") as file:
            line = file.readline(MAX_PASSPHRASE_BYTES + 2).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise CliError(f"open {path}: {reason}") from error
    if not line:
        raise CliError(f"{path}: its first line, the passphrase, is empty")
    return line


def _write_new(path: str, responses: Any) -> int:
    """The whole file under its name, durably, or none of it. Bytes."""
    import os

    fresh, size = f"{path}.partial", 0
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                while (chunk := responses.receive()) is not None:
                    size += file.write(chunk.data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        except BaseException:
            os.unlink(fresh)
            raise
        directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise CliError(f"write {path}: {(error.strerror or str(error)).lower()}") from error
    return size


def _key_of(path: str, parsed: Parsed) -> str:
    """What opens the file at `path`, as the user gives it. Raises CliError for a file that is no backup."""
    from minicommon.backup_file import BackupReader
    from minicommon.errors import MiniError

    from minictl.client import messages

    try:
        with open(path, "rb") as file:
            seal = BackupReader(file).header.seal
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from error
    except MiniError as error:
        raise CliError(f"{path}: {error.message}") from error
    if parsed["passphrase-file"]:
        return _line_of(parsed["passphrase-file"])
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    from getpass import getpass

    wanted = "unlock key" if seal == messages.BACKUP_SEAL_UNLOCK_KEY else "passphrase"
    return getpass(f"Enter the {wanted} of the backup: ")


def _verify(context: Context, parsed: Parsed) -> int:
    import json
    import subprocess
    from pathlib import Path

    from minictl.views import backup

    (path,) = parsed.arguments
    key = _key_of(path, parsed)
    program = Path(sys.executable).with_name("mini-manager")
    try:
        done = subprocess.run(
            [str(program), "--verify-backup", path],
            input=key + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise CliError(f"{program}: {(error.strerror or str(error)).lower()}") from error
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise FailedError(f"mini-manager could not verify {path}:\n{done.stderr.strip()}") from None
    if "error" in report:
        raise FailedError(f"{path}: {report['error']}")
    context.print("\n".join(backup.lines(report)))
    if report["problems"]:
        raise FailedError(f"{path} must not be trusted: {len(report['problems'])} problems")
    context.print(f"{path} is good.")
    return 0


def _restore(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import backup

    (path,) = parsed.arguments
    local = context.call("LocalNode/Info", messages.InfoRequest())
    if local.state != messages.LOCAL_STATE_INACTIVE:
        raise CliError(
            'This node is already part of a swarm. Use "minictl swarm leave" to leave this swarm before '
            "you restore one."
        )
    options = messages.RestoreOptions(
        key=_key_of(path, parsed),
        advertise_address=parsed["advertise-addr"],
        listen_address=parsed["listen-addr"] if parsed.changed("listen-addr") else "",
    )
    answer = context.channel.upload("LocalNode/Restore", _chunks(path, options))
    context.print("\n".join(backup.restored(answer)))
    return 0


def _chunks(path: str, options: RestoreOptions) -> Iterator[RestoreChunk]:
    from minictl.client import messages

    yield messages.RestoreChunk(options=options)
    with open(path, "rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield messages.RestoreChunk(data=data)


_PASSPHRASE_FILE = Flag(
    "passphrase-file",
    "File with the passphrase or unlock key in its first line (- for standard input)",
    kind=values.STRING,
)


def commands(*, advertise: Flag, listen: Flag) -> tuple[Command, Command, Command]:
    """`backup`, `backup verify` and `restore`, with the flags that `swarm init` has for addresses."""
    return (
        Command(
            "backup",
            "Write everything of the swarm to a file",
            _backup,
            arguments="FILE",
            least=1,
            most=1,
            flags=(Flag("force", "Replace the file if it exists", short="f"), _PASSPHRASE_FILE),
        ),
        Command(
            "backup verify",
            "Restore a backup into a scratch etcd and look whether all is well",
            _verify,
            arguments="FILE",
            least=1,
            most=1,
            flags=(_PASSPHRASE_FILE,),
        ),
        Command(
            "restore",
            "Make this node the only manager of the swarm in a backup",
            _restore,
            arguments="FILE",
            least=1,
            most=1,
            flags=(advertise, listen, _PASSPHRASE_FILE),
        ),
    )
