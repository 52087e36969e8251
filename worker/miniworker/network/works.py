"""Running several works, and works that nobody may cut short."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

from minicommon.log import fields

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. It is finished even when the caller is cancelled: half a sandbox is of no use."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            logger.warning("Work for a caller that left has failed.", extra=fields(error=str(error)))
        raise


async def all_of(works: Iterable[Awaitable[None]]) -> None:
    """Do all of it, also when some of it fails, then raise the first error."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
