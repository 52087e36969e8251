"""Layers made by somebody with bad intentions, or a bad disk."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard
from miniworker.runtime.api import ImageError
from miniworker.runtime.oci.layers import LayerStore
from support.images import File, digest_of, directory, layer_tar

pytestmark = pytest.mark.root

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service=ep"""


async def _unpack(folder: Path, blob: bytes, tar: bytes | None = None) -> Path:
    """Unpack through the real child process; the layer's directory."""
    store = LayerStore(folder)
    (folder / "blob").write_bytes(blob)
    diff_id = digest_of(blob if tar is None else tar)
    await store.unpack(folder / "blob", (diff_id,), diff_id)
    return store.tree(diff_id)


def _raw(*entries: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(b"x" * entry.size))
    return buffer.getvalue()


def _entry(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, size
    return entry


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
async def test_every_compression(tmp_path: Path, compress: object) -> None:
    tar = layer_tar({"a/b": File(b"data", 0o4755, uid=7, gid=8), "l": File(link="a/b", mode=0o777)})
    assert callable(compress)
    tree = await _unpack(tmp_path, compress(tar), tar)
    found = (tree / "a/b").stat()
    assert (tree / "a/b").read_bytes() == b"data"
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o4755, 7, 8)
    assert found.st_mtime == 1_704_164_645
    assert os.readlink(tree / "l") == "a/b"


async def test_capabilities_of_files_are_kept(tmp_path: Path) -> None:
    tree = await _unpack(
        tmp_path, layer_tar({"ping": File(b"", 0o755, xattrs={"security.capability": CAPABILITY})})
    )
    assert os.getxattr(tree / "ping", "security.capability") == CAPABILITY


async def test_whiteouts_are_what_overlayfs_expects(tmp_path: Path) -> None:
    tree = await _unpack(
        tmp_path, layer_tar({"d": directory(), "d/.wh.gone": File(), "d/.wh..wh..opq": File()})
    )
    found = (tree / "d/gone").stat()
    assert stat.S_ISCHR(found.st_mode)
    assert found.st_rdev == os.makedev(0, 0)
    assert os.getxattr(tree / "d", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize(
    "entries",
    [
        (_entry("../escape", size=1),),
        (_entry("a/../../escape", size=1),),
        (_entry("link", kind=tarfile.LNKTYPE, link="../../blob"),),
        (_entry("out", kind=tarfile.SYMTYPE, link="../.."), _entry("out/escape", size=1)),
        (_entry("a/.wh..", size=0),),
    ],
    ids=["dots", "inner-dots", "hard-link", "through-a-link", "whiteout"],
)
async def test_ways_out_are_refused(tmp_path: Path, entries: tuple[tarfile.TarInfo, ...]) -> None:
    before = set(tmp_path.parent.rglob("escape"))
    with pytest.raises(ImageError, match="cannot be unpacked"):
        await _unpack(tmp_path, _raw(*entries))
    assert set(tmp_path.parent.rglob("escape")) == before
    assert list((tmp_path / "layers").iterdir()) == []


async def test_an_absolute_link_stays_inside(tmp_path: Path) -> None:
    entries = (_entry("etc", kind=tarfile.DIRTYPE), _entry("out", kind=tarfile.SYMTYPE, link="/etc"))
    entries[0].mode = 0o755
    tree = await _unpack(tmp_path, _raw(*entries, _entry("out/mark", size=1)))
    assert (tree / "etc/mark").exists()
    assert "mark" not in await asyncio.to_thread(os.listdir, "/etc")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"\0" * 20 + data[20:]])
async def test_damage_is_an_error_and_leaves_nothing(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    blob = gzip.compress(layer_tar({"f": File(os.urandom(100_000))}))
    with pytest.raises(ImageError):
        await _unpack(tmp_path, damage(blob), b"")
    assert list((tmp_path / "layers").iterdir()) == []


async def test_another_content_than_promised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="layer digest mismatch"):
        await _unpack(tmp_path, layer_tar({"f": File(b"1")}), layer_tar({"f": File(b"2")}))


def _archive_again(folder: Path, tar: bytes) -> bytes:
    diff_id = digest_of(tar)
    return b"".join(LayerStore(folder).archive(diff_id, diff_id))


async def test_an_unpacked_layer_is_given_away_byte_by_byte(tmp_path: Path) -> None:
    layer = {
        "a": directory(),
        **{f"a/{number}": File(os.urandom(number * 37)) for number in range(60)},
        "a/large": File(os.urandom(3_000_001), xattrs={"security.capability": CAPABILITY}),
        "a/other": File(hardlink="a/large"),
        "b": File(link="/a"),
        "b/through": File(b"by way of a link"),
        "a/.wh.gone": File(),
        "a/" + "n" * 200: File(b"a long name"),
    }
    tar = layer_tar(layer) + bytes(70_000)
    await _unpack(tmp_path, gzip.compress(tar), tar)
    assert _archive_again(tmp_path, tar) == tar


async def test_a_layer_that_was_changed_on_disk_is_not_given_away(tmp_path: Path) -> None:
    tar = layer_tar({"file": File(b"content")})
    tree = await _unpack(tmp_path, tar)
    (tree / "file").write_bytes(b"CONTENT")
    with pytest.raises(ImageError, match="is not as it was"):
        _archive_again(tmp_path, tar)
    (tree / "file").write_bytes(b"more")
    with pytest.raises(ImageError, match="not the file of 7 bytes"):
        _archive_again(tmp_path, tar)
    (tree.parent / "notes").unlink()
    with pytest.raises(ImageError, match="pull or load it again"):
        _archive_again(tmp_path, tar)
