"""The runtimes that the contract is held to, each with the same image and the same scripted commands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from miniworker.runtime.api import Images, Runtime, Volumes
from miniworker.runtime.docker.settings import DockerSettings
from miniworker.runtime.fake import Behavior, FakeRuntime
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings
from miniworker.runtime.select import RuntimeSettings, open_runtime
from support import images
from support.dockerd import Dockerd

IMAGE = "busybox:latest"

RUNS = ("sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 60 & wait $!; done")
STUBBORN = ("sh", "-c", "trap '' TERM; while :; do sleep 60; done")
FAILS = ("sh", "-c", "echo out; echo err >&2; exit 3")
LINES = ("sh", "-c", "echo 1; echo 2; echo 3; echo 4")
MISSING = ("nosuchprogram",)
ECHO = ("cat",)

BEHAVIORS: Mapping[tuple[str, ...], Behavior] = {
    RUNS: Behavior(on_stop=5, output=(("stdout", b"up"),), on_stop_output=(("stdout", b"bye"),)),
    STUBBORN: Behavior(on_stop=None),
    FAILS: Behavior(exit_code=3, output=(("stdout", b"out"), ("stderr", b"err"))),
    LINES: Behavior(exit_code=0, output=tuple(("stdout", str(n).encode()) for n in range(1, 5))),
    ECHO: Behavior(echo=True),
    MISSING: Behavior(start_error='exec: "nosuchprogram": executable file not found in $PATH'),
}


OpenRuntime = Callable[[], Awaitable[OciRuntime]]
"""Opens the same directories again each time, as a restarted agent does."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A runtime under test."""

    runtime: Runtime
    images: Images
    volumes: Volumes
    archive: Path

    async def load(self) -> tuple[str, ...]:
        return await self.images.load(chunks(self.archive))


async def chunks(path: Path, size: int = 100_000) -> AsyncIterator[bytes]:
    """The file in pieces, as they come over the wire."""
    with path.open("rb") as file:
        while data := file.read(size):
            yield data


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.write_docker_archive(
        tmp_path_factory.mktemp("images") / "busybox.tar", images.busybox(IMAGE)
    )


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    """An Engine for all tests, which clear away what they made."""
    with Dockerd() as dockerd:
        yield dockerd


REAL = (
    pytest.param("oci", marks=pytest.mark.root),
    pytest.param("docker", marks=[pytest.mark.root, pytest.mark.docker]),
)


@pytest.fixture(params=["fake", *REAL])
async def empty(request: pytest.FixtureRequest, tmp_path: Path, archive: Path) -> AsyncIterator[Subject]:
    """A runtime without images."""
    if request.param == "fake":
        fake = FakeRuntime(BEHAVIORS)
        yield Subject(fake, fake.images, fake.volumes, archive)
        return
    socket = request.getfixturevalue("dockerd").socket if request.param == "docker" else tmp_path / "none"
    settings = RuntimeSettings(
        OciSettings(tmp_path / "data", tmp_path / "run"),
        DockerSettings(tmp_path / "docker", socket),
        kind=request.param,
    )
    runtime, images_, volumes = await open_runtime(settings)
    yield Subject(runtime, images_, volumes, archive)
    for container in await runtime.list():
        await runtime.remove(container.id)
    if request.param == "docker":  # it is shared
        for volume in await volumes.list_volumes():
            await volumes.remove_volume(volume.name)
        for image in await images_.list_images():
            await images_.remove_image(image.id, force=True)
    await runtime.close()
    assert os.fspath(tmp_path) not in await asyncio.to_thread(Path("/proc/self/mounts").read_text)


@pytest.fixture
async def subject(empty: Subject) -> Subject:
    """A runtime with the image loaded."""
    await empty.load()
    return empty
