"""What every `Images` does with a registry: images go there, and come back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from miniworker.runtime.api import ImageError, Login
from support import registry as registries
from support.ports import free_port
from support.runtimes import IMAGE, Subject

pytestmark = pytest.mark.skipif(not registries.is_installed(), reason="needs docker-registry")

ANN = Login(registries.USER, registries.PASSWORD)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[str]:
    """The name of an image in a registry that wants a login."""
    with registries.serve(tmp_path, f"127.0.0.1:{free_port()}", login=True) as running:
        yield f"{running.address}/team/app:1"


async def test_what_is_pushed_is_the_same_image_when_it_is_pulled(subject: Subject, private: str) -> None:
    (before,) = await subject.images.list_images()
    await subject.images.tag(IMAGE, private)
    said: list[str] = []
    pushed = await subject.images.push(private, login=ANN, progress=said.append)
    again = await subject.images.push(private, login=ANN)
    assert again == pushed
    await subject.forget_images()
    pulled = await subject.images.fetch(private, login=ANN)
    assert (pulled.reference, pulled.digest, pulled.fresh) == (private, pushed.digest, True)
    (after,) = await subject.images.list_images()
    assert (after.id, after.references) == (before.id, (private,))
    assert not (await subject.images.fetch(private, login=ANN)).fresh


async def test_what_was_pushed_is_pulled_by_its_digest(
    subject: Subject, private: str, request: pytest.FixtureRequest
) -> None:
    if "fake" in request.node.callspec.id:
        return  # it knows names only
    await subject.images.tag(IMAGE, private)
    pushed = await subject.images.push(private, login=ANN)
    await subject.forget_images()
    by_digest = f"{private.rpartition(':')[0]}@{pushed.digest}"
    assert (await subject.images.fetch(by_digest, login=ANN)).digest == pushed.digest


async def test_a_layer_that_the_registry_has_is_not_sent_again(subject: Subject, private: str) -> None:
    await subject.images.tag(IMAGE, private)
    said: list[str] = []
    for _ in range(2):
        await subject.images.push(private, login=ANN, progress=said.append)
    if said:  # the one in memory has no layers
        assert sum(line.endswith(": Pushed") for line in said) == 1
        assert said[-1].endswith(": Layer already exists")


@pytest.mark.parametrize("login", [None, Login("ann", "wrong")])
async def test_a_private_registry_wants_its_login(
    subject: Subject, private: str, login: Login | None, request: pytest.FixtureRequest
) -> None:
    if "fake" in request.node.callspec.id:
        return  # nobody is refused by it
    await subject.images.tag(IMAGE, private)
    with pytest.raises(ImageError, match=r"unauthorized|no basic auth"):
        await subject.images.push(private, login=login)
    with pytest.raises(ImageError, match=r"unauthorized|no basic auth"):
        await subject.images.fetch(private, login=login)
