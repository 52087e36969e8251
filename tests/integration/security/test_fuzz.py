"""Rubbish to each port of a node: nothing breaks, nothing grows, and no answer tells of what is inside.

`MINI_TEST_FUZZ=100000` for a full run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import dns.message
import grpc
import pytest
from minicommon.clock import SystemClock
from minicommon.identity.names import Caller
from minicommon.rpc import access
from minicommon.rpc.channel import unix_channel
from miniproto.v1 import control_pb2
from miniworker.ingress.dns.server import DnsServer, DnsSettings
from support.cluster import RUN_DIR, Cluster
from support.contract import CONTROL, METHODS
from support.dns import DnsClient, client, network, service, table
from support.etcd import running_etcd
from support.hosts import Host, Lab
from support.manager import ManagerProcess, manager_process
from support.ports import free_port
from support.rubbish import MESSAGES, MOST_GROWTH_BYTES, bombard, pelt, resident_bytes

pytestmark = pytest.mark.timeout(1800)

logger = logging.getLogger(__name__)

WITHOUT = (
    "RootAuthority/Rotate",
    "EncryptionKeys/Rotate",
    "EncryptionKeys/UnlockKey",
    "Membership/Leave",
)
"""Not those that succeed without arguments and change whom the cluster trusts, again and again."""

BROKEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}


@pytest.fixture
async def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ManagerProcess]:
    monkeypatch.setenv("MINI_TEST_NO_CALL_LIMITS", "1")  # or most of it would be refused unread
    async with running_etcd(tmp_path / "etcd") as etcd, manager_process(etcd.settings) as running:
        yield running


async def unharmed(process: ManagerProcess, before: int) -> None:
    """The manager serves, has not grown, and met nothing that it did not expect."""
    grown = resident_bytes(process.pid) - before
    logger.info("%d messages: %+.1f MiB, %d MiB before", MESSAGES, grown / 2**20, before >> 20)
    assert grown < MOST_GROWTH_BYTES, f"{grown >> 20} MiB more after {MESSAGES} messages"
    assert (await (await process.local()).services.List(control_pb2.ListRequest())).revision
    assert "Internal error" not in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize("caller", list(Caller))
async def test_rubbish_neither_breaks_nor_fattens_the_manager_nor_learns_of_it(
    process: ManagerProcess, caller: Caller
) -> None:
    """Of anybody on the join port, of root on the socket, of all others on the control port: all that they may call."""
    served = [path for path in METHODS if path.startswith("/mini.v1.Join/")]
    if caller is not Caller.ANYONE:
        served = [path for path in CONTROL if not path.endswith(WITHOUT)]
    methods = {path: METHODS[path] for path in served if caller in access.allowed(path)}
    channel = await _channel(process, caller)
    await bombard(channel, methods, MESSAGES // 4, seed=1)
    before = resident_bytes(process.pid)
    codes = await bombard(channel, methods, MESSAGES, seed=2)
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert not BROKEN & codes.keys(), f"{codes}\n{process.log[-3000:]}"
    await unharmed(process, before)


async def _channel(process: ManagerProcess, caller: Caller) -> grpc.aio.Channel:
    if caller is Caller.ANYONE:
        return (await process.joiner()).channel
    if caller is Caller.LOCAL:
        return (await process.local()).channel
    if caller is Caller.WORKER:
        return (await process.join_worker())[1].channel
    return (await process.member(caller)).channel


@pytest.mark.parametrize("port", ["join", "control"])
async def test_bytes_that_are_no_calls(process: ManagerProcess, port: str) -> None:
    """No TLS at all, or TLS without a certificate and then no HTTP/2, or none that makes sense."""
    number = process.join_port if port == "join" else process.control_port
    await pelt(number, MESSAGES // 4, seed=3)
    before = resident_bytes(process.pid)
    await pelt(number, MESSAGES, seed=4)
    await unharmed(process, before)


# --- the node's own socket ---


@pytest.fixture
def node() -> Iterator[Cluster]:
    with Lab(f"f{os.getpid() % 10000}", ("core-01",)) as lab:
        cluster = Cluster(lab)
        cluster.start("core-01")
        cluster.ctl("core-01", "swarm", "init", "--advertise-addr", lab["core-01"].address)
        yield cluster


def _outer_pid(program: str, host: Host) -> int:
    """Of a program on the host, as this machine numbers it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        by_python = "python" in command.partition("\0")[0]  # and not by what put it into the host
        if by_python and f"bin/{program}\0" in command and str(host.directory) in command:
            return int(entry.name)
    raise AssertionError(f"no {program} runs on {host.name}")


