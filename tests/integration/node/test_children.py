"""Supervision with real small processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from minicommon.clock import SystemClock
from minicommon.errors import UnavailableError
from miniworker.node import children
from miniworker.node.children import Child, ChildSpec, rotate, stop_leftovers
from miniworker.node.process import Process

FOREVER = ("sleep", "1000")


def child(directory: Path, *argv: str, grace_ns: int = 5_000_000_000) -> Child:
    spec = ChildSpec("small", argv, "1", stop_grace_ns=grace_ns)
    return Child(spec, run_dir=directory, log_dir=directory, clock=SystemClock())


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop and the processes go on until it is so; pytest's own limit ends a hopeless wait."""
    while not condition():  # noqa: ASYNC110  the processes tell nobody
        await asyncio.sleep(0.001)


@asynccontextmanager
async def supervised(subject: Child) -> AsyncIterator[Child]:
    running = asyncio.create_task(subject.run())
    try:
        await until(lambda: subject.state.pid != 0 and subject.recorded)
        yield subject
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path
    await stop_leftovers(tmp_path, clock=SystemClock())


async def test_a_killed_child_comes_back(directory: Path) -> None:
    async with supervised(child(directory, *FOREVER)) as small:
        first = small.state.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: small.state.restarts == 1 and small.state.pid not in (0, first))
        assert small.state.message == "small ended with exit code 137"


async def test_a_child_lives_in_a_session_of_its_own(directory: Path) -> None:
    async with supervised(child(directory, *FOREVER)) as small:
        assert os.getsid(small.state.pid) == small.state.pid != os.getsid(0)


async def test_a_child_that_ended_while_nobody_watched_leaves_no_zombie(directory: Path) -> None:
    async with supervised(child(directory, *FOREVER)) as small:
        pid = small.state.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: ") Z " in Path(f"/proc/{pid}/stat").read_text())
    await small.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_new_supervisor_finds_the_running_child(directory: Path) -> None:
    async with supervised(child(directory, *FOREVER)) as small:
        pid = small.state.pid
    os.kill(pid, 0)
    async with supervised(child(directory, *FOREVER)) as again:
        assert again.state.pid == pid
        assert again.state.restarts == 0
        os.kill(pid, signal.SIGKILL)
        await until(lambda: again.state.restarts == 1)


async def test_another_process_with_the_recorded_pid_is_not_adopted(directory: Path) -> None:
    async with supervised(child(directory, *FOREVER)):
        pass
    pid_file = directory / "small.pid"
    recorded = pid_file.read_text()
    pid = recorded.split()[0]
    pid_file.write_text(recorded.replace(f"{pid} ", f"{os.getpid()} ", 1))
    assert Process.adopt(pid_file) is None
    pid_file.write_text(recorded)


@pytest.mark.parametrize("text", ["", "not a stat line", "1", "1 (sh) S"])
async def test_a_damaged_pid_file_adopts_nothing(directory: Path, text: str) -> None:
    (directory / "small.pid").write_text(text)
    assert Process.adopt(directory / "small.pid") is None


async def test_a_child_that_dies_at_once_is_explained_by_its_log(directory: Path) -> None:
    dying = child(directory, "/bin/sh", "-c", "echo 'cannot bind 10.77.0.11:2379' >&2; exit 3")
    async with supervised_dying(dying):
        with pytest.raises(
            UnavailableError, match=r"small ended with exit code 3: cannot bind 10.77.0.11:2379"
        ):
            await dying.wait_death()


async def test_a_missing_program_is_named(directory: Path) -> None:
    missing = child(directory, "/no/such/program")
    async with supervised_dying(missing):
        with pytest.raises(UnavailableError, match=r"exit code 127.*/no/such/program"):
            await missing.wait_death()


@asynccontextmanager
async def supervised_dying(subject: Child) -> AsyncIterator[None]:
    running = asyncio.create_task(subject.run())
    yield
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_stop_ends_it_and_forgets_it(directory: Path) -> None:
    async with supervised(child(directory, *FOREVER)) as small:
        pid = small.state.pid
    await small.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not (directory / "small.pid").exists()
    await small.stop()


async def test_a_child_that_ignores_sigterm_is_killed(directory: Path) -> None:
    deaf = child(
        directory, "/bin/sh", "-c", "trap '' TERM; echo ready; read x < /dev/zero", grace_ns=10_000_000
    )
    async with supervised(deaf):
        await until(lambda: deaf.log_tail() == "ready")
        pid = deaf.state.pid
    await deaf.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_long_log_is_moved_aside_while_its_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_LIMIT_BYTES", 10)
    log = tmp_path / "small.log"
    with log.open("a") as writer:
        writer.write("0123456789 old\n")
        writer.flush()
        rotate(log)
        writer.write("new\n")
    assert log.read_text() == "new\n"
    assert (tmp_path / "small.log.1").read_text() == "0123456789 old\n"
