"""What every `Runtime` keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from miniworker.runtime.api import (
    SECOND,
    ContainerConfig,
    ContainerStatus,
    HealthCheck,
    ImageError,
    LogLine,
    LogQuery,
    Mount,
    MountKind,
    NoSuchContainerError,
    NoSuchVolumeError,
    RuntimeFaultError,
    VolumeError,
)
from support import images
from support.runtimes import FAILS, IMAGE, LINES, MISSING, RUNS, STUBBORN, Subject, chunks

ID = "0123456789abcdefghijklmno"


def config(command: tuple[str, ...] = RUNS, **changes: Any) -> ContainerConfig:
    return ContainerConfig(
        **{
            "id": ID,
            "name": "web.1." + ID,
            "image": IMAGE,
            "command": command,
            "labels": {"a": "b"},
            **changes,
        }
    )


async def run(subject: Subject, command: tuple[str, ...] = RUNS, **changes: Any) -> int:
    await subject.runtime.create(config(command, **changes))
    return await subject.runtime.start(ID)


async def lines(subject: Subject, **options: Any) -> list[LogLine]:
    found = subject.runtime.logs(ID, LogQuery(**options))
    return [line async for batch in found for line in batch]


async def following(subject: Subject) -> AsyncIterator[LogLine]:
    async for batch in subject.runtime.logs(ID, LogQuery(follow=True)):
        for line in batch:
            yield line


async def test_it_names_itself(empty: Subject) -> None:
    info = await empty.runtime.info()
    assert info.name
    assert info.version


async def test_a_container_is_created_then_runs(subject: Subject) -> None:
    await subject.runtime.create(config())
    (created,) = await subject.runtime.list()
    assert (created.status, created.pid, created.exit) == (ContainerStatus.CREATED, 0, None)
    assert (created.id, created.name, dict(created.labels)) == (ID, "web.1." + ID, {"a": "b"})
    pid = await subject.runtime.start(ID)
    (running,) = await subject.runtime.list()
    assert (running.status, running.pid) == (ContainerStatus.RUNNING, pid)
    assert pid > 0


async def test_create_and_start_may_be_repeated(subject: Subject) -> None:
    pid = await run(subject)
    assert await run(subject) == pid
    assert len(await subject.runtime.list()) == 1


async def test_concurrent_starts_give_one_process(subject: Subject) -> None:
    await subject.runtime.create(config())
    first, second = await asyncio.gather(subject.runtime.start(ID), subject.runtime.start(ID))
    assert first == second


async def test_wait_tells_the_exit_code_again_and_again(subject: Subject) -> None:
    await run(subject, FAILS)
    first = await subject.runtime.wait(ID)
    assert (first.code, first.oom_killed) == (3, False)
    assert first.finished_at_ns > 0
    assert await subject.runtime.wait(ID) == first
    (container,) = await subject.runtime.list()
    assert (container.status, container.exit, container.pid) == (ContainerStatus.EXITED, first, 0)


async def test_wait_before_the_start_lasts_until_the_end(subject: Subject) -> None:
    await subject.runtime.create(config(FAILS))
    waiting = asyncio.ensure_future(subject.runtime.wait(ID))
    await asyncio.sleep(0)
    assert not waiting.done()
    await subject.runtime.start(ID)
    assert (await waiting).code == 3


async def test_starting_an_ended_container_does_not_run_it_again(subject: Subject) -> None:
    await run(subject, LINES)
    await subject.runtime.wait(ID)
    await subject.runtime.start(ID)
    assert len(await lines(subject)) == 4


async def test_stop_sends_the_signal_and_returns_when_it_has_ended(subject: Subject) -> None:
    await run(subject)
    await _until_up(subject)
    await subject.runtime.stop(ID)
    (container,) = await subject.runtime.list()
    assert container.exit is not None
    assert container.exit.code == 5


async def test_stop_kills_after_the_grace_period(subject: Subject) -> None:
    await run(subject, STUBBORN, stop_grace_period_ns=SECOND // 20)
    await subject.runtime.stop(ID)
    assert (await subject.runtime.wait(ID)).code == 137


async def test_stopping_what_does_not_run_changes_nothing(subject: Subject) -> None:
    await subject.runtime.create(config(FAILS))
    await subject.runtime.stop(ID)
    await subject.runtime.start(ID)
    await subject.runtime.wait(ID)
    await subject.runtime.stop(ID)
    assert (await subject.runtime.wait(ID)).code == 3


async def test_remove_ends_a_running_container_and_may_be_repeated(subject: Subject) -> None:
    await run(subject, STUBBORN)
    await subject.runtime.remove(ID)
    await subject.runtime.remove(ID)
    assert await subject.runtime.list() == ()
    with pytest.raises(NoSuchContainerError, match=ID):
        await subject.runtime.wait(ID)


async def test_an_id_is_free_again_after_remove(subject: Subject) -> None:
    await run(subject, FAILS)
    await subject.runtime.remove(ID)
    await run(subject, LINES)
    assert (await subject.runtime.wait(ID)).code == 0


async def test_a_program_that_does_not_exist(subject: Subject) -> None:
    await subject.runtime.create(config(MISSING))
    with pytest.raises(
        RuntimeFaultError, match=r'exec: "nosuchprogram": executable file not found in \$PATH'
    ):
        await subject.runtime.start(ID)
    (container,) = await subject.runtime.list()
    assert container.status is ContainerStatus.CREATED
    await subject.runtime.remove(ID)


@pytest.mark.parametrize("call", ["start", "wait", "stop"])
async def test_unknown_containers_are_named(empty: Subject, call: str) -> None:
    with pytest.raises(NoSuchContainerError, match=ID):
        await getattr(empty.runtime, call)(ID)


async def test_an_image_that_is_not_here(empty: Subject) -> None:
    with pytest.raises(ImageError, match="No such image: busybox:latest"):
        await empty.runtime.create(config())
    assert await empty.runtime.list() == ()


async def test_logs_keep_streams_and_order(subject: Subject) -> None:
    await run(subject, FAILS)
    await subject.runtime.wait(ID)
    found = await lines(subject)
    assert sorted((line.stream, line.data) for line in found) == [("stderr", b"err"), ("stdout", b"out")]
    assert all(line.time_ns > 0 and not line.partial for line in found)


@pytest.mark.parametrize(("tail", "expected"), [(0, 0), (1, 1), (3, 3), (9, 4)])
async def test_logs_tail(subject: Subject, tail: int, expected: int) -> None:
    await run(subject, LINES)
    await subject.runtime.wait(ID)
    texts = [line.data for line in await lines(subject, tail=tail)]
    assert texts == [b"1", b"2", b"3", b"4"][4 - expected :]


async def test_following_logs_ends_with_the_container(subject: Subject) -> None:
    await run(subject)
    seen: list[bytes] = []
    async for line in following(subject):
        seen.append(line.data)
        if line.data == b"up":
            await subject.runtime.stop(ID)
    assert seen == [b"up", b"bye"]


async def test_following_logs_ends_when_it_is_removed(subject: Subject) -> None:
    await run(subject)
    async for line in following(subject):
        assert line.data == b"up"
        await subject.runtime.remove(ID)


async def test_a_pull_that_fails_names_image_and_registry(empty: Subject) -> None:
    with pytest.raises(ImageError, match=r"No such image: 127\.0\.0\.1:1/nothing:here"):
        await empty.runtime.pull("127.0.0.1:1/nothing:here")


async def test_a_pull_that_fails_takes_the_local_copy(empty: Subject, tmp_path: Path) -> None:
    name = "127.0.0.1:1/local:1"  # nobody listens there
    archive = images.write_docker_archive(tmp_path / "local.tar", images.busybox(name))
    await empty.images.load(chunks(archive))
    (image,) = await empty.images.list_images()
    assert await empty.runtime.pull(name) == image.id


async def _until_up(subject: Subject) -> None:
    """The trap is set once it says so."""
    async for line in following(subject):
        if line.data == b"up":
            return


async def test_a_command_runs_inside_and_tells_code_and_output(subject: Subject) -> None:
    await run(subject)
    done = await subject.runtime.exec(ID, FAILS, timeout_ns=30 * SECOND)
    assert (done.code, done.timed_out) == (3, False)
    assert sorted(done.output.split()) == [b"err", b"out"]
    (container,) = await subject.runtime.list()
    assert container.status is ContainerStatus.RUNNING


async def test_a_command_that_takes_too_long_is_killed(subject: Subject) -> None:
    await run(subject)
    done = await subject.runtime.exec(ID, STUBBORN, timeout_ns=SECOND // 2)
    assert (done.code, done.timed_out) == (137, True)
    assert (await subject.runtime.exec(ID, LINES, timeout_ns=30 * SECOND)).output == b"1\n2\n3\n4\n"


async def test_a_command_that_does_not_exist_says_so(subject: Subject) -> None:
    await run(subject)
    done = await subject.runtime.exec(ID, MISSING, timeout_ns=30 * SECOND)
    assert done.code != 0
    assert b'exec: "nosuchprogram": executable file not found in $PATH' in done.output


async def test_nothing_is_run_in_a_container_that_does_not_run(subject: Subject) -> None:
    await subject.runtime.create(config())
    with pytest.raises(RuntimeFaultError, match=f"container {ID} is not running"):
        await subject.runtime.exec(ID, LINES, timeout_ns=SECOND)
    with pytest.raises(NoSuchContainerError, match="other"):
        await subject.runtime.exec("other", LINES, timeout_ns=SECOND)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (HealthCheck(), HealthCheck(("CMD-SHELL", "true"), interval_ns=SECOND, retries=5)),
        (HealthCheck(retries=2), HealthCheck(("CMD-SHELL", "true"), interval_ns=SECOND, retries=2)),
        (HealthCheck(("TCP", "80")), HealthCheck(("TCP", "80"), interval_ns=SECOND, retries=5)),
        (HealthCheck(("NONE",)), None),
    ],
)
async def test_the_image_says_how_to_check_health_unless_the_service_does(
    subject: Subject, tmp_path: Path, own: HealthCheck, expected: HealthCheck | None
) -> None:
    check = {"Test": ["CMD-SHELL", "true"], "Interval": SECOND, "Retries": 5}
    image = images.busybox("checked:1", Healthcheck=check)
    await subject.images.load(chunks(images.write_docker_archive(tmp_path / "checked.tar", image)))
    await subject.runtime.create(config(image="checked:1", health=own))
    assert await subject.runtime.health_check(ID) == expected


async def test_an_image_without_a_check_has_none(subject: Subject) -> None:
    await subject.runtime.create(config())
    assert await subject.runtime.health_check(ID) is None


# --- volumes ---

KEPT = Mount(MountKind.VOLUME, "/data", source="kept")


async def test_a_container_makes_its_named_volumes_and_keeps_them_from_removal(subject: Subject) -> None:
    own = Mount(MountKind.VOLUME, "/own")
    await subject.runtime.create(config(mounts=(KEPT, own)))
    (volume,) = await subject.volumes.list_volumes()
    assert (volume.name, volume.labels, volume.used_by) == ("kept", {}, (ID,))
    assert volume.mountpoint.endswith("/kept/_data")
    with pytest.raises(VolumeError, match=f"remove kept: volume is in use - \\[{ID}\\]"):
        await subject.volumes.remove_volume("kept")
    await subject.runtime.remove(ID)
    assert (await subject.volumes.get_volume("kept")).used_by == ()
    await subject.volumes.remove_volume("kept")
    assert await subject.volumes.list_volumes() == ()


async def test_a_volume_is_made_once_with_its_labels(subject: Subject) -> None:
    first = await subject.volumes.create_volume("bb", {"x": "y"})
    assert (first.name, first.labels, first.used_by) == ("bb", {"x": "y"}, ())
    assert await subject.volumes.create_volume("bb", {}) == first
    await subject.volumes.create_volume("aa", {})
    assert [volume.name for volume in await subject.volumes.list_volumes()] == ["aa", "bb"]


async def test_a_volume_that_is_not_there(subject: Subject) -> None:
    with pytest.raises(NoSuchVolumeError, match="get none: no such volume"):
        await subject.volumes.get_volume("none")
    with pytest.raises(NoSuchVolumeError, match="get none: no such volume"):
        await subject.volumes.remove_volume("none")
