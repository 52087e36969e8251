"""The node's certificate: what it says, connections made with it, and its renewal.

A renewed certificate has a new key. The pair is first written as one file and then put in place, so that a crash in
between is completed by the next start and never leaves a certificate without its key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import MiniError, UnavailableError
from minicommon.identity import pem
from minicommon.identity.authority import load_key
from minicommon.identity.peer import Identity, identity_of
from minicommon.identity.renewal import renewal_moment
from minicommon.identity.requests import new_request
from minicommon.log import fields
from minicommon.paths import NodePaths
from minicommon.rpc.channel import manager_channel
from minicommon.rpc.credentials import NodeCredentials
from miniproto.v1 import join_pb2, join_pb2_grpc

from miniworker.agent.deliveries import Signature

logger = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
"""How long a manager may take to answer."""

FIRST_RETRY_NS = 500 * MILLISECOND
LONGEST_RETRY_NS = 300 * SECOND
"""There is a fifth of the certificate's life left to try."""

_SEPARATOR = b"-----BEGIN PRIVATE KEY-----"


class CertificateFiles:
    """The files of the node's certificate, its key and the cluster's root."""

    def __init__(self, paths: NodePaths) -> None:
        self._paths = paths
        self._next = paths.node_certificate.with_suffix(".next")
        if self._next.exists():
            self._put_in_place()

    def identity(self) -> Identity:
        return identity_of(self._paths.node_certificate.read_bytes())

    def expires_at_ns(self) -> int:
        return self.identity().not_after_ns

    def dial(self, address: str) -> grpc.aio.Channel:
        """A channel to the manager at host:port, with the certificate as it is now."""
        return manager_channel(address, NodeCredentials.load(self._paths))

    async def sign(self, text: bytes) -> Signature:
        """With the node's key as it is now."""
        return await asyncio.to_thread(self._sign, text)

    def _sign(self, text: bytes) -> Signature:
        pair = NodeCredentials.load(self._paths)
        if not pair.is_pair:  # they are being replaced
            raise UnavailableError("the node's certificate is being replaced")
        certificate = pem.read_certificate(pair.certificate_pem)
        value = load_key(pair.key_pem).sign(text, ec.ECDSA(hashes.SHA256()))
        return Signature(value, certificate.public_bytes(Encoding.DER))

    def replace(self, *, certificate_pem: bytes, key_pem: bytes, root_ca_pem: bytes) -> None:
        """Use these from now on."""
        pem.write(self._paths.root_ca, root_ca_pem)
        pem.write(self._next, certificate_pem + key_pem)
        self._put_in_place()

    def _put_in_place(self) -> None:
        certificate, separator, key = self._next.read_bytes().partition(_SEPARATOR)
        pem.write(self._paths.node_key, separator + key)
        pem.write(self._paths.node_certificate, certificate)
        self._next.unlink()


async def renew_for_ever(
    credentials: CertificateFiles, *, managers: Callable[[], tuple[str, ...]], clock: Clock, random: Random
) -> None:
    """Renew the certificate at a random point in 50-80 % of its life, again and again."""
    while True:
        await clock.sleep_until(renewal_moment(credentials.identity(), random))
        failures = 0
        while not await _renew(credentials, managers()):
            pause_ns = min(FIRST_RETRY_NS << min(failures, 20), LONGEST_RETRY_NS)
            failures += 1
            await clock.sleep_until(clock.now_ns() + pause_ns)


async def _renew(credentials: CertificateFiles, managers: tuple[str, ...]) -> bool:
    """Ask the managers in turn; False when none gave a certificate."""
    for address in managers:
        try:
            await renew_once(credentials, address)
        except MiniError as error:
            logger.warning("Could not renew the certificate.", extra=fields(manager=address, error=error))
        else:
            return True
    return False


async def renew_once(credentials: CertificateFiles, address: str) -> None:
    """Get a new certificate from one manager. Raises UnavailableError."""
    request = new_request()
    try:
        async with credentials.dial(address) as channel:
            answer = await join_pb2_grpc.MembershipStub(channel).RenewCertificate(
                join_pb2.RenewCertificateRequest(csr_pem=request.csr_pem), timeout=RENEW_SECONDS
            )
    except grpc.aio.AioRpcError as error:
        raise UnavailableError(f"{error.code().name}: {error.details()}") from error
    await asyncio.to_thread(
        credentials.replace,
        certificate_pem=answer.certificate_pem,
        key_pem=request.key_pem,
        root_ca_pem=answer.root_ca_pem,
    )
    logger.info("Certificate renewed.", extra=fields(node_id=credentials.identity().node_id))
