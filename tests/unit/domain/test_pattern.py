"""Regular expressions without backtracking: they agree with Python's own, and nothing makes them slow."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from minimanager.domain.pattern import MAX_TEXT, pattern

atoms = st.sampled_from(
    ["a", "b", ".", "-", "[ab]", "[^a]", "[a-c]", "[]a]", "[a-]", "\\d", "\\w", "\\.", "^", "$", "1"]
)
repetitions = st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "{2,3}"])
patterns = st.recursive(
    st.builds(
        lambda atom, times: atom if atom in "^$" else atom + times, atoms, st.one_of(st.just(""), repetitions)
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join),
        st.builds(lambda one, times: f"({one}){times}", inner, st.one_of(st.just(""), repetitions)),
        inner.map(lambda one: f"(?:{one})"),
    ),
    max_leaves=6,
)


@given(patterns, st.text("ab1-.X", max_size=8))
def test_it_finds_what_python_finds(text: str, subject: str) -> None:
    expected = re.search(text, subject, re.IGNORECASE | re.ASCII | re.DOTALL)
    # Python's $ also matches before a newline at the end; no subject here has one.
    assert pattern(text).found_in(subject) == (expected is not None)


def test_what_keeps_a_backtracking_engine_busy_for_ever_is_answered_at_once() -> None:
    assert not pattern("(a*)*(a|aa)+$").found_in("a" * 500 + "!")
    assert not pattern("a?" * 100 + "a" * 100 + "b").found_in("a" * 500)


def test_letters_match_in_either_case() -> None:
    assert pattern("EU-[A-C]").found_in("eu-b")


def test_a_text_that_is_too_long_matches_nothing() -> None:
    assert pattern("a").found_in("a" * MAX_TEXT)
    assert not pattern("a").found_in("a" * (MAX_TEXT + 1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(", "missing )"),
        ("a)", "unmatched )"),
        ("[a", "it ends too early"),
        ("a\\", "it ends too early"),
        ("*", "nothing to repeat before *"),
        ("a|+", "nothing to repeat before +"),
        ("a**", "a repetition of a repetition"),
        ("a*?", "a repetition of a repetition"),
        ("a{x}", "a repetition must be {m}, {m,} or {m,n}"),
        ("a{1", "a repetition must be {m}, {m,} or {m,n}"),
        ("a{0}", "a repetition must be from 1 to 100"),
        ("a{3,2}", "a repetition must be from 1 to 100"),
        ("a{101}", "a repetition must be from 1 to 100"),
        ("(a{100}){100}", "it is too big"),
        ("(?=a)", "of the (?...) there is only (?:"),
        ("\\b", "\\b has no meaning"),
        ("(a)\\1", "\\1 has no meaning"),
        ("[z-a]", "the range z-a is empty"),
        ("(" * 21 + ")" * 21, "too many groups in groups"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        pattern(text)
    assert f"no regular expression that can be used here: {reason}" in caught.value.message
