"""Help texts, as golden files; the commands that are Docker's own were compared with docker 28.2."""

from __future__ import annotations

from pathlib import Path

import pytest
from minictl import help as help_text
from minictl import main, tree
from support import golden

GOLDEN = Path(__file__).parent / "golden" / "help"
PATHS = [
    [],
    *([group.name] for group in tree.GROUPS),
    *([group.name, *command.name.split()] for group in tree.GROUPS for command in group.commands()),
    *([name] for name in tree.SHORTCUTS),
]


@pytest.mark.parametrize("path", PATHS, ids="-".join)
def test_help(path: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(help_text, "terminal_width", lambda: 80)
    assert main.run([*path, "--help"], {}) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    golden.check(GOLDEN / f"{'-'.join(['minictl', *path])}.txt", printed.out)


def test_help_command_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["help", "service", "rm"], {}) == 0
    first = capsys.readouterr().out
    assert main.run(["service", "rm", "-h"], {}) == 0
    assert capsys.readouterr().out == first
    assert "Usage:  minictl service rm SERVICE" in first


def test_a_group_alone_prints_its_help_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["service"], {}) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Usage:  minictl service COMMAND\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"], {}) == 0
    assert capsys.readouterr().out.startswith("minictl version ")


def test_wrap_moves_under_the_flag_when_there_is_no_room() -> None:
    assert help_text.wrap("one two three four five", 30, 50) == "\n" + " " * 16 + "one two three four five"
