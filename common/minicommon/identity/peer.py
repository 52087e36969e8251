"""What a verified certificate says about its holder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from minicommon import base36
from minicommon.clock import SECOND
from minicommon.errors import UnauthenticatedError
from minicommon.identity import names, pem
from minicommon.identity.names import Caller
from minicommon.ids import ID_LENGTH

CACHED_IDENTITIES: Final = 4096
"""A connection shows its certificate with every call; more connections than these read it again."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. Without a certificate (`LOCAL`, `ANYONE`) the rest is empty."""

    caller: Caller
    name: str = ""
    """CN: a node's id, or the name of the holder of a client certificate."""
    cluster_id: str = ""
    not_before_ns: int = 0
    not_after_ns: int = 0
    serial: int = 0
    issuer: str = ""
    """Identifier, in hex, of the key that signed the certificate; empty when it does not say."""

    @property
    def client_id(self) -> str:
        """The id under which the cluster knows a client certificate; empty for all others."""
        if not self.serial or self.caller.is_node:
            return ""
        try:
            return base36.encode(self.serial, ID_LENGTH)
        except ValueError:
            return ""  # a longer number: not one that the cluster gave

    @property
    def node_id(self) -> str:
        """The node's id; empty when the caller is not a node."""
        return self.name if self.caller.is_node else ""

    def __str__(self) -> str:
        kind = self.caller.name.lower()
        return f"{kind} {self.name}" if self.name else kind


LOCAL: Final = Identity(Caller.LOCAL)
"""Root on this machine, over a unix socket."""

ANYONE: Final = Identity(Caller.ANYONE)
"""Whoever reached the join port."""


@lru_cache(CACHED_IDENTITIES)
def identity_of(certificate_pem: bytes) -> Identity:
    """The holder of a certificate whose signature has been verified already.

    Raises UnauthenticatedError when its subject is not one that a cluster's authority writes.
    """
    certificate = pem.read_certificate(certificate_pem)
    unit = _one(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME, "OU")
    caller = names.CALLERS.get(unit)
    if caller is None:
        raise UnauthenticatedError(f"certificate: OU must be one of {', '.join(names.CALLERS)}, got {unit!r}")
    return Identity(
        caller,
        name=_one(certificate, NameOID.COMMON_NAME, "CN"),
        cluster_id=_one(certificate, NameOID.ORGANIZATION_NAME, "O"),
        not_before_ns=_nanoseconds(certificate.not_valid_before_utc),
        not_after_ns=_nanoseconds(certificate.not_valid_after_utc),
        serial=certificate.serial_number,
        issuer=_issuer(certificate),
    )


def _issuer(certificate: x509.Certificate) -> str:
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    return (found.key_identifier or b"").hex()


def _one(certificate: x509.Certificate, oid: x509.ObjectIdentifier, field: str) -> str:
    values = certificate.subject.get_attributes_for_oid(oid)
    if len(values) != 1 or not values[0].value:
        raise UnauthenticatedError(f"certificate: must have exactly one {field}, got {len(values)}")
    return str(values[0].value)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * SECOND
