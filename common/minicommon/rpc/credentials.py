"""A node's certificate on disk and in TLS.

Servers look at the files with each new connection, so that a renewed certificate is used without a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from minicommon.identity import pem
from minicommon.identity.authority import load_key
from minicommon.paths import NodePaths


@dataclass(frozen=True, slots=True)
class NodeCredentials:
    """PEM: the node's key and certificate, and the cluster's root."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    root_ca_pem: bytes

    @property
    def chain_pem(self) -> bytes:
        """What a server shows: its certificate and the root, by which one who joins knows the cluster."""
        return self.certificate_pem + self.root_ca_pem

    @property
    def is_pair(self) -> bool:
        """Whether the certificate is for the key."""
        certified = pem.read_certificate(self.certificate_pem).public_key()
        return load_key(self.key_pem).public_key() == certified

    @classmethod
    def load(cls, paths: NodePaths) -> NodeCredentials:
        """What is on disk now. Raises OSError."""
        return cls(
            key_pem=paths.node_key.read_bytes(),
            certificate_pem=paths.node_certificate.read_bytes(),
            root_ca_pem=paths.root_ca.read_bytes(),
        )


class CredentialFiles:
    """A node's files, read again when one of them was replaced.

    Key and certificate are replaced one after the other; between the two the last pair that fits stays in use.
    """

    def __init__(self, paths: NodePaths) -> None:
        self._paths = paths
        self._files = (paths.node_key, paths.node_certificate, paths.root_ca)
        self._seen = _stamps(self._files)
        self._loaded = NodeCredentials.load(paths)

    def __call__(self) -> NodeCredentials:
        """The present credentials. Raises OSError."""
        stamps = _stamps(self._files)
        if stamps != self._seen:
            found = NodeCredentials.load(self._paths)
            if found.is_pair:
                self._loaded, self._seen = found, stamps
        return self._loaded


def server_credentials(
    load: Callable[[], NodeCredentials], *, client_certificate: bool
) -> grpc.ServerCredentials:
    """TLS for a server, 1.2 or later; `client_certificate` demands one that the cluster's root has signed."""
    current = load()

    def changed() -> Any:  # None for "as before", which the type stubs do not know of
        nonlocal current
        found = load()
        if found is current:
            return None
        current = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(current), changed, require_client_authentication=client_certificate
    )


def _configuration(credentials: NodeCredentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key_pem, credentials.chain_pem)], root_certificates=credentials.root_ca_pem
    )


def _stamps(files: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((status.st_ino, status.st_mtime_ns) for status in (file.stat() for file in files))
