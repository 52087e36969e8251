"""A manager to join, for each test its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.join_site import JoinSite, join_site


@pytest.fixture
async def site() -> AsyncIterator[JoinSite]:
    async with join_site() as found:
        yield found
