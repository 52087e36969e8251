"""A change of the cluster key reaches every sealed value, in an object or apart from them."""

from __future__ import annotations

from minimanager import codec
from minimanager.control.rewrap import rewrap_all
from minimanager.domain.objects import Cluster
from minimanager.store.anchor import Anchor
from minimanager.store.api import Put
from minimanager.store.contents import Contents
from minimanager.store.envelope import KEY_BYTES, Envelope
from minimanager.store.keys import Keys
from minimanager.store.ledger import Ledger
from minimanager.store.memory import MemoryStore

OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES
KEYS = Keys("c1")


async def test_objects_contents_and_the_key_of_the_ledger_are_wrapped_anew() -> None:
    store, envelope = MemoryStore(), Envelope(OLD, "c1")
    contents = Contents(store, KEYS, envelope)
    macs = await Ledger(store, KEYS, envelope, Anchor(None)).macs()  # makes its key
    sealed_root = envelope.seal("root-key", b"root")
    cluster = Cluster(id="c1", sealed_root_key=sealed_root)
    await store.txn(
        (),
        (
            Put(KEYS.of(cluster), codec.encode(cluster)),
            Put(KEYS.secret_content("s", 1), contents.seal_secret("s", 1, b"secret")),
            Put(KEYS.config_content("f"), contents.seal_config("f", b"config")),
        ),
    )
    envelope.use({0: OLD, 1: NEW}, 1)
    assert await rewrap_all(store, KEYS, envelope) == 4
    assert await rewrap_all(store, KEYS, envelope) == 0
    envelope.use({1: NEW}, 1)
    assert await contents.secret("s", 1) == b"secret"
    assert await contents.config("f") == b"config"
    again = await Ledger(store, KEYS, envelope, Anchor(None)).macs()
    assert again.entry(b"record") == macs.entry(b"record")
