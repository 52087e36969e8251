"""Files in and out of a container, in a process of its own whose root is the container's: no link leads out of it.

`python -m miniworker.runtime.oci.files stat|read|write ROOT PATH [follow|keep]`. What went wrong is one line of JSON on
standard error. `read` writes a line of JSON on what is there, then the archive.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
import sys
import tarfile
from typing import IO, Any

BLOCK = 1 << 20


def main(arguments: list[str]) -> int:
    mode, root, path, *options = arguments
    _load_everything()
    os.chroot(root)
    os.chdir("/")
    try:
        if mode == "stat":
            sys.stdout.write(json.dumps(describe(path, follow="follow" in options)))
        elif mode == "read":
            read(path, sys.stdout.buffer, follow="follow" in options)
        else:
            write(path, sys.stdin.buffer, keep_owners="keep" in options)
    except (OSError, tarfile.TarError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kind = "missing" if isinstance(error, FileNotFoundError) else "other"
        sys.stderr.write(json.dumps({"kind": kind, "error": reason}) + "\n")
        return 1
    return 0


def _load_everything() -> None:
    """Modules and codecs that are imported only when needed cannot be found in there."""
    "".encode("idna")
    pwd.getpwuid(0)
    with tarfile.open(fileobj=open(os.devnull, "wb"), mode="w|"):
        pass


def describe(path: str, *, follow: bool = False) -> dict[str, Any]:
    """What is at the path. Raises FileNotFoundError."""
    found = _absolute(path)
    status = os.stat(found) if follow else os.lstat(found)
    link = os.readlink(found) if stat.S_ISLNK(status.st_mode) else ""
    return {
        "name": os.path.basename(os.path.normpath(found)) or "/",
        "size": status.st_size,
        "mode": status.st_mode,
        "modified_at_ns": status.st_mtime_ns,
        "link": os.path.realpath(found) if link else "",
    }


def read(path: str, out: IO[bytes], *, follow: bool) -> None:
    """The archive of what is at the path, named by its last part."""
    about = describe(path, follow=follow)
    out.write(json.dumps(about).encode() + b"\n")
    found = _absolute(path)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BLOCK) as archive:
        if follow:
            found = os.path.realpath(found)
        name = about["name"] if about["name"] != "/" else "."
        archive.add(found, arcname=name)
    out.flush()


def write(path: str, source: IO[bytes], *, keep_owners: bool) -> None:
    """Unpack the archive in the directory at the path. Raises NotADirectoryError, FileNotFoundError."""
    directory = _absolute(path)
    if not os.path.isdir(directory):
        os.stat(directory)
        raise NotADirectoryError(20, "not a directory")
    with tarfile.open(fileobj=source, mode="r|", bufsize=BLOCK) as archive:
        for member in archive:
            if not keep_owners:
                member.uid = member.gid = 0
                member.uname = member.gname = ""
            archive.extract(member, directory, numeric_owner=True, filter="tar")


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