@pytest.mark.root
async def test_rubbish_to_the_daemons_socket(node: Cluster) -> None:
    """Of root, through the socket that minictl uses: what the daemon answers itself. The rest is the manager's."""
    host = node.lab["core-01"]
    pid = _outer_pid("mini-worker", host)
    own = ("LocalNode", "Images", "Volumes")
    methods = {
        path: method
        for path, method in METHODS.items()
        if method.containing_service.name in own and not path.endswith("/Leave")
    }
    async with unix_channel(Path(f"/proc/{pid}/root{RUN_DIR}/mini.sock")) as channel:
        await bombard(channel, methods, MESSAGES // 4, seed=5)
        before = resident_bytes(pid)
        codes = await bombard(channel, methods, MESSAGES, seed=6)
    grown = resident_bytes(pid) - before
    logger.info("%d messages: %+.1f MiB, %d MiB before", MESSAGES, grown / 2**20, before >> 20)
    assert grown < MOST_GROWTH_BYTES
    assert not BROKEN & codes.keys(), f"{codes}\n{host.log('mini-worker.log')[-3000:]}"
    assert "Traceback" not in host.log("mini-worker.log")
    assert node.ctl("core-01", "node", "ls", "-q").stdout


# --- names ---

GATEWAY, ASKS, STRANGER = "127.0.1.1", "127.0.1.5", "127.0.1.9"
TABLE = table(
    (network("n", name="backend", gateway=GATEWAY),),
    (service("n", "web", virtual="10.0.1.2", tasks=("10.0.1.5",)),),
    (client(ASKS, "n"),),
)


def _question(random: Random) -> bytes:
    if random.random() < 0.3:
        return random.randbytes(random.randrange(1500))
    name = random.choice(("web", "tasks.web", "n" * 63, "5.1.0.10.in-addr.arpa", "a.b.c.d.e"))
    kind = random.choice(("A", "AAAA", "PTR", "ANY", "TXT", "OPT"))
    data = bytearray(dns.message.make_query(name, kind, use_edns=random.random() < 0.5).to_wire())
    for _ in range(random.randrange(5)):
        data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data)


async def test_rubbish_to_the_dns_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a container and of a stranger, over udp, and now and then over tcp."""
    settings = DnsSettings(
        table=tmp_path / "table.pb",
        netns_dir=tmp_path,
        host_servers=tuple,
        port=free_port(socket.SOCK_STREAM),
        upstream_port=free_port(socket.SOCK_STREAM),
        upstream_timeout=1.0,
    )
    server = DnsServer(settings, clock=SystemClock(), random=Random(1))
    await server.restore()
    try:
        assert await server.apply(await server.read(TABLE), TABLE) == []
        await _ask_rubbish(settings.port, MESSAGES // 4, seed=7)
        before = resident_bytes(os.getpid())
        await _ask_rubbish(settings.port, MESSAGES, seed=8)
        grown = resident_bytes(os.getpid()) - before
        logger.info("%d questions: %+.1f MiB, %d MiB before", MESSAGES, grown / 2**20, before >> 20)
        assert grown < MOST_GROWTH_BYTES
    finally:
        await server.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def _ask_rubbish(port: int, count: int, seed: int) -> None:
    random = Random(seed)
    good = DnsClient((GATEWAY, port), source=ASKS)
    with socket.socket(type=socket.SOCK_DGRAM) as task, socket.socket(type=socket.SOCK_DGRAM) as stranger:
        for each, address in ((task, ASKS), (stranger, STRANGER)):
            each.setblocking(False)
            each.bind((address, 0))
        for number in range(count):
            packet = _question(random)
            (stranger if number % 5 == 0 else task).sendto(packet, (GATEWAY, port))
            if number % 100 == 99:
                await _over_tcp(port, packet)
                assert (await good.ask("web")).answer  # all before it has been read by now
                _drain(task)


async def _over_tcp(port: int, packet: bytes) -> None:
    reader, writer = await asyncio.open_connection(GATEWAY, port, local_addr=(ASKS, 0))
    writer.write(packet)
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 60)
    writer.close()


def _drain(receiver: socket.socket) -> None:
    try:
        while True:
            receiver.recv(65535)
    except BlockingIOError:
        return
