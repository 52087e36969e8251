from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minimanager.store.envelope import KEY_BYTES, OVERHEAD_BYTES, Envelope, SealError, sealed_key_id

KEY = bytes(range(KEY_BYTES))
ENVELOPE = Envelope(KEY, "cluster")
PURPOSES = st.text(min_size=1, max_size=30)


@given(PURPOSES, st.binary(max_size=300))
def test_what_was_sealed_opens(purpose: str, plaintext: bytes) -> None:
    sealed = ENVELOPE.seal(purpose, plaintext)
    assert len(sealed) == len(plaintext) + len(purpose.encode()) + OVERHEAD_BYTES
    assert ENVELOPE.open(purpose, sealed) == plaintext


@given(PURPOSES, PURPOSES, st.binary(max_size=50))
def test_it_opens_for_no_other_purpose(purpose: str, other: str, plaintext: bytes) -> None:
    if purpose != other:
        with pytest.raises(SealError, match="altered or moved"):
            ENVELOPE.open(other, ENVELOPE.seal(purpose, plaintext))


@given(st.binary(max_size=50), st.data())
def test_no_bit_of_it_can_be_flipped(plaintext: bytes, data: st.DataObject) -> None:
    sealed = bytearray(ENVELOPE.seal("secret/a/1", plaintext))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealError):
        ENVELOPE.open("secret/a/1", bytes(sealed))


@given(st.binary(max_size=50), st.data())
def test_no_part_of_it_opens(plaintext: bytes, data: st.DataObject) -> None:
    sealed = ENVELOPE.seal("secret/a/1", plaintext)
    with pytest.raises(SealError):
        ENVELOPE.open("secret/a/1", sealed[: data.draw(st.integers(0, len(sealed) - 1))])


def test_another_cluster_or_another_key_does_not_open_it() -> None:
    sealed = ENVELOPE.seal("token/worker", b"text")
    for other in (Envelope(KEY, "other"), Envelope(KEY[::-1], "cluster")):
        with pytest.raises(SealError, match=r"^token/worker: .*another cluster key"):
            other.open("token/worker", sealed)


def test_the_same_value_is_never_sealed_the_same() -> None:
    assert ENVELOPE.seal("a", b"text") != ENVELOPE.seal("a", b"text")


def test_a_later_format_says_so() -> None:
    sealed = bytearray(ENVELOPE.seal("a", b"text"))
    sealed[2] = 9
    with pytest.raises(SealError, match="sealed in format 9, this version opens 2"):
        ENVELOPE.open("a", bytes(sealed))


def test_a_rewrapped_value_opens_with_the_new_key_alone() -> None:
    envelope = Envelope(KEY, "cluster")
    sealed = envelope.seal("secret/a/1", b"text")
    envelope.use({0: KEY, 1: KEY[::-1]}, 1)
    assert envelope.open("secret/a/1", sealed) == b"text"  # both are known meanwhile
    rewrapped = envelope.rewrap(sealed)
    assert (sealed_key_id(sealed), sealed_key_id(rewrapped)) == (0, 1)
    assert rewrapped[-20:] == sealed[-20:]  # the value itself stays as it was
    assert envelope.rewrap(rewrapped) == rewrapped
    envelope.use({1: KEY[::-1]}, 1)
    assert envelope.open("secret/a/1", rewrapped) == b"text"
    with pytest.raises(SealError):
        envelope.open("secret/a/1", sealed)
    with pytest.raises(SealError):
        envelope.rewrap(sealed)


@pytest.mark.parametrize("data", [b"", b"ME", b"text" * 50, ENVELOPE.seal("a", b"")[:60]])
def test_what_is_not_sealed_has_no_key(data: bytes) -> None:
    assert sealed_key_id(data) is None


def test_the_key_must_have_its_length() -> None:
    with pytest.raises(ValueError, match="32 bytes, this one has 16"):
        Envelope(bytes(16), "cluster")
