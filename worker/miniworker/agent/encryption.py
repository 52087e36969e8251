"""The node's WireGuard keys towards the cluster: told when a session opens, and again whenever they change."""

from __future__ import annotations

import logging
from collections.abc import Callable

from minicommon.clock import SECOND, Clock
from minicommon.errors import MiniError
from minicommon.log import fields

from miniworker.agent.reporter import Reporter
from miniworker.network.api import Announced, DataPlane

logger = logging.getLogger(__name__)

KEY_PERIOD_NS = 12 * 3600 * SECOND
"""A key is used for so long (SwarmKit `manager/keymanager`, DefaultKeyRotationInterval)."""

NEVER_NS = 1 << 62

LOOK_NS = 5 * SECOND
"""Between two looks at whether it is time, at most: rotation waits while no manager could pass the new keys on."""


class EncryptionKeys:
    """`load`, then `run`."""

    def __init__(
        self,
        data_plane: DataPlane,
        reporter: Reporter,
        *,
        clock: Clock,
        period_ns: int,
        connected: Callable[[], bool],
    ) -> None:
        self._data_plane = data_plane
        self._reporter = reporter
        self._clock = clock
        self._period_ns = period_ns
        self._connected = connected
        self._due_at_ns = NEVER_NS
        self.announced = Announced()

    async def load(self) -> None:
        """Without keys the node still runs what needs no encryption."""
        try:
            self.announced = await self._data_plane.keys()
        except MiniError as error:
            logger.error("This node has no keys for encrypted networks.", extra=fields(error=error))

    async def run(self) -> None:
        """Rotate them each time their period is over; never returns."""
        while True:
            try:
                await self._rotate_when_due()
            except MiniError as error:
                logger.warning(
                    "The keys of encrypted networks could not be rotated; trying again.",
                    extra=fields(error=error),
                )
            await self._clock.sleep_until(min(self._due_at_ns, self._clock.now_ns() + LOOK_NS))

    async def _rotate_when_due(self) -> None:
        """Also notes when to look again."""
        self._due_at_ns = NEVER_NS
        if not self.announced.current or not self._connected():
            return
        self._due_at_ns = await self._data_plane.keys_due_at_ns(self._period_ns)
        if self._clock.now_ns() < self._due_at_ns:
            return
        self._due_at_ns = NEVER_NS
        self.announced = await self._data_plane.rotate_keys()
        self._reporter.keys(self.announced)
        logger.info("Keys of encrypted networks rotated.", extra=fields(public_key=self.announced.current))
