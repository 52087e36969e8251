"""A chatty container: how fast its output is taken in and read back, and what that costs the node. Needs root.

One container writes as fast as it can, into files that are rotated; the worker's part runs in this process, conmon's in
conmon. Then what was kept is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from miniworker.runtime.api import ContainerConfig, LogLimits
from miniworker.runtime.oci.open import open_oci
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings
from support import images

WRITTEN_BYTES = 512 << 20
LINE = "0123456789abcdef" * 8
LIMITS = LogLimits(max_bytes=10 << 20, files=4)
MIB = 1 << 20


async def measure() -> None:
    """Print MB/s, and the largest disk and memory."""
    with tempfile.TemporaryDirectory(prefix="bench-logs-") as folder:
        root = Path(folder)
        runtime = await open_oci(OciSettings(root / "data", root / "run"))
        await runtime.images.load(
            _chunks(images.write_docker_archive(root / "busybox.tar", images.busybox("busybox:1")))
        )
        name = f"chatty-{os.getpid()}"
        try:
            await _measure(runtime, root / "data/containers" / name, name)
        finally:
            await runtime.remove(name)
            await runtime.close()


async def _measure(runtime: OciRuntime, folder: Path, name: str) -> None:
    script = f"yes {LINE} | head -c {WRITTEN_BYTES}"
    await runtime.create(
        ContainerConfig(id=name, name=name, image="busybox:1", command=("sh", "-c", script), logs=LIMITS)
    )
    begun, cpu = time.perf_counter(), time.process_time()
    await runtime.start(name)
    largest = 0
    ended = asyncio.ensure_future(runtime.wait(name))
    while not ended.done():
        largest = max(largest, await asyncio.to_thread(_size, folder))
        await asyncio.wait({ended}, timeout=0.01)
    seconds, busy = time.perf_counter() - begun, time.process_time() - cpu
    print(
        f"written: {WRITTEN_BYTES / MIB / seconds:.0f} MB/s for {seconds:.1f} s; "
        f"worker {100 * busy / seconds:.0f} % of a core; at most {largest / MIB:.0f} MB on the disk "
        f"({LIMITS.files} files of {LIMITS.max_bytes / MIB:.0f} MB)"
    )
    begun = time.perf_counter()
    read = 0
    async for batch in runtime.logs(name):
        read += sum(len(line.data) + 1 for line in batch)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"read: {read / MIB:.0f} MB at {read / MIB / seconds:.0f} MB/s; peak memory of the worker {peak} MB"
    )


def _size(folder: Path) -> int:
    """Of all files of output; one may be renamed meanwhile."""
    total = 0
    for name in os.listdir(folder):
        if name.startswith("output.log"):
            with contextlib.suppress(FileNotFoundError):
                total += (folder / name).stat().st_size
    return total


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    yield await asyncio.to_thread(path.read_bytes)


def main() -> None:
    """Run it."""
    asyncio.run(measure())
