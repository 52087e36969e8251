"""The main job, for a newcomer: three nodes on this machine, a replicated service, curl through every node.

Prints each command and what it really prints, and leaves nothing behind. The nodes are network namespaces with a real
etcd, real containers and real kernel networking. Needs root; `make demo` sets the rest up.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.cluster import Cluster, eventually, http_get  # noqa: E402
from support.hosts import Lab, sweep  # noqa: E402
from support.images import write_tutorial_archives  # noqa: E402

PREFIX = "minidemo"
NODES = ("core-01", "core-02", "core-03")
BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def main() -> int:
    """Run the demo, or remove what an interrupted one left. The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--down", action="store_true", help="remove what an interrupted demo left")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("demo: network namespaces and mounts need root; run it as root or with sudo", file=sys.stderr)
        return 1
    if options.down:
        sweep(PREFIX)
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="minidemo-images-") as directory, Lab(PREFIX, NODES) as lab:
            _play(Demo(lab), Path(directory))
    except KeyboardInterrupt:
        print("demo: interrupted; everything is removed", file=sys.stderr)
        return 130
    _say(
        f"Done in {time.monotonic() - started:.0f} s. Nothing is left running; the same on real machines: README.md"
    )
    return 0


class Demo:
    """Runs commands on the hosts, showing each with its output."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.cluster = Cluster(lab)

    def ctl(self, host: str, command: str) -> str:
        """Show and run a `minictl` command line on a host; its output."""
        print(f"{BOLD}{host}# minictl {command}{PLAIN}", flush=True)
        done = self.cluster.ctl(host, *shlex.split(command), check=False)
        print(done.stdout + done.stderr, flush=True)
        if done.returncode != 0:
            raise SystemExit(f"demo: that failed with exit code {done.returncode}\n{self.cluster.logs()}")
        return done.stdout

    def curl(self, host: str, url: str) -> str:
        """Show and run curl on a host; the body."""
        print(f"{BOLD}{host}$ curl {url}{PLAIN}", flush=True)
        body = http_get(self.lab[host], f"http://{url}")
        print(body, flush=True)
        return body


def _play(demo: Demo, directory: Path) -> None:
    _say("Three machines, core-01 to core-03, at 10.77.0.11-13, and a client at .99. Each starts its daemon.")
    demo.cluster.start(*NODES)
    archive = write_tutorial_archives(directory)["whoami:1"]
    for name in NODES:
        demo.ctl(name, f"image load -i {archive}")

    _say("Two commands make a cluster with mutual TLS, its state in etcd.")
    demo.ctl("core-01", "swarm init --advertise-addr 10.77.0.11")
    token = demo.cluster.ctl("core-01", "swarm", "join-token", "-q", "worker").stdout.strip()
    for name in NODES[1:]:
        demo.ctl(name, f"swarm join --token {token} 10.77.0.11:2377")
    demo.ctl("core-01", "node ls")

    _say("One command runs a service, and one scales it.")
    demo.ctl("core-01", "service create --name whoami -p 4567:4567 whoami:1")
    demo.ctl("core-01", "service scale whoami=5")
    demo.ctl("core-01", "service ls")
    demo.ctl("core-01", "service ps whoami")

    _say("Every node answers on the published port, wherever the tasks are.")
    for name in NODES:
        demo.curl("client", f"{name}:4567")
    answers: set[str] = set()

    def all_answered() -> bool:
        answers.add(http_get(demo.lab.client, "http://core-02:4567").strip())
        return len(answers) == 5

    eventually(all_answered, "all five containers answer through core-02", interval=0)
    _say(f"Asked repeatedly, core-02 passes requests to all five: {', '.join(sorted(answers))}.")

    _say("The application sees the client's own address, 10.77.0.99, whichever node it asks.")
    for name in NODES:
        demo.curl("client", f"{name}:4567/peer")
    demo.ctl("core-01", "service rm whoami")


def _say(text: str) -> None:
    print(f"{DIM}# {text}{PLAIN}", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
