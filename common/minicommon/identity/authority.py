"""A certificate authority: a root certificate with its key, and what it signs.

Keys are ECDSA P-256, as Swarm's. Certificates are back-dated by an hour, so that a node whose clock is a little behind
takes them for valid.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from minicommon.clock import SECOND
from minicommon.errors import FailedPreconditionError, InvalidArgumentError
from minicommon.identity import names, pem

HOUR: Final = 3600 * SECOND
"""Nanoseconds."""

BACKDATE_NS: Final = HOUR
"""swarmkit `ca/certificates.go`, CertBackdate."""

ROOT_LIFETIME_NS: Final = 20 * 365 * 24 * HOUR
"""20 years: swarmkit `ca/certificates.go`, RootCAExpiration."""

NODE_LIFETIME_NS: Final = 2160 * HOUR
"""90 days: swarmkit `ca/config.go`, DefaultNodeCertExpiration."""

SHORTEST_LIFETIME_NS: Final = HOUR
"""swarmkit `ca/certificates.go`, MinNodeCertExpiration."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A root certificate and its key, both PEM; the key is PKCS#8."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both PEM; the key is PKCS#8."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a certificate says of its holder. `hosts` are names and addresses for the subject alternative names."""

    common_name: str
    organizational_unit: str = ""
    organization: str = ""
    hosts: tuple[str, ...] = ()


def new_cluster_root(now_ns: int) -> Authority:
    """A root for a new cluster."""
    return new_root(names.ROOT_NAME, now_ns)


def new_root(common_name: str, now_ns: int) -> Authority:
    """A self-signed root of 20 years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(Subject(common_name))
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now_ns - BACKDATE_NS))
        .not_valid_after(_moment(now_ns + ROOT_LIFETIME_NS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(pem.of_certificate(builder.sign(key, hashes.SHA256())), key_to_pem(key))


def cross_signed(old: Authority, new_root_pem: bytes) -> bytes:
    """The new root's key under the new root's name, certified by the old root: PEM.

    Sent along with a certificate of the new root, it is the way from there to the old root, for whoever trusts only
    that one.
    """
    old_root, new_root = pem.read_certificate(old.certificate_pem), pem.read_certificate(new_root_pem)
    old_key, new_key = load_key(old.key_pem), _public_key(new_root)
    builder = (
        x509.CertificateBuilder()
        .subject_name(new_root.subject)
        .issuer_name(old_root.subject)
        .public_key(new_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(new_root.not_valid_before_utc)
        .not_valid_after(min(old_root.not_valid_after_utc, new_root.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_subject_identifier(new_root), critical=False)
        .add_extension(_authority_identifier(old_root), critical=False)
    )
    return pem.of_certificate(builder.sign(old_key, hashes.SHA256()))


def given_root(certificate_pem: bytes, key_pem: bytes, *, now_ns: int) -> Authority:
    """A root that was made elsewhere, once it is known to be fit.

    Raises InvalidArgumentError: it must be one certificate of an authority, with its P-256 key, and valid now.
    """
    certificate = pem.read_certificate(certificate_pem)
    if certificate_pem.count(b"BEGIN CERTIFICATE") != 1:
        raise InvalidArgumentError("CA certificate: must be exactly one certificate")
    if load_key(key_pem).public_key() != certificate.public_key():
        raise InvalidArgumentError("CA key: must be the key of the CA certificate")
    if not isinstance(_public_key(certificate).curve, ec.SECP256R1):
        raise InvalidArgumentError("CA key: must be an ECDSA P-256 key")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    if not constraints.ca:
        raise InvalidArgumentError("CA certificate: must be one of an authority (basic constraints: CA)")
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InvalidArgumentError("CA certificate: must be a root, signed by itself") from error
    if not certificate.not_valid_before_utc <= _moment(now_ns) < certificate.not_valid_after_utc:
        raise InvalidArgumentError(
            f"CA certificate: must be valid now, it is from {certificate.not_valid_before_utc.isoformat()} "
            f"to {certificate.not_valid_after_utc.isoformat()}"
        )
    return Authority(pem.of_certificate(certificate), key_pem)


@lru_cache(64)
def key_identifier(certificate_pem: bytes) -> str:
    """The identifier of a certificate's own key, in hex, as certificates that it signs name it."""
    return _subject_identifier(pem.read_certificate(certificate_pem)).digest.hex()


