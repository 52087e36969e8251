"""Join tokens: their exact form, and the strictness of the parser."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon import base36
from minicommon.errors import InvalidArgumentError
from minicommon.identity import tokens
from minicommon.identity.authority import new_cluster_root

NOW_NS = 1_800_000_000 * 1_000_000_000
ROOT = new_cluster_root(NOW_NS).certificate_pem
VALID = tokens.new_token(ROOT).text


def test_a_token_has_swarms_form_and_widths() -> None:
    assert re.fullmatch(r"SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}", VALID)


def test_the_digest_is_sha256_over_the_pem_text() -> None:
    expected = int(hashlib.sha256(ROOT).hexdigest(), 16)
    token = tokens.parse(VALID)
    assert base36.decode(token.digest) == expected
    assert token.digest_hex == hashlib.sha256(ROOT).hexdigest()


@given(st.binary(max_size=200))
def test_the_digest_of_anything_has_fifty_digits(data: bytes) -> None:
    assert len(tokens.digest_of(data)) == 50


@given(st.binary(min_size=1), st.integers(0, 2**128 - 1))
def test_parsing_gives_back_what_was_written(root: bytes, secret: int) -> None:
    token = tokens.Token(tokens.digest_of(root), base36.encode(secret, tokens.SECRET_WIDTH))
    assert tokens.parse(token.text) == token
    assert token.is_of(root)
    assert not token.is_of(root + b"x")


def test_tokens_do_not_repeat() -> None:
    assert tokens.new_token(ROOT).secret != tokens.new_token(ROOT).secret


_DIGEST, _SECRET = VALID.split("-")[2:]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be SWMTKN-1"),
        ("hello", "must be SWMTKN-1"),
        (f"SWMTKN-1-{_DIGEST}", "in 3 part"),
        (f"SWMTKN-1-{_DIGEST}-{_SECRET}-x", "in 5 part"),
        (f"SWMTKN-1-{_DIGEST[1:]}-{_SECRET}", "digest must have 50 characters, got 49"),
        (f"SWMTKN-1-{_DIGEST}0-{_SECRET}", "digest must have 50 characters, got 51"),
        (f"SWMTKN-1-{_DIGEST}-{_SECRET[:-1]}", "secret must have 25 characters, got 24"),
        (f"SWMTKN-1-{_DIGEST.upper().replace('0', 'A')}-{_SECRET}", "only the digits 0-9 and a-z"),
        (f"SWMTKN-1-{'z' * 50}-{_SECRET}", "more than 32 bytes"),
        (f"SWMTKN-1-{_DIGEST}-{'z' * 25}", "more than 16 bytes"),
        (f"SWMTKN-1-{_DIGEST}-{'é' * 25}", "only the digits"),
        (f"SWMTKN-2-1-{_DIGEST}-{_SECRET}", "version 2"),
        (f"SWMTKN-2-0-{_DIGEST}-{_SECRET}", "version 2"),
        (f"SWMTKN-3-{_DIGEST}-{_SECRET}", "unknown version"),
        (f"swmtkn-1-{_DIGEST}-{_SECRET}", "must be SWMTKN-1"),
    ],
)
def test_a_malformed_token_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(why)) as caught:
        tokens.parse(text)
    assert caught.value.message.startswith("invalid join token")


@given(st.text(max_size=120))
def test_nothing_but_a_token_parses_and_no_message_repeats_it(text: str) -> None:
    try:
        token = tokens.parse(text)
    except InvalidArgumentError as error:
        token, message = None, error.message
    if token is None:
        assert len(text) < 12 or text not in message
    else:
        assert token.text == text


def test_a_token_does_not_show_its_secret_by_accident() -> None:
    token = tokens.parse(VALID)
    assert token.secret not in repr(token)


def test_comparing_takes_any_text() -> None:
    assert tokens.same("a", "a")
    assert not tokens.same("a", "ä")
