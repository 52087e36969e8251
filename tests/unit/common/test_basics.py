"""Base 36, ids, virtual time, paths, settings on disk and supervised tasks."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon import base36
from minicommon.clock import SECOND, SystemClock, VirtualClock
from minicommon.ids import ID_LENGTH, is_id, new_id
from minicommon.paths import NodePaths
from minicommon.settings import Bootstrap, EtcdSettings, ManagerSettings, read_json, write_json
from minicommon.supervise import EndedError, Supervisor

# --- base 36 and ids ---


@given(st.integers(0, 36**25 - 1))
def test_a_number_survives_base_36(value: int) -> None:
    text = base36.encode(value, 25)
    assert len(text) == 25
    assert base36.decode(text) == value


@given(st.integers(0, 36**10), st.integers(0, 36**10))
def test_fixed_width_keeps_the_order(one: int, other: int) -> None:
    assert (base36.encode(one, 12) < base36.encode(other, 12)) == (one < other)


@pytest.mark.parametrize("value", [36**3, -1])
def test_what_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        base36.encode(value, 3)


@pytest.mark.parametrize("text", ["", "A", "é", "1 ", "-1", "1_0"])
def test_what_is_not_base_36_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not base 36"):
        base36.decode(text)


def test_ids_have_swarms_form_and_do_not_repeat() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(is_id(each) for each in ids)


@pytest.mark.parametrize("text", ["", "x" * (ID_LENGTH - 1), "X" * ID_LENGTH, "web"])
def test_what_is_no_id_is_told_apart(text: str) -> None:
    assert not is_id(text)


# --- time ---


async def test_virtual_time_wakes_in_order_and_only_who_is_due() -> None:
    clock = VirtualClock(0)
    woken: list[int] = []

    async def sleeper(when: int) -> None:
        await clock.sleep_until(when * SECOND)
        woken.append(when)

    async with asyncio.TaskGroup() as group:
        for when in (3, 1, 2, 5, -1):
            group.create_task(sleeper(when))
        await asyncio.sleep(0)
        clock.advance(3 * SECOND)
        await clock.sleep_until(0)
        await clock.sleep_until(0)
        assert woken == [-1, 1, 2, 3]
        clock.advance(2 * SECOND)
    assert woken[-1] == 5
    assert clock.now_ns() == 5 * SECOND


async def test_a_sleeper_that_was_cancelled_is_passed_over() -> None:
    clock = VirtualClock(0)
    sleeper = asyncio.create_task(clock.sleep_until(SECOND))
    await asyncio.sleep(0)
    sleeper.cancel()
    await asyncio.gather(sleeper, return_exceptions=True)
    clock.advance(SECOND)
    assert clock.now_ns() == SECOND


async def test_the_systems_clock_waits_until_the_moment() -> None:
    clock = SystemClock()
    moment = clock.now_ns() + 5_000_000
    await clock.sleep_until(moment)
    assert clock.now_ns() >= moment
    await clock.sleep_until(0)


# --- paths and settings ---


def test_every_path_is_in_one_of_the_two_directories_and_no_two_are_one() -> None:
    paths = NodePaths(Path("/data"), Path("/run/dir"))
    names = [name for name, value in vars(NodePaths).items() if isinstance(value, property)]
    found = [getattr(paths, name) for name in names]
    assert len(set(found)) == len(found)
    for path in found:
        assert path.is_relative_to("/data") or path.is_relative_to("/run/dir")


SETTINGS = ManagerSettings(
    "n1", "c1", "host", "10.77.0.11", "0.0.0.0", EtcdSettings(("https://10.77.0.11:2379",), managed=False)
)


def test_settings_survive_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "manager.json"
    write_json(path, SETTINGS)
    assert read_json(path, ManagerSettings) == SETTINGS
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_survive_the_disk(tmp_path: Path) -> None:
    wanted = Bootstrap(bytes(range(256)), b"", ("10.0.0.0/8",), 24, -1, 5, 6, 2)
    write_json(tmp_path / "b", wanted)
    assert read_json(tmp_path / "b", Bootstrap) == wanted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more": 1}, "expected the fields"),
        ({"node_id": 7}, "node_id: expected str, found 7"),
        ({"etcd": "no"}, "etcd: expected the fields"),
        ({"join_port": "2377"}, "join_port: expected int, found '2377'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "manager.json"
    write_json(path, SETTINGS)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words):
        read_json(path, ManagerSettings)


def test_a_missing_field_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Older:
        node_id: str

    write_json(tmp_path / "old", Older("n1"))
    with pytest.raises(ValueError, match="expected the fields"):
        read_json(tmp_path / "old", ManagerSettings)


# --- supervised tasks ---


async def test_an_eternal_task_that_ends_is_an_error_and_ends_the_others() -> None:
    other_ended = asyncio.Event()

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other_ended.set()

    async def gives_up() -> None:
        await asyncio.sleep(0)

    async def both() -> None:
        async with Supervisor() as group:
            group.start_eternal("loop", for_ever())
            group.start_eternal("quitter", gives_up())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert [str(error) for error in caught.value.exceptions] == ["quitter ended, but it should run for ever"]
    assert isinstance(caught.value.exceptions[0], EndedError)
    assert other_ended.is_set()


async def test_a_group_can_be_ended_without_an_error() -> None:
    async with Supervisor() as group:
        task = group.start_eternal("loop", asyncio.Event().wait())
        group.start("once", asyncio.sleep(0))
        await asyncio.sleep(0)
        group.cancel()
    assert task.cancelled()
    assert task.get_name() == "loop"
