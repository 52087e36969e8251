"""`mini-manager --verify-backup FILE`: what `minictl swarm backup verify` runs. JSON on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from minicommon.errors import MiniError

from minimanager.backup.verifying import Report, verify

EXIT_BAD = 1
"""The backup cannot be trusted, or could not be looked at; the JSON says which."""


def main(path: Path) -> int:
    """The key is one line of standard input."""
    key = sys.stdin.readline().rstrip("\r\n")
    try:
        report = asyncio.run(_verified(path, key))
    except (MiniError, OSError) as error:
        json.dump({"error": str(error)}, sys.stdout)
        return EXIT_BAD
    json.dump(to_json(report), sys.stdout)
    return EXIT_BAD if report.problems else 0


async def _verified(path: Path, key: str) -> Report:
    with path.open("rb") as file:
        return await verify(file, key)


def to_json(report: Report) -> dict[str, object]:
    manifest = report.manifest
    return {
        "cluster": manifest.cluster_id,
        "created_at_ns": manifest.created_at_ns,
        "hostname": manifest.hostname,
        "node": manifest.node_id,
        "address": manifest.advertise_host,
        "version": manifest.mini_version,
        "revision": manifest.revision,
        "entries": report.entries,
        "objects": dict(report.objects),
        "ledger_records": report.ledger_records,
        "problems": list(report.problems),
    }
