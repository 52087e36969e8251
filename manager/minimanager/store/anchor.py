"""What a manager remembers of the ledger outside of etcd: how far it went, and what was found to be wrong with it.

Who can write to etcd can cut the chain off together with its head, and put an older state in its place; what is in this
file stays. Each manager has its own, beside its keys.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

MAX_PROBLEMS: Final = 16
"""More say nothing new."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an anchor knew at a moment."""

    number: int = 0
    mac: bytes = b""
    problems: tuple[str, ...] = ()


class Anchor:
    """`path`: the file; None: in memory only, for tests."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.number = 0
        self.mac = b""
        self.problems: tuple[str, ...] = ()
        if path is not None and path.exists():
            self._load(path)

    @property
    def seen(self) -> Seen:
        return Seen(self.number, self.mac, self.problems)

    def reach(self, number: int, mac: bytes) -> None:
        """This manager has appended up to here."""
        if number > self.number:
            self.number, self.mac = number, mac
            self._save()

    def meet(self, number: int) -> None:
        """The ledger's head names this number; it may not lie before what was seen."""
        if number < self.number:
            self.report(f"the ledger was cut off: it ended with record {number} after record {self.number}")

    def report(self, problem: str) -> None:
        """Remember for good that something was wrong."""
        if problem not in self.problems and len(self.problems) < MAX_PROBLEMS:
            logger.error("The ledger of deliveries is not whole: %s.", problem)
            self.problems = (*self.problems, problem)
            self._save()

    def _load(self, path: Path) -> None:
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
            self.number, self.mac = int(stored["number"]), bytes.fromhex(stored["mac"])
            self.problems = tuple(map(str, stored["problems"]))
        except (ValueError, KeyError, TypeError) as error:
            self.report(f"this manager's own note of the ledger cannot be read: {error}")

    def _save(self) -> None:
        if self._path is None:
            return
        fresh = self._path.with_suffix(".next")
        text = json.dumps({"number": self.number, "mac": self.mac.hex(), "problems": self.problems})
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
        fresh.replace(self._path)
