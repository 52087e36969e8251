"""What every `Runtime` keeps of talking to programs in containers, and of looking at them."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from miniworker.runtime.api import (
    Commit,
    ContainerConfig,
    ContainerStatus,
    LogQuery,
    Mount,
    MountKind,
    NoSuchContainerError,
    NoSuchPathError,
    RuntimeFaultError,
)
from miniworker.runtime.interactive import Command, Conversation
from support.runtimes import ECHO, FAILS, IMAGE, LINES, MISSING, RUNS, Subject

ID = "0123456789abcdefghijklmno"


async def run(subject: Subject, command: tuple[str, ...] = RUNS, **changes: Any) -> None:
    given = {"id": ID, "name": "web.1." + ID, "image": IMAGE, "command": command, **changes}
    await subject.runtime.create(ContainerConfig(**given))
    await subject.runtime.start(ID)


@asynccontextmanager
async def talking(subject: Subject, words: tuple[str, ...], **changes: Any) -> AsyncIterator[Conversation]:
    conversation = await subject.runtime.talk(ID, Command(words, **changes))
    try:
        yield conversation
    finally:
        await conversation.close()


async def everything(conversation: Conversation) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    while (piece := await conversation.read()) is not None:
        found[piece[0]] = found.get(piece[0], b"") + piece[1]
    return found


async def test_a_command_tells_its_output_by_stream_and_then_its_code(subject: Subject) -> None:
    await run(subject)
    async with talking(subject, FAILS) as conversation:
        assert await everything(conversation) == {"stdout": b"out\n", "stderr": b"err\n"}
        assert await conversation.wait() == 3
    (container,) = await subject.runtime.list()
    assert container.status is ContainerStatus.RUNNING


async def test_a_command_reads_what_it_is_given_until_that_ends(subject: Subject) -> None:
    await run(subject)
    async with talking(subject, ECHO, stdin=True) as conversation:
        await conversation.write(b"hello\n")
        assert await conversation.read() == ("stdout", b"hello\n")
        await conversation.end_input()
        assert await everything(conversation) == {}
        assert await conversation.wait() == 0


async def test_a_command_without_input_has_none(subject: Subject) -> None:
    await run(subject)
    async with talking(subject, ECHO) as conversation:
        assert await everything(conversation) == {}
        assert await conversation.wait() == 0


async def test_a_command_that_cannot_be_started_is_told_at_once(subject: Subject) -> None:
    await run(subject)
    with pytest.raises(
        RuntimeFaultError, match=r'exec: "nosuchprogram": executable file not found in \$PATH'
    ):
        await subject.runtime.talk(ID, Command(MISSING))


async def test_a_command_ends_with_its_conversation(subject: Subject) -> None:
    await run(subject)
    async with talking(subject, ECHO, stdin=True) as conversation:
        before = await subject.runtime.processes(ID)
    assert await conversation.wait() == 137
    after = await subject.runtime.processes(ID)
    assert len(after) <= len(before)


async def test_a_command_takes_a_signal(subject: Subject) -> None:
    await run(subject)
    async with talking(subject, ECHO, stdin=True) as conversation:
        conversation.send_signal(15)
        assert await everything(conversation) == {}
        assert await conversation.wait() == 143


async def test_nobody_talks_in_a_container_that_does_not_run(subject: Subject) -> None:
    await subject.runtime.create(ContainerConfig(id=ID, name="x", image=IMAGE, command=RUNS))
    with pytest.raises(RuntimeFaultError, match=f"container {ID} is not running"):
        await subject.runtime.talk(ID, Command(LINES))
    with pytest.raises(NoSuchContainerError, match="other"):
        await subject.runtime.talk("other", Command(LINES))


async def test_attaching_from_the_start_misses_nothing(subject: Subject) -> None:
    await subject.runtime.create(ContainerConfig(id=ID, name="x", image=IMAGE, command=FAILS))
    attached = await subject.runtime.attach(ID, from_start=True)
    await subject.runtime.start(ID)
    assert await everything(attached) == {"stdout": b"out\n", "stderr": b"err\n"}
    assert await attached.wait() == 3
    await attached.close()


async def test_attaching_tells_what_is_written_from_then_on(subject: Subject) -> None:
    await run(subject)
    async for batch in subject.runtime.logs(ID, LogQuery(follow=True)):
        if any(line.data == b"up" for line in batch):
            break
    attached = await subject.runtime.attach(ID)
    await subject.runtime.stop(ID)
    assert await everything(attached) == {"stdout": b"bye\n"}
    assert await attached.wait() == 5
    await attached.close()


async def test_letting_go_of_a_container_leaves_it_running(subject: Subject) -> None:
    await run(subject)
    attached = await subject.runtime.attach(ID)
    await attached.close()
    (container,) = await subject.runtime.list()
    assert container.status is ContainerStatus.RUNNING


async def test_a_container_with_open_input_gets_it_and_its_end(subject: Subject) -> None:
    await run(subject, ECHO, open_stdin=True)
    attached = await subject.runtime.attach(ID, stdin=True, from_start=True)
    await attached.write(b"one\ntwo\n")
    await attached.end_input()
    assert await everything(attached) == {"stdout": b"one\ntwo\n"}
    assert await attached.wait() == 0
    await attached.close()


async def test_a_container_without_input_takes_none(subject: Subject) -> None:
    await run(subject)
    with pytest.raises(RuntimeFaultError, match=f"container {ID} has no standard input to attach to"):
        await subject.runtime.attach(ID, stdin=True)


async def test_signals_reach_the_first_process(subject: Subject) -> None:
    await run(subject, ECHO, open_stdin=True)
    attached = await subject.runtime.attach(ID)
    attached.send_signal(9)
    assert await attached.wait() == 137
    await attached.close()


async def test_logs_within_times(subject: Subject) -> None:
    await run(subject, LINES)
    await subject.runtime.wait(ID)
    lines = [line async for batch in subject.runtime.logs(ID) for line in batch]
    times = [line.time_ns for line in lines]

    async def texts(**options: Any) -> list[bytes]:
        found = subject.runtime.logs(ID, LogQuery(**options))
        return [line.data async for batch in found for line in batch]

    assert await texts(since_ns=times[0]) == [b"1", b"2", b"3", b"4"]
    assert await texts(since_ns=times[-1] + 1) == []
    assert await texts(until_ns=times[-1]) == [b"1", b"2", b"3", b"4"]
    assert await texts(until_ns=times[0] - 1) == []
    assert await texts(until_ns=times[0] - 1, follow=True) == []


async def test_usage_and_processes_are_those_of_a_running_container(subject: Subject) -> None:
    await run(subject)
    used = await subject.runtime.usage(ID)
    assert used is not None
    assert 0 < used.memory_bytes <= used.memory_limit_bytes
    assert used.cpu_ns > 0
    assert used.pids >= 1
    assert len(await subject.runtime.processes(ID)) >= 1
    await subject.runtime.stop(ID)
    assert await subject.runtime.usage(ID) is None
    assert await subject.runtime.processes(ID) == ()


async def test_a_container_says_what_it_is(subject: Subject) -> None:
    mount = Mount(MountKind.TMPFS, "/scratch")
    await run(subject, env=("A=b",), hostname="here", dir="/tmp", mounts=(mount,))
    details = await subject.runtime.details(ID)
    assert details.arguments == RUNS
    assert "A=b" in details.env
    assert (details.hostname, details.dir) == ("here", "/tmp")
    assert details.mounts == (("tmpfs", "", "/scratch", False),)
    (container,) = await subject.runtime.list()
    assert (container.image, container.arguments) == (IMAGE, RUNS)
    assert 0 < container.created_at_ns <= container.started_at_ns


async def test_files_go_in_and_come_out(subject: Subject) -> None:
    await run(subject)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("given")
        info.size = 200_000
        archive.addfile(info, io.BytesIO(b"x" * info.size))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data.getvalue()), 65536):
            yield data.getvalue()[start : start + 65536]

    await subject.runtime.write_path(ID, "/tmp", pieces())
    about = await subject.runtime.stat_path(ID, "/tmp/given")
    assert (about.name, about.size, stat.S_ISREG(about.mode)) == ("given", 200_000, True)
    first, *rest = [part async for part in subject.runtime.read_path(ID, "/tmp/given")]
    assert first == about
    out = b"".join(part for part in rest if isinstance(part, bytes))
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        assert (member.name, file.read()) == ("given", b"x" * 200_000)


async def test_a_path_where_nothing_is(subject: Subject) -> None:
    await run(subject)

    async def nothing() -> AsyncIterator[bytes]:
        none: tuple[bytes, ...] = ()
        for piece in none:
            yield piece

    with pytest.raises(NoSuchPathError, match="/nowhere: No such file or directory"):
        await subject.runtime.stat_path(ID, "/nowhere")
    with pytest.raises(NoSuchPathError, match="/nowhere: No such file or directory"):
        await anext(aiter(subject.runtime.read_path(ID, "/nowhere")))
    with pytest.raises(NoSuchPathError, match="/nowhere: No such file or directory"):
        await subject.runtime.write_path(ID, "/nowhere", nothing())


async def test_an_image_can_be_made_of_a_container(subject: Subject) -> None:
    await run(subject)
    image_id = await subject.runtime.commit(ID, Commit("made:1"))
    (made,) = [image for image in await subject.images.list_images() if image.id == image_id]
    assert (made.references, made.digests) == (("made:1",), ())
    await subject.runtime.create(ContainerConfig(id="other", name="other", image="made:1", command=RUNS))
    with pytest.raises(NoSuchContainerError, match="nobody"):
        await subject.runtime.commit("nobody", Commit())


@pytest.mark.parametrize("call", ["usage", "processes", "details", "attach"])
async def test_unknown_containers_are_named(empty: Subject, call: str) -> None:
    with pytest.raises(NoSuchContainerError, match=ID):
        await getattr(empty.runtime, call)(ID)
