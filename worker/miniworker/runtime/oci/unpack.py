"""Unpacking a layer into a directory of its own, as overlayfs wants it. Runs as a process of its own.

A layer is a tar made by anybody. So the work happens in a child that has made the target directory its root: whatever
a name, a symbolic link or a hard link in the archive says, nothing outside can be reached. On top of that, names that
try are refused, because such a layer is an attack or an accident. It also keeps the agent's event loop free.

`.wh.name` becomes a character device 0:0 and `.wh..wh..opq` the attribute `trusted.overlay.opaque`: what overlayfs
itself writes for a removed file and a replaced directory.
"""

from __future__ import annotations

import json
import os
import pwd  # noqa: F401  tarfile and the codecs import lazily, which fails after chroot
import shutil
import stat
import sys
import tarfile
from pathlib import Path
from typing import BinaryIO, cast

from miniworker.runtime.oci import compression, syscalls
from miniworker.runtime.oci.digest import CHUNK, FileHash
from miniworker.runtime.oci.split import Splitter

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_REFUSED_XATTRS = ("trusted.overlay.", "user.overlay.")
"""These steer overlayfs itself; from an archive they would show other layers' files or hide them."""


class UnpackError(Exception):
    """The layer is broken or tries to leave its directory; the text says which entry."""


class HashingReader:
    """Reads a stream, hashes what passes, and has it noted."""

    def __init__(self, below: BinaryIO, splitter: Splitter) -> None:
        self._below = below
        self._splitter = splitter
        self.hash = FileHash()

    def read(self, size: int = -1) -> bytes:
        data = self._below.read(size)
        self.hash.update(data)
        self._splitter.take(data)
        return data

    def drain(self) -> None:
        """Read to the end: a tar may be followed by padding that counts for the digest."""
        while self.read(CHUNK):
            pass


