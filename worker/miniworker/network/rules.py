"""Whether nftables has the rules that we wrote: compared with what it says of the same rules in an empty namespace.

So whichever version of `nft` lists them, and however it writes them, alike is alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from miniworker.network import nfnetlink, nft, rtnetlink
from miniworker.network.api import Difference
from miniworker.network.names import TABLE
from miniworker.network.namespaces import in_scratch_namespace
from miniworker.network.nft import Canonical
from miniworker.network.sandbox_plan import SandboxPlan
from miniworker.network.sandbox_tables import INGRESS_INTERFACE, new_tables

Tables: TypeAlias = Sequence[tuple[str, str]]
"""(family, name) of each."""

SANDBOX_TABLES: Tables = (("ip", TABLE), ("netdev", TABLE))


def read_tables(tables: Tables) -> Canonical:
    """Those of the calling thread's network namespace."""
    return nft.canonical(item for family, name in tables for item in nft.list_table(family, name))


@lru_cache(maxsize=4)
def expected_of_script(script: str, tables: Tables) -> Canonical:
    """What a script for nft makes."""

    def run() -> Canonical:
        nft.run_script(script)
        return read_tables(tables)

    return in_scratch_namespace(run)


def expected_of_sandbox(plan: SandboxPlan) -> Canonical:
    """What the sandbox' own rules look like."""
    if not plan.attachments:
        return {}
    on_ingress = plan.answers_via is not None

    def run() -> Canonical:
        if on_ingress:  # a chain for an interface needs one of that name
            rtnetlink.send([rtnetlink.add_bridge(INGRESS_INTERFACE)])
        nfnetlink.commit(new_tables(plan.vips, ingress=on_ingress))
        return read_tables(SANDBOX_TABLES)

    return in_scratch_namespace(run)


def different_rules(expected: Canonical, found: Canonical, *, task_id: str) -> tuple[Difference, ...]:
    """A difference per table, chain, set or map: pure."""
    return tuple(_differences(expected, found, task_id))


def _differences(expected: Canonical, found: Canonical, task_id: str) -> Iterable[Difference]:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield Difference("rules", task_id, name, missing=True)
        elif name not in expected:
            yield Difference("rules", task_id, name, missing=False)
        elif expected[name] != found[name]:
            yield Difference("rules", task_id, f"contents of {name}", missing=True)
