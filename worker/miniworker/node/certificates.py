"""The node's certificate: what it says, connections made with it, and its renewal.

A renewed certificate has a new key. The pair is first written as one file and then put in place, so that a crash in
between is completed by the next start and never leaves a certificate without its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from minicommon.clock import MILLISECOND, SECOND, Clock
from minicommon.errors import MiniError, UnavailableError
from minicommon.identity import pem
from minicommon.identity.authority import load_key
from minicommon.identity.keyring import Holder, Keyring, KeyringError, KeyringFile, node_holder
from minicommon.identity.peer import Identity, identity_of
from minicommon.identity.renewal import renewal_moment
from minicommon.identity.requests import new_request
from minicommon.log import fields
from minicommon.paths import NodePaths
from minicommon.rpc.channel import manager_channel, unix_channel
from minicommon.rpc.credentials import NodeCredentials
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import join_pb2, join_pb2_grpc

from miniworker.agent.deliveries import Signature
from miniworker.agent.waiting import sleep_unless

logger = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
"""How long a manager may take to answer."""

FIRST_RETRY_NS = 500 * MILLISECOND
LONGEST_RETRY_NS = 300 * SECOND
"""There is a fifth of the certificate's life left to try."""

UNIX = "unix:"
"""Begins the address of this machine's own manager."""

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

    def trusted_roots(self) -> bytes:
        """PEM of the roots that the node trusts."""
        return self._paths.root_ca.read_bytes()

    def description(self) -> dispatch.NodeCertificate:
        """What a manager may know of them."""
        digest = hashlib.sha256(self.trusted_roots()).hexdigest()
        return dispatch.NodeCertificate(issuer=self.identity().issuer, trusted_roots=digest)

    def trust(self, roots_pem: bytes) -> bool:
        """Trust these roots from now on. Whether that is new."""
        if roots_pem == self.trusted_roots():
            return False
        pem.write(self._paths.root_ca, roots_pem)
        return True

    def dial(self, address: str) -> grpc.aio.Channel:
        """A channel to the manager at host:port, with the certificate as it is now, or at `unix:` and a path."""
        if address.startswith(UNIX):
            return unix_channel(Path(address.removeprefix(UNIX)))
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
        keyring = KeyringFile(self._paths.cluster_key)
        if not self._paths.cluster_key.exists():  # a worker
            self._place(certificate, separator + key)
            return
        with keyring.exclusive():
            old, new = node_holder(self._paths.node_key.read_bytes()), node_holder(separator + key)
            mine = not keyring.locked
            if mine:
                held = _opened(keyring, old, new)
                keyring.write(held, [old, new])  # whatever a crash leaves of the two keys opens it
            self._place(certificate, separator + key)
            if mine:
                keyring.write(held, [new])

    def _place(self, certificate_pem: bytes, key_pem: bytes) -> None:
        pem.write(self._paths.node_key, key_pem)
        pem.write(self._paths.node_certificate, certificate_pem)
        self._next.unlink()


def _opened(keyring: KeyringFile, *holders: Holder) -> Keyring:
    """With the first holder that opens it. Raises KeyringError."""
    *others, last = holders
    for holder in others:
        with contextlib.suppress(KeyringError):
            return keyring.open(holder)
    return keyring.open(last)


class Renewal:
    """Keeps the certificate fresh: `run` for ever. A change of the cluster's root makes it renew at once."""

    def __init__(
        self,
        credentials: CertificateFiles,
        *,
        managers: Callable[[], tuple[str, ...]],
        clock: Clock,
        random: Random,
    ) -> None:
        self._credentials = credentials
        self._managers = managers
        self._clock = clock
        self._random = random
        self._trust: dispatch.Trust | None = None
        self._wake = asyncio.Event()
        self.changed: Callable[[], None] = lambda: None
        """Called after the files have changed."""
        self.problem = ""
        """Why the node cannot be a member any more; empty while it can."""

    async def run(self) -> None:
        """Renew at a random point in 50-80 % of the certificate's life, again and again."""
        due_ns = renewal_moment(self._credentials.identity(), self._random)
        failures = 0
        while True:
            await self._wait(due_ns)
            self._follow_roots()
            if not self._outdated() and self._clock.now_ns() < due_ns:
                continue
            if await self._renew():
                due_ns, failures = renewal_moment(self._credentials.identity(), self._random), 0
                self.problem = ""
                self.changed()
                continue
            self._notice_expiry()
            due_ns = self._clock.now_ns() + min(FIRST_RETRY_NS << min(failures, 20), LONGEST_RETRY_NS)
            failures += 1

    def trust(self, trust: dispatch.Trust) -> None:
        """What the cluster trusts now, and whose certificates it wants to see."""
        self._trust = trust
        self._wake.set()

    async def _wait(self, due_ns: int) -> None:
        """Until it is time, or the manager tells of roots."""
        await sleep_unless(self._wake, clock=self._clock, duration_ns=due_ns - self._clock.now_ns())
        self._wake.clear()

    def _outdated(self) -> bool:
        wanted = self._trust
        return wanted is not None and wanted.issuer != self._credentials.identity().issuer

    def _follow_roots(self) -> None:
        wanted = self._trust
        if wanted is not None and not self._outdated() and self._credentials.trust(wanted.roots_pem):
            logger.info("The trusted roots have changed.")
            self.changed()

    def _notice_expiry(self) -> None:
        expires_at_ns = self._credentials.expires_at_ns()
        if self._clock.now_ns() >= expires_at_ns:
            self.problem = expired(expires_at_ns)
            logger.error("The node's certificate has expired.", extra=fields(error=self.problem))

    async def _renew(self) -> bool:
        """Ask the managers in turn; False when none gave a certificate."""
        for address in self._managers():
            try:
                await renew_once(self._credentials, address)
            except MiniError as error:
                logger.warning("Could not renew the certificate.", extra=fields(manager=address, error=error))
            else:
                return True
        return False


def expired(expires_at_ns: int) -> str:
    """What an operator has to know and do."""
    moment = datetime.fromtimestamp(expires_at_ns // SECOND, UTC).isoformat()
    return (
        f"this node's certificate expired at {moment}, and no manager lets it in any more. Join anew: "
        "`minictl swarm leave --force`, then `minictl swarm join` with a token (`minictl swarm join-token worker` on "
        "a manager)"
    )


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
