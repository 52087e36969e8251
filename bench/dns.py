"""Names: what one answer costs, how many a node answers in a second, and what 10,000 a second cost its processor.

The server runs in a process of its own, as mini-ingress, with 1,000 services of 10 tasks; questions come from another
process over loopback. "A library" is the same work with dnspython: the message parsed, the answer built and written.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import dns.flags
import dns.message
import dns.rrset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from minicommon.clock import SystemClock
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2 as pb
from miniworker.ingress.dns.reading import Reading, read_table
from miniworker.ingress.dns.responder import Responder
from miniworker.ingress.dns.server import DnsServer, DnsSettings
from support.dns import client, network, service, table
from support.ports import free_port

SERVICES, TASKS = 1000, 10
ROUNDS, SECONDS = 3, 2.0
WINDOW = 64
"""Questions on their way at a time when as many as possible are asked."""
RATE = 10_000
"""Questions a second that a node should bear easily."""

GATEWAY, ASKS = "127.0.1.1", "127.0.1.5"


def big_table(*, gone: int = 0) -> pb.DnsTable:
    """`gone`: tasks of the first service that have been removed."""
    return table(
        [network("n", name="backend", gateway=GATEWAY)],
        [_service(number, TASKS - (gone if number == 0 else 0)) for number in range(SERVICES)],
        [client(ASKS, "n")],
    )


def _service(number: int, tasks: int) -> dispatch.NetworkService:
    last_bytes = f"{number // 250}.{number % 250}"
    addresses = [f"10.{task + 2}.{last_bytes}" for task in range(tasks)]
    made = service("n", f"service{number}", virtual=f"10.1.{last_bytes}", tasks=addresses)
    for backend in made.backends:
        backend.task_id = f"{number:06}{backend.slot:06}xxxxxxxxxxxxx"
        backend.container_name = f"{made.name}.{backend.slot}.{backend.task_id}"
    return made


def main() -> None:
    _costs()
    _tables()
    with tempfile.TemporaryDirectory() as directory:
        port = free_port(socket.SOCK_DGRAM)
        command = [sys.executable, "-m", "bench.dns", directory, str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                server.stdout.readline()
                _through_sockets(server.pid, port)
            finally:
                server.send_signal(signal.SIGTERM)


# --- in one process ---


def _costs() -> None:
    responder = Responder(random=Random(1))
    responder.follow(read_table(big_table(), Reading()).zone)
    single, several = question("service7"), question("tasks.service7")
    edns = dns.message.make_query("service7", "A", use_edns=True).to_wire()
    rows: dict[str, Callable[[], object]] = {
        "one address": lambda: responder.respond(single, ASKS),
        "one address, EDNS": lambda: responder.respond(edns, ASKS),
        "ten addresses": lambda: responder.respond(several, ASKS),
        "one address, a library": lambda: _by_library(single, ["10.0.1.1"]),
        "ten addresses, a library": lambda: _by_library(several, [f"10.0.1.{last}" for last in range(10)]),
    }
    for name, work in rows.items():
        print(f"{name:<28} {_microseconds(work):8.1f} us an answer")


def _by_library(packet: bytes, addresses: list[str]) -> bytes:
    query = dns.message.from_wire(packet)
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.AA
    answer.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", *addresses))
    return answer.to_wire()


def _microseconds(work: Callable[[], object], count: int = 3000) -> float:
    """The best of several rounds: what the others add is the machine's."""
    rounds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(count):
            work()
        rounds.append((time.perf_counter() - begun) / count * 1e6)
    return min(rounds)


def _tables() -> None:
    """Each as it arrives: a message of its own."""
    data = {gone: big_table(gone=gone).SerializeToString() for gone in (0, 1)}
    tables = {gone: pb.DnsTable.FromString(text) for gone, text in data.items()}
    reading = read_table(pb.DnsTable.FromString(data[0]), Reading())
    rows: dict[str, Callable[[], object]] = {
        "first table": lambda: read_table(tables[0], Reading()),
        "next, one task has gone": lambda: read_table(tables[1], reading),
        "next, nothing has changed": lambda: read_table(tables[0], reading),
    }
    for name, work in rows.items():
        print(f"{name:<28} {_microseconds(work, 1) / 1000:8.1f} ms")


# --- through sockets ---


def _through_sockets(pid: int, port: int) -> None:
    for name, asked in (("one address", "service7"), ("ten addresses", "tasks.service7")):
        rates = [_as_many_as_possible(port, question(asked)) for _ in range(ROUNDS)]
        print(f"{name:<28} {statistics.median(rates):8,.0f} answers/s, {WINDOW} at a time")
    before = _cpu_seconds(pid)
    delays, lost = _paced(port, question("service7"))
    share = (_cpu_seconds(pid) - before) / SECONDS
    percentiles = statistics.quantiles(delays, n=100)
    print(
        f"{f'{RATE:,} a second':<28} {share:8.0%} of one core, {percentiles[49] * 1e6:.0f} us median, "
        f"{percentiles[98] * 1e6:.0f} us in 99 of 100, {lost} lost"
    )


def question(name: str) -> bytes:
    return dns.message.make_query(name, "A").to_wire()


def _asking(port: int) -> socket.socket:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.bind((ASKS, 0))
    asking.connect((GATEWAY, port))
    asking.settimeout(5)
    return asking


def _as_many_as_possible(port: int, packet: bytes) -> float:
    with _asking(port) as asking:
        for _ in range(WINDOW):
            asking.send(packet)
        answered, begun = 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < SECONDS:
            asking.recv(4096)
            asking.send(packet)
            answered += 1
    return answered / passed


def _paced(port: int, packet: bytes) -> tuple[list[float], int]:
    """RATE questions a second, whatever is answered: (seconds until each answer, how many had none)."""
    wanted = int(RATE * SECONDS)
    delays: list[float] = []
    sent: dict[int, float] = {}
    with _asking(port) as asking:
        asking.setblocking(False)
        begun, number = time.perf_counter(), 0
        while number < wanted or (sent and time.perf_counter() - begun < SECONDS + 2):
            now = time.perf_counter()
            while number < wanted and begun + number / RATE <= now:
                asking.send(number.to_bytes(2, "big") + packet[2:])
                sent[number] = time.perf_counter()
                number += 1
            try:
                while True:
                    answer = asking.recv(4096)
                    delays.append(time.perf_counter() - sent.pop(int.from_bytes(answer[:2], "big")))
            except BlockingIOError:
                os.sched_yield()
    return delays, len(sent)


def _cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


# --- the server's process ---


async def _serve(directory: Path, port: int) -> None:
    settings = DnsSettings(table=directory / "table", netns_dir=directory, port=port)
    server = DnsServer(settings, clock=SystemClock(), random=Random(1))
    message = big_table()
    for problem in await server.apply(await server.read(message), message):
        print(problem, file=sys.stderr)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", flush=True)
    await ended.wait()
    await server.close()
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB at most", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
