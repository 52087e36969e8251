"""Commands in containers of the `oci` runtime on a terminal and on pipes. Real runc, conmon and pseudo-terminals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from miniworker.runtime.api import (
    Commit,
    ContainerConfig,
    ContainerStatus,
    LogQuery,
    Mount,
    MountKind,
    NoSuchPathError,
    RuntimeFaultError,
)
from miniworker.runtime.interactive import Command, Conversation, Size
from miniworker.runtime.oci.runtime import OciRuntime
from support import images
from support.runtimes import chunks

pytestmark = pytest.mark.root

IMAGE = "busybox:latest"
WAITS = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 60 & wait $!; done")
MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
async def loaded(runtime: OciRuntime, tmp_path: Path) -> None:
    image = images.busybox(IMAGE, Env=["OF_IMAGE=1", "BOTH=image"], WorkingDir="/srv/app")
    await runtime.images.load(chunks(images.write_docker_archive(tmp_path / "image.tar", image)))


async def _start(runtime: OciRuntime, command: tuple[str, ...] = WAITS, **changes: Any) -> None:
    await runtime.create(ContainerConfig(id="c", name="c", image=IMAGE, command=command, **changes))
    await runtime.start("c")


@asynccontextmanager
async def _talking(runtime: OciRuntime, line: str, **changes: Any) -> AsyncIterator[Conversation]:
    conversation = await runtime.talk("c", Command(("sh", "-c", line), **changes))
    try:
        yield conversation
    finally:
        await conversation.close()


async def _rest(conversation: Conversation) -> bytes:
    parts = []
    while (piece := await conversation.read()) is not None:
        parts.append(piece[1])
    return b"".join(parts)


async def _until(conversation: Conversation, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        piece = await conversation.read()
        assert piece is not None, seen
        seen += piece[1]
    return seen


async def test_a_command_has_the_containers_surroundings_unless_told_otherwise(runtime: OciRuntime) -> None:
    await _start(runtime)
    async with _talking(runtime, "echo $OF_IMAGE $BOTH $HOME; pwd; id -u; id -g") as plain:
        assert (await _rest(plain)).split() == [b"1", b"image", b"/root", b"/srv/app", b"0", b"0"]
    told = {"env": ("BOTH=mine",), "dir": "/tmp", "user": "web"}
    async with _talking(runtime, "echo $OF_IMAGE $BOTH; pwd; id -un", **told) as other:
        assert (await _rest(other)).split() == [b"1", b"mine", b"/tmp", b"web"]
    async with _talking(runtime, "grep CapEff /proc/self/status", user="web") as unprivileged:
        assert (await _rest(unprivileged)).split()[1] == b"0" * 16


async def test_a_user_that_the_image_does_not_know(runtime: OciRuntime) -> None:
    await _start(runtime)
    with pytest.raises(RuntimeFaultError, match="unable to find user nobody-here"):
        await runtime.talk("c", Command(("true",), user="nobody-here"))


async def test_a_terminal_has_the_size_it_is_given_and_follows_it(runtime: OciRuntime) -> None:
    await _start(runtime)
    script = (
        "trap 'stty size' WINCH; stty size; while :; do read line || break; [ $line = end ] && break; done"
    )
    async with _talking(runtime, script, tty=True, stdin=True, size=Size(33, 101)) as conversation:
        await _until(conversation, b"33 101\r\n")
        conversation.resize(Size(44, 122))
        await _until(conversation, b"44 122\r\n")
        await conversation.write(b"end\n")
        await _rest(conversation)
        assert await conversation.wait() == 0


async def test_a_terminal_turns_control_c_into_a_signal(runtime: OciRuntime) -> None:
    await _start(runtime)
    script = "echo ready; exec sleep 60"
    async with _talking(runtime, script, tty=True, stdin=True) as conversation:
        await _until(conversation, b"ready")
        await conversation.write(b"\x03")
        await _rest(conversation)
        assert await conversation.wait() == 130


async def test_what_a_closed_terminal_had_running_is_hung_up(runtime: OciRuntime) -> None:
    await _start(runtime)
    async with _talking(runtime, "until pidof sleep >/dev/null; do :; done") as begun:
        assert await _rest(begun) == b""
        assert await begun.wait() == 0
    async with _talking(runtime, "sleep 77 & echo ready; wait", tty=True, stdin=True) as conversation:
        await _until(conversation, b"ready")
        assert len(await runtime.processes("c")) == 2 + 2, "the container's own, and these"
    async with _talking(runtime, "while pidof sleep | grep -q ' '; do :; done; pidof sleep") as after:
        assert len((await _rest(after)).split()) == 1, "the container's own"


async def test_much_output_arrives_whole(runtime: OciRuntime) -> None:
    await _start(runtime)
    async with _talking(runtime, "head -c 20971520 /dev/zero") as conversation:
        size = 0
        while (piece := await conversation.read()) is not None:
            assert len(piece[1]) <= MEGABYTE
            size += len(piece[1])
    assert size == 20 * MEGABYTE


async def test_an_attached_container_is_heard_byte_for_byte(runtime: OciRuntime) -> None:
    script = "printf 'no end'; printf '\\001\\377\\n\\nx' >&2; head -c 100000 /dev/zero"
    await runtime.create(ContainerConfig(id="c", name="c", image=IMAGE, command=("sh", "-c", script)))
    attached = await runtime.attach("c", from_start=True)
    await runtime.start("c")
    found = {"stdout": b"", "stderr": b""}
    while (piece := await attached.read()) is not None:
        found[piece[0]] += piece[1]
    assert found == {"stdout": b"no end" + b"\0" * 100000, "stderr": b"\1\xff\n\nx"}
    await attached.close()


async def test_an_attached_terminal_takes_input_and_sizes(runtime: OciRuntime) -> None:
    script = (
        "trap 'stty size' WINCH; echo ready; while :; do read a || continue; [ $a = end ] && exit 7; done"
    )
    await runtime.create(
        ContainerConfig(
            id="c", name="c", image=IMAGE, command=("sh", "-c", script), tty=True, open_stdin=True
        )
    )
    await runtime.start("c")
    attached = await runtime.attach("c", stdin=True, from_start=True)
    await _until(attached, b"ready")
    attached.resize(Size(50, 132))
    await _until(attached, b"50 132")
    await attached.close()
    attached = await runtime.attach("c", stdin=True)
    await attached.write(b"end\n")
    await _rest(attached)
    assert await attached.wait() == 7
    await attached.close()


async def test_an_image_of_a_container_has_what_it_changed_and_nothing_that_was_mounted(
    runtime: OciRuntime,
) -> None:
    script = (
        "echo new > /new; mkdir /dir; echo x > /dir/file; ln /new /hard; ln -s /new /soft; rm /etc/group; "
    )
    script += (
        "rm -r /home; mkdir /home; chown 7:8 /dir/file; echo secret > /run/secrets/s; echo ready; sleep 100"
    )
    secret = Mount(MountKind.TMPFS, "/run/secrets")
    await _start(runtime, ("sh", "-c", script), mounts=(secret,), env=("TOKEN=canary",))
    async for batch in runtime.logs("c", LogQuery(follow=True)):
        if any(line.data == b"ready" for line in batch):
            break
    image_id = await runtime.commit("c", Commit("made:1", changes=('CMD ["cat", "/new"]', "ENV A=b")))
    (status,) = await runtime.list()
    assert status.status is ContainerStatus.RUNNING
    look = "cat /new /hard /soft; ls /home /run/secrets; stat -c '%u %g' /dir/file; ls /etc; env"
    await runtime.create(ContainerConfig(id="d", name="d", image="made:1", command=("sh", "-c", look)))
    await runtime.start("d")
    await runtime.wait("d")
    text = b"\n".join([line.data async for batch in runtime.logs("d") for line in batch]).decode()
    assert text.startswith("new\nnew\nnew\n/home:\n\n/run/secrets:\n7 8\n"), text
    assert "group" not in text.split()
    assert "A=b" in text
    assert "canary" not in text
    (made,) = [image for image in await runtime.images.list_images() if image.id == image_id]
    assert made.references == ("made:1",)
    await runtime.create(ContainerConfig(id="e", name="e", image=image_id))
    await runtime.start("e")
    assert (await runtime.wait("e")).code == 0


async def test_a_change_that_is_none_is_refused(runtime: OciRuntime) -> None:
    await _start(runtime)
    with pytest.raises(RuntimeFaultError, match="change: RUN is not one of CMD"):
        await runtime.commit("c", Commit(changes=("RUN true",)))
    assert len(await runtime.images.list_images()) == 1


async def test_no_link_in_a_container_leads_out_of_it(runtime: OciRuntime, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("of the host")
    script = f"mkdir -p {tmp_path}; ln -s {outside} /link; ln -s / /up; echo inside > {outside}; sleep 100"
    await _start(runtime, ("sh", "-c", script))
    while not await _there(runtime, str(outside)):
        pass
    parts = [part async for part in runtime.read_path("c", "/link", follow=True)]
    assert b"inside" in b"".join(part for part in parts if isinstance(part, bytes))
    parts = [part async for part in runtime.read_path("c", f"/up/../../..{outside}")]
    assert b"inside" in b"".join(part for part in parts if isinstance(part, bytes))
    assert outside.read_text() == "of the host"


async def _there(runtime: OciRuntime, path: str) -> bool:
    try:
        return (await runtime.stat_path("c", path)).size > 0
    except NoSuchPathError:
        return False


async def test_files_of_a_container_that_has_ended(runtime: OciRuntime) -> None:
    await _start(runtime, ("sh", "-c", "echo left > /tmp/left"))
    await runtime.wait("c")
    parts = [part async for part in runtime.read_path("c", "/tmp/left")]
    assert b"left\n" in b"".join(part for part in parts if isinstance(part, bytes))
