"""Where the daemon is, and a connected socket to it.

`unix:///run/mini/mini.sock` is the node's own daemon; `tcp://manager:2378` is a manager, with a client certificate.
"""

from __future__ import annotations

import os

from minicommon.errors import MiniError, UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from minictl.client.http2 import Connection

DEFAULT_HOST = "unix:///run/mini/mini.sock"

CONTROL_PORT = 2378
"""Mutual TLS (see `minicommon.settings`, which is not imported here to start faster)."""

MANAGER_NAME = "swarm-manager"
"""The name in every manager's certificate and in no other; addresses are not in it. The cluster's CA vouches for it."""

CONNECT_SECONDS = 10
"""Time for connecting and the TLS handshake; a host that drops packets must not hang the command."""


class HostError(MiniError):
    """The host option cannot be understood."""


class ConnectError(UnavailableError):
    """There is no daemon, or it does not let us in."""


class Endpoint:
    """A parsed host option: `path` for a unix socket, else `host` and `port`."""

    __slots__ = ("ca", "certificate", "host", "key", "path", "port", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.path = self.host = ""
        self.port = 0
        self.ca = self.certificate = self.key = ""


def parse(
    text: str, environment: Mapping[str, str], *, ca: str = "", certificate: str = "", key: str = ""
) -> Endpoint:
    """The endpoint that `-H` or MINI_HOST names.

    Without paths given, the TLS files are ca.pem, cert.pem and key.pem in MINI_CERT_PATH, else in ~/.mini. Raises
    HostError.
    """
    text = text.strip() or DEFAULT_HOST
    endpoint = Endpoint(text)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "tcp", text
        endpoint.text = f"tcp://{text}"
    if scheme == "unix" and rest.startswith("/"):
        endpoint.path = rest
        return endpoint
    host, port = _split_port(rest.rstrip("/"))
    if scheme != "tcp" or not host or not 0 < port < 65536:
        raise HostError(
            f"invalid host {text!r}: expected unix:///path/to/mini.sock or tcp://host[:port] (MINI_HOST or --host)"
        )
    endpoint.host, endpoint.port = host, port
    directory = environment.get("MINI_CERT_PATH") or os.path.join(environment.get("HOME", "/"), ".mini")
    endpoint.ca = ca or os.path.join(directory, "ca.pem")
    endpoint.certificate = certificate or os.path.join(directory, "cert.pem")
    endpoint.key = key or os.path.join(directory, "key.pem")
    return endpoint


def _split_port(text: str) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`; port 0 when it is not a number."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            return host, 0
    if not port:
        return host, CONTROL_PORT
    return host, int(port) if port.isascii() and port.isdigit() else 0


def connect(endpoint: Endpoint) -> Connection:
    """A connection to the daemon. Raises ConnectError."""
    from minictl.client.http2 import Connection

    if endpoint.path:
        return Connection(_unix(endpoint), authority="localhost", scheme="http")
    return Connection(_tls(endpoint), authority=f"{endpoint.host}:{endpoint.port}", scheme="https")


def _refused(endpoint: Endpoint, reason: str = "") -> ConnectError:
    detail = f" ({reason})" if reason else ""
    what = "mini-worker" if endpoint.path else "mini-manager"
    return ConnectError(f"Cannot connect to the mini daemon at {endpoint.text}. Is {what} running?{detail}")


if TYPE_CHECKING:
    import socket as _socket_module
    import ssl


def _unix(endpoint: Endpoint) -> _socket_module.socket:
    import socket

    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(CONNECT_SECONDS)
        client.connect(endpoint.path)
    except PermissionError:
        client.close()
        raise ConnectError(
            f"permission denied while trying to connect to the mini daemon at {endpoint.text}: only root may use it"
        ) from None
    except OSError as error:
        client.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            raise _refused(endpoint) from error
        raise _refused(endpoint, error.strerror or str(error)) from error
    return client


def _tls(endpoint: Endpoint) -> ssl.SSLSocket:
    import socket
    import ssl

    context = _context(endpoint)
    try:
        raw = socket.create_connection((endpoint.host, endpoint.port), timeout=CONNECT_SECONDS)
    except OSError as error:
        raise _refused(endpoint, error.strerror or str(error)) from error
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        client = context.wrap_socket(raw, server_hostname=MANAGER_NAME)
    except ssl.SSLCertVerificationError as error:
        raw.close()
        raise ConnectError(
            f"the certificate of {endpoint.text} is not to be trusted: {error.verify_message} (--tlscacert is "
            f"{endpoint.ca})"
        ) from error
    except OSError as error:
        raw.close()
        raise _refused(endpoint, f"TLS handshake failed: {error.strerror or error}") from error
    if client.selected_alpn_protocol() != "h2":
        client.close()
        raise ConnectError(f"{endpoint.text} does not speak gRPC (HTTP/2 was not agreed on)")
    return client


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    for option, path in (
        ("--tlscacert", endpoint.ca),
        ("--tlscert", endpoint.certificate),
        ("--tlskey", endpoint.key),
    ):
        if not os.path.exists(path):
            raise ConnectError(
                f"{endpoint.text} needs TLS, but {path} does not exist (set {option} or MINI_CERT_PATH)"
            )
    try:
        context.load_verify_locations(endpoint.ca)
        context.load_cert_chain(endpoint.certificate, endpoint.key)
    except (OSError, ssl.SSLError) as error:
        raise ConnectError(f"the TLS files for {endpoint.text} cannot be used: {error}") from error
    return context
