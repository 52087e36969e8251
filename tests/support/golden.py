"""Golden files: what a program printed when it was right. MINI_REWRITE_GOLDEN=1 rewrites them; review the diff."""

from __future__ import annotations

import os
from pathlib import Path


def check(path: Path, text: str) -> None:
    """Compare `text` with the file, or write it there."""
    if os.environ.get("MINI_REWRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing: run with MINI_REWRITE_GOLDEN=1"
    assert text == path.read_text()
