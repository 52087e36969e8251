"""The keyring: who opens it, who does not, and what its file tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from minicommon.identity.authority import issue_with_key, new_root, node_subject
from minicommon.identity.keyring import (
    KEY_BYTES,
    Keyring,
    KeyringError,
    KeyringFile,
    new_unlock_key,
    node_holder,
    parse_unlock,
    unlock_holder,
    unlock_text,
)

ROOT = new_root("r", 1_800_000_000_000_000_000)
SUBJECT = node_subject("n", manager=True, cluster_id="c")
NODE_KEY, OTHER_NODE_KEY = (
    issue_with_key(ROOT, SUBJECT, now_ns=1_800_000_000_000_000_000).key_pem for _ in range(2)
)
RING = Keyring({0: b"a" * KEY_BYTES, 1: b"b" * KEY_BYTES}, {"client": b"PRIVATE KEY"})


@pytest.fixture
def file(tmp_path: Path) -> KeyringFile:
    return KeyringFile(tmp_path / "cluster.key")


def is_locked(file: KeyringFile) -> bool:
    return file.locked  # a function, for a property would be taken to stay as it is


def test_it_opens_for_its_holders_and_nobody_else(file: KeyringFile) -> None:
    key = new_unlock_key()
    file.write(RING, [node_holder(NODE_KEY)])
    assert not is_locked(file)
    assert file.open(node_holder(NODE_KEY)) == RING
    for other in (node_holder(OTHER_NODE_KEY), unlock_holder(key)):
        with pytest.raises(KeyringError):
            file.open(other)
    file.write(RING, [unlock_holder(key)])
    assert is_locked(file)
    assert file.open(unlock_holder(key)) == RING
    with pytest.raises(KeyringError, match="invalid key"):
        file.open(unlock_holder(new_unlock_key()))


def test_the_file_has_nothing_in_clear_and_is_roots_alone(tmp_path: Path, file: KeyringFile) -> None:
    file.write(RING, [node_holder(NODE_KEY)])
    path = tmp_path / "cluster.key"
    assert path.stat().st_mode & 0o777 == 0o600
    for secret in (b"a" * KEY_BYTES, b"PRIVATE KEY", b"YWFh"):
        assert secret not in path.read_bytes()
    before = path.read_bytes()
    file.write(RING, [node_holder(NODE_KEY)])
    assert path.read_bytes() != before


def test_an_altered_file_says_so(tmp_path: Path, file: KeyringFile) -> None:
    file.write(RING, [node_holder(NODE_KEY)])
    path = tmp_path / "cluster.key"
    text = path.read_text()
    at = text.index('"sealed": "') + 40
    path.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    with pytest.raises(KeyringError, match="altered"):
        file.open(node_holder(NODE_KEY))
    path.write_text("{}")
    with pytest.raises(KeyringError, match="damaged"):
        file.open(node_holder(NODE_KEY))


def test_a_key_in_clear_is_read(tmp_path: Path, file: KeyringFile) -> None:
    (tmp_path / "cluster.key").write_bytes(b"k" * KEY_BYTES)
    assert not file.locked
    assert file.open(node_holder(NODE_KEY)).cluster_keys == {0: b"k" * KEY_BYTES}


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES))
def test_the_text_of_an_unlock_key_is_docker_s(key: bytes) -> None:
    text = unlock_text(key)
    assert len(text) == len("SWMKEY-1-") + 43
    assert parse_unlock(f" {text}\n") == key


@pytest.mark.parametrize(
    "text", ["", "SWMKEY-1-", "SWMKEY-1-abc", "SWMKEY-2-" + "A" * 43, "SWMKEY-1-" + "!" * 43]
)
def test_what_is_no_unlock_key(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="unlock key: must"):
        parse_unlock(text)
