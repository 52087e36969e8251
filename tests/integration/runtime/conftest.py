"""Runtimes of one's own, a real registry, and one that misbehaves on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from miniworker.runtime.oci.open import open_oci
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings
from support import registry as registries
from support.faulty_registry import FaultyRegistry
from support.ports import free_port
from support.runtimes import OpenRuntime


@pytest.fixture
async def open_runtime(tmp_path: Path) -> AsyncIterator[OpenRuntime]:
    """Opens the same directories again each time, as a restarted agent does."""
    opened: list[OciRuntime] = []

    async def open_again() -> OciRuntime:
        opened.append(await open_oci(OciSettings(tmp_path / "data", tmp_path / "run")))
        return opened[-1]

    yield open_again
    last = await open_again()
    for container in await last.list():
        await last.remove(container.id)
    for runtime in opened:
        await runtime.close()


@pytest.fixture
async def runtime(open_runtime: OpenRuntime) -> OciRuntime:
    return await open_runtime()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[registries.Registry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with registries.serve(folder, f"127.0.0.1:{free_port()}") as running:
        yield running


@pytest.fixture
async def faulty() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as server:
        yield server
