"""What `exec`, `run`, `logs` and `ps` do on their own side: keys, flags, lines."""

from __future__ import annotations

import io

import pytest
from minictl import flags, run_flags, terminal
from minictl.client import messages
from minictl.commands import log_flags, logs, talking
from minictl.errors import CliError
from minictl.views import ps

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("text", "keys"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("a,ctrl-@,ctrl-[", b"a\0\x1b"), ("", b"")]
)
def test_detach_keys_are_read(text: str, keys: bytes) -> None:
    assert terminal.parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-p,", "ctrl-1", "abc", "é"])
def test_detach_keys_that_are_none(text: str) -> None:
    with pytest.raises(CliError, match="invalid detach keys"):
        terminal.parse_keys(text)


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"ls\r"], b"ls\r", False),
        ([b"\x10\x11"], b"", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x10"], b"", False),
    ],
)
def test_keys_are_held_back_only_while_they_may_mean_to_detach(
    typed: list[bytes], passed: bytes, detached: bool
) -> None:
    keys = terminal.DetachKeys(b"\x10\x11")
    results = [keys.take(part) for part in typed]
    assert b"".join(part for part, _ in results) == passed
    assert results[-1][1] is detached


def test_without_keys_everything_is_passed_on() -> None:
    assert terminal.DetachKeys(b"").take(b"\x10\x11") == (b"\x10\x11", False)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("/data", {"type": 0, "source": "", "target": "/data"}),
        ("vol:/data", {"type": 0, "source": "vol", "target": "/data"}),
        ("/host:/data:ro", {"type": 1, "source": "/host", "target": "/data", "read_only": True}),
        ("/h:/d:rshared", {"type": 1, "source": "/h", "target": "/d", "propagation": "rshared"}),
        ("vol:/data:nocopy", {"type": 0, "source": "vol", "target": "/data", "no_copy": True}),
    ],
)
def test_volumes_are_read(text: str, fields: dict[str, object]) -> None:
    assert run_flags.parse_volume(text) == fields


@pytest.mark.parametrize("text", ["data", "a:b", "a:/b:c", "::", "a:/b:ro:rw"])
def test_volumes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="invalid"):
        run_flags.parse_volume(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", NOW),
        ("1700000000.5", NOW + SECOND // 2),
        ("90s", NOW - 90 * SECOND),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.000000001Z", NOW + 1),
        ("2023-11-15T00:13:20.5+02:00", NOW + SECOND // 2),
    ],
)
def test_moments_are_read(text: str, expected: int) -> None:
    assert logs.moment(text, NOW) == expected


def test_a_moment_that_is_none() -> None:
    with pytest.raises(CliError, match='failed to parse value as time or duration: "yesterday"'):
        logs.moment("yesterday", NOW)


def _parsed(*words: str) -> flags.Parsed:
    return flags.parse(log_flags.SERVICE_FLAGS, words)


@pytest.mark.parametrize(("text", "tail"), [("all", None), ("5", 5), ("0", 0), ("-1", None)])
def test_the_tail(text: str, tail: int | None) -> None:
    query = logs.query(_parsed(f"--tail={text}"), NOW)
    assert (query.tail if query.HasField("tail") else None) == tail


def test_a_tail_that_is_no_number() -> None:
    with pytest.raises(CliError, match='invalid value for --tail: "some"'):
        logs.query(_parsed("--tail", "some"), NOW)


SOURCE = messages.TaskLogs(
    task_id="0123456789abcdefghijklmno",
    task_name="web.2",
    service_id="svc",
    slot=2,
    node_id="node",
    node_hostname="core-02",
    details={"a": "b"},
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), b"web.2.0123456789ab@core-02     | hello\n"),
        (("--no-task-ids",), b"web.2@core-02     | hello\n"),
        (("--no-trunc",), b"web.2.0123456789abcdefghijklmno@core-02     | hello\n"),
        (("--no-resolve",), b"svc.2.0123456789ab@node     | hello\n"),
        (("-t",), b"2023-11-14T22:13:20.000000000Z web.2.0123456789ab@core-02     | hello\n"),
        (("--details",), b"web.2.0123456789ab@core-02     | a=b hello\n"),
    ],
)
def test_a_line_has_dockers_prefix(words: tuple[str, ...], expected: bytes) -> None:
    parsed, out = _parsed(*words), io.BytesIO()
    writer = logs.Writer(
        out,
        io.BytesIO(),
        prefix=logs.Prefix(parsed, width=2),
        timestamps=parsed["timestamps"],
        details=parsed["details"],
    )
    writer.add(1, SOURCE)
    writer.write(1, messages.LogLine(time_ns=NOW, data=b"hello"))
    writer.finish()
    assert out.getvalue() == expected


def test_parts_of_a_line_are_put_together_and_streams_kept_apart() -> None:
    out, err = io.BytesIO(), io.BytesIO()
    writer = logs.Writer(out, err, prefix=None, timestamps=False, details=False)
    writer.write(1, messages.LogLine(data=b"one ", partial=True))
    writer.write(2, messages.LogLine(data=b"other"))
    writer.write(1, messages.LogLine(data=b"wrong", stderr=True))
    writer.write(1, messages.LogLine(data=b"line"))
    writer.write(1, messages.LogLine(data=b"no end", partial=True))
    writer.finish()
    assert out.getvalue() == b"other\none line\nno end\n"
    assert err.getvalue() == b"wrong\n"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "running", "started_at_ns": NOW - 120 * SECOND}, "Up 2 minutes"),
        (
            {"status": "exited", "exit_code": 3, "finished_at_ns": NOW - 3600 * SECOND},
            "Exited (3) About an hour ago",
        ),
        ({"status": "created"}, "Created"),
    ],
)
def test_the_status_is_in_dockers_words(fields: dict[str, object], expected: str) -> None:
    assert ps.status(messages.ContainerInfo(**fields), NOW) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ('exec: "/x": stat /x: no such file or directory', 127),
        ('exec: "/etc": permission denied', 126),
        ("No such image: x:latest", 125),
    ],
)
def test_what_could_not_be_started_has_dockers_codes(text: str, code: int) -> None:
    assert talking.start_code(text) == code
