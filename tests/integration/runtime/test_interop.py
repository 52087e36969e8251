"""What other people's tools write: archives and registry content made by skopeo."""

from __future__ import annotations

import asyncio
import gzip
import shutil
from pathlib import Path

import pytest
import zstandard
from miniworker.runtime.api import ContainerConfig
from miniworker.runtime.oci.runtime import OciRuntime
from support import images
from support import registry as registries
from support.runtimes import chunks

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not registries.is_installed() or shutil.which("skopeo") is None,
        reason="needs docker-registry and skopeo",
    ),
]


async def _copy(source: str, target: str, *options: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "skopeo",
        "copy",
        "--quiet",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        *options,
        source,
        target,
    )
    assert await process.wait() == 0


async def _runs(runtime: OciRuntime, reference: str) -> None:
    await runtime.create(ContainerConfig(id="i", name="i", image=reference, command=("true",)))
    await runtime.start("i")
    assert (await runtime.wait("i")).code == 0
    await runtime.remove("i")


@pytest.mark.parametrize(("form", "compression"), [("v2s2", "gzip"), ("oci", "gzip"), ("oci", "zstd")])
async def test_pushed_by_skopeo(
    runtime: OciRuntime, registry: registries.Registry, tmp_path: Path, form: str, compression: str
) -> None:
    archive = images.write_docker_archive(tmp_path / "ours.tar", images.busybox("ours:1"))
    reference = f"{registry.address}/theirs:1"
    options = ("--format", form, "--dest-compress-format", compression)
    await _copy(f"docker-archive:{archive}", f"docker://{reference}", *options)
    await runtime.pull(reference)
    await _runs(runtime, reference)


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
async def test_archived_by_skopeo(runtime: OciRuntime, tmp_path: Path, kind: str, compress: object) -> None:
    assert callable(compress)
    archive = images.write_docker_archive(tmp_path / "ours.tar", images.busybox("ours:1"))
    theirs = tmp_path / "theirs.tar"
    await _copy(f"docker-archive:{archive}", f"{kind}:{theirs}:team/theirs:2")
    theirs.write_bytes(compress(theirs.read_bytes()))
    assert await runtime.images.load(chunks(theirs)) == ("team/theirs:2",)
    await _runs(runtime, "team/theirs:2")
