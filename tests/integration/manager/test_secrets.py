"""Secrets and configs over real gRPC: what they may be, who may do what, and that a content goes nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from grpc import StatusCode
from minicommon.identity.names import Caller
from miniproto.v1 import control_pb2, objects_pb2, secrets_pb2
from support.manager import Client, InProcess, manager_in_process
from support.secret_site import Ref, Use, make_config, make_secret, make_service, service_spec

INVALID, EXISTS, MISSING = StatusCode.INVALID_ARGUMENT, StatusCode.ALREADY_EXISTS, StatusCode.NOT_FOUND
STATE, DENIED, OLD = StatusCode.FAILED_PRECONDITION, StatusCode.PERMISSION_DENIED, StatusCode.ABORTED
CANARY = b"canary-7f3a-password"


@pytest.fixture
async def manager() -> AsyncIterator[InProcess]:
    async with manager_in_process() as running:
        yield running


@pytest.fixture
async def client(manager: InProcess) -> Client:
    return await manager.local()


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_secret_from_create_to_remove(client: Client) -> None:
    secret_id = await make_secret(client, labels={"team": "a"})
    assert len(secret_id) == 25
    shown = await client.secrets.Get(Ref(ref="my-password"))
    assert (shown.id, shown.spec.name, shown.version) == (secret_id, "my-password", 1)
    assert [(each.number, each.size_bytes) for each in shown.versions] == [(1, 5)]
    filters = [control_pb2.Filter(key="label", values=["team=a"])]
    listed = await client.secrets.List(control_pb2.ListRequest(filters=filters))
    assert [each.id for each in listed.secrets] == [secret_id]
    await client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref=secret_id[:8]))
    assert not (await client.secrets.List(control_pb2.ListRequest())).secrets
    assert await make_secret(client) != secret_id  # its name is free


async def test_a_config_shows_its_content_and_a_list_does_not(client: Client) -> None:
    config_id = await make_config(client, data=b"\x00any bytes\xff")
    shown = await client.configs.Get(Ref(ref="site"))
    assert (shown.config.id, shown.config.size_bytes, shown.data) == (config_id, 11, b"\x00any bytes\xff")
    listed = await client.configs.List(control_pb2.ListRequest())
    assert [each.spec.name for each in listed.configs] == ["site"]
    await client.configs.Remove(secrets_pb2.RemoveConfigRequest(ref="site"))
    assert (await refused(client.configs.Get(Ref(ref="site")))).code() is MISSING


async def test_contents_are_sealed_in_the_store_and_gone_with_their_objects(manager: InProcess) -> None:
    client = await manager.local()
    await make_secret(client, data=CANARY)
    await make_config(client, data=CANARY)
    listed = await manager.store.list("/")
    assert len([item for item in listed.items if "/sealed/" in item.key]) == 2
    assert not [item.key for item in listed.items if CANARY in item.value]
    await client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref="my-password"))
    await client.configs.Remove(secrets_pb2.RemoveConfigRequest(ref="site"))
    assert not [item for item in (await manager.store.list("/")).items if "/sealed/" in item.key]


async def test_no_message_of_a_secret_has_a_field_for_its_content() -> None:
    """Responses could not show it if they wanted to."""
    for method in secrets_pb2.DESCRIPTOR.services_by_name["Secrets"].methods:
        seen, wanted = set(), [method.output_type]
        while wanted:
            message = wanted.pop()
            seen.add(message.full_name)
            for field in message.fields:
                if field.message_type is not None and field.message_type.full_name not in seen:
                    wanted.append(field.message_type)
                known = field.name in ("previous", "signature", "certificate")
                assert known or field.type != field.TYPE_BYTES, f"{method.name}: {field.full_name}"


async def test_labels_may_change_and_nothing_else(client: Client) -> None:
    await make_secret(client)
    await make_config(client)
    secret = await client.secrets.Get(Ref(ref="my-password"))
    spec = objects_pb2.SecretSpec(name="my-password", labels={"new": "1"})
    request = secrets_pb2.UpdateSecretRequest(ref=secret.id, version=secret.meta.version, spec=spec)
    await client.secrets.Update(request)
    assert dict((await client.secrets.Get(Ref(ref=secret.id))).spec.labels) == {"new": "1"}
    assert (await refused(client.secrets.Update(request))).code() is OLD
    config = (await client.configs.Get(Ref(ref="site"))).config
    changed = secrets_pb2.UpdateConfigRequest(
        ref="site", version=config.meta.version, spec=objects_pb2.ConfigSpec(name="site", labels={"a": "b"})
    )
    await client.configs.Update(changed)
    assert dict((await client.configs.Get(Ref(ref="site"))).config.spec.labels) == {"a": "b"}


async def test_what_is_in_use_is_not_removed(client: Client) -> None:
    await make_secret(client)
    await make_config(client)
    spec = service_spec(
        "secret",
        secrets=(Use(secret="my-password"),),
        configs=(objects_pb2.ConfigUse(config="site"),),
    )
    service_id = await make_service(client, spec)
    error = await refused(client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref="my-password")))
    assert (error.code(), error.details()) == (
        STATE,
        "secret 'my-password' is in use by the following service: secret",
    )
    await make_service(client, service_spec("also", secrets=(Use(secret="my-password"),)))
    error = await refused(client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref="my-password")))
    assert error.details() == "secret 'my-password' is in use by the following services: also, secret"
    error = await refused(client.configs.Remove(secrets_pb2.RemoveConfigRequest(ref="site")))
    assert error.details() == "config 'site' is in use by the following service: secret"
    for ref in (service_id, "also"):
        await client.services.Remove(control_pb2.RemoveServiceRequest(ref=ref))
    await client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref="my-password"))
    await client.configs.Remove(secrets_pb2.RemoveConfigRequest(ref="site"))


async def test_a_service_gets_ids_and_versions_for_the_names_it_gave(client: Client) -> None:
    secret_id, config_id = await make_secret(client), await make_config(client)
    target = objects_pb2.FileTarget(name="/etc/key", uid=5, gid=6, mode=0o400)
    await make_service(
        client,
        service_spec(
            secrets=(Use(secret="my-password"), Use(secret=secret_id, file=target)),
            configs=(objects_pb2.ConfigUse(config=config_id[:10]),),
        ),
    )
    container = (await client.services.Get(Ref(ref="web"))).service.spec.task.container
    first, second = container.secrets
    assert (first.secret, first.name, first.version, first.file.mode) == (secret_id, "my-password", 1, 0o444)
    assert (second.secret, second.file) == (secret_id, target)
    assert (container.configs[0].config, container.configs[0].name) == (config_id, "site")


async def test_use_and_removal_at_once_never_both_succeed(client: Client) -> None:
    for round_ in range(8):
        await make_secret(client, f"s{round_}")
        spec = service_spec(f"web{round_}", secrets=(Use(secret=f"s{round_}"),))
        used, removed = await asyncio.gather(
            make_service(client, spec),
            client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref=f"s{round_}")),
            return_exceptions=True,
        )
        assert isinstance(used, Exception) != isinstance(removed, Exception), (used, removed)


def secret(name: str, data: bytes = b"x", *, templating: str = "") -> Callable[[Client], Awaitable[object]]:
    request = secrets_pb2.CreateSecretRequest(
        spec=objects_pb2.SecretSpec(name=name, templating=templating), data=data
    )
    return lambda client: client.secrets.Create(request)


def config(name: str, data: bytes = b"x") -> Callable[[Client], Awaitable[object]]:
    request = secrets_pb2.CreateConfigRequest(spec=objects_pb2.ConfigSpec(name=name), data=data)
    return lambda client: client.configs.Create(request)


def using(
    *uses: Use, configs: tuple[objects_pb2.ConfigUse, ...] = ()
) -> Callable[[Client], Awaitable[object]]:
    return lambda client: make_service(client, service_spec("refused", secrets=uses, configs=configs))


def file(name: str = "", *, uid: int = 0, gid: int = 0, mode: int = 0o444) -> objects_pb2.FileTarget:
    return objects_pb2.FileTarget(name=name, uid=uid, gid=gid, mode=mode)


NAMES = "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed"
SIZE = "secret data must be larger than 0 and less than 512000 bytes"
REFUSALS: dict[str, tuple[Callable[[Client], Awaitable[object]], StatusCode, str]] = {
    "no name": (secret(""), INVALID, "name must be provided"),
    "65 characters": (secret("a" * 65), INVALID, NAMES),
    "a dash first": (secret("-a"), INVALID, NAMES),
    "a dot last": (secret("a."), INVALID, NAMES),
    "a slash": (secret("a/b"), INVALID, NAMES),
    "a newline": (secret("a\n"), INVALID, NAMES),
    "a name in use": (secret("taken"), EXISTS, "secret taken already exists"),
    "nothing in it": (secret("s", b""), INVALID, f"{SIZE}, not 0"),
    "too much in it": (secret("s", b"x" * 512_000), INVALID, f"{SIZE}, not 512000"),
    "another template driver": (
        secret("s", templating="jinja"),
        INVALID,
        "template driver: must be 'golang'",
    ),
    "a template that is none": (
        secret("s", CANARY + b"{{ .Nope }}", templating="golang"),
        INVALID,
        "template: the action at byte 20 is none of",
    ),
    "a template without an end": (secret("s", b"{{ env", templating="golang"), INVALID, "unclosed action"),
    "no name of a config": (config(""), INVALID, "name must be provided"),
    "nothing in a config": (
        config("c", b""),
        INVALID,
        "config data must be larger than 0 and less than 1024000",
    ),
    "too much in a config": (config("c", b"x" * 1_024_000), INVALID, "bytes, not 1024000"),
    "a secret that does not exist": (using(Use(secret="nope")), MISSING, "secret not found: nope"),
    "a config that does not exist": (
        using(configs=(objects_pb2.ConfigUse(config="nope"),)),
        MISSING,
        "config not found: nope",
    ),
    "a use of nothing": (using(Use()), INVALID, "malformed secret reference"),
    "a version that does not exist": (
        using(Use(secret="taken", version=7)),
        MISSING,
        "secret taken has no version 7, only 1",
    ),
    "two at one place": (
        using(Use(secret="taken"), Use(secret="taken", file=file("./taken"))),
        INVALID,
        "have a conflicting target: '/run/secrets/taken'",
    ),
    "out of its directory": (
        using(Use(secret="taken", file=file("../../etc/shadow"))),
        INVALID,
        "target must be the path of a file",
    ),
    "a mode of five digits": (using(Use(secret="taken", file=file(mode=0o10000))), INVALID, "mode must be"),
    "a user that is none": (using(Use(secret="taken", file=file(uid=2**32 - 1))), INVALID, "uid must be"),
    "unknown": (lambda client: client.secrets.Get(Ref(ref="nope")), MISSING, "secret nope not found"),
    "removal of an unknown one": (
        lambda client: client.secrets.Remove(secrets_pb2.RemoveSecretRequest(ref="nope")),
        MISSING,
        "secret nope not found",
    ),
    "rotation of an unknown one": (
        lambda client: client.secrets.Rotate(secrets_pb2.RotateSecretRequest(ref="nope", data=b"x")),
        MISSING,
        "secret nope not found",
    ),
    "rotation to nothing": (
        lambda client: client.secrets.Rotate(secrets_pb2.RotateSecretRequest(ref="taken")),
        INVALID,
        SIZE,
    ),
    "a grace of less than nothing": (
        lambda client: client.secrets.Rotate(
            secrets_pb2.RotateSecretRequest(ref="taken", data=b"x", grace_ns=-1)
        ),
        INVALID,
        "grace: must be 0s to",
    ),
    "an unknown filter": (
        lambda client: client.secrets.List(
            control_pb2.ListRequest(filters=[control_pb2.Filter(key="color")])
        ),
        INVALID,
        "invalid filter 'color'",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusal(name: str, client: Client) -> None:
    call, code, words = REFUSALS[name]
    await make_secret(client, "taken")
    error = await refused(call(client))
    assert (error.code(), words in (error.details() or "")) == (code, True), error.details()
    assert CANARY.decode() not in str(error)
    assert [each.spec.name for each in (await client.secrets.List(control_pb2.ListRequest())).secrets] == [
        "taken"
    ]


@pytest.mark.parametrize("kind", ["secrets", "configs"])
@pytest.mark.parametrize("size", ["smallest", "largest"])
async def test_the_limits_are_inside(kind: str, size: str, client: Client) -> None:
    if kind == "secrets":
        await make_secret(client, "s" * 64, b"x" * (1 if size == "smallest" else 511_999))
    else:
        data = b"x" * (1 if size == "smallest" else 1_023_999)
        await make_config(client, "c", data)
        assert (await client.configs.Get(Ref(ref="c"))).data == data


ROLES: list[tuple[Caller, str, object]] = [
    (Caller.VIEWER, "Create", secrets_pb2.CreateSecretRequest()),
    (Caller.VIEWER, "Remove", secrets_pb2.RemoveSecretRequest()),
    (Caller.VIEWER, "Update", secrets_pb2.UpdateSecretRequest()),
    (Caller.VIEWER, "Rotate", secrets_pb2.RotateSecretRequest()),
    (Caller.VIEWER, "VerifyAudit", secrets_pb2.VerifyAuditRequest()),
    *(
        (Caller.WORKER, method.name, None)
        for method in secrets_pb2.DESCRIPTOR.services_by_name["Secrets"].methods
    ),
]


@pytest.mark.parametrize(("caller", "method", "request_"), ROLES, ids=lambda value: str(value)[:20])
async def test_roles(caller: Caller, method: str, request_: object, manager: InProcess) -> None:
    member = await manager.member(caller)
    descriptor = secrets_pb2.DESCRIPTOR.services_by_name["Secrets"].methods_by_name[method]
    module = secrets_pb2 if hasattr(secrets_pb2, descriptor.input_type.name) else control_pb2
    message = request_ or getattr(module, descriptor.input_type.name)()
    call = getattr(member.secrets, method)(message)
    error = await refused(anext(aiter(call)) if descriptor.server_streaming else call)
    assert error.code() is DENIED


@pytest.mark.parametrize("caller", [Caller.LOCAL, Caller.ADMIN, Caller.OPERATOR, Caller.VIEWER])
async def test_no_user_gets_a_delivery(caller: Caller, manager: InProcess) -> None:
    """Not even root on a manager: a content goes to a node, for a task."""
    client = await manager.local() if caller is Caller.LOCAL else await manager.member(caller)
    error = await refused(client.deliveries.Fetch(secrets_pb2.FetchRequest(task_id="t", secret_id="s")))
    assert error.code() is DENIED
