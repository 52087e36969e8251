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
    kept: Kept

    async def load(self) -> tuple[str, ...]:
        return await self.images.load(chunks(self.archive))

    async def forget_images(self) -> None:
        for image in await self.images.list_images():
            await self.images.remove_image(image.id, force=True)


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


@dataclass(slots=True)
class Kept:
    """What the tests of one kind of runtime share: its folder, and the image once it is loaded."""

    folder: Path
    image_id: str = ""


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kept]:
    """By kind: what is slow to make is made once, and a test finds it as if it were the first."""
    return {kind: Kept(tmp_path_factory.mktemp(kind)) for kind in ("oci", "docker")}


@pytest.fixture(params=["fake", *REAL])
async def opened(
    request: pytest.FixtureRequest, archive: Path, kept: dict[str, Kept]
) -> AsyncIterator[Subject]:
    """A runtime without containers and volumes; images may be there of a test before."""
    if request.param == "fake":
        fake = FakeRuntime(BEHAVIORS)
        yield Subject(fake, fake.images, fake.volumes, archive, Kept(archive.parent))
        return
    shared = kept[request.param]
    socket = (
        request.getfixturevalue("dockerd").socket if request.param == "docker" else shared.folder / "none"
    )
    settings = RuntimeSettings(
        OciSettings(shared.folder / "data", shared.folder / "run"),
        DockerSettings(shared.folder / "docker", socket),
        kind=request.param,
    )
    runtime, images_, volumes = await open_runtime(settings)
    yield Subject(runtime, images_, volumes, archive, shared)
    for container in await runtime.list():
        await runtime.remove(container.id)
    for volume in await volumes.list_volumes():
        await volumes.remove_volume(volume.name)
    await runtime.close()
    assert os.fspath(shared.folder) not in await asyncio.to_thread(Path("/proc/self/mounts").read_text)


@pytest.fixture
async def empty(opened: Subject) -> Subject:
    """A runtime without images."""
    await opened.forget_images()
    return opened


@pytest.fixture
async def subject(opened: Subject) -> Subject:
    """A runtime with the image loaded, and no other."""
    found = await opened.images.list_images()
    if [(each.id, each.references) for each in found] != [(opened.kept.image_id, (IMAGE,))]:
        await opened.forget_images()
        await opened.load()
        (image,) = await opened.images.list_images()
        opened.kept.image_id = image.id
    return opened
