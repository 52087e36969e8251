"""The certificates that a server shows, before one knows whom to trust.

gRPC verifies a server or does not talk to it. One who joins has only the digest of the root, so it first looks at the
chain with a TLS handshake of its own, in which nothing is believed and nothing is sent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from minicommon.errors import InvalidArgumentError, UnavailableError

ANSWER_SECONDS: Final = 5.0
"""For the connection and the handshake, each: a machine that is there answers within milliseconds."""


async def presented_chain(address: str, *, timeout: float = ANSWER_SECONDS) -> tuple[x509.Certificate, ...]:
    """What the server at host:port shows: its own certificate first.

    Raises InvalidArgumentError for an address of another form, and UnavailableError, saying whether nothing answers
    there, or something that does not speak TLS. `timeout` is in seconds.
    """
    host, port = _split(address)
    writer = await _connect(address, host, port, timeout)
    try:
        return await _handshake(address, writer, timeout)
    finally:
        writer.transport.abort()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InvalidArgumentError(f"address: must be HOST:PORT with a port of 1 to 65535, got {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _connect(address: str, host: str, port: int, timeout: float) -> asyncio.StreamWriter:
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError as error:
        raise UnavailableError(f"{address}: connection refused; no manager listens there") from error
    except TimeoutError as error:
        raise UnavailableError(
            f"{address}: no answer within {timeout:g} s; is the host up, and does a firewall let the port through?"
        ) from error
    except socket.gaierror as error:
        raise UnavailableError(f"{address}: the name cannot be resolved: {error.strerror}") from error
    except OSError as error:  # asyncio puts a text of its own in place of strerror
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise UnavailableError(f"{address}: cannot connect: {reason}") from error
    return writer


async def _handshake(
    address: str, writer: asyncio.StreamWriter, timeout: float
) -> tuple[x509.Certificate, ...]:
    try:
        async with asyncio.timeout(timeout):
            await writer.start_tls(_trusting_nobody())
    except TimeoutError as error:
        raise UnavailableError(
            f"{address}: accepts connections, but does not answer as a manager does within {timeout:g} s"
        ) from error
    except (OSError, EOFError) as error:  # ssl.SSLError is an OSError
        reason = (
            error.reason if isinstance(error, ssl.SSLError) and error.reason else "the connection was closed"
        )
        raise UnavailableError(
            f"{address}: does not speak TLS as a manager does ({reason}); is this the join port of a manager?"
        ) from error
    chain = _unverified_chain(writer.get_extra_info("ssl_object"))
    return tuple(x509.load_der_x509_certificate(der) for der in chain)


def _trusting_nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _unverified_chain(connection: Any) -> Sequence[bytes]:
    """The chain in DER. Public since Python 3.13; before, only the object underneath has it (since 3.10)."""
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    certificates = connection._sslobj.get_unverified_chain() or ()
    return [
        x509.load_pem_x509_certificate(item.public_bytes().encode()).public_bytes(Encoding.DER)
        for item in certificates
    ]
