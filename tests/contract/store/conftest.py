"""Every contract runs on the store in memory and on a real etcd process."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from minimanager.store.api import Store
from minimanager.store.etcd.client import EtcdStore
from minimanager.store.memory import MemoryStore
from support.etcd import EtcdProcess

_numbers = itertools.count()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """One member for all contracts; each has a prefix of its own in it."""
    directory: Path = tmp_path_factory.mktemp("etcd")
    process = EtcdProcess(directory)
    process.spawn()
    yield process
    process.kill()


@pytest.fixture(params=["memory", "etcd"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    opened: Store
    if request.param == "memory":
        opened = MemoryStore()
    else:
        process: EtcdProcess = request.getfixturevalue("etcd")
        await process.answering()
        opened = EtcdStore(process.settings)
    yield opened
    await opened.close()


@pytest.fixture
def prefix() -> str:
    """Keys that no other test uses."""
    return f"/contract/{next(_numbers)}/"
