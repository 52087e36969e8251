"""What a caller with the wrong certificate, old TLS or altered ciphertexts gets: a refusal, no more."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from minicommon.identity.names import Caller
from minicommon.identity.peer import identity_of
from minicommon.rpc import access
from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import NodeRole
from minimanager.store.envelope import Envelope, SealError
from miniproto.v1 import (
    dispatcher_pb2,
    dispatcher_pb2_grpc,
    join_pb2,
    objects_pb2,
    security_pb2,
)
from support.contract import CONTROL, METHODS
from support.etcd import EtcdProcess, make_pki, running_etcd
from support.manager import Client, InProcess
from support.rubbish import PATIENCE, call


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


async def test_each_call_that_may_change_something_leaves_a_record(manager: InProcess, local: Client) -> None:
    """By the contract's own list of methods, whoever may call one and whatever comes of it."""
    clients = {caller: await manager.member(caller) for caller in (Caller.ADMIN, Caller.MANAGER)}
    clients[Caller.WORKER] = (await manager.join_worker())[1]
    recorded = [path for path in CONTROL if access.recorded(path)]
    assert len(recorded) > 30
    for path in recorded:
        client = next((each for caller, each in clients.items() if caller in access.allowed(path)), local)
        await call(client.channel, path, valid(METHODS[path]))
    answer = await local.audit.List(security_pb2.ListAuditRequest(limit=1000))
    assert {path.rpartition(".")[2] for path in recorded} <= {record.method for record in answer.records}


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
