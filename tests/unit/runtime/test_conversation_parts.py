"""The pure parts of talking to containers and looking at them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from minicommon.errors import InvalidArgumentError
from miniworker.agent.streams.looking import BATCH_BYTES, batches, process_table
from miniworker.runtime.api import Commit, LogLine, LogQuery, RuntimeFaultError
from miniworker.runtime.oci import cgroups
from miniworker.runtime.oci.attach import joined
from miniworker.runtime.oci.commit import Origin, image_document

PS = """UID          PID    PPID  C STIME TTY          TIME CMD
root           1       0  0 10:00 ?        00:00:01 /sbin/init splash
web          777       1  0 10:01 ?        00:00:00 sh -c while :; do sleep 1; done
"""


def test_only_the_containers_processes_are_shown_with_the_whole_command() -> None:
    table = process_table(PS, frozenset({777}))
    assert list(table.titles) == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    (row,) = table.processes
    assert row.cells[1] == "777"
    assert row.cells[-1] == "sh -c while :; do sleep 1; done"


def test_a_table_without_pids_cannot_be_filtered() -> None:
    with pytest.raises(InvalidArgumentError, match="column PID"):
        process_table("CMD\nsh\n", frozenset({1}))


def test_lines_travel_in_messages_of_a_fair_size() -> None:
    lines = [LogLine("stdout", number, b"x" * 1000) for number in range(200)]
    messages = list(batches(lines))
    assert [line.time_ns for message in messages for line in message.lines] == list(range(200))
    assert all(sum(len(line.data) for line in message.lines) < BATCH_BYTES + 1000 for message in messages)
    assert len(messages) == 4
    assert list(batches([])) == []


def test_the_bytes_are_those_that_were_written() -> None:
    lines = [
        LogLine("stdout", 1, b"a"),
        LogLine("stdout", 2, b"b", partial=True),
        LogLine("stderr", 3, b"c"),
        LogLine("stdout", 4, b"d"),
    ]
    assert joined(lines) == [("stdout", b"a\nb"), ("stderr", b"c\n"), ("stdout", b"d\n")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (LogQuery(), True),
        (LogQuery(since_ns=5), True),
        (LogQuery(since_ns=6), False),
        (LogQuery(until_ns=5), True),
        (LogQuery(until_ns=4), False),
    ],
)
def test_times_are_inclusive(query: LogQuery, expected: bool) -> None:
    assert query.covers(LogLine("stdout", 5, b"")) is expected


BASE = json.dumps(
    {
        "architecture": "amd64",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {"a": "1"}},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]},
        "history": [{"created_by": "base"}],
    }
).encode()


def _document(*changes: str, arguments: tuple[str, ...] = ("sh",)) -> dict[str, object]:
    commit = Commit(author="me", message="why", changes=changes)
    found: dict[str, object] = json.loads(image_document(Origin(BASE, "sha256:2", arguments), commit))
    return found


def test_a_new_image_has_one_layer_more_and_says_where_from() -> None:
    document = _document()
    assert document["rootfs"] == {"type": "layers", "diff_ids": ["sha256:1", "sha256:2"]}
    history = document["history"]
    assert isinstance(history, list)
    assert [entry["created_by"] for entry in history] == ["base", "sh"]
    assert (history[1]["author"], history[1]["comment"]) == ("me", "why")
    assert document["architecture"] == "amd64"


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("CMD ls -l", "Cmd", ["/bin/sh", "-c", "ls -l"]),
        ('entrypoint ["a", "b c"]', "Entrypoint", ["a", "b c"]),
        ("ENV A=b C='d e'", "Env", ["PATH=/bin", "A=b", "C=d e"]),
        ("ENV PATH /usr/bin", "Env", ["PATH=/usr/bin"]),
        ("LABEL b=2", "Labels", {"a": "1", "b": "2"}),
        ("USER web", "User", "web"),
        ("WORKDIR /srv", "WorkingDir", "/srv"),
        ("EXPOSE 80 53/udp", "ExposedPorts", {"80/tcp": {}, "53/udp": {}}),
    ],
)
def test_changes_are_those_of_a_dockerfile(change: str, key: str, value: object) -> None:
    config = _document(change)["config"]
    assert isinstance(config, dict)
    assert config[key] == value


@pytest.mark.parametrize("change", ["RUN ls", "CMD [broken", "LABEL a=1 b"])
def test_changes_that_are_none(change: str) -> None:
    with pytest.raises(RuntimeFaultError, match="change: "):
        _document(change)


def test_the_command_of_the_container_is_that_of_its_image() -> None:
    config = _document(arguments=("sleep", "5"))["config"]
    assert isinstance(config, dict)
    assert (config["Entrypoint"], config["Cmd"]) == (None, ["sleep", "5"])


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_usage_of_version_1(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "memory/mini/c/memory.stat": "cache 10\ntotal_inactive_file 100\n",
            "memory/mini/c/memory.usage_in_bytes": "1100\n",
            "memory/mini/c/memory.limit_in_bytes": "9223372036854771712\n",
            "cpuacct/mini/c/cpuacct.usage": "42\n",
            "pids/mini/c/pids.current": "3\n",
            "pids/mini/c/cgroup.procs": "7\n8\n",
            "blkio/mini/c/blkio.throttle.io_service_bytes": "8:0 Read 5\n8:0 Write 6\n9:0 Read 1\nTotal 12\n",
        },
    )
    assert cgroups.usage(cgroups.path_of("c"), tmp_path) == cgroups.Used(42, 1000, 0, 6, 6, 3)
    assert cgroups.members(cgroups.path_of("c"), tmp_path) == (7, 8)


def test_usage_of_version_2(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "cgroup.controllers": "cpu memory",
            "mini/c/memory.stat": "inactive_file 100\n",
            "mini/c/memory.current": "1100\n",
            "mini/c/memory.max": "4096\n",
            "mini/c/cpu.stat": "usage_usec 42\n",
            "mini/c/pids.current": "3\n",
            "mini/c/cgroup.procs": "7\n",
            "mini/c/io.stat": "8:0 rbytes=5 wbytes=6 rios=1\n9:0 rbytes=1 wbytes=0\n",
        },
    )
    assert cgroups.usage(cgroups.path_of("c"), tmp_path) == cgroups.Used(42_000, 1000, 4096, 6, 6, 3)
    assert cgroups.members(cgroups.path_of("c"), tmp_path) == (7,)


def test_usage_of_what_is_gone_is_nothing(tmp_path: Path) -> None:
    assert cgroups.usage(cgroups.path_of("c"), tmp_path) == cgroups.Used()
    assert cgroups.members(cgroups.path_of("c"), tmp_path) == ()
