"""Compares the kernel with what is planned, and mends sandboxes.

Whoever calls is alone (`turns`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from minicommon.log import fields

from miniworker.network.api import Difference, Fabric
from miniworker.network.checks import check_sandbox, in_words
from miniworker.network.delta import delta
from miniworker.network.host import HostTable
from miniworker.network.keeper import SandboxKeeper
from miniworker.network.model import KernelState, Operation
from miniworker.network.observe import Observed, observe
from miniworker.network.sandbox_plan import SandboxPlan, overlay_interfaces
from miniworker.network.wireguard.encryption import Encryption
from miniworker.network.works import all_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Findings:
    """In what the kernel is not as planned."""

    differences: tuple[Difference, ...] = ()
    operations: tuple[Operation, ...] = ()
    """What would make the node's own links and entries equal to the plan."""

    @property
    def task_ids(self) -> set[str]:
        """The sandboxes that differ."""
        return {item.task_id for item in self.differences if item.task_id}


class Inspector:
    """Leaves out the rules of a sandbox whose generation is known to be right (`SandboxKeeper.generations`)."""

    def __init__(self, keeper: SandboxKeeper, host: HostTable, encryption: Encryption) -> None:
        self._keeper = keeper
        self._host = host
        self._encryption = encryption
        self.repairs: Counter[str] = Counter()
        """Differences that have been repaired, by kind."""

    async def look(self, fabric: Fabric, wanted: KernelState) -> Findings:
        """`wanted` are the node's own links and entries."""
        plans = await self._keeper.plans(fabric)
        seen = await asyncio.to_thread(observe)
        operations = delta(wanted, seen.state)
        found = [
            *map(in_words, operations),
            *await self._host.differences(),
            *await self._encryption.differences(),
        ]

        async def look(task_id: str) -> None:
            found.extend(await self._check(task_id, plans[task_id], seen))

        await all_of(look(task_id) for task_id in plans)
        return Findings(tuple(sorted(found)), operations)

    async def settle(self, fabric: Fabric) -> None:
        """What the sandboxes hold is not known: look at all of it, and mend what differs."""
        plans = await self._keeper.plans(fabric)
        seen = await asyncio.to_thread(observe)
        self._keeper.generations.clear()

        async def settle(task_id: str) -> None:
            if await self._check(task_id, plans[task_id], seen):
                await self._keeper.mend(task_id, plans[task_id])

        await all_of(settle(task_id) for task_id in plans)

    async def mend(self, task_ids: Iterable[str], fabric: Fabric) -> None:
        """Make these sandboxes equal to their plans."""
        plans = await self._keeper.plans(fabric)
        await all_of(self._keeper.mend(task_id, plans[task_id]) for task_id in task_ids)

    async def on_bridges(self, bridges: set[str], fabric: Fabric) -> set[str]:
        """The sandboxes with an interface on one of `bridges`."""
        return {
            task_id
            for task_id, found in (await self._keeper.known()).items()
            for item in overlay_interfaces(task_id, found.addresses, fabric)
            if item.bridge in bridges
        }

    def count(self, differences: Iterable[Difference]) -> None:
        """They have been repaired: to be known, and in the log."""
        by_kind: dict[str, list[Difference]] = {}
        for item in differences:
            by_kind.setdefault(item.kind, []).append(item)
        for kind, items in sorted(by_kind.items()):
            self.repairs[kind] += len(items)
            logger.warning(
                "The kernel's network was not as planned; repaired.",
                extra=fields(kind=kind, count=len(items), item=items[0].item, task_id=items[0].task_id),
            )

    async def _check(self, task_id: str, wanted: SandboxPlan, seen: Observed) -> tuple[Difference, ...]:
        generations = self._keeper.generations
        report = await asyncio.to_thread(
            check_sandbox, self._keeper.path(task_id), wanted, seen, generation=generations.get(task_id)
        )
        if any(item.kind == "rules" for item in report.differences):
            generations.pop(task_id, None)
        else:
            generations[task_id] = report.generation
        return report.differences
