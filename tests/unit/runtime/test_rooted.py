"""Reading inside a root directory never leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniworker.runtime.oci import rooted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("secret of the host")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("inside")
    return root


def test_a_plain_file(root: Path) -> None:
    assert rooted.read_text(root, "/etc/passwd") == "inside"
    assert rooted.read_text(root, "/etc/shadow") == ""
    assert rooted.read_text(root, "/etc") == ""


@pytest.mark.parametrize("target", ["../../outside", "/../outside", "../../../../../../etc/hostname"])
def test_links_out_lead_nowhere(root: Path, target: str) -> None:
    (root / "etc" / "link").symlink_to(target)
    assert rooted.read_text(root, "/etc/link") == ""


def test_absolute_links_start_at_the_root(root: Path) -> None:
    (root / "conf").symlink_to("/etc")
    assert rooted.read_text(root, "/conf/passwd") == "inside"
    (root / "etc" / "host").symlink_to(root.parent / "outside")
    assert rooted.read_text(root, "/etc/host") == ""


def test_links_in_a_circle_end(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert rooted.read_text(root, "/a") == ""
    with pytest.raises(OSError, match="too many symbolic links"):
        rooted.resolve(root, "/a")
