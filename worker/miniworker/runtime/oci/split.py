"""A layer's archive, kept as what is not in the unpacked files: with these it gives the same bytes again.

Layers are kept unpacked only. An archive made anew of the files would have another digest, and its image another id. So
the unpacker notes, in order, every byte of the archive but the content of its regular files, for which it notes the
path: some 1,000 bytes per entry, which compress to a few dozen. Blocks.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci import rooted
from miniworker.runtime.oci.digest import CHUNK, FileHash

_AHEAD = 64 << 10
"""More bytes than tarfile reads beyond a header before it tells of the entry (it reads 10 KiB at a time)."""


class Splitter:
    """Writes the notes into `file`, while the archive passes through `take` from its first byte to its last."""

    def __init__(self, file: BinaryIO) -> None:
        self._out = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0)
        self._passed = 0
        self._pending = bytearray()
        """The last bytes that passed, not yet known to be one or the other."""
        self._content_end = 0
        """Up to here the archive is the content of a file."""

    def take(self, data: bytes) -> None:
        start = self._passed
        self._passed += len(data)
        self._pending += data[max(0, self._content_end - start) :]
        if len(self._pending) > 2 * _AHEAD:
            self._note(len(self._pending) - _AHEAD)

    def content(self, path: str, offset: int, size: int) -> None:
        """The next `size` bytes from `offset` are those of the file at `path`. Before they have all passed."""
        begin = offset - (self._passed - len(self._pending))
        self._note(begin)
        del self._pending[:size]
        self._content_end = offset + size
        self._write({"path": path, "size": size})

    def close(self) -> None:
        self._note(len(self._pending))
        self._out.close()

    def _note(self, count: int) -> None:
        if count:
            self._write({"raw": count})
            self._out.write(self._pending[:count])
            del self._pending[:count]

    def _write(self, note: dict[str, str | int]) -> None:
        self._out.write(json.dumps(note).encode() + b"\n")


def archive(notes: Path, tree: Path, diff_id: str) -> Iterator[bytes]:
    """The layer's archive, uncompressed, from its notes and its files. Raises ImageError unless it is `diff_id`'s."""
    hashed = FileHash()
    try:
        for data in _pieces(notes, tree):
            hashed.update(data)
            yield data
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ImageError(f"layer {diff_id} cannot be read: {error}") from error
    if hashed.digest != diff_id:
        raise ImageError(
            f"layer {diff_id} is not as it was when it was unpacked; remove the image and pull or load it again"
        )


def _pieces(notes: Path, tree: Path) -> Iterator[bytes]:
    if not notes.exists():
        raise ImageError(
            f"layer {tree.parent.name[:12]} was unpacked by a version that could not give it away again; "
            "remove the image and pull or load it again"
        )
    with gzip.open(notes, "rb") as file:
        while line := file.readline():
            note = json.loads(line)
            if "raw" in note:
                yield file.read(note["raw"])
            else:
                yield from _file(rooted.resolve(tree, note["path"]), note["size"])


def _file(path: Path, size: int) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            raise OSError(f"{path.name} is not the file of {size} bytes that the layer has")
        while data := file.read(CHUNK):
            yield data
