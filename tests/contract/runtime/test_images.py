"""What every `Images` keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniworker.runtime.api import ContainerConfig, ImageError, ImageRemoval, RegistryUnreachableError
from support import images
from support.runtimes import IMAGE, RUNS, Subject, chunks


async def test_loading_tells_the_reference(empty: Subject) -> None:
    assert await empty.load() == (IMAGE,)
    (image,) = await empty.images.list_images()
    assert image.references == (IMAGE,)
    assert image.id.startswith("sha256:")
    assert image.size_bytes > 0
    assert image.created_at_ns == 1_704_164_645 * 10**9


async def test_loading_twice_changes_nothing(subject: Subject) -> None:
    before = await subject.images.list_images()
    await subject.load()
    assert await subject.images.list_images() == before


async def test_an_oci_archive_is_the_same_image(subject: Subject, tmp_path: Path) -> None:
    archive = images.write_oci_archive(tmp_path / "oci.tar", images.busybox("other:2"))
    assert await subject.images.load(chunks(archive)) == ("other:2",)
    (image,) = await subject.images.list_images()
    assert image.references == (IMAGE, "other:2")


async def test_an_image_without_a_name_is_told_by_its_id(empty: Subject, tmp_path: Path) -> None:
    archive = images.write_docker_archive(tmp_path / "nameless.tar", images.busybox(""))
    (loaded,) = await empty.images.load(chunks(archive))
    (image,) = await empty.images.list_images()
    assert loaded == image.id
    assert image.references == ()
    await empty.images.remove_image(loaded)
    assert await empty.images.list_images() == ()


async def test_a_newer_image_takes_the_name(subject: Subject, tmp_path: Path) -> None:
    archive = images.write_docker_archive(tmp_path / "new.tar", images.busybox(IMAGE, Env=["NEW=1"]))
    (old,) = await subject.images.list_images()
    await subject.images.load(chunks(archive))
    by_id = {image.id: image.references for image in await subject.images.list_images()}
    assert by_id.pop(old.id) == ()
    assert list(by_id.values()) == [(IMAGE,)]


async def test_removing_the_last_name_deletes(subject: Subject) -> None:
    (image,) = await subject.images.list_images()
    removal = await subject.images.remove_image(IMAGE)
    assert removal.untagged == (IMAGE,)
    assert removal.deleted[0] == image.id
    assert await subject.images.list_images() == ()


async def test_removing_one_of_two_names_only_untags(subject: Subject, tmp_path: Path) -> None:
    archive = images.write_docker_archive(tmp_path / "a.tar", images.busybox("other:2"))
    await subject.images.load(chunks(archive))
    assert await subject.images.remove_image("other:2") == ImageRemoval(("other:2",), ())
    (image,) = await subject.images.list_images()
    assert image.references == (IMAGE,)


async def test_an_image_in_use_is_kept(subject: Subject) -> None:
    await subject.runtime.create(ContainerConfig(id="c" * 25, name="c", image=IMAGE, command=RUNS))
    with pytest.raises(ImageError, match=r"conflict: .*container cccccccccccc is using its referenced image"):
        await subject.images.remove_image(IMAGE)
    await subject.images.remove_image(IMAGE, force=True)
    assert await subject.images.list_images() == ()
    assert await subject.runtime.start("c" * 25) > 0


async def test_what_is_saved_is_the_same_image_when_it_is_loaded(subject: Subject, tmp_path: Path) -> None:
    (before,) = await subject.images.list_images()
    await subject.images.tag(IMAGE, "other:2")
    saved = tmp_path / "saved.tar"
    with saved.open("wb") as file:
        async for data in subject.images.save((IMAGE, "other:2")):
            file.write(data)
    await subject.forget_images()
    assert sorted(await subject.images.load(chunks(saved))) == [IMAGE, "other:2"]
    (after,) = await subject.images.list_images()
    assert (after.id, after.references) == (before.id, (IMAGE, "other:2"))


async def test_saving_what_is_not_there_gives_nothing(subject: Subject) -> None:
    with pytest.raises(ImageError, match="No such image: nosuch:latest"):
        await anext(aiter(subject.images.save((IMAGE, "nosuch"))))


async def test_a_tag_is_one_more_name(subject: Subject, tmp_path: Path) -> None:
    (image,) = await subject.images.list_images()
    await subject.images.tag(IMAGE, "127.0.0.1:1/app:1")
    await subject.images.tag(image.id, "127.0.0.1:1/app:1")
    (tagged,) = await subject.images.list_images()
    assert sorted(tagged.references) == ["127.0.0.1:1/app:1", IMAGE]
    with pytest.raises(ImageError, match="No such image: nosuch:latest"):
        await subject.images.tag("nosuch", "x:1")
    with pytest.raises(ImageError, match="refusing to create a tag with a digest reference"):
        await subject.images.tag(IMAGE, f"x@{image.id}")


async def test_prune_takes_what_has_no_name_and_no_container(subject: Subject, tmp_path: Path) -> None:
    archive = images.write_docker_archive(tmp_path / "nameless.tar", images.busybox("", Env=["A=1"]))
    (nameless,) = await subject.images.load(chunks(archive))
    await subject.runtime.create(ContainerConfig(id="c" * 25, name="c", image=nameless, command=RUNS))
    pruned = await subject.images.prune()
    assert (pruned.untagged, pruned.deleted) == ((), ()), "a container uses it"
    await subject.runtime.remove("c" * 25)
    pruned = await subject.images.prune()
    assert pruned.untagged == ()
    assert pruned.deleted[0] == nameless
    assert [image.references for image in await subject.images.list_images()] == [(IMAGE,)]


async def test_prune_of_all_leaves_what_containers_use(subject: Subject, tmp_path: Path) -> None:
    archive = images.write_docker_archive(tmp_path / "other.tar", images.busybox("other:2", Env=["A=1"]))
    await subject.images.load(chunks(archive))
    await subject.runtime.create(ContainerConfig(id="c" * 25, name="c", image=IMAGE, command=RUNS))
    pruned = await subject.images.prune(every=True)
    assert pruned.untagged == ("other:2",)
    assert [image.references for image in await subject.images.list_images()] == [(IMAGE,)]
    await subject.runtime.remove("c" * 25)
    pruned = await subject.images.prune(every=True)
    assert pruned.freed_bytes > 100_000, "the layer that both had"
    assert await subject.images.list_images() == ()


async def test_a_registry_that_does_not_answer_is_an_error_also_of_what_is_here(subject: Subject) -> None:
    name = "127.0.0.1:1/app:1"
    await subject.images.tag(IMAGE, name)
    with pytest.raises(RegistryUnreachableError, match=r"does not answer|connection refused"):
        await subject.images.fetch(name)


async def test_push_wants_a_name_that_is_here(subject: Subject) -> None:
    with pytest.raises(ImageError, match=r"does not exist locally with the tag: 127\.0\.0\.1:1/app:1"):
        await subject.images.push("127.0.0.1:1/app:1")
    (image,) = await subject.images.list_images()
    with pytest.raises(ImageError, match="cannot push a digest reference"):
        await subject.images.push(f"127.0.0.1:1/app@{image.id}")


async def test_an_unknown_image_cannot_be_removed(empty: Subject) -> None:
    with pytest.raises(ImageError, match="No such image: nosuch:latest"):
        await empty.images.remove_image("nosuch")


@pytest.mark.parametrize("data", [b"", b"not a tar at all", bytes(10240)])
async def test_what_is_no_archive_is_refused(empty: Subject, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="invalid archive"):
        await empty.images.load(chunks(path))
    assert await empty.images.list_images() == ()
