"""What the cluster forgets, and when it looks again."""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.upkeep import DEAD_TOKEN_NS, root_progress, roots_digest, upkeep
from minimanager.domain.objects import (
    ClientCertificate,
    Cluster,
    IssuedToken,
    Meta,
    Node,
    NodeStatus,
    RemovedNode,
    RootRotation,
)
from minimanager.domain.snapshot import Snapshot

NOW = 1_000_000 * DEAD_TOKEN_NS
CLUSTER = Cluster("c", root_ca_pem=b"old")


def test_removed_nodes_are_forgotten_when_their_certificates_are_void() -> None:
    removed = (RemovedNode("past", NOW), RemovedNode("coming", NOW + 5))
    found = upkeep(Snapshot(cluster=replace(CLUSTER, removed_nodes=removed)), NOW)
    assert found.removed_nodes == (removed[1],)
    assert found.wake_at_ns == NOW + 5
    assert upkeep(Snapshot(cluster=replace(CLUSTER, removed_nodes=removed[1:])), NOW).removed_nodes is None


def test_tokens_are_forgotten_a_week_after_they_are_dead() -> None:
    living = IssuedToken("living")
    used = IssuedToken("used", meta=Meta(updated_at_ns=NOW - DEAD_TOKEN_NS), max_uses=1, uses=1)
    revoked = IssuedToken("revoked", revoked_at_ns=NOW - DEAD_TOKEN_NS + 1)
    expired = IssuedToken("expired", expires_at_ns=NOW - 2 * DEAD_TOKEN_NS)
    tokens = {token.id: token for token in (living, used, revoked, expired)}
    found = upkeep(Snapshot(cluster=CLUSTER, tokens=tokens), NOW)
    assert set(found.tokens) == {used, expired}
    assert found.wake_at_ns == NOW + 1


def test_client_certificates_are_forgotten_when_they_expire_revoked_or_not() -> None:
    expired = ClientCertificate("a", expires_at_ns=NOW, revoked_at_ns=1)
    valid = ClientCertificate("b", expires_at_ns=NOW + 9, revoked_at_ns=1)
    found = upkeep(Snapshot(cluster=CLUSTER, clients={"a": expired, "b": valid}), NOW)
    assert found.clients == (expired,)
    assert found.wake_at_ns == NOW + 9


def test_a_rotation_waits_for_every_node_whose_certificate_is_valid() -> None:
    cluster = replace(CLUSTER, root_rotation=RootRotation(root_ca_pem=b"new", issuer="n"))
    there = {"certificate_issuer": "n", "trusted_roots": roots_digest(cluster)}
    nodes = {
        "done": Node("done"),
        "old": Node("old"),
        "trusts": Node("trusts"),
        "silent": Node("silent"),
        "expired": Node("expired", certificate_expires_at_ns=NOW),
    }
    statuses = {
        "done": NodeStatus("done", **there),  # type: ignore[arg-type]
        "old": NodeStatus("old", certificate_issuer="o", trusted_roots=there["trusted_roots"]),
        "trusts": NodeStatus("trusts", certificate_issuer="n", trusted_roots="x"),
    }
    progress = root_progress(Snapshot(nodes=nodes, node_statuses=statuses), cluster, "n", NOW)
    assert progress.nodes == 4
    assert set(progress.certificates) == {"old", "silent"}
    assert set(progress.trust) == {"trusts", "silent"}
    assert progress.waiting == ("old", "silent", "trusts")
