"""A throw-away certificate authority with a manager's, a worker's and a client's certificate, as PEM files."""

from __future__ import annotations

import datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from minictl.client import endpoint


class Authority:
    """Files ca.pem, server.pem and .key (a manager's), worker.pem and .key, cert.pem and key.pem in `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test CA {directory.name}")])
        self._write("ca.pem", "ca.key", self._sign(self._name, self._key, authority=True), self._key)
        for certificate, key, common_name in (
            ("server.pem", "server.key", "swarm-manager"),
            ("worker.pem", "worker.key", "worker"),
            ("cert.pem", "key.pem", "client"),
        ):
            private = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
            self._write(certificate, key, self._sign(subject, private, authority=False), private)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName(str(subject.rdns[0].rfc4514_string().removeprefix("CN=")).replace(" ", "-"))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(
        self,
        certificate_file: str,
        key_file: str,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
    ) -> None:
        (self.directory / certificate_file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.directory / key_file).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def server_credentials(self, name: str = "server") -> grpc.ServerCredentials:
        """For a server that demands a client certificate of this authority."""
        pair = (self.read(f"{name}.key"), self.read(f"{name}.pem"))
        return grpc.ssl_server_credentials(
            [pair], root_certificates=self.read("ca.pem"), require_client_auth=True
        )

    def endpoint(self, port: int) -> endpoint.Endpoint:
        """What `-H tcp://127.0.0.1:port` with this authority's files is."""
        return endpoint.parse(f"tcp://127.0.0.1:{port}", {"MINI_CERT_PATH": str(self.directory)})
