"""What a caller with the wrong certificate, old TLS, altered ciphertexts or rubbish gets: a refusal, no more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from minicommon.identity.names import Caller
from minicommon.identity.peer import identity_of
from minicommon.rpc import access
from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import NodeRole
from minimanager.store.envelope import Envelope, SealError
from miniproto.v1 import control_pb2, dispatcher_pb2, dispatcher_pb2_grpc, join_pb2, objects_pb2
from support.etcd import EtcdProcess, make_pki, running_etcd
from support.manager import Client, InProcess, ManagerProcess, manager_process

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for service in access.services()
    for method in service.methods
}

SERVED_FILES = (
    *("backup.proto", "control.proto", "secrets.proto", "security.proto", "dispatcher.proto"),
    "streams.proto",
)

CONTROL = [
    path
    for path, method in METHODS.items()
    if method.containing_service.file.name.endswith(SERVED_FILES) or path.startswith("/mini.v1.Membership/")
]
"""What a manager serves on its control port."""

MESSAGES = int(os.environ.get("MINI_TEST_FUZZ", "2000"))
"""Of each caller; 100,000 in a full run."""

MOST_GROWTH_BYTES = 48 * 1024 * 1024
"""Of the manager's memory over a run: caches fill at its beginning, but nothing is kept of each message."""

INTERNALS = re.compile(
    r"Traceback|site-packages|\.py\b|google\.protobuf|<class|minimanager|minicommon|0x[0-9a-f]{6}"
)

PATIENCE = 30.0


