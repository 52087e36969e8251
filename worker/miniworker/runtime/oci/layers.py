"""Unpacked layers, one directory per chain id, shared by all images and containers that stand on them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from miniworker.runtime.api import ImageError
from miniworker.runtime.oci import digest as digests
from miniworker.runtime.oci import split
from miniworker.runtime.oci.locks import KeyedLocks


class LayerStore:
    """`<root>/layers/<chain id>/{fs,size,notes}`; a directory that exists is complete and on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root / "layers"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._locks = KeyedLocks()

    def has(self, chain_id: str) -> bool:
        return self._home(chain_id).exists()

    def tree(self, chain_id: str) -> Path:
        """The directory that overlayfs uses as one lower layer."""
        return self._home(chain_id) / "fs"

    def size(self, chain_id: str) -> int:
        """Bytes of its regular files."""
        return int((self._home(chain_id) / "size").read_text())

    def archive(self, chain_id: str, diff_id: str) -> Iterator[bytes]:
        """The layer as the archive that it was unpacked from, uncompressed. Raises ImageError. Blocks."""
        return split.archive(self._home(chain_id) / "notes", self.tree(chain_id), diff_id)

    async def unpack(self, blob: Path, chain: Sequence[str], diff_id: str) -> None:
        """Unpack `blob` as the topmost layer of `chain`, unless it is there; its parents must be.

        Raises ImageError when the archive is broken, or its content is not what `diff_id` promises.
        """
        chain_id = chain[-1]
        async with self._locks.of(chain_id):
            if not self.has(chain_id):
                await self._unpack(blob, chain, diff_id)

    async def _unpack(self, blob: Path, chain: Sequence[str], diff_id: str) -> None:
        work = Path(tempfile.mkdtemp(dir=self._root, prefix=".unpack-"))
        try:
            (work / "fs").mkdir(mode=0o755)
            lower = [self.tree(parent) for parent in reversed(chain[:-1])]
            answer = await _run_unpacker(blob, work / "fs", work / "notes", lower)
            if "error" in answer:
                raise ImageError(f"layer {diff_id} cannot be unpacked: {answer['error']}")
            if answer["diff_id"] != diff_id:
                raise ImageError(f"layer digest mismatch: expected {diff_id}, got {answer['diff_id']}")
            (work / "size").write_text(str(answer["size"]))
            os.replace(work, self._home(chain[-1]))
        finally:
            await asyncio.to_thread(_discard, work)

    def keep_only(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Remove every layer that is not in `wanted`; the chain ids removed. Blocks."""
        names = {digests.hex_of(chain_id) for chain_id in wanted}
        removed: list[str] = []
        for path in sorted(self._root.iterdir()):
            if path.name in names or path.name.startswith("."):
                continue
            condemned = path.with_name(f".removed-{path.name}")
            path.replace(condemned)  # gone in one step; what a crash leaves is cleared at the next start
            shutil.rmtree(condemned)
            removed.append(f"sha256:{path.name}")
        return tuple(removed)

    def forget_temporaries(self) -> None:
        """Remove what a killed process left half done. Blocks."""
        for path in self._root.glob(".*"):
            shutil.rmtree(path)

    def _home(self, chain_id: str) -> Path:
        return self._root / digests.hex_of(chain_id)


def _discard(path: Path) -> None:
    """Remove a working directory, unless it has become the layer."""
    if path.exists():
        shutil.rmtree(path)


async def _run_unpacker(blob: Path, target: Path, notes: Path, lower: Sequence[Path]) -> dict[str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "miniworker.runtime.oci.unpack",
        str(blob),
        str(target),
        str(notes),
        *map(str, lower),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if not output:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise ImageError(f"the unpacking process ended with {process.returncode}: {last}")
    answer: dict[str, str] = json.loads(output)
    return answer
