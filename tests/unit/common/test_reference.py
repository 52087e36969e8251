"""Names of images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from minicommon.reference import Reference, check_digest, parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("whoami", "docker.io/library/whoami", "whoami"),
        ("whoami:1", "docker.io/library/whoami:1", "whoami:1"),
        ("docker.io/whoami", "docker.io/library/whoami", "whoami"),
        ("index.docker.io/library/redis", "docker.io/library/redis", "redis"),
        ("team/app:v1", "docker.io/team/app:v1", "team/app:v1"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("Registry/app", "Registry/app", "Registry/app"),
        ("10.77.0.1:5000/a__b/c-d.e", "10.77.0.1:5000/a__b/c-d.e", "10.77.0.1:5000/a__b/c-d.e"),
        ("[2001:db8::1]:5000/app", "[2001:db8::1]:5000/app", "[2001:db8::1]:5000/app"),
        (f"whoami@{DIGEST}", f"docker.io/library/whoami@{DIGEST}", f"whoami@{DIGEST}"),
        (f"whoami:1@{DIGEST}", f"docker.io/library/whoami:1@{DIGEST}", f"whoami:1@{DIGEST}"),
    ],
)
def test_names_are_normalized(text: str, full: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.familiar) == (full, familiar)
    assert parse_reference(full) == reference


def test_latest_is_added_where_nothing_is_said() -> None:
    assert str(parse_reference("whoami").tagged) == "docker.io/library/whoami:latest"
    assert parse_reference("whoami:1").tagged == Reference("docker.io", "library/whoami", "1")
    assert parse_reference(f"whoami@{DIGEST}").tagged.tag == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        (":1", "invalid reference format"),
        ("whoami:", "invalid reference format"),
        ("who ami", "invalid reference format"),
        ("whoami:a b", "invalid reference format"),
        ("-whoami", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("whoami:" + "x" * 129, "invalid reference format"),
        ("whoami@sha256:abc", "invalid reference format"),
        ("whoami\n", "invalid reference format"),
        ("Whoami", "invalid reference format: repository name (library/Whoami) must be lowercase"),
        (
            "a" * 64,
            f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings",
        ),
        ("x" * 256, "repository name must not be more than 255 characters"),
        ("whoami@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("whoami@sha256:" + "a" * 63, "invalid checksum digest length"),
        ("whoami@sha256:" + "A" * 64, "invalid checksum digest format"),
    ],
)
def test_what_is_no_reference(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_reference(text)
    assert str(caught.value) == message


def test_digests() -> None:
    check_digest(DIGEST)
    check_digest("sha512:" + "a" * 128)
    with pytest.raises(InvalidArgumentError, match="invalid checksum digest format"):
        check_digest("sha256")


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidArgumentError:
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference
