"""A real etcd process on loopback, plain or with mutual TLS, that a test may stop, freeze and start again."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from minicommon.settings import MAX_REQUEST_BYTES, MAX_TXN_OPS, EtcdSettings
from minimanager.store.etcd.client import EtcdStore
from support.ports import free_port

START_SECONDS = 30.0
"""Until a member must answer, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Pki:
    """PEM files of one CA and one certificate for loopback, good for server and client."""

    ca: Path
    certificate: Path
    key: Path


def make_pki(directory: Path) -> Pki:
    """A fresh CA and a certificate from it."""
    directory.mkdir(parents=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("test-etcd-ca", ca_key, "test-etcd-ca", ca_key, ca=True)
    leaf = _certificate("test-etcd", key, "test-etcd-ca", ca_key, ca=False)
    pki = Pki(directory / "ca.pem", directory / "leaf.pem", directory / "leaf.key")
    pki.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    pki.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    pki.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pki


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(signer, hashes.SHA256())
    )


class EtcdProcess:
    """One member with a data directory of its own. `start` returns when it answers."""

    def __init__(self, directory: Path, *, pki: Pki | None = None, quota_bytes: int = 0) -> None:
        self._directory = directory
        self._pki = pki
        self._quota_bytes = quota_bytes
        self._client_port, self._peer_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._pki else 'http'}://127.0.0.1:{self._client_port}"

    @property
    def settings(self) -> EtcdSettings:
        return self.settings_with(self._pki)

    def settings_with(self, pki: Pki | None, *, ca: Path | None = None) -> EtcdSettings:
        """How a client with the certificate of `pki` reaches this member."""
        if pki is None:
            return EtcdSettings((self.url,), ca=str(ca or ""))
        return EtcdSettings((self.url,), str(ca or pki.ca), str(pki.certificate), str(pki.key))

    def spawn(self) -> None:
        """Start the process, without waiting for it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, start_new_session=True)

    async def answering(self) -> None:
        """Return when the member serves linearizable reads. Raises UnavailableError after START_SECONDS."""
        store = EtcdStore(self.settings, request_timeout=START_SECONDS)
        try:
            await store.get("/started")
        finally:
            await store.close()

    async def start(self) -> None:
        self.spawn()
        await self.answering()

    def freeze(self) -> None:
        """The process is there and its connections stand, but nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Power off: SIGKILL, also when frozen. Data that etcd promised to keep is kept."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def restart(self) -> None:
        self.kill()
        await self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("etcd does not run")
        os.kill(self._process.pid, number)

    def _command(self) -> list[str]:
        peer = f"http://127.0.0.1:{self._peer_port}"
        command = [
            *("etcd", "--name", "test", "--data-dir", str(self._directory / "data")),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"test={peer}", "--logger", "zap"),
            *("--max-txn-ops", str(MAX_TXN_OPS), "--max-request-bytes", str(MAX_REQUEST_BYTES)),
        ]
        if self._quota_bytes:
            command += ["--quota-backend-bytes", str(self._quota_bytes)]
        if self._pki:
            command += ["--client-cert-auth", "--trusted-ca-file", str(self._pki.ca)]
            command += ["--cert-file", str(self._pki.certificate), "--key-file", str(self._pki.key)]
        return command


@contextlib.asynccontextmanager
async def running_etcd(
    directory: Path, *, pki: Pki | None = None, quota_bytes: int = 0
) -> AsyncIterator[EtcdProcess]:
    """A started member; gone, whatever the test did to it, at the end."""
    process = EtcdProcess(directory, pki=pki, quota_bytes=quota_bytes)
    try:
        await process.start()
        yield process
    finally:
        process.kill()


@contextlib.asynccontextmanager
async def connected(process: EtcdProcess, *, request_timeout: float = 5.0) -> AsyncIterator[EtcdStore]:
    """A store on the member, closed at the end."""
    store = EtcdStore(process.settings, request_timeout=request_timeout)
    try:
        yield store
    finally:
        await store.close()
