"""How long `minictl` takes to start, and what its own gRPC client saves against grpcio.

Every figure is a median of processes run in turn on one machine; the ratios carry over to others, the times do not.
The server is a real grpc.aio server on a unix socket. Byte code is cached, as it is after an installation.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import canned
from support.control_server import World, unix_server

ROUNDS = 25
MINICTL = Path(sys.executable).with_name("minictl")

FAST = """
from minictl.client import endpoint, messages
from minictl.client.channel import FastChannel
channel = FastChannel(endpoint.parse("{host}", {{}}))
response = channel.unary("Services/List", messages.ListRequest())
assert len(response.services) == 10
channel.close()
"""
GRPCIO = """
import grpc
from miniproto.v1 import control_pb2, control_pb2_grpc
with grpc.insecure_channel("{host}") as channel:
    response = control_pb2_grpc.ServicesStub(channel).List(control_pb2.ListRequest())
    assert len(response.services) == 10
"""


def median_ms(commands: dict[str, Sequence[str]]) -> dict[str, float]:
    """The median wall time of each command, run in turn so that a busy moment hits all of them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS + 1):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            times[name].append((time.perf_counter() - begin) * 1000)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    """Print medians and ratios."""
    world = World(services={str(index): canned.service(f"web{index}") for index in range(10)})
    python = sys.executable
    with tempfile.TemporaryDirectory(prefix="bench-cli-") as directory:
        host = f"unix://{directory}/mini.sock"
        commands: dict[str, Sequence[str]] = {
            "python -I -c pass": [python, "-I", "-c", "pass"],
            "minictl --help": [str(MINICTL), "--help"],
            "minictl service ls": [str(MINICTL), "-H", host, "service", "ls"],
            "one call, own client": [python, "-c", FAST.format(host=host)],
            "one call, grpcio": [python, "-c", GRPCIO.format(host=f"unix:{directory}/mini.sock")],
        }
        if docker := shutil.which("docker"):
            commands["docker --help"] = [docker, "--help"]
        with unix_server(Path(directory), world):
            medians = median_ms(commands)
    for name, value in medians.items():
        print(f"{name:<24} {value:6.1f} ms")
    base = medians["python -I -c pass"]
    print(f"minictl --help is {medians['minictl --help'] / base:.2f} times python -I -c pass")
    print(f"minictl service ls is {medians['minictl service ls'] / base:.2f} times python -I -c pass")
    print(
        f"a call with grpcio takes {medians['one call, grpcio'] / medians['one call, own client']:.2f} times ours"
    )


if __name__ == "__main__":
    main()
