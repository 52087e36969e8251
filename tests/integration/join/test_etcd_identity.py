"""etcd trusts a root of its own: what the cluster's authority signs does not open it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from minicommon.clock import SystemClock
from minicommon.errors import UnavailableError
from minicommon.identity.authority import KeyPair, issue_with_key, new_cluster_root, node_subject
from minicommon.identity.etcd import EtcdCertificates, issue_etcd, new_etcd_root
from minimanager.store.api import Put
from minimanager.store.etcd.client import EtcdStore
from support.etcd import EtcdProcess, Pki, running_etcd

NOW_NS = SystemClock().now_ns()
ROOT = new_etcd_root(NOW_NS)
ISSUED: EtcdCertificates = issue_etcd(ROOT, name="m1", hosts=("127.0.0.1",), now_ns=NOW_NS)


def _pki(directory: Path, ca_pem: bytes, pair: KeyPair) -> Pki:
    directory.mkdir()
    pki = Pki(directory / "ca.pem", directory / "pair.pem", directory / "pair.key")
    pki.ca.write_bytes(ca_pem)
    pki.certificate.write_bytes(pair.certificate_pem)
    pki.key.write_bytes(pair.key_pem)
    return pki


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    """A real member with the certificates that a manager gets."""
    pki = _pki(tmp_path / "server", ROOT.certificate_pem, ISSUED.server)
    async with running_etcd(tmp_path / "etcd", pki=pki) as member:
        yield member


async def _read(member: EtcdProcess, pki: Pki) -> None:
    store = EtcdStore(member.settings_with(pki), request_timeout=2.0)
    try:
        await store.get("/anything")
    finally:
        await store.close()


async def test_the_managers_client_certificate_opens_etcd(etcd: EtcdProcess, tmp_path: Path) -> None:
    pki = _pki(tmp_path / "client", ROOT.certificate_pem, ISSUED.client)
    store = EtcdStore(etcd.settings_with(pki))
    await store.txn((), (Put("/key", b"value"),))
    found = await store.get("/key")
    await store.close()
    assert found is not None
    assert found.value == b"value"


@pytest.mark.parametrize("manager", [False, True])
async def test_a_nodes_certificate_does_not_open_etcd(
    etcd: EtcdProcess, tmp_path: Path, manager: bool
) -> None:
    """Even a manager's does not: only what the root of etcd has signed."""
    subject = node_subject("n1", manager=manager, cluster_id="c1")
    pair = issue_with_key(new_cluster_root(NOW_NS), subject, now_ns=NOW_NS)
    with pytest.raises(UnavailableError):
        await _read(etcd, _pki(tmp_path / "node", ROOT.certificate_pem, pair))