async def call(channel: grpc.aio.Channel, path: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    """What comes of one message to a method, sent as it is."""
    open_call: Any = channel.stream_stream(path)

    async def one() -> AsyncIterator[bytes]:
        yield data

    stream = open_call(one(), timeout=PATIENCE)
    try:
        async for _ in stream:
            break
        else:
            return await stream.code(), await stream.details()
        return grpc.StatusCode.OK, ""
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    finally:
        stream.cancel()


def valid(method: MethodDescriptor) -> bytes:
    """An empty request, which is one of every kind."""
    return message_factory.GetMessageClass(method.input_type)().SerializeToString()


@pytest.mark.parametrize("caller", [Caller.WORKER, Caller.VIEWER, Caller.OPERATOR, Caller.MANAGER])
async def test_a_caller_reaches_what_is_declared_and_nothing_else(manager: InProcess, caller: Caller) -> None:
    """Every method of the contract, those that a manager does not even serve, too."""
    client = await manager.member(caller)
    for path, method in METHODS.items():
        if caller in access.allowed(path):
            continue
        code, details = await call(client.channel, path, valid(method))
        expected = grpc.StatusCode.PERMISSION_DENIED if path in CONTROL else grpc.StatusCode.UNIMPLEMENTED
        assert code is expected, (path, code, details)


async def test_a_viewer_changes_nothing(manager: InProcess) -> None:
    viewer = await manager.member(Caller.VIEWER)
    before = {item.key: item.value for item in (await manager.store.list("")).items}
    tried = [path for path in CONTROL if not access.reads(path)]
    assert len(tried) > 15
    for path in tried:
        code, _ = await call(viewer.channel, path, valid(METHODS[path]))
        assert code is grpc.StatusCode.PERMISSION_DENIED, path
    after = {item.key: item.value for item in (await manager.store.list("")).items}
    keys = manager.manager.core.keys
    besides = {keys.leader, keys.barrier}  # of the manager itself
    assert {k: v for k, v in after.items() if k not in besides} == {
        k: v for k, v in before.items() if k not in besides
    }


# --- a worker that poses as another ---


async def test_a_renewal_names_who_asks_whatever_the_request_says(manager: InProcess) -> None:
    (victim, _), (mallory, client) = await manager.join_worker(), await manager.join_worker()
    key = ec.generate_private_key(ec.SECP256R1())
    names = ((NameOID.COMMON_NAME, victim), (NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager"))
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in names])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    request = join_pb2.RenewCertificateRequest(csr_pem=csr.public_bytes(serialization.Encoding.PEM))
    answer = await client.membership.RenewCertificate(request)
    identity = identity_of(answer.certificate_pem)
    assert (identity.node_id, identity.caller) == (mallory, Caller.WORKER)


async def test_a_session_is_of_the_certificates_node_and_tells_of_no_other(
    manager: InProcess, local: Client
) -> None:
    victim, _ = await manager.join_worker()
    mallory, client = await manager.join_worker()
    session = dispatcher_pb2_grpc.DispatcherStub(client.channel).Session(timeout=PATIENCE)
    hello = dispatcher_pb2.Hello(
        description=objects_pb2.NodeDescription(hostname="x"),
        data_path_address="127.0.0.1",
        manager_address="127.0.0.1:1",  # a worker is no manager, whatever it says
    )
    await session.write(dispatcher_pb2.WorkerMessage(hello=hello))
    await session.read()
    report = dispatcher_pb2.StatusReport(
        statuses=[objects_pb2.TaskStatus(id="t", node_id=victim, state=objects_pb2.TASK_STATE_RUNNING)]
    )
    await session.write(dispatcher_pb2.WorkerMessage(status=report))
    await session.done_writing()
    while await session.read() is not grpc.aio.EOF:
        pass
    snapshot = await manager.manager.core.settle()
    assert victim not in snapshot.node_statuses
    assert snapshot.node_statuses[mallory].manager_address == ""
    assert snapshot.statuses == {}


async def test_a_node_of_an_id_that_is_not_in_the_cluster_gets_no_session(manager: InProcess) -> None:
    stranger = await manager.member(Caller.WORKER, "nobody")
    session = dispatcher_pb2_grpc.DispatcherStub(stranger.channel).Session(timeout=PATIENCE)
    await session.write(dispatcher_pb2.WorkerMessage(hello=dispatcher_pb2.Hello()))
    with pytest.raises(grpc.aio.AioRpcError, match="node nobody is not in the cluster") as caught:
        await session.read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# --- TLS ---


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    async with running_etcd(tmp_path / "etcd", pki=make_pki(tmp_path / "pki")) as process:
        yield process


def handshake(port: int, version: ssl.TLSVersion, certificate: Path, key: Path) -> str:
    """The version agreed on at a port by a client that can do no more than `version`. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(certificate, key)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain) as secure,
    ):
        return secure.version() or ""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_no_port_speaks_old_tls(manager: InProcess, etcd: EtcdProcess, tmp_path: Path) -> None:
    own = (manager.home.paths.node_certificate, manager.home.paths.node_key)
    ports = [
        (manager.join_port, own),
        (manager.control_port, own),
        (int(etcd.url.rpartition(":")[2]), (tmp_path / "pki" / "leaf.pem", tmp_path / "pki" / "leaf.key")),
    ]
    for port, pair in ports:
        assert await asyncio.to_thread(handshake, port, ssl.TLSVersion.TLSv1_2, *pair) == "TLSv1.2"
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises(OSError, match=r"(?i)version|EOF"):  # gRPC closes without a word
                await asyncio.to_thread(handshake, port, version, *pair)


# --- ciphertexts ---


async def test_sealed_values_that_change_places_do_not_open(manager: InProcess) -> None:
    cluster = (await manager.manager.core.settle()).cluster
    assert cluster is not None
    sealer = ClusterSealer(Envelope(b"k" * 32, cluster.id))
    assert sealer.token_text(NodeRole.WORKER, cluster).startswith("SWMTKN")
    swapped = replace(cluster, worker_token=cluster.manager_token, manager_token=cluster.worker_token)
    other_cluster = ClusterSealer(Envelope(b"k" * 32, "another"))
    attempts: list[Callable[[], object]] = [
        lambda: sealer.token_text(NodeRole.WORKER, swapped),
        lambda: sealer.authority(replace(cluster, sealed_root_key=cluster.worker_token.sealed)),
        lambda: sealer.open_unlock_key(replace(cluster, sealed_unlock_key=cluster.sealed_root_key)),
        lambda: other_cluster.authority(cluster),
    ]
    for attempt in attempts:
        with pytest.raises(SealError, match="altered or moved"):
            attempt()


# --- rubbish ---


class Rubbish:
    """Requests that nobody should send: random bytes, and filled-in requests with some of their bytes changed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def request(self, method: MethodDescriptor) -> bytes:
        random = self._random
        if random.random() < 0.3:
            return random.randbytes(random.randrange(200))
        message: Message = message_factory.GetMessageClass(method.input_type)()
        self._fill(message, 0)
        data = bytearray(message.SerializeToString())
        for _ in range(random.randrange(4)):
            if data:
                data[random.randrange(len(data))] = random.randrange(256)
        return bytes(data)

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < 0.4 or field.has_options:
                continue
            if field.message_type is not None:
                if field.message_type.GetOptions().map_entry or depth > 4:
                    continue
                inner = getattr(message, field.name)
                self._fill(inner.add() if field.is_repeated else inner, depth + 1)
            elif field.is_repeated:
                getattr(message, field.name).append(self._scalar(field))
            else:
                setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: Any) -> object:
        random = self._random
        if field.name in ("min_revision", "version"):
            return random.randrange(3)  # a large one makes a call wait for it, as it should
        if field.type == FieldDescriptor.TYPE_STRING:
            return "".join(
                chr(random.choice((9, 47, 97, 233, 0x4E2D, 0x1F600))) for _ in range(random.randrange(40))
            )
        if field.type == FieldDescriptor.TYPE_BYTES:
            return random.randbytes(random.randrange(60))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return random.random() < 0.5
        if field.enum_type is not None:
            return random.choice((0, 1, 2, 99))
        signed = field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32)
        bits = 31 if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32) else 63
        value = random.choice((0, 1, 7, 1 << 20, (1 << bits) - 1))
        return -value if signed and random.random() < 0.3 else value


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ManagerProcess]:
    async with running_etcd(tmp_path / "etcd") as etcd, manager_process(etcd.settings) as running:
        yield running


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def bombard(
    channel: grpc.aio.Channel, paths: list[str], count: int, seed: int
) -> dict[grpc.StatusCode, str]:
    """Send `count` messages, several at a time; the codes that came of them, each with a method that gave it."""
    rubbish, codes = Rubbish(seed), dict[grpc.StatusCode, str]()
    numbers = iter(range(count))

    async def sender() -> None:
        for number in numbers:
            path = paths[number % len(paths)]
            code, details = await call(channel, path, rubbish.request(METHODS[path]))
            assert not INTERNALS.search(details), (path, details)
            codes[code] = f"{path}: {details}"

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(sender())
    return codes


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("caller", [Caller.ANYONE, Caller.ADMIN, Caller.WORKER])
async def test_rubbish_neither_breaks_nor_fattens_the_manager_nor_learns_of_it(
    process: ManagerProcess, caller: Caller
) -> None:
    """Of anybody on the join port, of an admin and of a worker on the control port: all that they may call."""
    # Not those that succeed without arguments and change whom the cluster trusts, again and again.
    without = (
        "RootAuthority/Rotate",
        "EncryptionKeys/Rotate",
        "EncryptionKeys/UnlockKey",
        "Membership/Leave",
    )
    served = [path for path in METHODS if path.startswith("/mini.v1.Join/")]
    if caller is not Caller.ANYONE:
        served = [path for path in CONTROL if not path.endswith(without)]
    paths = [path for path in served if caller in access.allowed(path)]
    channel = await _channel(process, caller)
    await bombard(channel, paths, MESSAGES // 4, seed=1)
    before = resident_bytes(process.pid)
    codes = await bombard(channel, paths, MESSAGES, seed=2)
    grown = resident_bytes(process.pid) - before
    assert grown < MOST_GROWTH_BYTES, f"{grown >> 20} MiB more after {MESSAGES} messages"
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    broken = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}
    assert not broken & codes.keys(), f"{codes}\n{process.log[-3000:]}"
    assert (await (await process.local()).services.List(control_pb2.ListRequest())).revision
    assert "Internal error" not in process.log
    assert "Traceback" not in process.log


async def _channel(process: ManagerProcess, caller: Caller) -> grpc.aio.Channel:
    if caller is Caller.ANYONE:
        return (await process.joiner()).channel
    if caller is Caller.WORKER:
        return (await process.join_worker())[1].channel
    return (await process.member(caller)).channel


async def test_bytes_that_are_not_tls_at_all(process: ManagerProcess) -> None:
    random = Random(3)
    for port in (process.join_port, process.control_port):
        for _ in range(100):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(random.randbytes(random.randrange(1, 300)))
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
    assert (await (await process.local()).nodes.List(control_pb2.ListRequest())).nodes
