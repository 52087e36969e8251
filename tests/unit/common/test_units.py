"""Durations, sizes and CPUs: the values were taken from Go's own output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from minicommon.units import (
    HOUR,
    MAX_INT64,
    MINUTE,
    SECOND,
    bytes_size,
    format_cpus,
    format_duration,
    human_duration,
    human_size,
    parse_bytes,
    parse_cpus,
    parse_duration,
)

DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("5s", 5 * SECOND),
        ("+5s", 5 * SECOND),
        ("-1.5h", -90 * MINUTE),
        ("1m30s", 90 * SECOND),
        ("2160h", 2160 * HOUR),
        ("500ms", SECOND // 2),
        ("1.", None),
        (".5s", SECOND // 2),
        ("1.s", SECOND),
        ("10us", 10_000),
        ("10\N{MICRO SIGN}s", 10_000),
        ("10\N{GREEK SMALL LETTER MU}s", 10_000),
        ("7ns", 7),
        ("1h1h", 2 * HOUR),
        ("9223372036854775807ns", MAX_INT64),
    ],
)
def test_parse_duration(text: str, nanoseconds: int | None) -> None:
    if nanoseconds is None:
        with pytest.raises(InvalidArgumentError):
            parse_duration(text)
    else:
        assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("s", 'time: invalid duration "s"'),
        ("abc", 'time: invalid duration "abc"'),
        ("1s.", 'time: invalid duration "1s."'),
        ("5", 'time: missing unit in duration "5"'),
        ("3d", 'time: unknown unit "d" in duration "3d"'),
        ("1s 2s", 'time: unknown unit "s " in duration "1s 2s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
    ],
)
def test_what_is_no_duration(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_duration(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1\N{MICRO SIGN}s"),
        (2_200_000, "2.2ms"),
        (500_000_000, "500ms"),
        (3_300_000_000, "3.3s"),
        (10 * SECOND, "10s"),
        (90 * SECOND, "1m30s"),
        (5 * MINUTE, "5m0s"),
        (2160 * HOUR, "2160h0m0s"),
        (HOUR + 1_500_000_000, "1h0m1.5s"),
        (-SECOND, "-1s"),
    ],
)
def test_format_duration(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@given(st.integers(-MAX_INT64, MAX_INT64))
def test_a_duration_survives_being_written(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (SECOND // 2, "Less than a second"),
        (SECOND, "1 second"),
        (45 * SECOND, "45 seconds"),
        (60 * SECOND, "About a minute"),
        (119 * SECOND, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (46 * MINUTE, "46 minutes"),
        (59 * MINUTE, "59 minutes"),
        (HOUR, "About an hour"),
        (HOUR + 29 * MINUTE, "About an hour"),
        (HOUR + 31 * MINUTE, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (365 * DAY, "12 months"),
        (2 * 365 * DAY, "2 years"),
    ],
)
def test_human_duration(nanoseconds: int, text: str) -> None:
    assert human_duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("32", 32),
        ("32b", 32),
        ("32B", 32),
        ("32k", 32 << 10),
        ("32KB", 32 << 10),
        ("32 kib", 32 << 10),
        ("512m", 512 << 20),
        ("512MiB", 512 << 20),
        ("1g", 1 << 30),
        ("1.5G", 3 << 29),
        ("2T", 2 << 40),
        ("3p", 3 << 50),
        (".5k", 512),
        ("1.9", 1),
    ],
)
def test_parse_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid size: ''"),
        ("hello", "invalid size: 'hello'"),
        ("-32", "invalid size: '-32'"),
        (" 32", "invalid size: ' 32'"),
        ("32bb", "invalid suffix: 'bb'"),
        ("32 mbs", "invalid suffix: 'mbs'"),
        ("32KiX", "invalid suffix: 'kix'"),
        ("9e9p", "invalid suffix: 'e9p'"),
        ("9999999p", f"invalid size: '9999999p': must be at most {MAX_INT64} bytes"),
    ],
)
def test_what_is_no_size(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_bytes(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("size", "decimal", "binary"),
    [
        (0, "0B", "0B"),
        (999, "999B", "999B"),
        (1000, "1kB", "1000B"),
        (1024, "1.024kB", "1KiB"),
        (3_400_000, "3.4MB", "3.242MiB"),
        (1_999_999, "2MB", "1.907MiB"),
        (1 << 30, "1.074GB", "1GiB"),
        (1 << 60, "1.153EB", "1EiB"),
    ],
)
def test_sizes_for_people(size: int, decimal: str, binary: str) -> None:
    assert (human_size(size), bytes_size(size)) == (decimal, binary)


@pytest.mark.parametrize(
    ("text", "nano", "printed"),
    [
        ("1.5", 1_500_000_000, "1.500"),
        (".25", 250_000_000, "0.250"),
        ("2.", 2 * 10**9, "2.000"),
        ("0", 0, ""),
    ],
)
def test_cpus(text: str, nano: int, printed: str) -> None:
    assert parse_cpus(text) == nano
    assert format_cpus(nano) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("two", "failed to parse two as a rational number"),
        ("-1", "failed to parse -1 as a rational number"),
        ("", "failed to parse  as a rational number"),
        ("0.0000000001", "value is too precise"),
        ("9999999999999", "invalid cpu value 9999999999999: must be at most 9223372036"),
    ],
)
def test_what_is_no_number_of_cpus(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_cpus(text)
    assert str(caught.value) == message
