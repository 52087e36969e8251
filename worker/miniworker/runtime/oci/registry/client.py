"""Requests to registries: where they are, plain or TLS, tokens, and errors a user understands."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import BinaryIO

import aiohttp
from minicommon.reference import DEFAULT_DOMAIN
from yarl import URL

from miniworker.runtime.api import ImageError, Login, RegistryUnreachableError
from miniworker.runtime.oci import digest as digests
from miniworker.runtime.oci.manifest import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT
from miniworker.runtime.oci.names import ImageName
from miniworker.runtime.oci.registry.auth import Anonymous, Keyring, OneLogin, parse_challenge

_HUB = "registry-1.docker.io"
"""Where docker.io's images really are."""

_CONNECT_TIMEOUT_S = 10.0
"""Seconds to a connection; a registry that takes longer is not usable."""

_SILENCE_TIMEOUT_S = 60.0
"""Seconds without a byte before a transfer counts as broken (it is then resumed)."""


class RegistryClient:
    """One for all registries; keeps connections, tokens and what each host speaks."""

    def __init__(self, *, insecure: Iterable[str] = (), keyring: Keyring | None = None) -> None:
        self._insecure = frozenset(insecure)
        self._keyring = keyring or Anonymous()
        self._parent: RegistryClient | None = None
        self._session: aiohttp.ClientSession | None = None
        self._scheme: dict[str, str] = {}
        self._authorization: dict[tuple[str, str], str] = {}

    def as_user(self, login: Login | None) -> RegistryClient:
        """A client that shares this one's connections and logs in so; this one itself for None.

        What a registry granted to one login is never used for another.
        """
        if login is None:
            return self
        user = RegistryClient(insecure=self._insecure, keyring=OneLogin(login))
        user._parent = self._parent or self
        user._scheme = self._scheme
        return user

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def resolve(self, name: ImageName) -> str:
        """The digest the name stands for now, without fetching it; empty when the registry does not say."""
        async with self.request("HEAD", name, f"manifests/{name.target}", headers=_ACCEPT) as response:
            await check_response(response, name)
            return response.headers.get("Docker-Content-Digest", "")

    async def manifest(self, name: ImageName, target: str) -> tuple[bytes, str, str]:
        """(bytes, media type, digest) of a manifest or index; verified when `target` is a digest."""
        async with self.request("GET", name, f"manifests/{target}", headers=_ACCEPT) as response:
            await check_response(response, name)
            data = await response.content.read(MAX_DOCUMENT + 1)
            while len(data) <= MAX_DOCUMENT and (more := await response.content.read(MAX_DOCUMENT)):
                data += more
            media_type = response.content_type
        if len(data) > MAX_DOCUMENT:
            raise ImageError(f"the manifest of {name.familiar} has more than {MAX_DOCUMENT} bytes")
        digest = digests.of_bytes(data)
        if digests.is_digest(target) and digest != target:
            raise ImageError(f"digest mismatch for {name.familiar}: expected {target}, got {digest}")
        return data, media_type, digest

    async def blob(self, name: ImageName, digest: str) -> bytes:
        """A small blob, such as an image's configuration; verified."""
        async with self.request("GET", name, f"blobs/{digest}") as response:
            await check_response(response, name)
            data = await response.read()
        if digests.of_bytes(data) != digest:
            raise ImageError(f"digest mismatch for {name.familiar}: expected {digest}")
        return data

    @asynccontextmanager
    async def request(
        self,
        method: str,
        name: ImageName,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        push: bool = False,
        body: bytes | BinaryIO | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request below /v2/<repository>/, with whatever authorization it takes. Raises RegistryUnreachableError.

        `path` may also be a place that the registry has named, "/..." or a URL. A body that is a file is sent once:
        ask for the place first, which gets the authorization.
        """
        headers = dict(headers or {})
        scope = f"repository:{name.repository}:{'pull,push' if push else 'pull'}"
        key = (name.registry, scope)
        for attempt in range(2):
            if key in self._authorization and self._is_own(name, path):
                headers["Authorization"] = self._authorization[key]
            response = await self._send(method, name, path, headers, body)
            async with response:
                if response.status == 401 and attempt == 0 and (body is None or isinstance(body, bytes)):
                    self._authorization.pop(key, None)
                    header = response.headers.get("WWW-Authenticate", "")
                    answer = await self._authorize(name, header, scope)
                    if answer:
                        self._authorization[key] = answer
                        continue
                yield response
                return

    def _is_own(self, name: ImageName, path: str) -> bool:
        """Whether it is the registry itself that is asked: nobody else is shown what it granted."""
        return "://" not in path or URL(path).authority == URL(f"https://{self._host(name)}").authority

    @staticmethod
    def _host(name: ImageName) -> str:
        return _HUB if name.registry == DEFAULT_DOMAIN else name.registry

    def _url(self, scheme: str, name: ImageName, path: str) -> URL:
        """As it is written: what a registry has named is not ours to quote anew. Raises ImageError."""
        if "://" not in path:
            below = "" if path.startswith("/") else f"/v2/{name.repository}/"
            return URL(f"{scheme}://{self._host(name)}{below}{path}", encoded=True)
        if not path.startswith("https://") and not self._is_lenient(name.registry):
            raise ImageError(f"registry {name.registry} sends us to {path!r}, which is not https")
        return URL(path, encoded=True)

    async def _send(
        self,
        method: str,
        name: ImageName,
        path: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None,
    ) -> aiohttp.ClientResponse:
        """Try https, then, where that is allowed, http; remember what answered."""
        host = self._host(name)
        lenient = self._is_lenient(name.registry)
        schemes = [self._scheme[host]] if host in self._scheme else ["https", *(["http"] if lenient else [])]
        failure: Exception | None = None
        for scheme in schemes:
            try:
                response = await self._client().request(
                    method,
                    self._url(scheme, name, path),
                    headers=headers,
                    data=body,
                    ssl=not lenient,
                )
            except (aiohttp.ClientError, TimeoutError, ssl.SSLError) as error:
                failure = error
                continue
            self._scheme[host] = scheme
            return response
        self._scheme.pop(host, None)
        raise RegistryUnreachableError(f"registry {name.registry} does not answer: {_reason(failure)}")

    def _is_lenient(self, registry: str) -> bool:
        host = registry.rpartition(":")[0] if registry.rpartition(":")[2].isdigit() else registry
        if registry in self._insecure or host in self._insecure or host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return False

    async def _authorize(self, name: ImageName, header: str, scope: str) -> str:
        """The Authorization header that answers the challenge; empty when we cannot."""
        challenge = parse_challenge(header)
        credentials = self._keyring.credentials(name.registry)
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            return credentials.basic if credentials else ""
        realm = challenge.parameters.get("realm", "")
        if not realm.startswith("https://") and not (
            realm.startswith("http://") and self._is_lenient(name.registry)
        ):
            raise ImageError(
                f"registry {name.registry} sends us to {realm!r} for a token, which is not https"
            )
        query = {"scope": challenge.parameters.get("scope", scope)}
        if "service" in challenge.parameters:
            query["service"] = challenge.parameters["service"]
        headers = {"Authorization": credentials.basic} if credentials else {}
        try:
            async with self._client().get(realm, params=query, headers=headers) as response:
                if response.status != 200:
                    return ""
                answer = json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RegistryUnreachableError(
                f"token server {realm} does not answer: {_reason(error)}"
            ) from error
        token = answer.get("token") or answer.get("access_token")
        return f"Bearer {token}" if token else ""

    def _client(self) -> aiohttp.ClientSession:
        if self._parent is not None:
            return self._parent._client()
        if self._session is None:
            timeout = aiohttp.ClientTimeout(
                total=None, connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_TIMEOUT_S
            )
            self._session = aiohttp.ClientSession(
                timeout=timeout, auto_decompress=False, headers={"User-Agent": "mini-worker"}
            )
        return self._session


_ACCEPT = {"Accept": ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))}


async def check_response(response: aiohttp.ClientResponse, name: ImageName, *, action: str = "pull") -> None:
    """Raise ImageError for everything but success, with what the registry says."""
    status = response.status
    if status in (200, 201, 202, 206):
        return
    said = _said(await response.content.read(65536))
    if status in (401, 403):
        raise ImageError(f"{action} access denied for {name.familiar}: unauthorized at {name.registry}{said}")
    if status == 404:
        raise ImageError(f"manifest unknown: {name.registry} has no {name.repository} {name.target}{said}")
    if status == 429:
        raise ImageError(f"too many requests: {name.registry} limits requests{said}")
    raise ImageError(f"{name.registry} answered {status} for {name.familiar}{said}")


def _said(body: bytes) -> str:
    """The message of a Distribution API error, in parentheses."""
    try:
        message = str(json.loads(body)["errors"][0]["message"])
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return f" ({message})" if message else ""


def _reason(error: Exception | None) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it does not speak TLS; list it as an insecure registry to allow plain http"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or str(error.os_error)).lower()
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__
