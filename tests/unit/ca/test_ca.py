"""The authority's decisions about tokens and certificates, on real sealed values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from minicommon.clock import SECOND
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, UnauthenticatedError
from minicommon.identity.authority import HOUR, new_cluster_root
from minicommon.identity.names import Caller
from minicommon.identity.peer import identity_of
from minicommon.identity.requests import new_request
from minicommon.identity.tokens import new_token
from minimanager.ca.issuer import Issuer
from minimanager.ca.sealer import ClusterSealer
from minimanager.ca.tokens import WRONG, role_of, rotated
from minimanager.domain.objects import Cluster, ClusterSpec, NodeRole
from minimanager.rpc.join import REMEMBERED_PEERS, Rejections
from minimanager.store.envelope import Envelope

NOW_NS = 1_800_000_000 * SECOND
ROOT = new_cluster_root(NOW_NS)
SEALER = ClusterSealer(Envelope(bytes(32), "c1"))
CLUSTER = Cluster(
    "c1",
    spec=ClusterSpec(certificate_lifetime_ns=6 * HOUR),
    root_ca_pem=ROOT.certificate_pem,
    sealed_root_key=SEALER.root_key(ROOT.key_pem),
    worker_token=SEALER.join_token(NodeRole.WORKER, ROOT.certificate_pem),
    manager_token=SEALER.join_token(NodeRole.MANAGER, ROOT.certificate_pem),
)


@pytest.mark.parametrize("role", list(NodeRole))
def test_each_token_gives_its_role(role: NodeRole) -> None:
    assert role_of(SEALER.token_text(role, CLUSTER), CLUSTER, SEALER, now_ns=NOW_NS) is role


def test_nothing_of_a_token_or_key_is_readable_in_the_cluster_object() -> None:
    for role in NodeRole:
        token = SEALER.token_text(role, CLUSTER).encode()
        assert token not in repr(CLUSTER).encode()
        assert token not in CLUSTER.worker_token.sealed + CLUSTER.manager_token.sealed
    assert b"PRIVATE" not in CLUSTER.sealed_root_key
    assert SEALER.authority(CLUSTER) == ROOT


@pytest.mark.parametrize("role", list(NodeRole))
def test_rotation_voids_the_old_token_of_that_role_only(role: NodeRole) -> None:
    other = NodeRole(1 - role)
    old, kept = SEALER.token_text(role, CLUSTER), SEALER.token_text(other, CLUSTER)
    after = rotated(CLUSTER, role, SEALER)
    with pytest.raises(UnauthenticatedError, match=f"{WRONG}.*rotated"):
        role_of(old, after, SEALER, now_ns=NOW_NS)
    assert role_of(kept, after, SEALER, now_ns=NOW_NS) is other
    assert role_of(SEALER.token_text(role, after), after, SEALER, now_ns=NOW_NS) is role


def test_a_token_expires_at_its_moment() -> None:
    cluster = rotated(CLUSTER, NodeRole.WORKER, SEALER, expires_at_ns=NOW_NS)
    text = SEALER.token_text(NodeRole.WORKER, cluster)
    assert role_of(text, cluster, SEALER, now_ns=NOW_NS - 1) is NodeRole.WORKER
    with pytest.raises(UnauthenticatedError, match="expired at 2027-01-15T08:00:00"):
        role_of(text, cluster, SEALER, now_ns=NOW_NS)


def test_a_token_of_another_cluster_is_told_apart() -> None:
    text = new_token(new_cluster_root(NOW_NS).certificate_pem).text
    with pytest.raises(UnauthenticatedError, match=f"{WRONG}.*another root certificate"):
        role_of(text, CLUSTER, SEALER, now_ns=NOW_NS)


def test_a_malformed_token_is_told_apart() -> None:
    with pytest.raises(InvalidArgumentError, match="invalid join token"):
        role_of("SWMTKN-1-x-y", CLUSTER, SEALER, now_ns=NOW_NS)


def test_swapped_tokens_do_not_open() -> None:
    """Who can write to the store, but has no key, cannot make the worker's token a manager's."""
    swapped = replace(CLUSTER, manager_token=CLUSTER.worker_token)
    with pytest.raises(FailedPreconditionError, match="join-token/manager"):
        role_of(SEALER.token_text(NodeRole.WORKER, CLUSTER), swapped, SEALER, now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("role", "caller"), [(NodeRole.WORKER, Caller.WORKER), (NodeRole.MANAGER, Caller.MANAGER)]
)
def test_a_certificate_says_what_the_cluster_decided(role: NodeRole, caller: Caller) -> None:
    certificate = Issuer(SEALER).node_certificate(
        CLUSTER, new_request().csr_pem, node_id="n1", role=role, now_ns=NOW_NS
    )
    identity = identity_of(certificate.chain_pem)
    assert certificate.expires_at_ns == identity.not_after_ns
    assert (identity.caller, identity.node_id, identity.cluster_id) == (caller, "n1", "c1")
    assert identity.not_after_ns == NOW_NS + 6 * HOUR


def test_a_bad_request_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="csr_pem"):
        Issuer(SEALER).node_certificate(CLUSTER, b"junk", node_id="n1", role=NodeRole.WORKER, now_ns=NOW_NS)


def test_rejections_are_counted_per_host_and_forgotten_in_the_end() -> None:
    rejections = Rejections()
    assert [rejections.count("a"), rejections.count("b"), rejections.count("a")] == [1, 1, 2]
    for number in range(REMEMBERED_PEERS):
        rejections.count(f"host {number}")
    assert rejections.count("a") == 1
