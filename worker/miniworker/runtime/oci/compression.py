"""Opening a stream whatever it is compressed with: told by its first bytes, never by its name or media type."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

StreamError = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What reading a damaged stream raises."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


def kind_of(head: bytes) -> str:
    """ "gzip", "zstd" or "" (not compressed) for a file that begins with `head`."""
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head.startswith(_ZSTD) else ""


def open_plain(path: Path) -> BinaryIO:
    """The uncompressed content of the file, to be read once from the start."""
    file = path.open("rb")
    kind = kind_of(file.read(4))
    file.seek(0)
    if kind == "gzip":
        return cast(BinaryIO, _Owning(gzip.GzipFile(fileobj=file, mode="rb"), file))
    if kind == "zstd":
        # Several frames in one file are allowed (RFC 8878) and made by parallel compressors.
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return cast(BinaryIO, _Owning(reader, file))
    return file


class _Owning(io.RawIOBase):
    """A decompressor that closes the file below it, too."""

    def __init__(self, reader: gzip.GzipFile | zstandard.ZstdDecompressionReader, below: BinaryIO) -> None:
        self._reader = reader
        self._below = below

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()
        self._below.close()
        super().close()
