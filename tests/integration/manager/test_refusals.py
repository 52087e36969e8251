"""Wrong requests, each with the code and the words that its sender gets. Nothing they ask for is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from minicommon.identity.names import Caller
from minicommon.ids import new_id
from miniproto.v1 import control_pb2, dispatcher_pb2, dispatcher_pb2_grpc, join_pb2, objects_pb2
from support.manager import Client, InProcess, manager_in_process

M = TypeVar("M", bound=Message)
Spec = objects_pb2.ServiceSpec
Port = objects_pb2.PortConfig
TCP, UDP = objects_pb2.PORT_PROTOCOL_TCP, objects_pb2.PORT_PROTOCOL_UDP
HOST = objects_pb2.PUBLISH_MODE_HOST
HOUR = 3600 * 10**9


def spec(name: str = "other", *, ports: tuple[Port, ...] = (), **container: Any) -> Spec:
    image = container.pop("image", "whoami:1")
    return Spec(
        name=name,
        replicas=1,
        task=objects_pb2.TaskSpec(container=objects_pb2.ContainerSpec(image=image, **container)),
        ports=ports,
    )


def create(wanted: Spec) -> control_pb2.CreateServiceRequest:
    return control_pb2.CreateServiceRequest(spec=wanted)


def unknown_field(message: M) -> M:
    """The message with a field of a later version in it."""
    return type(message).FromString(message.SerializeToString() + b"\xf8\x3f\x01")


@dataclass(frozen=True)
class Refusal:
    """A request that `web` (port 4567 in ingress mode) stands in the way of, or that is wrong by itself."""

    name: str
    call: Callable[[Client], Awaitable[object]]
    code: StatusCode
    words: str
    caller: Caller = Caller.LOCAL


def creating(name: str, wanted: Spec, code: StatusCode, words: str) -> Refusal:
    return Refusal(name, lambda c: c.services.Create(create(wanted)), code, words)


INVALID, EXISTS, MISSING = StatusCode.INVALID_ARGUMENT, StatusCode.ALREADY_EXISTS, StatusCode.NOT_FOUND
STATE, DENIED, OLD = StatusCode.FAILED_PRECONDITION, StatusCode.PERMISSION_DENIED, StatusCode.ABORTED

SPECS = [
    creating("no name", spec(""), INVALID, "meta: name must be provided"),
    creating("name with a space", spec("my web"), INVALID, "name must be valid as a DNS name component"),
    creating("name with a slash", spec("a/b"), INVALID, "name must be valid as a DNS name component"),
    creating("name of 64", spec("a" * 64), INVALID, "name must be 63 characters or fewer"),
    creating(
        "name in use",
        spec("web"),
        EXISTS,
        "name conflicts with an existing object: service web already exists",
    ),
    creating("no image", spec(image=""), INVALID, "image"),
    creating("image that is none", spec(image="UPPER CASE"), INVALID, "invalid reference format"),
    creating("target port 0", spec(ports=(Port(published_port=80),)), INVALID, "port"),
    creating("target port 70000", spec(ports=(Port(target_port=70000),)), INVALID, "port"),
    creating(
        "published port 70000", spec(ports=(Port(target_port=80, published_port=70000),)), INVALID, "port"
    ),
    creating(
        "the same port twice",
        spec(ports=(Port(target_port=80, published_port=81), Port(target_port=82, published_port=81))),
        INVALID,
        "81",
    ),
    creating(
        "ingress port of another service",
        spec(ports=(Port(target_port=80, published_port=4567),)),
        EXISTS,
        "port '4567' is already in use by service 'web' (",
    ),
    creating(
        "host port that is another service's ingress port",
        spec(ports=(Port(target_port=80, published_port=4567, publish_mode=HOST),)),
        EXISTS,
        "as an ingress port",
    ),
    creating("environment without a name", spec(env=["=x"]), INVALID, "env"),
    creating("environment with a NUL", spec(env=["A=b\0c"]), INVALID, "NUL character"),
    creating("unknown capability", spec(cap_add=["CAP_FLY"]), INVALID, "CAP_FLY"),
    creating("unknown stop signal", spec(stop_signal="SIGFLY"), INVALID, "SIGFLY"),
    creating("negative grace period", spec(stop_grace_period_ns=-1), INVALID, "stop"),
    creating("an object of 2 MiB", spec(env=["A=" + "x" * 2_000_000]), INVALID, ""),
    creating("an unknown field", unknown_field(spec()), INVALID, "unknown field number"),
]


def mode_5() -> Spec:
    wanted = spec()
    wanted.mode = 5  # type: ignore[assignment]
    return wanted


def limited(**limits: Any) -> Spec:
    wanted = spec()
    wanted.task.resources.limits.MergeFrom(objects_pb2.ResourceLimits(**limits))
    return wanted


SPECS += [
    creating("a mode that does not exist", mode_5(), INVALID, "mode"),
    creating("less than 0.001 CPUs", limited(nano_cpus=1000), INVALID, "cpu"),
    creating("less than 4 MiB of memory", limited(memory_bytes=1024), INVALID, "memory"),
]


def update_web(version: int, **changes: Any) -> Callable[[Client], Awaitable[object]]:
    wanted = spec("web", ports=(Port(target_port=4567, published_port=4567),))
    wanted.MergeFrom(Spec(**changes))

    async def call(client: Client) -> object:
        present = (await client.services.Get(control_pb2.GetRequest(ref="web"))).service.meta.version
        return await client.services.Update(
            control_pb2.UpdateServiceRequest(ref="web", version=version or present, spec=wanted)
        )

    return call


def cluster_update(**changes: Any) -> Callable[[Client], Awaitable[object]]:
    async def call(client: Client) -> object:
        cluster = (await client.clusters.Get(control_pb2.GetClusterRequest())).cluster
        for key, value in changes.items():
            setattr(cluster.spec, key, value)
        request = control_pb2.UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec)
        return await client.clusters.Update(request)

    return call


async def demote_self(client: Client) -> object:
    node = (await client.nodes.Get(control_pb2.GetRequest(ref="self"))).node
    node.spec.role = objects_pb2.NODE_ROLE_WORKER
    return await client.nodes.Update(
        control_pb2.UpdateNodeRequest(ref="self", version=node.meta.version, spec=node.spec)
    )


OTHERS = [
    Refusal("unknown service", lambda c: c.services.Get(control_pb2.GetRequest(ref="nope")), MISSING, "nope"),
    Refusal("empty reference", lambda c: c.services.Get(control_pb2.GetRequest()), INVALID, "service"),
    Refusal("unknown node", lambda c: c.nodes.Get(control_pb2.GetRequest(ref="nope")), MISSING, "nope"),
    Refusal("unknown task", lambda c: c.tasks.Get(control_pb2.GetRequest(ref="nope")), MISSING, "nope"),
    Refusal("unknown network", lambda c: c.networks.Get(control_pb2.GetRequest(ref="nope")), MISSING, "nope"),
    Refusal(
        "watch of an unknown service",
        lambda c: anext(aiter(c.tasks.WatchService(control_pb2.WatchServiceRequest(ref="nope")))),
        MISSING,
        "nope",
    ),
    Refusal(
        "scale of an unknown service",
        lambda c: c.services.Scale(control_pb2.ScaleServiceRequest(ref="nope", replicas=2)),
        MISSING,
        "nope",
    ),
    Refusal(
        "removal of an unknown service",
        lambda c: c.services.Remove(control_pb2.RemoveServiceRequest(ref="nope")),
        MISSING,
        "nope",
    ),
    Refusal(
        "too many replicas",
        lambda c: c.services.Scale(control_pb2.ScaleServiceRequest(ref="web", replicas=10**9)),
        INVALID,
        "replicas",
    ),
    Refusal("update of an old version", update_web(1), OLD, "update out of sequence"),
    Refusal("renaming", update_web(0, name="else"), STATE, "renaming services is not supported"),
    Refusal(
        "unknown filter",
        lambda c: c.services.List(control_pb2.ListRequest(filters=[control_pb2.Filter(key="colour")])),
        INVALID,
        "invalid filter 'colour'",
    ),
    Refusal(
        "unknown field in a list",
        lambda c: c.nodes.List(unknown_field(control_pb2.ListRequest())),
        INVALID,
        "unknown field number",
    ),
    Refusal("certificates of less than an hour", cluster_update(certificate_lifetime_ns=1), INVALID, ""),
    Refusal("heartbeats without pause", cluster_update(heartbeat_period_ns=0), INVALID, "heartbeat"),
    Refusal("renaming the cluster", cluster_update(name="other"), INVALID, "cluster name"),
    Refusal(
        "token for a role that does not exist",
        lambda c: c.clusters.JoinToken(control_pb2.JoinTokenRequest(role=7)),  # type: ignore[arg-type]
        INVALID,
        "role",
    ),
    Refusal(
        "removal of the manager",
        lambda c: c.nodes.Remove(control_pb2.RemoveNodeRequest(ref="self", force=True)),
        STATE,
        "It must be demoted to worker before removal",
    ),
    Refusal("demoting the last manager", demote_self, STATE, "attempting to demote the last manager"),
]


def denied(name: str, caller: Caller, call: Callable[[Client], Awaitable[object]]) -> Refusal:
    return Refusal(name, call, DENIED, f"the caller is {caller.name.lower()}", caller)


ROLES = [
    denied("worker lists services", Caller.WORKER, lambda c: c.services.List(control_pb2.ListRequest())),
    denied("worker creates", Caller.WORKER, lambda c: c.services.Create(create(spec()))),
    denied("worker reads nodes", Caller.WORKER, lambda c: c.nodes.List(control_pb2.ListRequest())),
    denied(
        "worker asks for a token",
        Caller.WORKER,
        lambda c: c.clusters.JoinToken(control_pb2.JoinTokenRequest()),
    ),
    denied("viewer creates", Caller.VIEWER, lambda c: c.services.Create(create(spec()))),
    denied(
        "viewer removes",
        Caller.VIEWER,
        lambda c: c.services.Remove(control_pb2.RemoveServiceRequest(ref="web")),
    ),
    denied(
        "operator asks for a token",
        Caller.OPERATOR,
        lambda c: c.clusters.JoinToken(control_pb2.JoinTokenRequest()),
    ),
    denied(
        "operator removes a node",
        Caller.OPERATOR,
        lambda c: c.nodes.Remove(control_pb2.RemoveNodeRequest(ref="self")),
    ),
    denied(
        "admin leaves in the place of a node",
        Caller.ADMIN,
        lambda c: c.membership.Leave(join_pb2.LeaveRequest()),
    ),
    denied(
        "root opens a node's session",
        Caller.LOCAL,
        lambda c: anext(aiter(dispatcher_pb2_grpc.DispatcherStub(c.channel).Session(hello()))),
    ),
]


async def hello(address: str = "10.77.0.12") -> AsyncIterator[dispatcher_pb2.WorkerMessage]:
    yield dispatcher_pb2.WorkerMessage(hello=dispatcher_pb2.Hello(data_path_address=address))


async def heartbeat_first() -> AsyncIterator[dispatcher_pb2.WorkerMessage]:
    yield dispatcher_pb2.WorkerMessage(heartbeat=dispatcher_pb2.Heartbeat())


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as running:
        local = await running.local()
        await local.services.Create(create(spec("web", ports=(Port(target_port=4567, published_port=4567),))))
        yield running


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("case", [*SPECS, *OTHERS, *ROLES], ids=lambda case: case.name)
async def test_refusal(case: Refusal, manager: InProcess) -> None:
    local = await manager.local()
    client = local if case.caller is Caller.LOCAL else await manager.member(case.caller)
    error = await refused(case.call(client))
    assert (error.code(), case.words in (error.details() or "")) == (case.code, True), error.details()
    listed = await local.services.List(control_pb2.ListRequest())
    assert [view.service.spec.name for view in listed.services] == ["web"]


async def test_a_certificate_of_another_cluster_is_refused(manager: InProcess) -> None:
    stranger = await manager.member(Caller.ADMIN, cluster_id=new_id())
    error = await refused(stranger.services.List(control_pb2.ListRequest()))
    assert error.code() is DENIED
    assert "belongs to cluster" in (error.details() or "")


async def test_the_control_port_does_not_talk_without_a_certificate(manager: InProcess) -> None:
    credentials = grpc.ssl_channel_credentials(manager.home.root.certificate_pem)
    options = (("grpc.ssl_target_name_override", "swarm-manager"),)
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{manager.control_port}", credentials, options=options
    ) as channel:
        error = await refused(Client(channel).services.List(control_pb2.ListRequest(), timeout=10))
    assert error.code() is StatusCode.UNAVAILABLE


async def test_a_node_that_is_not_in_the_cluster_gets_no_session(manager: InProcess) -> None:
    stranger = await manager.member(Caller.WORKER)
    stub = dispatcher_pb2_grpc.DispatcherStub(stranger.channel)
    error = await refused(anext(aiter(stub.Session(hello()))))
    assert error.code() is MISSING


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (heartbeat_first, "the first one must be hello, got heartbeat"),
        (lambda: hello("core-02"), "data_path_address: must be an IPv4 address"),
    ],
)
async def test_a_session_that_begins_wrong_is_refused(
    messages: Callable[[], AsyncIterator[dispatcher_pb2.WorkerMessage]], words: str, manager: InProcess
) -> None:
    own = await manager.member(Caller.MANAGER, manager.home.settings.node_id)
    stub = dispatcher_pb2_grpc.DispatcherStub(own.channel)
    error = await refused(anext(aiter(stub.Session(messages()))))
    assert error.code() is INVALID
    assert words in (error.details() or "")
