"""The ledger on a real etcd, with managers that append at once and one that etcd forsakes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from minicommon.errors import MiniError
from minimanager.store.anchor import Anchor
from minimanager.store.audit import verify
from minimanager.store.envelope import KEY_BYTES, Envelope
from minimanager.store.etcd.client import EtcdStore
from minimanager.store.keys import Keys
from minimanager.store.ledger import Ledger, Written
from miniproto.v1.secrets_pb2 import LedgerRecord
from support.etcd import connected, running_etcd

KEYS = Keys("c1")


def ledger(store: EtcdStore) -> Ledger:
    return Ledger(store, KEYS, Envelope(b"k" * KEY_BYTES, "c1"), Anchor(None))


async def test_several_managers_make_one_chain_over_a_restart_of_etcd(tmp_path: Path) -> None:
    async with (
        running_etcd(tmp_path / "etcd") as etcd,
        connected(etcd, request_timeout=30) as first,
        connected(etcd, request_timeout=30) as second,
    ):
        managers = [ledger(first), ledger(second)]
        appending = asyncio.gather(
            *(one.append(LedgerRecord(task_id=f"{n}")) for one in managers for n in range(300)),
            return_exceptions=True,
        )
        await managers[0].append(LedgerRecord(task_id="meanwhile"))
        await etcd.restart()
        outcomes = await appending
        assert all(isinstance(outcome, (Written, MiniError)) for outcome in outcomes), outcomes
        for one in managers:
            await one.append(LedgerRecord(task_id="after"))
        for one in managers:
            seen, macs = one.anchor.seen, await one.macs()
            found = verify(await one.read(), KEYS, macs, seen, cluster_id="c1")
            assert found.problems == []
            written = {outcome.number for outcome in outcomes if isinstance(outcome, Written)}
            assert found.records >= len(written) + 3
