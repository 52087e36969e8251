"""A real registry process (docker-registry), and pushing the tests' images to it. Only the standard library is used.

Its storage is a directory: filled on loopback, it may be served again inside a network namespace.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from support.images import OCI_INDEX, OCI_MANIFEST, Image, architecture, digest_of, manifest_of

PROGRAM = "docker-registry"
_READY = "listening on"

USER, PASSWORD = "ann", "secret"
_HTPASSWD = "ann:$2b$05$P7fZ/bVZVDde3aXiibhh8OadfMpXOn0SM7VPT70bV.NFldclDB7iO\n"
"""Those two, as the registry wants them told (bcrypt)."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that answers at `address`, in plain HTTP."""

    address: str
    """host:port: the first part of its images' names."""

    def push(self, image: Image, name: str = "") -> str:
        """Push under `name` (repository:tag; default the image's own); the full reference."""
        repository, _, tag = (name or image.reference).rpartition(":")
        manifest, blobs = manifest_of(image)
        for digest, data in blobs.items():
            self.push_blob(repository, digest, data)
        self.push_manifest(repository, tag, manifest, OCI_MANIFEST)
        return f"{self.address}/{repository}:{tag}"

    def push_index(self, image: Image, name: str, *others: Image) -> str:
        """Push as a multi-platform image: the others first, each for the machine that it says it is for."""
        repository, _, tag = name.rpartition(":")
        entries = []
        for each in (*others, image):
            self.push(each, name)
            manifest, _ = manifest_of(each)
            entry = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
            platform = {"os": "linux", "architecture": each.machine or architecture()}
            entries.append({**entry, "platform": platform})
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        self.push_manifest(repository, tag, json.dumps(index).encode(), OCI_INDEX)
        return f"{self.address}/{repository}:{tag}"

    def push_blob(self, repository: str, digest: str, data: bytes) -> None:
        """Upload in one piece (Distribution API: POST, then PUT)."""
        where = self._request("POST", f"/v2/{repository}/blobs/uploads/", expected=202)
        parts = urlsplit(where)
        target = f"{parts.path}?{parts.query}{'&' if parts.query else ''}digest={digest}"
        self._request("PUT", target, data, "application/octet-stream", expected=201)

    def push_manifest(self, repository: str, tag: str, data: bytes, media_type: str) -> None:
        self._request("PUT", f"/v2/{repository}/manifests/{tag}", data, media_type, expected=201)

    def _request(self, method: str, path: str, body: bytes = b"", kind: str = "", *, expected: int) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            headers = {"Content-Type": kind} if kind else {}
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            said = response.read()
            if response.status != expected:
                raise AssertionError(f"{method} {path}: {response.status} {said!r}")
            return response.headers.get("Location", "")
        finally:
            connection.close()


def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None


def configure(folder: Path, address: str, *, login: bool = False) -> Path:
    """The configuration of a registry with its storage in `folder`; with `login` it knows nobody but USER."""
    config = folder / "config.yml"
    htpasswd = folder / "htpasswd"
    htpasswd.write_text(_HTPASSWD)
    config.write_text(
        "version: 0.1\n"
        "log: {level: info}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'storage'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{address}'}}\n"
        + (f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}\n" if login else "")
    )
    return config


@contextmanager
def serve(
    folder: Path, address: str, *, prefix: Sequence[str] = (), login: bool = False
) -> Iterator[Registry]:
    """Run a registry with its storage in `folder` at `address` (host:port) until the block ends.

    With `login` it knows nobody but USER.

    `prefix` goes before its command: `ip netns exec NAME` puts it on another host.
    """
    config = configure(folder, address, login=login)
    process = subprocess.Popen(
        [*prefix, PROGRAM, "serve", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if _READY in line:
                break
        else:
            raise AssertionError(f"the registry ended: {''.join(said)}")
        drain = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
        drain.start()
        yield Registry(address)
        process.terminate()
        process.wait()
        drain.join()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
