"""The names of a container's files of output while they are shifted, and readers that keep up with them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniworker.runtime.oci import logfiles
from miniworker.runtime.oci.logs import tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "output.log"
    path.write_bytes(b"1\n")
    return path


def rotate(log: Path, text: bytes, *, files: int = 9, compress: bool = False) -> None:
    """What rotation and conmon do together; the new file has `text`."""
    logfiles.shift(log, files)
    new = log.with_name("new")
    new.write_bytes(text)
    new.rename(log)
    if compress:
        packed = logfiles.write_compressed(log, stop=threading.Event())
        assert packed is not None
        logfiles.take_compressed(log, packed)


def names(log: Path) -> list[str]:
    return sorted(path.name for path in log.parent.iterdir())


def texts(found: list[logfiles.Opened]) -> list[bytes]:
    try:
        return [each.file.read() for each in found]
    finally:
        for each in found:
            each.close()


@pytest.mark.parametrize("compress", [False, True])
def test_the_oldest_file_goes_when_there_are_enough(log: Path, compress: bool) -> None:
    for number in (2, 3, 4, 5):
        rotate(log, b"%d\n" % number, files=3, compress=compress)
    end = ".gz" if compress else ""
    assert names(log) == ["output.log", f"output.log.1{end}", f"output.log.2{end}"]
    assert texts(logfiles.open_from(log, None)) == [b"3\n", b"4\n", b"5\n"]


def test_more_than_nine_files(log: Path) -> None:
    for number in range(2, 14):
        rotate(log, b"%d\n" % number, files=12)
    assert texts(logfiles.open_from(log, None)) == [b"%d\n" % number for number in range(2, 14)]


def test_a_shift_that_was_broken_off_is_completed(log: Path) -> None:
    rotate(log, b"2\n")
    logfiles.shift(log, 9)  # conmon has not begun its new file
    assert texts(logfiles.open_from(log, None)) == [b"1\n", b"2\n"]
    rotate(log, b"3\n")
    assert texts(logfiles.open_from(log, None)) == [b"1\n", b"2\n", b"3\n"]
    (log.parent / "output.log.1").rename(log.parent / "output.log.2x")
    (log.parent / "output.log.2").rename(log.parent / "output.log.3")
    (log.parent / "output.log.2x").rename(log.parent / "output.log.2")  # before the link
    rotate(log, b"4\n")
    assert texts(logfiles.open_from(log, None)) == [b"1\n", b"2\n", b"3\n", b"4\n"]


def test_an_exchange_that_was_broken_off_leaves_one_of_both(log: Path) -> None:
    rotate(log, b"2\n")
    packed = logfiles.write_compressed(log, stop=threading.Event())
    assert packed is not None
    packed.rename(log.parent / "output.log.1.gz")
    assert texts(logfiles.open_from(log, None)) == [b"1\n", b"2\n"]
    rotate(log, b"3\n")
    assert texts(logfiles.open_from(log, None)) == [b"1\n", b"2\n", b"3\n"]


def test_compressing_can_be_stopped(log: Path) -> None:
    assert logfiles.write_compressed(log, stop=threading.Event()) is None  # nothing is full
    rotate(log, b"2\n")
    stop = threading.Event()
    stop.set()
    assert logfiles.write_compressed(log, stop=stop) is None
    assert texts(logfiles.open_from(log, None)) == [b"1\n", b"2\n"]


@pytest.mark.parametrize("compress", [False, True])
def test_a_reader_finds_what_is_newer_than_its_file(log: Path, compress: bool) -> None:
    (reading,) = logfiles.open_from(log, None)
    for number in (2, 3):
        os.utime(log, ns=(number, number))
        rotate(log, b"%d\n" % number, compress=compress)
    assert texts(logfiles.open_after(log, reading.identity)) == [b"2\n", b"3\n"]
    for number in (4, 5):
        os.utime(log, ns=(number, number))
        rotate(log, b"%d\n" % number, files=2, compress=compress)
    assert texts(logfiles.open_after(log, reading.identity)) == [b"4\n", b"5\n"]  # its own is gone
    reading.close()


def test_files_that_were_last_written_at_one_time_are_told_apart(log: Path) -> None:
    (reading,) = logfiles.open_from(log, None)
    rotate(log, b"2\n")
    for path in log.parent.iterdir():
        os.utime(path, ns=(7, 7))
    assert texts(logfiles.open_after(log, reading.identity)) == [b"2\n"]
    reading.close()


def test_a_place_in_the_output_outlives_a_rotation(log: Path) -> None:
    log.write_bytes(b"a\nb\n")
    place = logfiles.end_of(log)
    with log.open("ab") as file:
        file.write(b"c\n")
    rotate(log, b"d\n")
    assert texts(logfiles.open_from(log, place)) == [b"c\n", b"d\n"]


LINES = st.lists(st.binary(max_size=3).map(lambda text: text.replace(b"\n", b"") + b"\n"), max_size=6)


@given(contents=st.lists(LINES, min_size=1, max_size=4), wanted=st.integers(0, 30), compress=st.booleans())
def test_the_last_lines_of_all_files_together(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[bytes]], wanted: int, compress: bool
) -> None:
    log = tmp_path_factory.mktemp("logs") / "output.log"
    log.write_bytes(b"".join(contents[0]))
    for lines in contents[1:]:
        rotate(log, b"".join(lines), compress=compress)
    everything = [line for lines in contents for line in lines]
    expected = b"".join(everything[len(everything) - min(wanted, len(everything)) :])
    assert b"".join(texts(tail(logfiles.open_from(log, None), wanted))) == expected
