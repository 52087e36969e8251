"""Runs every part in turn, or those named: `python -m bench [PART ...]`."""

from __future__ import annotations

import importlib
import sys

PARTS = ("scheduler", "store", "cli", "runtime", "ingress", "dns", "logs")


def main(names: list[str]) -> int:
    """Run the parts; the exit code."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        print(f"bench: no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name in names or PARTS:
        print(f"\n=== {name}", flush=True)
        importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
