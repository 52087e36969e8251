"""A registry on loopback that demands tokens, breaks off, or lies, as a test says: what a real one does on bad days."""

from __future__ import annotations

import asyncio
import base64
from types import TracebackType

from aiohttp import web
from support.images import OCI_MANIFEST, Image, digest_of, manifest_of


class FaultyRegistry:
    """Serves images from memory, over real HTTP."""

    def __init__(self) -> None:
        self.address = ""
        self.cut_after: int | None = None
        """Bytes of a layer after which the connection is reset."""
        self.honors_range = True
        self.lies = False
        """Sends other bytes than the digest promises."""
        self.token = ""
        """If set: what the token server gives out, and requests must bring."""
        self.user = ""
        """If set: "name:password" that the token server wants."""
        self.status = 0
        """If set: the answer to everything."""
        self.requests: list[tuple[str, str]] = []
        """(method and path, Range header)."""
        self._manifests: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> FaultyRegistry:
        application = web.Application()
        application.router.add_get("/token", self._token)
        application.router.add_get("/v2/", self._hello)
        application.router.add_get("/v2/{repository:.+}/manifests/{target}", self._manifest)
        application.router.add_get("/v2/{repository:.+}/blobs/{digest}", self._blob)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def add(self, image: Image) -> str:
        """Offer the image; its full reference."""
        manifest, blobs = manifest_of(image)
        self._manifests[image.reference] = self._manifests[digest_of(manifest)] = manifest
        self._blobs.update(blobs)
        return f"{self.address}/{image.reference}"

    def layers_asked(self) -> list[str]:
        """The Range headers of the blob requests, in order."""
        return [header for path, header in self.requests if "/blobs/" in path]

    def _refusal(self, request: web.Request) -> web.Response | None:
        self.requests.append((f"{request.method} {request.path}", request.headers.get("Range", "")))
        if self.status:
            return web.Response(status=self.status)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            repository = request.match_info.get("repository", "")
            challenge = f'Bearer realm="http://{self.address}/token",service="test",scope="repository:{repository}:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return None

    async def _hello(self, request: web.Request) -> web.StreamResponse:
        """Where clients that know nothing yet ask how to identify themselves."""
        return self._refusal(request) or web.json_response({})

    async def _token(self, request: web.Request) -> web.StreamResponse:
        expected = "Basic " + base64.b64encode(self.user.encode()).decode()
        if self.user and request.headers.get("Authorization") != expected:
            return web.Response(status=401)
        assert request.query["service"] == "test"
        assert request.query["scope"].startswith("repository:")
        return web.json_response({"token": self.token})

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        repository, target = request.match_info["repository"], request.match_info["target"]
        data = self._manifests.get(target) or self._manifests.get(f"{repository}:{target}")
        if data is None:
            error = {"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}
            return web.json_response({"errors": [error]}, status=404)
        headers = {"Docker-Content-Digest": digest_of(data), "Content-Type": OCI_MANIFEST}
        return web.Response(body=data, headers=headers)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        data = self._blobs[request.match_info["digest"]]
        if self.lies:
            data = bytes(byte ^ 1 for byte in data)
        start = 0
        given = request.headers.get("Range", "")
        if given and self.honors_range:
            start = int(given.removeprefix("bytes=").partition("-")[0])
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(data) - start
        await response.prepare(request)
        end = len(data) if self.cut_after is None else min(len(data), start + self.cut_after)
        await response.write(data[start:end])
        if end < len(data):
            transport = request.transport
            assert isinstance(transport, asyncio.WriteTransport)
            transport.close()  # what is written goes out first, then the connection ends too early
        return response
