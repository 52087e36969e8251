"""Output in several files, as conmon and the rotation write them. Real runc."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from miniworker.runtime.api import (
    ContainerConfig,
    LogLimits,
    LogLine,
    LogQuery,
    Mount,
    MountKind,
    RuntimeFaultError,
)
from miniworker.runtime.oci.attach import joined
from miniworker.runtime.oci.runtime import OciRuntime
from support import images
from support.runtimes import OpenRuntime, chunks

pytestmark = pytest.mark.root

IMAGE = "busybox:latest"
ID = f"rotated-{os.getpid()}"  # control groups are the machine's
SIZE = 20_000
WRITER = "echo 0; while :; do read -r count < /gate/fifo && seq $count; done"
"""Who has written to the gate may not have closed it yet: then there is nothing to read, for once."""


@pytest.fixture(autouse=True)
async def loaded(runtime: OciRuntime, tmp_path: Path) -> None:
    await runtime.images.load(chunks(images.write_docker_archive(tmp_path / "i.tar", images.busybox(IMAGE))))


class Chatty:
    """A container that writes as many lines as it is told, whose files can be looked at."""

    def __init__(self, runtime: OciRuntime, gate: Path, folder: Path) -> None:
        self.runtime = runtime
        self._gate = gate
        self._folder = folder / "data/containers" / ID

    def files(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self._folder.glob("output.log*")}

    def written(self) -> int:
        """Which file is the one that is written: its inode."""
        return (self._folder / "output.log").stat().st_ino

    async def say(self, lines: int) -> None:
        """Return when all of them are written."""
        await asyncio.to_thread(self._gate.write_text, f"{lines}\n")
        seen = b"\n"
        async for batch in self.runtime.logs(ID, LogQuery(follow=True, tail=1)):
            seen += b"".join(data for _, data in joined(batch))
            if seen.endswith(f"\n{lines}\n".encode()):
                return

    async def lines(self, runtime: OciRuntime | None = None, **wanted: int) -> list[int]:
        return await numbers((runtime or self.runtime).logs(ID, LogQuery(**wanted)))  # type: ignore[arg-type]


async def numbers(batches: AsyncIterator[tuple[LogLine, ...]]) -> list[int]:
    """Of whole lines; conmon writes some in two records, also into two files."""
    pieces = [piece async for batch in batches for _, piece in joined(batch)]
    return [int(line) for line in b"".join(pieces).splitlines()]


async def chatty(runtime: OciRuntime, folder: Path, limits: LogLimits) -> Chatty:
    gate = Path((await runtime.volumes.create_volume("gate", {})).mountpoint)
    os.mkfifo(gate / "fifo")
    mount = Mount(MountKind.VOLUME, "/gate", source="gate")
    config = ContainerConfig(
        id=ID,
        name=ID,
        image=IMAGE,
        command=("sh", "-c", WRITER),
        logs=limits,
        mounts=(mount,),
        stop_signal="SIGKILL",
    )
    await runtime.create(config)
    await runtime.start(ID)
    return Chatty(runtime, gate / "fifo", folder)


async def until(condition: Callable[[], bool]) -> None:
    """Names and compressed forms follow the output within moments."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the files' names are what is looked at
            await asyncio.sleep(0.01)


async def test_full_files_are_kept_under_dockers_names_and_readers_go_on(
    runtime: OciRuntime, tmp_path: Path
) -> None:
    container = await chatty(runtime, tmp_path, LogLimits(max_bytes=SIZE, files=3))
    following = asyncio.ensure_future(numbers(runtime.logs(ID, LogQuery(follow=True))))
    rounds = 6
    for last in range(1000, 1000 + rounds):
        before = container.written()
        await container.say(last)
        await until(lambda before=before: container.written() != before)  # type: ignore[misc]
    await until(lambda: set(container.files()) == {"output.log", "output.log.1", "output.log.2"})
    await runtime.stop(ID)
    followed = await following
    everything = [0, *(line for last in range(1000, 1000 + rounds) for line in range(1, last + 1))]
    assert followed == everything
    kept = (await container.lines())[1:]  # of the first there may be only the end
    assert 0 < len(kept) < len(everything)
    assert everything[-len(kept) :] == kept
    for tail in (0, 1, 5, len(kept) - 1):
        assert await container.lines(tail=tail) == (kept[-tail:] if tail else [])


async def test_a_burst_between_two_looks_is_not_lost(runtime: OciRuntime, tmp_path: Path) -> None:
    container = await chatty(runtime, tmp_path, LogLimits(max_bytes=SIZE, files=99))
    await container.say(50_000)
    await until(lambda: "output.log.1" in container.files())
    assert await container.lines() == [0, *range(1, 50_001)]


async def test_full_files_are_compressed_and_read_as_the_others(runtime: OciRuntime, tmp_path: Path) -> None:
    container = await chatty(runtime, tmp_path, LogLimits(max_bytes=SIZE, files=4, compress=True))
    await container.say(1000)
    await until(lambda: "output.log.1.gz" in container.files())
    await container.say(1001)
    await until(lambda: set(container.files()) == {"output.log", "output.log.1.gz", "output.log.2.gz"})
    everything = [0, *range(1, 1001), *range(1, 1002)]
    assert await container.lines() == everything
    assert await container.lines(tail=1500) == everything[-1500:]
    assert container.files()["output.log.1.gz"] < SIZE / 2


async def test_what_was_full_while_no_worker_was_there_is_rotated_by_the_next(
    runtime: OciRuntime, open_runtime: OpenRuntime, tmp_path: Path
) -> None:
    container = await chatty(runtime, tmp_path, LogLimits(max_bytes=SIZE, files=2))
    await runtime.close()
    await container.say(3000)
    assert "output.log.1" not in container.files()
    again = await open_runtime()
    await until(lambda: "output.log.1" in container.files())
    assert await container.lines(again) == [0, *range(1, 3001)]


async def test_a_container_is_removed_while_its_output_is_rotated(
    runtime: OciRuntime, tmp_path: Path
) -> None:
    limits = LogLimits(max_bytes=SIZE, files=9, compress=True)
    gate = ("sh", "-c", "while :; do seq 10000; done")
    await runtime.create(ContainerConfig(id=ID, name=ID, image=IMAGE, command=gate, logs=limits))
    await runtime.start(ID)
    async for batch in runtime.logs(ID, LogQuery(follow=True)):
        if batch[-1].data == b"10000":
            break
    await runtime.remove(ID)
    assert not (tmp_path / "data/containers" / ID).exists()


async def test_a_log_driver_of_the_engine_is_refused_by_name(runtime: OciRuntime) -> None:
    config = ContainerConfig(id=ID, name=ID, image=IMAGE, logs=LogLimits(driver="journald"))
    with pytest.raises(
        RuntimeFaultError, match=r"log driver 'journald' is not there .* json-file, local and none are"
    ):
        await runtime.create(config)
    assert await runtime.list() == ()
