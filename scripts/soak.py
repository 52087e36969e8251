"""Loss of power again and again: manager and etcd are killed while clients write, and nothing acknowledged may be lost.

`make soak` does it 50 times; `ROUNDS=500 make soak` longer. Each round kills both processes at a random moment, starts
them again and compares what is there with what was acknowledged; memory and descriptors of the manager are told. The
seed is printed: the same one draws the same moments, which the machine may meet in another state.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.crashes import Crashes  # noqa: E402  the tests' support is no installed package
from support.etcd import make_pki, running_etcd  # noqa: E402
from support.manager import manager_process  # noqa: E402


async def soak(rounds: int, seed: int) -> None:
    """Raises AssertionError, naming what is lost, in the round in which it is."""
    with tempfile.TemporaryDirectory(prefix="mini-soak-") as directory:
        etcd_dir = Path(directory) / "etcd"
        async with (
            running_etcd(etcd_dir, pki=make_pki(Path(directory) / "pki")) as etcd,
            manager_process(etcd.settings) as manager,
        ):
            crashes = Crashes(etcd, manager, Random(seed))
            for number in range(1, rounds + 1):
                began = time.monotonic()
                await crashes.round()
                process = Path("/proc") / str(manager.pid)
                resident_kb = next(
                    int(line.split()[1])
                    for line in (process / "status").read_text().splitlines()
                    if line.startswith("VmRSS")
                )
                print(
                    f"round {number}: {crashes.writes} writes acknowledged so far, "
                    f"{len(crashes.acknowledged)} services, none lost, {time.monotonic() - began:.1f} s; manager: "
                    f"{resident_kb // 1024} MiB, {len(list((process / 'fd').iterdir()))} descriptors",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    asyncio.run(soak(options.rounds, options.seed))


if __name__ == "__main__":
    main()