def _subject_identifier(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """What the certificate says, for verifiers compare it; else what ours say."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(_public_key(certificate))


def _authority_identifier(root: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_subject_identifier(root))


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidArgumentError(
            f"certificate: must be for an elliptic curve's key, got {type(key).__name__}"
        )
    return key


def node_subject(node_id: str, *, manager: bool, cluster_id: str) -> Subject:
    """What a node's certificate says. Managers answer to `swarm-manager` and, as the authority, to `swarm-ca`."""
    unit = names.MANAGER if manager else names.WORKER
    hosts = (unit, node_id, names.ROOT_NAME) if manager else (unit, node_id)
    return Subject(node_id, unit, cluster_id, hosts)


def client_subject(name: str, *, role: names.Caller, cluster_id: str) -> Subject:
    """What the certificate of a person or a program says; `role` is VIEWER, OPERATOR or ADMIN."""
    units = {caller: unit for unit, caller in names.CALLERS.items() if not caller.is_node}
    if role not in units:
        raise InvalidArgumentError(f"role: must be viewer, operator or admin, got {role.name.lower()}")
    return Subject(name, units[role], cluster_id, (name,))


def issue(
    authority: Authority,
    subject: Subject,
    *,
    public_key: ec.EllipticCurvePublicKey,
    now_ns: int,
    lifetime_ns: int = NODE_LIFETIME_NS,
    shortest_ns: int = SHORTEST_LIFETIME_NS,
    serial: int = 0,
) -> bytes:
    """A certificate as PEM, for both ends of a connection; `serial` 0 lets chance choose the number.

    A lifetime under `shortest_ns` becomes that, and none outlives the root. Raises FailedPreconditionError when the
    root itself has expired.
    """
    root = pem.read_certificate(authority.certificate_pem)
    key = load_key(authority.key_pem)
    if _moment(now_ns) >= root.not_valid_after_utc:
        raise FailedPreconditionError(
            f"the root certificate expired at {root.not_valid_after_utc.isoformat()}; rotate it"
        )
    until = min(_moment(now_ns + max(lifetime_ns, shortest_ns)), root.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(root.subject)
        .public_key(public_key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(_moment(now_ns - BACKDATE_NS))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(_authority_identifier(root), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if subject.hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(_hosts(subject.hosts)), critical=False)
    return pem.of_certificate(builder.sign(key, hashes.SHA256()))


def issue_with_key(
    authority: Authority, subject: Subject, *, now_ns: int, lifetime_ns: int = NODE_LIFETIME_NS
) -> KeyPair:
    """A certificate with a new key of its own: for the first manager, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue(
        authority, subject, public_key=key.public_key(), now_ns=now_ns, lifetime_ns=lifetime_ns
    )
    return KeyPair(certificate, key_to_pem(key))


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The key in PEM. Raises InvalidArgumentError, without its content, when it is none of ours."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError("private key: must be an unencrypted PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidArgumentError(f"private key: must be an elliptic curve's, got {type(key).__name__}")
    return key


def _name(subject: Subject) -> x509.Name:
    attributes = (
        (NameOID.ORGANIZATION_NAME, subject.organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, subject.organizational_unit),
        (NameOID.COMMON_NAME, subject.common_name),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes if value])


def _hosts(hosts: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(at_ns: int) -> datetime:
    """The moment, to the second: a certificate knows no less."""
    return datetime.fromtimestamp(at_ns // SECOND, UTC)
