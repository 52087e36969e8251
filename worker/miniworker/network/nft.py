"""Runs `nft`: a script is one transaction, all of it or nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from miniworker.network.errors import NetworkError

_SECONDS = 30.0
"""A transaction takes milliseconds; the kernel may hold it up while it frees an older one."""

_NOT_THERE = "No such file or directory"


def run_script(script: str) -> None:
    """Apply a script in the calling thread's network namespace. Raises NetworkError with what nft said."""
    _nft(["-f", "-"], script)


def delete_table(family: str, name: str) -> None:
    """Remove a table, if there is one."""
    run_script(f"add table {family} {name}\ndelete table {family} {name}\n")


def list_table(family: str, name: str) -> list[dict[str, Any]]:
    """The table's objects as nft's JSON has them; empty when there is no such table."""
    try:
        text = _nft(["-j", "list", "table", family, name], "")
    except NetworkError as error:
        if _NOT_THERE in str(error):
            return []
        raise
    objects: list[dict[str, Any]] = json.loads(text)["nftables"]
    return objects


def list_chains() -> list[dict[str, Any]]:
    """All chains of all tables, without their rules."""
    objects: list[dict[str, Any]] = json.loads(_nft(["-j", "list", "chains"], ""))["nftables"]
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