class Unpacker:
    """Applies the entries of one layer below the current root directory."""

    def __init__(self, splitter: Splitter, lower: tuple[int, ...] = ()) -> None:
        self._splitter = splitter
        self._lower = lower
        self._times: list[tuple[str, int]] = []
        self.size = 0

    def apply(self, stream: HashingReader) -> None:
        """Unpack the whole stream. Raises UnpackError."""
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|", errorlevel=1) as archive:
            # `next` and not iteration: tarfile then need not search its list of entries, which grows with the layer.
            while (entry := archive.next()) is not None:
                self._entry(archive, entry)
        for path, moment in reversed(self._times):
            os.utime(path, ns=(moment, moment), follow_symlinks=False)

    def _entry(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path = clean(entry.name)
        if path == "/":
            if entry.isdir():
                self._finish(path, entry)
            return
        self._parents(path)
        folder, name = os.path.split(path)
        if name == OPAQUE:
            os.setxattr(folder, "trusted.overlay.opaque", b"y")
        elif name.startswith(WHITEOUT):
            target = os.path.join(folder, name[len(WHITEOUT) :])
            if clean(target) != target or target == folder:
                raise UnpackError(f"whiteout {entry.name!r} names no file")
            _remove(target)
            os.mknod(target, stat.S_IFCHR, os.makedev(0, 0))
        else:
            self._create(archive, entry, path)

    def _create(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> None:
        if entry.isdir():
            if not _is_directory(path):
                _remove(path)
                os.mkdir(path)
        else:
            _remove(path)
            self._node(archive, entry, path)
        if not entry.islnk():
            self._finish(path, entry)

    def _node(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> None:
        if entry.isreg():
            source = archive.extractfile(entry)
            # Of a sparse one the archive has other bytes than the file.
            if entry.size and not entry.issparse():
                self._splitter.content(path, entry.offset_data, entry.size)
            with open(path, "xb") as target:
                if source is not None:
                    shutil.copyfileobj(source, target, CHUNK)
            self.size += entry.size
        elif entry.issym():
            os.symlink(entry.linkname, path)
        elif entry.islnk():
            os.link(clean(entry.linkname), path, follow_symlinks=False)
        elif entry.ischr() or entry.isblk():
            kind = stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
            os.mknod(path, kind | 0o600, os.makedev(entry.devmajor, entry.devminor))
        elif entry.isfifo():
            os.mkfifo(path)
        else:
            raise UnpackError(f"{entry.name!r} is of an unknown type")

    def _finish(self, path: str, entry: tarfile.TarInfo) -> None:
        """Owner first: changing it clears set-uid bits and capabilities."""
        os.lchown(path, entry.uid, entry.gid)
        if not entry.issym():
            os.chmod(path, entry.mode & 0o7777)
        for key, value in entry.pax_headers.items():
            name = key.removeprefix(_XATTR)
            if name != key and not name.startswith(_REFUSED_XATTRS):
                data = value.encode("utf-8", "surrogateescape")
                os.setxattr(path, name, data, follow_symlinks=False)
        moment = int(float(entry.mtime) * 1_000_000_000)
        if entry.isdir():
            self._times.append((path, moment))  # files made in it later change it
        else:
            os.utime(path, ns=(moment, moment), follow_symlinks=False)

    def _parents(self, path: str) -> None:
        """Directories the archive left out: like those of the layers below, else root's and 0755."""
        folder = os.path.dirname(path)
        if _is_directory(folder):
            return
        if os.path.islink(folder):
            _check_link(folder)
            if os.path.isdir(folder):  # resolved inside this root
                return
        self._parents(folder)
        _remove(folder)
        os.mkdir(folder, 0o755)
        like = self._below(folder)
        if like is not None:
            os.lchown(folder, like.st_uid, like.st_gid)
            os.chmod(folder, stat.S_IMODE(like.st_mode))

    def _below(self, path: str) -> os.stat_result | None:
        for layer in self._lower:
            try:
                found = os.stat(path.lstrip("/"), dir_fd=layer, follow_symlinks=False)
            except OSError:
                continue
            return found if stat.S_ISDIR(found.st_mode) else None
        return None


def clean(name: str) -> str:
    """The entry's absolute path below the root. Raises UnpackError when it leads out of it."""
    if "\0" in name:
        raise UnpackError(f"{name!r} contains a zero byte")
    relative = os.path.normpath(name.lstrip("/") or ".")
    if relative == ".." or relative.startswith("../"):
        raise UnpackError(f"{name!r} leads out of the layer")
    return "/" if relative == "." else f"/{relative}"


def _check_link(path: str) -> None:
    """Refuse to follow a link that would leave the root if there were no chroot."""
    target = os.readlink(path)
    clean(target if target.startswith("/") else os.path.join(os.path.dirname(path), target).lstrip("/"))


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def unpack(blob: Path, target: Path, notes: Path, lower: list[Path]) -> tuple[str, int]:
    """Become a process rooted at `target` and unpack; (diff id, bytes of regular files). Raises UnpackError."""
    layers = tuple(os.open(path, os.O_PATH | os.O_DIRECTORY) for path in lower)
    sync = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    with compression.open_plain(blob) as plain, notes.open("xb") as noted:
        os.chroot(target)
        os.chdir("/")
        os.umask(0)
        splitter = Splitter(noted)
        stream = HashingReader(plain, splitter)
        unpacker = Unpacker(splitter, layers)
        try:
            unpacker.apply(stream)
            stream.drain()
            splitter.close()
        except (tarfile.TarError, ValueError, *compression.StreamError) as error:
            raise UnpackError(str(error) or type(error).__name__) from error
    syscalls.sync_descriptor(sync)
    return stream.hash.digest, unpacker.size


def main() -> None:
    """Arguments: blob, target, file for the notes, lower directories (topmost first). Prints one JSON object."""
    blob, target, notes, *lower = (Path(argument) for argument in sys.argv[1:])
    try:
        diff_id, size = unpack(blob, target, notes, lower)
    except (UnpackError, OSError) as error:
        sys.stdout.write(json.dumps({"error": str(error)}))
        sys.exit(1)
    sys.stdout.write(json.dumps({"diff_id": diff_id, "size": size}))


if __name__ == "__main__":
    main()
