"""Starting containers: ours, with images, supervision and logs, against bare `runc run` of the same bundle.

Both in one run on one machine; only the ratio means anything elsewhere. Needs root.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from miniworker.runtime.api import ContainerConfig
from miniworker.runtime.oci.open import find_programs, open_oci
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings
from support import images

AT_ONCE = 30
ROUNDS = 5
COMMAND = ("sleep", "600")


async def measure() -> None:
    """Print medians in milliseconds and the ratios."""
    with tempfile.TemporaryDirectory(prefix="bench-runtime-") as folder:
        root = Path(folder)
        settings = OciSettings(root / "data", root / "run")
        program = find_programs(settings).runtime
        runtime = await open_oci(settings)
        archive = images.write_docker_archive(root / "busybox.tar", images.busybox("busybox:1"))
        await runtime.images.load(_chunks(archive))
        one = [(await _ours(runtime, 1), await _bare(runtime, root, program, 1)) for _ in range(ROUNDS)]
        many = [
            (await _ours(runtime, AT_ONCE), await _bare(runtime, root, program, AT_ONCE))
            for _ in range(ROUNDS)
        ]
        await runtime.close()
    for title, pairs in (("1 container", one), (f"{AT_ONCE} at once", many)):
        start = statistics.median(ours[0] for ours, _ in pairs)
        remove = statistics.median(ours[1] for ours, _ in pairs)
        bare = statistics.median(bare for _, bare in pairs)
        print(
            f"{title}: start {start * 1000:.0f} ms, bare {Path(program).name} {bare * 1000:.0f} ms, "
            f"ratio {start / bare:.2f}; remove {remove * 1000:.0f} ms"
        )


async def _ours(runtime: OciRuntime, count: int) -> tuple[float, float]:
    """Seconds to create and start, and to remove, `count` containers at once."""
    ids = [f"ours{number}" for number in range(count)]

    async def run(name: str) -> None:
        await runtime.create(ContainerConfig(id=name, name=name, image="busybox:1", command=COMMAND))
        await runtime.start(name)

    begin = time.perf_counter()
    await asyncio.gather(*map(run, ids))
    started = time.perf_counter()
    await asyncio.gather(*map(runtime.remove, ids))
    return started - begin, time.perf_counter() - started


async def _bare(runtime: OciRuntime, root: Path, program: str, count: int) -> float:
    """Seconds for `runc run --detach` of bundles that our own `create` has made ready."""
    ids = [f"bare{number}" for number in range(count)]
    state = root / "bare"
    for name in ids:
        await runtime.create(ContainerConfig(id=name, name=name, image="busybox:1", command=COMMAND))
    begin = time.perf_counter()
    processes = [
        subprocess.Popen(  # noqa: ASYNC220  nothing else runs on this loop
            [
                program,
                "--root",
                str(state),
                "run",
                "--detach",
                "--bundle",
                str(root / "data/containers" / name),
                name,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name in ids
    ]
    codes = [process.wait() for process in processes]
    taken = time.perf_counter() - begin
    assert not any(codes), codes
    for name in ids:
        subprocess.run(  # noqa: ASYNC221
            [program, "--root", str(state), "delete", "--force", name], check=True
        )
        await runtime.remove(name)
    return taken


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    yield await asyncio.to_thread(path.read_bytes)


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
