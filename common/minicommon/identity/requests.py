"""Certificate requests: a node proves that it holds a key, and asks for nothing else.

What a request says about its subject is ignored: the authority alone decides whom a certificate names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from minicommon.errors import InvalidArgumentError
from minicommon.identity.authority import key_to_pem

MAX_REQUEST_BYTES: Final = 16 * 1024
"""A P-256 request takes about 400 bytes."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A new key and the request for its certificate, both PEM."""

    key_pem: bytes = field(repr=False)
    csr_pem: bytes


def new_request() -> KeyRequest:
    """A new P-256 key and its request."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return KeyRequest(key_to_pem(key), csr.public_bytes(Encoding.PEM))


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a request is for, once the request is known to be signed by it.

    Raises InvalidArgumentError unless it is a P-256 key.
    """
    if len(csr_pem) > MAX_REQUEST_BYTES:
        raise InvalidArgumentError(
            f"csr_pem: must be at most {MAX_REQUEST_BYTES} bytes, got {len(csr_pem)} bytes"
        )
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        key = csr.public_key()
        signed = csr.is_signature_valid
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise InvalidArgumentError("csr_pem: must be PEM with a PKCS#10 certificate request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
        raise InvalidArgumentError(f"csr_pem: must be for an ECDSA P-256 key, got {kind}")
    if not signed:
        raise InvalidArgumentError("csr_pem: must be signed by the key it is for")
    return key
