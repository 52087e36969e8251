"""Certificates: what the authority writes, what it refuses to sign, and what is read from a verified one."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st
from minicommon.clock import SECOND
from minicommon.errors import FailedPreconditionError, InvalidArgumentError, UnauthenticatedError
from minicommon.identity import pem
from minicommon.identity.authority import (
    HOUR,
    ROOT_LIFETIME_NS,
    Authority,
    Subject,
    client_subject,
    issue,
    issue_with_key,
    key_identifier,
    load_key,
    new_cluster_root,
    node_subject,
)
from minicommon.identity.etcd import issue_etcd, new_etcd_root
from minicommon.identity.names import Caller
from minicommon.identity.peer import Identity, identity_of
from minicommon.identity.renewal import renewal_moment
from minicommon.identity.requests import new_request, requested_key
from miniproto.v1 import access_pb2

NOW_NS = 1_800_000_000 * SECOND
ROOT = new_cluster_root(NOW_NS)


def _issue(subject: Subject, *, lifetime_ns: int = 2160 * HOUR, root: Authority = ROOT) -> x509.Certificate:
    return pem.read_certificate(
        issue_with_key(root, subject, now_ns=NOW_NS, lifetime_ns=lifetime_ns).certificate_pem
    )


def _names(certificate: x509.Certificate) -> set[str]:
    return set(
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
    )


def test_the_root_is_swarms() -> None:
    certificate = pem.read_certificate(ROOT.certificate_pem)
    assert certificate.subject.rfc4514_string() == "CN=swarm-ca"
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert certificate.not_valid_before_utc.timestamp() * SECOND == NOW_NS - HOUR
    assert certificate.not_valid_after_utc.timestamp() * SECOND == NOW_NS + ROOT_LIFETIME_NS
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca


@pytest.mark.parametrize(
    ("manager", "unit", "names"),
    [
        (True, "swarm-manager", {"swarm-manager", "swarm-ca", "node1"}),
        (False, "swarm-worker", {"swarm-worker", "node1"}),
    ],
)
def test_a_node_certificate_names_node_role_and_cluster(manager: bool, unit: str, names: set[str]) -> None:
    certificate = _issue(node_subject("node1", manager=manager, cluster_id="cluster1"))
    found = {attribute.oid: attribute.value for attribute in certificate.subject}
    assert found == {
        NameOID.COMMON_NAME: "node1",
        NameOID.ORGANIZATIONAL_UNIT_NAME: unit,
        NameOID.ORGANIZATION_NAME: "cluster1",
    }
    assert _names(certificate) == names
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_node_certificate_is_back_dated_and_lives_as_long_as_asked() -> None:
    certificate = _issue(node_subject("n", manager=False, cluster_id="c"), lifetime_ns=5 * HOUR)
    assert certificate.not_valid_before_utc.timestamp() * SECOND == NOW_NS - HOUR
    assert certificate.not_valid_after_utc.timestamp() * SECOND == NOW_NS + 5 * HOUR


def test_no_certificate_lives_shorter_than_an_hour_nor_longer_than_its_root() -> None:
    subject = node_subject("n", manager=False, cluster_id="c")
    short = _issue(subject, lifetime_ns=1)
    assert short.not_valid_after_utc - short.not_valid_before_utc == timedelta(hours=2)
    long = _issue(subject, lifetime_ns=2 * ROOT_LIFETIME_NS)
    assert long.not_valid_after_utc == pem.read_certificate(ROOT.certificate_pem).not_valid_after_utc


def test_an_expired_root_signs_nothing() -> None:
    subject = node_subject("n", manager=False, cluster_id="c")
    with pytest.raises(FailedPreconditionError, match="the root certificate expired at"):
        issue_with_key(ROOT, subject, now_ns=NOW_NS + ROOT_LIFETIME_NS)


def test_a_manager_verifies_under_its_own_root_only() -> None:
    certificate = _issue(node_subject("n", manager=True, cluster_id="c"))
    other = new_cluster_root(NOW_NS)

    def verify(root: Authority) -> None:
        builder = PolicyBuilder().store(Store([pem.read_certificate(root.certificate_pem)]))
        builder = builder.time(certificate.not_valid_before_utc + timedelta(minutes=61))
        builder.build_server_verifier(x509.DNSName("swarm-manager")).verify(certificate, [])

    verify(ROOT)
    with pytest.raises(x509.verification.VerificationError):
        verify(other)


# --- requests ---


def _request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "admin") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM)


def test_a_request_of_ours_is_accepted_and_its_key_certified() -> None:
    request = new_request()
    public_key = requested_key(request.csr_pem)
    certificate = pem.read_certificate(
        issue(ROOT, node_subject("n", manager=False, cluster_id="c"), public_key=public_key, now_ns=NOW_NS)
    )
    assert certificate.public_key() == load_key(request.key_pem).public_key()


def test_what_a_request_says_of_its_subject_is_ignored() -> None:
    public_key = requested_key(_request(ec.generate_private_key(ec.SECP256R1()), "swarm-manager"))
    certificate = pem.read_certificate(
        issue(ROOT, node_subject("n", manager=False, cluster_id="c"), public_key=public_key, now_ns=NOW_NS)
    )
    assert identity_of(pem.of_certificate(certificate)).caller is Caller.WORKER


@pytest.mark.parametrize(
    ("key", "kind"),
    [(ec.generate_private_key(ec.SECP384R1()), "secp384r1"), (rsa.generate_private_key(65537, 2048), "RSA")],
)
def test_only_p256_keys_are_certified(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, kind: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"must be for an ECDSA P-256 key, got .*{kind}"):
        requested_key(_request(key))


@pytest.mark.parametrize("junk", [b"", b"junk", ROOT.certificate_pem, b"x" * 20_000])
def test_what_is_no_request_is_refused(junk: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="csr_pem"):
        requested_key(junk)


def test_a_request_whose_signature_does_not_fit_is_refused() -> None:
    csr = x509.load_pem_x509_csr(new_request().csr_pem)
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    text = base64.encodebytes(bytes(der)).decode()
    forged = f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n".encode()
    with pytest.raises(InvalidArgumentError, match="csr_pem: must be signed by the key it is for"):
        requested_key(forged)


# --- reading ---


def test_the_callers_are_those_of_the_contract() -> None:
    contract = {number: name for name, number in access_pb2.Caller.items() if number}
    assert contract == {caller.value: f"CALLER_{caller.name}" for caller in Caller}


@pytest.mark.parametrize("role", [Caller.VIEWER, Caller.OPERATOR, Caller.ADMIN])
def test_a_client_certificate_carries_a_role_and_is_no_node(role: Caller) -> None:
    certificate = _issue(client_subject("alice", role=role, cluster_id="c"))
    identity = identity_of(pem.of_certificate(certificate))
    assert (identity.caller, identity.name, identity.cluster_id) == (role, "alice", "c")
    assert identity.node_id == ""


def test_a_client_certificate_cannot_make_a_node() -> None:
    with pytest.raises(InvalidArgumentError, match="role: must be viewer, operator or admin, got manager"):
        client_subject("alice", role=Caller.MANAGER, cluster_id="c")


def test_a_nodes_identity_is_read_back() -> None:
    certificate = _issue(node_subject("n1", manager=True, cluster_id="c1"), lifetime_ns=HOUR)
    identity = identity_of(pem.of_certificate(certificate))
    assert identity == Identity(
        Caller.MANAGER,
        "n1",
        "c1",
        NOW_NS - HOUR,
        NOW_NS + HOUR,
        certificate.serial_number,
        key_identifier(ROOT.certificate_pem),
    )
    assert identity.client_id == ""  # a node's
    assert identity.node_id == "n1"
    assert str(identity) == "manager n1"


@pytest.mark.parametrize(
    ("subject", "why"),
    [
        (Subject("n", "root", "c"), "OU must be one of swarm-worker, swarm-manager"),
        (Subject("n", "swarm-worker"), "exactly one O"),
        (Subject("", "swarm-worker", "c"), "exactly one CN"),
        (Subject("n", "", "c"), "exactly one OU"),
    ],
)
def test_a_subject_that_no_cluster_writes_is_nobody(subject: Subject, why: str) -> None:
    with pytest.raises(UnauthenticatedError, match=why):
        identity_of(pem.of_certificate(_issue(subject)))


# --- etcd ---


def test_etcd_has_a_root_of_its_own_and_hosts_in_its_certificates() -> None:
    root = new_etcd_root(NOW_NS)
    issued = issue_etcd(root, name="n1", hosts=("10.77.0.11",), now_ns=NOW_NS)
    for pair in (issued.server, issued.peer):
        certificate = pem.read_certificate(pair.certificate_pem)
        assert certificate.issuer.rfc4514_string() == "CN=mini-etcd-ca"
        hosts = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = {str(address) for address in hosts.get_values_for_type(x509.IPAddress)}
        assert addresses == {"10.77.0.11", "127.0.0.1"}
    certificate = pem.read_certificate(issued.client.certificate_pem)
    certificate.verify_directly_issued_by(pem.read_certificate(root.certificate_pem))
    with pytest.raises(ValueError, match="does not match certificate issuer"):
        certificate.verify_directly_issued_by(pem.read_certificate(ROOT.certificate_pem))


# --- renewal ---


@given(st.integers(1, 2160), st.integers())
def test_a_certificate_is_renewed_at_half_to_four_fifths_of_its_life(hours: int, seed: int) -> None:
    identity = Identity(Caller.WORKER, "n", "c", NOW_NS - HOUR, NOW_NS + hours * HOUR)
    moment = renewal_moment(identity, Random(seed))
    assert NOW_NS + 0.5 * hours * HOUR <= moment + 1000
    assert moment <= NOW_NS + 0.8 * hours * HOUR + 1000


def test_nodes_do_not_renew_together() -> None:
    identity = Identity(Caller.WORKER, "n", "c", NOW_NS - HOUR, NOW_NS + 2160 * HOUR)
    assert len({renewal_moment(identity, Random(seed)) for seed in range(50)}) == 50


# --- files and keys ---


def test_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    pem.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    directory = tmp_path / "node.key"
    directory.mkdir()
    with pytest.raises(OSError, match=r"node\.key"):
        pem.write(directory, b"new")
    assert list(tmp_path.iterdir()) == [directory]


def test_keys_are_not_shown_by_accident() -> None:
    pair = issue_with_key(ROOT, Subject("n"), now_ns=NOW_NS)
    assert "PRIVATE" not in repr(pair)
    assert "PRIVATE" not in repr(ROOT)
    assert "PRIVATE" not in repr(new_request())


def test_a_key_that_is_none_of_ours_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="unencrypted PEM"):
        load_key(b"junk")
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(InvalidArgumentError, match="elliptic curve"):
        load_key(key)
