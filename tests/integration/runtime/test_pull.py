"""Pulling, from a real registry and from one that has bad days."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
from pathlib import Path

import pytest
from minicommon.clock import SECOND, VirtualClock
from miniworker.runtime.api import ContainerConfig, ImageError, Login, RegistryUnreachableError
from miniworker.runtime.oci import names
from miniworker.runtime.oci.names import ImageName
from miniworker.runtime.oci.open import open_oci
from miniworker.runtime.oci.pull import Puller
from miniworker.runtime.oci.registry.auth import Credentials
from miniworker.runtime.oci.registry.client import RegistryClient
from miniworker.runtime.oci.runtime import OciRuntime
from miniworker.runtime.oci.settings import OciSettings
from support import images
from support import registry as registries
from support.faulty_registry import FaultyRegistry
from support.images import File, Image
from support.runtimes import chunks

pytestmark = pytest.mark.root

BIG = 3_000_000
"""Bytes of the layer that transfers break in; random, so that it stays so big when compressed."""


def _image(reference: str = "app:1", text: bytes = b"one") -> Image:
    return Image(reference, ({"data": File(os.urandom(BIG))}, {"version": File(text)}))


async def _content(runtime: OciRuntime, reference: str) -> dict[str, bytes]:
    """The files of the image, by path, layers merged."""
    record, _ = runtime.images.find(reference)
    files: dict[str, bytes] = {}
    for tree in reversed(runtime._store.lower(record.chain)):
        files |= {
            str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()
        }
    return files


@pytest.mark.skipif(not registries.is_installed(), reason="needs docker-registry")
async def test_pull_from_a_real_registry_and_run(runtime: OciRuntime, registry: registries.Registry) -> None:
    reference = registry.push(images.busybox("team/busybox:1"))
    said: list[str] = []
    image_id = await runtime.pull(reference, progress=said.append)
    (image,) = await runtime.images.list_images()
    assert (image.id, image.references) == (image_id, (reference,))
    assert re.fullmatch(
        rf"{re.escape(registry.address)}/team/busybox@sha256:[0-9a-f]{{64}}", image.digests[0]
    )
    assert said[0] == f"pulling {reference}"
    assert re.fullmatch(r"pulling \S+: ([\d.]+[kM]?B)/\1", said[-1])
    await runtime.create(ContainerConfig(id="p", name="p", image=reference, command=("true",)))
    await runtime.start("p")
    assert (await runtime.wait("p")).code == 0


@pytest.mark.skipif(not registries.is_installed(), reason="needs docker-registry")
async def test_an_index_leads_to_this_platform(runtime: OciRuntime, registry: registries.Registry) -> None:
    reference = registry.push_index(_image(), "app:1")
    await runtime.pull(reference)
    (image,) = await runtime.images.list_images()
    by_digest = await runtime.pull(image.digests[0])
    assert by_digest == image.id


@pytest.mark.skipif(not registries.is_installed(), reason="needs docker-registry")
async def test_a_newer_image_under_the_same_tag_is_fetched(
    runtime: OciRuntime, registry: registries.Registry
) -> None:
    first = _image()
    reference = registry.push(first)
    old = await runtime.pull(reference)
    assert await runtime.pull(reference) == old
    registry.push(dataclasses.replace(first, layers=(first.layers[0], {"version": File(b"two")})))
    assert await runtime.pull(reference) != old
    assert (await _content(runtime, reference))["version"] == b"two"


async def test_a_broken_layer_goes_on_where_it_broke(runtime: OciRuntime, faulty: FaultyRegistry) -> None:
    image = _image()
    reference = faulty.add(image)
    faulty.cut_after = BIG * 2 // 3
    await runtime.pull(reference)
    assert (await _content(runtime, reference))["data"] == image.layers[0]["data"].data
    resumed = [header for header in faulty.layers_asked() if header]
    assert resumed == [f"bytes={BIG * 2 // 3}-"]


async def test_a_registry_without_ranges_is_read_again(runtime: OciRuntime, faulty: FaultyRegistry) -> None:
    image = _image()
    reference = faulty.add(image)
    faulty.cut_after = BIG // 2
    faulty.honors_range = False
    with pytest.raises(ImageError, match="keeps breaking"):
        await runtime.pull(reference)
    faulty.cut_after = None
    await runtime.pull(reference)
    assert (await _content(runtime, reference))["data"] == image.layers[0]["data"].data


async def test_a_later_agent_goes_on_with_the_partial_layer(
    runtime: OciRuntime, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    reference = faulty.add(_image())
    faulty.cut_after, faulty.honors_range = BIG // 2, False
    with pytest.raises(ImageError):
        await runtime.pull(reference)
    faulty.cut_after, faulty.honors_range = None, True
    faulty.requests.clear()
    again = await open_oci(OciSettings(tmp_path / "data", tmp_path / "run"))
    await again.pull(reference)
    await again.close()
    assert f"bytes={BIG // 2}-" in faulty.layers_asked()


async def test_wrong_bytes_are_refused_and_nothing_is_entered(
    runtime: OciRuntime, faulty: FaultyRegistry
) -> None:
    reference = faulty.add(_image())
    faulty.lies = True
    with pytest.raises(ImageError, match=r"digest mismatch .* expected sha256:\w{64} .* got sha256:\w{64}"):
        await runtime.pull(reference)
    assert await runtime.images.list_images() == ()
    faulty.lies = False
    await runtime.pull(reference)


async def test_a_token_is_fetched_and_kept(runtime: OciRuntime, faulty: FaultyRegistry) -> None:
    reference = faulty.add(_image())
    faulty.token = "t0ken"
    await runtime.pull(reference)
    await runtime.pull(reference)
    assert len([path for path, _ in faulty.requests if path.startswith("HEAD")]) == 1


async def test_credentials_go_to_the_token_server(faulty: FaultyRegistry, tmp_path: Path) -> None:
    class Keys:
        def credentials(self, registry: str) -> Credentials | None:
            return Credentials("ann", "secret") if registry == faulty.address else None

    reference = faulty.add(_image())
    faulty.token, faulty.user = "t0ken", "ann:secret"
    runtime = await open_oci(OciSettings(tmp_path / "d", tmp_path / "r"), keyring=Keys())
    await runtime.pull(reference)
    await runtime.close()


async def test_without_credentials_access_is_denied(runtime: OciRuntime, faulty: FaultyRegistry) -> None:
    reference = faulty.add(_image())
    faulty.token, faulty.user = "t0ken", "ann:secret"
    with pytest.raises(ImageError, match=r"pull access denied for .*: unauthorized"):
        await runtime.pull(reference)


@pytest.mark.parametrize(
    ("status", "text"), [(404, "manifest unknown"), (429, "too many requests"), (500, "answered 500")]
)
async def test_refusals_say_what_happened(
    runtime: OciRuntime, faulty: FaultyRegistry, status: int, text: str
) -> None:
    reference = faulty.add(_image())
    faulty.status = status
    with pytest.raises(ImageError, match=f"No such image: {re.escape(reference)} .*{text}"):
        await runtime.pull(reference)


async def test_a_tag_that_is_not_there(runtime: OciRuntime, faulty: FaultyRegistry) -> None:
    with pytest.raises(ImageError, match=r"manifest unknown.*has no team/app 9"):
        await runtime.pull(f"{faulty.address}/team/app:9")


async def test_a_registry_that_is_not_there(runtime: OciRuntime) -> None:
    with pytest.raises(ImageError, match=r"registry 127\.0\.0\.1:1 does not answer"):
        await runtime.pull("127.0.0.1:1/app:1")


async def test_many_tasks_pull_once(runtime: OciRuntime, faulty: FaultyRegistry) -> None:
    reference = faulty.add(_image())
    ids = await asyncio.gather(*(runtime.pull(reference) for _ in range(5)))
    assert len(set(ids)) == 1
    assert len([path for path, _ in faulty.requests if "/blobs/" in path]) == 3


async def test_the_local_copy_serves_while_the_registry_is_away(
    runtime: OciRuntime, faulty: FaultyRegistry
) -> None:
    reference = faulty.add(_image())
    image_id = await runtime.pull(reference)
    faulty.status = 503
    assert await runtime.pull(reference) == image_id


async def test_layers_are_shared_and_cleared_with_their_last_image(
    runtime: OciRuntime, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    base = _image("app:1")
    first = faulty.add(base)
    second = faulty.add(
        dataclasses.replace(base, reference="app:2", layers=(base.layers[0], {"b": File(b"b")}))
    )
    await runtime.pull(first)
    asked = len(faulty.layers_asked())
    await runtime.pull(second)
    assert len(faulty.layers_asked()) == asked + 2  # configuration and its own layer
    layers = tmp_path / "data" / "layers"
    assert len(list(layers.iterdir())) == 3
    removal = await runtime.images.remove_image(first)
    assert len(removal.deleted) == 2
    await runtime.images.remove_image(second)
    assert list(layers.iterdir()) == []
    assert list((tmp_path / "data" / "ingest").iterdir()) == []


async def test_a_silent_registry_is_not_asked_before_every_start(
    runtime: OciRuntime, faulty: FaultyRegistry
) -> None:
    first = faulty.add(_image())
    name = names.parse(first)
    clock = VirtualClock()
    asked: list[str] = []

    class Client(RegistryClient):
        async def resolve(self, name: ImageName) -> str:
            asked.append(name.full)
            if clock.now_ns() < began + 90 * SECOND:
                raise RegistryUnreachableError("registry does not answer: timed out")
            return await super().resolve(name)

    began = clock.now_ns()
    await runtime.pull(first)
    client = Client()
    puller = Puller(runtime._store, client, parallel=1, clock=clock)
    for seconds, times in ((0, 1), (59, 1), (2, 2), (61, 3)):
        clock.advance(seconds * SECOND)
        await puller.pull(name)
        assert len(asked) == times
    await client.close()


async def test_a_login_is_used_for_its_own_pull_only(runtime: OciRuntime, faulty: FaultyRegistry) -> None:
    """What the registry granted to one task must not serve another that brings no login."""
    first, second = faulty.add(_image()), faulty.add(_image("other:1", b"two"))
    faulty.token, faulty.user = "t0ken", "ann:secret"
    with pytest.raises(ImageError, match="unauthorized"):
        await runtime.pull(first, login=Login("ann", "wrong"))
    await runtime.pull(first, login=Login("ann", "secret"))
    with pytest.raises(ImageError, match="unauthorized"):
        await runtime.pull(second)
    assert "secret" not in repr(Login("ann", "secret"))


async def test_a_name_is_resolved_without_fetching(runtime: OciRuntime, faulty: FaultyRegistry) -> None:
    reference = faulty.add(_image())
    found = await runtime.images.resolve(reference)
    assert found.platforms == (("linux", images.architecture()),)
    assert faulty.layers_asked() == [""], "the configuration, and no layer"
    assert await runtime.images.list_images() == ()
    faulty.token, faulty.user = "t0ken", "ann:secret"
    with pytest.raises(ImageError, match="unauthorized"):
        await runtime.images.resolve(reference)
    assert await runtime.images.resolve(reference, login=Login("ann", "secret")) == found
    pinned = f"{reference}@{found.digest}"
    await runtime.pull(pinned, login=Login("ann", "secret"))
    assert await runtime.images.resolve(pinned, login=Login("ann", "secret")) == found


async def test_an_index_is_resolved_to_all_its_platforms(
    runtime: OciRuntime, registry: registries.Registry
) -> None:
    reference = registry.push_index(_image(), "many:1")
    found = await runtime.images.resolve(reference)
    assert found.platforms == (("linux", images.architecture()),)
    client = RegistryClient()
    data, _, digest = await client.manifest(names.parse(reference), "1")
    await client.close()
    assert found.digest == digest
    assert b"manifests" in data


async def test_a_silent_registry_is_not_waited_for_when_the_image_is_here(
    runtime: OciRuntime, tmp_path: Path
) -> None:
    name = "127.0.0.1:1/app:1"
    with pytest.raises(RegistryUnreachableError, match="does not answer"):
        await runtime.images.resolve(name)
    archive = images.write_docker_archive(tmp_path / "app.tar", _image(name))
    await runtime.images.load(chunks(archive))
    with pytest.raises(RegistryUnreachableError, match="did not answer a moment ago"):
        await runtime.images.resolve(name)
