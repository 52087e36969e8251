"""A manager in this process, and root on its machine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.manager import Client, InProcess, manager_in_process


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as running:
        yield running


@pytest.fixture
async def local(manager: InProcess) -> Client:
    return await manager.local()
