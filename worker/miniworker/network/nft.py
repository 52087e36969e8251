"""Runs `nft`: a script is one transaction, all of it or nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from miniworker.network.errors import NetworkError

Canonical: TypeAlias = Mapping[str, tuple[str, ...]]

_SECONDS = 30.0
"""A transaction takes milliseconds; the kernel may hold it up while it frees an older one."""

_NOT_THERE = "No such file or directory"


def run_script(script: str) -> None:
    """Apply a script in the calling thread's network namespace. Raises NetworkError with what nft said."""
    _nft(["-f", "-"], script)


def check_script(script: str) -> None:
    """Have the kernel judge a script without applying it. Raises NetworkError with what nft said."""
    _nft(["--check", "-f", "-"], script)


def delete_table(family: str, name: str) -> None:
    """Remove a table, if there is one."""
    run_script(f"add table {family} {name}\ndelete table {family} {name}\n")


def list_table(family: str, name: str) -> list[dict[str, Any]]:
    """The table's objects as nft's JSON has them; empty when there is no such table."""
    return _list("-j", "list", "table", family, name)


def list_names(family: str, name: str) -> list[dict[str, Any]]:
    """The same without the elements of sets and maps, of which there may be many."""
    return _list("-j", "--terse", "list", "table", family, name)


def canonical(objects: Iterable[Mapping[str, Any]]) -> Canonical:
    """What `list_table` gives, without what says nothing of the rules' meaning: two tables are alike or not.

    By name of each object: its rules in their order, its elements in any.
    """
    found: dict[str, list[str]] = {}
    for item in objects:
        for kind, value in item.items():
            if kind == "metainfo":
                continue
            place = [value["family"], value.get("table", value.get("name"))]
            name = value["chain"] if kind == "rule" else value.get("name")
            shown = {key: part for key, part in value.items() if key not in ("handle", "index", "elem")}
            texts = found.setdefault(" ".join(("chain" if kind == "rule" else kind, *place, name)), [])
            texts.append(json.dumps(shown, sort_keys=True))
            texts += sorted(json.dumps(element, sort_keys=True) for element in value.get("elem", ()))
    return {name: tuple(texts) for name, texts in found.items()}


def list_chains() -> list[dict[str, Any]]:
    """All chains of all tables, without their rules."""
    objects: list[dict[str, Any]] = json.loads(_nft(["-j", "list", "chains"], ""))["nftables"]
    return objects


def _list(*arguments: str) -> list[dict[str, Any]]:
    try:
        text = _nft(list(arguments), "")
    except NetworkError as error:
        if _NOT_THERE in str(error):
            return []
        raise
    objects: list[dict[str, Any]] = json.loads(text)["nftables"]
    return objects


def _nft(arguments: list[str], script: str) -> str:
    program = shutil.which("nft") or "/usr/sbin/nft"
    try:
        done = subprocess.run(
            [program, *arguments], input=script, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"nft does not run: {error}") from error
    if done.returncode != 0:
        raise NetworkError(f"nft refused the rules: {done.stderr.strip()}")
    return done.stdout
