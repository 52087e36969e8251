"""What is inside a container of the `docker` runtime, its network namespace, and what survives agent and Engine."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from miniworker.network.namespaces import in_new_namespace, remove_namespace
from miniworker.runtime.api import (
    SECOND,
    ContainerConfig,
    ContainerStatus,
    Device,
    ImageError,
    Limits,
    Login,
    LogLimits,
    LogQuery,
    Mount,
    MountKind,
    NoSuchContainerError,
    NoSuchPathError,
    PathStat,
    RegistryUnreachableError,
    RuntimeFaultError,
    Ulimit,
)
from miniworker.runtime.docker import read
from miniworker.runtime.docker.engine import EngineGoneError
from miniworker.runtime.docker.open import find_engine, open_docker
from miniworker.runtime.docker.runtime import DockerRuntime
from miniworker.runtime.docker.settings import DockerSettings
from miniworker.runtime.interactive import Command, Size
from support import images
from support import registry as registries
from support.dockerd import Dockerd
from support.faulty_registry import FaultyRegistry
from support.runtimes import RUNS, chunks, dockerd

__all__ = ["dockerd"]

pytestmark = [pytest.mark.root, pytest.mark.docker]

IMAGE = "busybox:latest"
WAITS = ("sh", "-c", "while :; do sleep 60; done")

Open = Callable[[], Awaitable[DockerRuntime]]


@contextlib.asynccontextmanager
async def opening(folder: Path, engine: Dockerd) -> AsyncIterator[Open]:
    """Opens the same Engine again each time, as a restarted agent does; in the end only the image is left in it."""
    settings = DockerSettings(folder / "docker", engine.socket)
    opened: list[DockerRuntime] = []

    async def open_again() -> DockerRuntime:
        opened.append(await open_docker(settings, await find_engine(settings)))
        return opened[-1]

    try:
        yield open_again
        await clear(await open_again())
    finally:
        for runtime in opened:
            await runtime.close()


async def clear(runtime: DockerRuntime) -> None:
    for container in await runtime.list():
        await runtime.remove(container.id)
    for volume in await runtime.volumes.list_volumes():
        await runtime.volumes.remove_volume(volume.name)
    for image in await runtime.images.list_images():
        if image.references != (IMAGE,):
            await runtime.images.remove_image(image.id, force=True)


@pytest.fixture
async def reopen(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[Open]:
    async with opening(tmp_path, dockerd) as open_again:
        yield open_again


async def load(runtime: DockerRuntime, folder: Path, image: images.Image) -> None:
    await runtime.images.load(chunks(images.write_docker_archive(folder / "image.tar", image)))


@pytest.fixture
async def runtime(reopen: Open, tmp_path: Path) -> DockerRuntime:
    """With an image whose configuration says something on everything."""
    runtime = await reopen()
    if any(image.references == (IMAGE,) for image in await runtime.images.list_images()):
        return runtime
    config: dict[str, Any] = {"Env": ["FROM_IMAGE=1", "DROPPED=1"], "User": "web", "Cmd": ["pwd"]}
    await load(runtime, tmp_path, images.busybox(IMAGE, WorkingDir="/tmp", **config))
    return runtime


async def texts(runtime: DockerRuntime, container_id: str = "t1", **options: Any) -> list[str]:
    found = runtime.logs(container_id, LogQuery(**options))
    return [line.data.decode() async for batch in found for line in batch]


async def until_up(runtime: DockerRuntime) -> None:
    """The trap is set once it says so."""
    following = runtime.logs("t1", LogQuery(follow=True))
    await anext(following)
    await following.aclose()  # type: ignore[attr-defined]


async def run(runtime: DockerRuntime, script: str, **changes: Any) -> str:
    """What a container with this script says until it ends."""
    given = {"id": "t1", "name": "web.1.t1", "image": IMAGE, "command": ("sh", "-c", script), **changes}
    await runtime.create(ContainerConfig(**given))
    await runtime.start("t1")
    await runtime.wait("t1")
    return "\n".join(await texts(runtime))


@pytest.fixture
def netns(tmp_path: Path) -> Iterator[Path]:
    """A namespace as the data plane makes them, with an address."""
    path = tmp_path / "netns" / "t1"
    command = "ip link set lo up && ip address add 10.9.8.7/32 dev lo"
    in_new_namespace(path, lambda: subprocess.run(["sh", "-c", command], check=True))
    yield path
    remove_namespace(path)


async def test_the_first_process_finds_the_addresses_of_its_namespace(
    runtime: DockerRuntime, netns: Path
) -> None:
    script = "hostname; ip -o -4 address; cat /etc/hosts; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
    said = await run(
        runtime, script, netns=netns, hostname="here", hosts=(("10.9.8.7", "db"),), dns=("10.9.8.1",)
    )
    assert said.startswith("here\n")
    assert "10.9.8.7/32" in said
    assert "10.9.8.7\tdb" in said
    assert said.endswith("\n0")
    told = await runtime._engine.get("/containers/json", {"all": True})
    assert [each["Names"] for each in told] == [["/web.1.t1"]]  # the handle is gone
    assert "mini" not in str([image.references for image in await runtime.images.list_images()])


async def test_a_namespace_that_is_none_is_told(runtime: DockerRuntime, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch()
    with pytest.raises(RuntimeFaultError, match="wrong is no network namespace"):
        await run(runtime, "true", netns=wrong)
    (container,) = await runtime.list()
    assert container.status is ContainerStatus.CREATED


async def test_a_handle_that_a_killed_agent_left_is_cleared_away(
    runtime: DockerRuntime, reopen: Open, netns: Path
) -> None:
    config = ContainerConfig(id="t1", name="web.1.t1", image=IMAGE, command=WAITS, netns=netns)
    await runtime.create(config)
    left = runtime._handles.of(read.record(await runtime._lookup.inspect("t1")))
    await left.__aenter__()
    again = await reopen()
    names = [each["Names"] for each in await again._engine.get("/containers/json", {"all": True})]
    assert names == [["/web.1.t1"]]
    assert await again.start("t1") > 0


async def test_names_of_a_running_container_change_with_its_networks(runtime: DockerRuntime) -> None:
    config = ContainerConfig(id="t1", name="t1", image=IMAGE, command=WAITS)
    await runtime.create(config)
    await runtime.start("t1")
    await runtime.write_names(replace(config, hosts=(("10.9.8.7", "db"),), networks_dns="10.9.8.1"))
    told = await runtime.exec("t1", ("cat", "/etc/hosts", "/etc/resolv.conf"), timeout_ns=30 * SECOND)
    assert b"10.9.8.7\tdb\n" in told.output
    assert b"nameserver 10.9.8.1\n" in told.output
    with pytest.raises(NoSuchContainerError, match="t2"):
        await runtime.write_names(replace(config, id="t2"))


async def test_environment_user_and_directory(runtime: DockerRuntime) -> None:
    said = await run(runtime, "id; pwd; env", env=("OWN=2", "DROPPED"), dir="/home", groups=("adm",))
    assert "uid=1000(web) gid=1000(web) groups=4(adm),1000(web)" in said.replace(
        "groups=1000(web),4(adm)", "groups=4(adm),1000(web)"
    )
    assert "\n/home\n" in said
    assert {"FROM_IMAGE=1", "OWN=2"} <= set(said.splitlines())
    assert "DROPPED" not in said


async def test_what_else_a_container_is_given(runtime: DockerRuntime, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    script = (
        "ulimit -n; cat /proc/1/oom_score_adj /run/secrets/one; df -m /dev/shm | tail -1; ls /dev/given; "
        "touch /x 2>&1; touch /run/secrets/one 2>&1; ls -ld /scratch; cat /proc/1/comm"
    )
    said = await run(
        runtime,
        script,
        user="0",
        ulimits=(Ulimit("nofile", 64, 64),),
        oom_score_adj=7,
        shm_bytes=1 << 20,
        devices=(Device("/dev/null", "/dev/given"),),
        read_only=True,
        init=True,
        mounts=(
            Mount(MountKind.BIND, "/run/secrets/one", str(tmp_path / "secret"), read_only=True),
            Mount(MountKind.TMPFS, "/scratch", mode=0o700),
        ),
    )
    assert said.splitlines()[:2] == ["64", "7"]
    assert "s3cret" in said
    assert said.count("Read-only file system") == 2
    assert "/dev/given" in said
    assert "drwx------" in said
    assert "init" in said.splitlines()[-1]


async def test_running_out_of_memory_is_told(runtime: DockerRuntime) -> None:
    await run(runtime, "tail /dev/zero", limits=Limits(memory_bytes=16 << 20))
    (container,) = await runtime.list()
    assert container.exit is not None
    assert (container.exit.code, container.exit.oom_killed) == (137, True)


async def test_a_bind_mount_without_source_and_a_signal_that_is_none(runtime: DockerRuntime) -> None:
    mount = Mount(MountKind.BIND, "/x", "/nowhere")
    with pytest.raises(RuntimeFaultError, match="bind source path does not exist: /nowhere"):
        await run(runtime, "true", mounts=(mount,))
    with pytest.raises(RuntimeFaultError, match="invalid stop signal: 'SIGNOT'"):
        await run(runtime, "true", stop_signal="SIGNOT")
    assert await runtime.list() == ()


async def test_output_may_be_kept_nowhere(runtime: DockerRuntime) -> None:
    assert await run(runtime, "echo x", logs=LogLimits(keep=False)) == ""


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_output_is_kept_in_several_files_by_the_engine(runtime: DockerRuntime, driver: str) -> None:
    limits = LogLimits(max_bytes=20_000, files=3, compress=True, driver=driver)
    found = [int(line) for line in (await run(runtime, "seq 3000", logs=limits)).splitlines()]
    assert 0 < len(found) < 3000
    assert found == list(range(3001 - len(found), 3001))


async def test_a_terminal_has_the_size_it_is_given_and_follows_it(runtime: DockerRuntime) -> None:
    await runtime.create(ContainerConfig(id="t1", name="t1", image=IMAGE, command=WAITS))
    await runtime.start("t1")
    script = "stty size; read _; stty size"
    talk = await runtime.talk("t1", Command(("sh", "-c", script), tty=True, stdin=True, size=Size(11, 22)))

    async def until(text: bytes) -> None:
        said = b""
        while text not in said:
            piece = await talk.read()
            assert piece is not None, said
            said += piece[1]

    talk.resize(Size(33, 44))
    await talk._background.close()  # type: ignore[attr-defined]
    await talk.write(b"\n")
    await until(b"33 44")
    assert await talk.wait() == 0
    await talk.close()


async def test_an_attached_terminal_takes_input(runtime: DockerRuntime) -> None:
    config = ContainerConfig(id="t1", name="t1", image=IMAGE, command=("cat",), tty=True, open_stdin=True)
    await runtime.create(config)
    attached = await runtime.attach("t1", stdin=True, from_start=True)
    await runtime.start("t1")
    await attached.write(b"hello\n")
    await attached.end_input()
    said = b""
    while (piece := await attached.read()) is not None:
        said += piece[1]
    assert said.count(b"hello\r\n") == 2
    assert await attached.wait() == 0
    await attached.close()
    assert [line.rstrip("\r") for line in await texts(runtime)] == ["hello", "hello"]


async def test_files_of_a_container_that_has_ended(runtime: DockerRuntime) -> None:
    await run(runtime, "mkdir /tmp/d; echo one >/tmp/d/f; ln -s d/f /tmp/l", user="0")
    about = await runtime.stat_path("t1", "/tmp/l")
    assert about.link
    first, *rest = [part async for part in runtime.read_path("t1", "/tmp/l", follow=True)]
    assert isinstance(first, PathStat)
    assert (first.name, first.size) == ("f", 4)
    data = b"".join(part for part in rest if isinstance(part, bytes))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["f"]

    async def again() -> AsyncIterator[bytes]:
        yield data

    await runtime.write_path("t1", "/tmp", again())
    assert (await runtime.stat_path("t1", "/tmp/f")).size == 4
    with pytest.raises(NoSuchPathError, match="/nowhere: No such file or directory"):
        await runtime.stat_path("t1", "/nowhere")


# --- registries ---


async def test_an_image_is_pulled_and_resolved(runtime: DockerRuntime, registry: registries.Registry) -> None:
    reference = registry.push_index(images.busybox("pulled:1", Env=["P=1"]), "pulled:1")
    told: list[str] = []
    image_id = await runtime.pull(reference, progress=told.append)
    assert any(reference in line for line in told)
    (found,) = [image for image in await runtime.images.list_images() if image.id == image_id]
    assert found.references == (reference,)
    resolved = await runtime.images.resolve(reference)
    assert found.digests == (f"{reference.rpartition(':')[0]}@{resolved.digest}",)
    assert [platform[0] for platform in resolved.platforms] == ["linux"]
    pinned = f"{reference.rpartition(':')[0]}@{resolved.digest}"
    assert await runtime.pull(pinned) == image_id
    assert "P=1" in await run(runtime, "env", image=pinned)


async def test_a_pull_is_made_as_who_one_is(runtime: DockerRuntime, faulty: FaultyRegistry) -> None:
    reference = faulty.add(images.busybox("private:1"))
    faulty.token, faulty.user = "t0ken", "ann:secret"
    with pytest.raises(ImageError, match=f"No such image: {reference}"):
        await runtime.pull(reference, login=Login("ann", "wrong"))
    assert (await runtime.pull(reference, login=Login("ann", "secret"))).startswith("sha256:")


async def test_a_registry_that_is_not_there_is_told_from_one_that_refuses(
    runtime: DockerRuntime, registry: registries.Registry
) -> None:
    with pytest.raises(RegistryUnreachableError):
        await runtime.images.resolve("127.0.0.1:1/nothing:here")
    with pytest.raises(ImageError) as refused:
        await runtime.images.resolve(f"{registry.address}/nothing:here")
    assert not isinstance(refused.value, RegistryUnreachableError)


# --- agent and Engine come and go ---


async def test_a_second_agent_adopts_what_runs(runtime: DockerRuntime, reopen: Open) -> None:
    config = ContainerConfig(id="t1", name="kept.1", image=IMAGE, command=RUNS, labels={"x": "y"})
    await runtime.create(config)
    pid = await runtime.start("t1")
    await until_up(runtime)
    await runtime.close()
    again = await reopen()
    (found,) = await again.list()
    assert (found.status, found.pid, found.name) == (ContainerStatus.RUNNING, pid, "kept.1")
    assert dict(found.labels) == {"x": "y"}
    await again.create(replace(config, command=("false",)))
    assert await again.start("t1") == pid
    await again.stop("t1")
    assert (await again.wait("t1")).code == 5


async def test_containers_of_another_worker_and_of_nobody_are_left_alone(
    runtime: DockerRuntime, dockerd: Dockerd, tmp_path: Path
) -> None:
    await runtime.create(ContainerConfig(id="t1", name="t1", image=IMAGE, command=WAITS))
    async with opening(tmp_path / "other", dockerd) as open_other:
        other = await open_other()
        assert await other.list() == ()
        await other.remove("t1")
        (kept,) = await runtime.list()
        assert kept.id == "t1"
        await runtime.remove("t1")


@pytest.mark.parametrize("survives", [True, False], ids=["live-restore", "plain"])
async def test_the_engine_restarts_below_a_container(tmp_path: Path, survives: bool) -> None:
    """Who waits goes on waiting where the container lives on, and else hears of its end."""
    with Dockerd(["--live-restore"] if survives else []) as engine:
        async with opening(tmp_path, engine) as open_again:
            runtime = await open_again()
            await load(runtime, tmp_path, images.busybox(IMAGE))
            await runtime.create(ContainerConfig(id="t1", name="t1", image=IMAGE, command=RUNS))
            pid = await runtime.start("t1")
            waiting = asyncio.ensure_future(runtime.wait("t1"))
            await until_up(runtime)
            await asyncio.to_thread(engine.stop)
            with pytest.raises(EngineGoneError, match="does not answer"):
                await runtime.list()
            await asyncio.to_thread(engine.start)
            if survives:
                (container,) = await runtime.list()
                assert (container.status, container.pid) == (ContainerStatus.RUNNING, pid)
                assert not waiting.done()
                await runtime.stop("t1")
            async with asyncio.timeout(20):
                assert (await waiting).code == 5  # its own handler of the stop signal
            assert not await asyncio.to_thread(Path(f"/proc/{pid}").exists)
    assert engine.left() == []


@pytest.mark.parametrize("survives", [True, False], ids=["live-restore", "plain"])
async def test_the_engine_is_killed_below_a_container(tmp_path: Path, survives: bool) -> None:
    """It runs on meanwhile; the next Engine adopts it, or stops it before it answers."""
    with Dockerd(["--live-restore"] if survives else []) as engine:
        async with opening(tmp_path, engine) as open_again:
            runtime = await open_again()
            await load(runtime, tmp_path, images.busybox(IMAGE))
            await runtime.create(ContainerConfig(id="t1", name="t1", image=IMAGE, command=RUNS))
            pid = await runtime.start("t1")
            waiting = asyncio.ensure_future(runtime.wait("t1"))
            await until_up(runtime)
            await asyncio.to_thread(engine.kill)
            with pytest.raises(EngineGoneError, match="does not answer"):
                await runtime.list()
            assert await asyncio.to_thread(Path(f"/proc/{pid}").exists)
            await asyncio.to_thread(engine.start)
            (container,) = await runtime.list()
            if survives:
                assert (container.status, container.pid) == (ContainerStatus.RUNNING, pid)
                assert not waiting.done()
                await runtime.stop("t1")
            else:
                assert container.status is ContainerStatus.EXITED
            async with asyncio.timeout(20):
                assert (await waiting).code == 5  # its own handler of the stop signal
            assert not await asyncio.to_thread(Path(f"/proc/{pid}").exists)
    assert engine.left() == []
