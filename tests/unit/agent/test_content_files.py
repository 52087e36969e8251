"""The files of secrets: where they are, whose they are, and that nothing stays. On the kernel's own tmpfs, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from miniworker.agent.content_files import ContentFile, ContentFiles, FileSystems, Tmpfs
from miniworker.runtime.api import Mount, MountKind, RuntimeFaultError
from support.content_files import PlainFileSystems

KEY = ContentFile("/run/secrets/key", b"canary-7f3a")
NESTED = ContentFile("/run/secrets/a/b", b"nested")
SITE = ContentFile("/etc/site", b"root = /")
ALL = (KEY, NESTED, SITE)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture(params=["plain", pytest.param("tmpfs", marks=[needs_root, pytest.mark.root])])
def file_systems(request: pytest.FixtureRequest) -> FileSystems:
    return Tmpfs() if request.param == "tmpfs" else PlainFileSystems()


@pytest.fixture
def files(tmp_path: Path, file_systems: FileSystems) -> Iterator[ContentFiles]:
    made = ContentFiles(tmp_path / "secrets", file_systems)
    yield made
    made.clear()


def test_all_that_is_below_run_secrets_is_one_mount(files: ContentFiles, tmp_path: Path) -> None:
    files.write("t1", ALL)
    root = tmp_path / "secrets" / "t1"
    assert files.mounts("t1", ALL) == [
        Mount(MountKind.BIND, "/run/secrets", str(root / "secrets"), read_only=True),
        Mount(MountKind.BIND, "/etc/site", str(root / "single" / "2"), read_only=True),
    ]
    assert (root / "secrets" / "key").read_bytes() == b"canary-7f3a"
    assert (root / "secrets" / "a" / "b").read_bytes() == b"nested"
    assert (root / "single" / "2").read_bytes() == b"root = /"
    assert (root / "secrets").stat().st_mode & 0o7777 == 0o755


def test_below_a_mount_of_the_containers_own_each_file_is_one(files: ContentFiles) -> None:
    files.write("t1", ALL, taken=["/run/secrets"])
    targets = [mount.target for mount in files.mounts("t1", ALL, taken=["/run/secrets"])]
    assert targets == ["/run/secrets/key", "/run/secrets/a/b", "/etc/site"]


@needs_root
def test_owner_and_mode_are_as_asked(files: ContentFiles, tmp_path: Path) -> None:
    files.write("t1", [ContentFile("/run/secrets/key", b"x", 5, 6, 0o4440)])
    found = (tmp_path / "secrets" / "t1" / "secrets" / "key").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (5, 6, 0o4440)
    assert (tmp_path / "secrets" / "t1").stat().st_mode & 0o777 == 0o700


def test_what_is_written_is_complete_and_what_is_forgotten_is_gone(
    files: ContentFiles, tmp_path: Path
) -> None:
    assert not files.is_complete("t1")
    files.forget("t1")  # never written
    files.write("t1", ALL)
    assert files.is_complete("t1")
    files.forget("t1")
    files.forget("t1")
    assert not files.is_complete("t1")
    assert not list((tmp_path / "secrets").iterdir())


def test_written_again_it_begins_anew(files: ContentFiles, tmp_path: Path) -> None:
    files.write("t1", ALL)
    files.write("t1", [ContentFile("/run/secrets/other", b"new")])
    root = tmp_path / "secrets" / "t1" / "secrets"
    assert [path.name for path in root.iterdir()] == ["other"]


def test_a_later_process_keeps_what_is_assigned_and_nothing_else(
    files: ContentFiles, file_systems: FileSystems, tmp_path: Path
) -> None:
    for task_id in ("t1", "t2"):
        files.write(task_id, ALL)
    later = ContentFiles(tmp_path / "secrets", file_systems)
    later.adopt({"t1"})
    assert later.is_complete("t1")
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["t1"]
    later.clear()
    assert not list((tmp_path / "secrets").iterdir())


def test_what_cannot_be_written_leaves_nothing_and_tells_no_content(
    files: ContentFiles, tmp_path: Path
) -> None:
    clash = [ContentFile("/run/secrets/a", b"canary-7f3a"), ContentFile("/run/secrets/a/b", b"canary-7f3a")]
    with pytest.raises(RuntimeFaultError) as caught:
        files.write("t1", clash)
    assert "canary" not in str(caught.value)
    assert not list((tmp_path / "secrets").iterdir())


def test_a_file_does_not_show_its_content() -> None:
    assert "canary" not in repr(KEY)


@needs_root
@pytest.mark.root
def test_the_largest_contents_fit_in_a_tmpfs_that_is_not_swapped(tmp_path: Path) -> None:
    files = ContentFiles(tmp_path / "secrets", Tmpfs())
    many = [ContentFile(f"/run/secrets/{number}", bytes(511_999)) for number in range(20)]
    files.write("t1", many)
    try:
        mounts = Path("/proc/self/mounts").read_text()
        (line,) = [line for line in mounts.splitlines() if str(tmp_path) in line]
        assert line.split()[2] == "tmpfs"
        options = set(line.split()[3].split(","))
        assert {"nosuid", "nodev", "noexec", "mode=700"} <= options
        release = tuple(int(part) for part in os.uname().release.split(".")[:2])
        assert "noswap" in options or release < (6, 4)
    finally:
        files.clear()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
