"""PEM on disk: private to root, and replaced in one step."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from minicommon.errors import InvalidArgumentError

FILE_MODE = 0o600


def write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, mode 0600, durably: after a crash there is the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def read_certificate(pem: bytes) -> x509.Certificate:
    """The first certificate of `pem`. Raises InvalidArgumentError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise InvalidArgumentError("certificate: must be PEM with an X.509 certificate") from error


def of_certificate(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM: 64 characters a line, a newline at the end, as Go's and OpenSSL's encoders write it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
