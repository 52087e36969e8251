"""The way of a content to a task, over mutual TLS: who gets it, who does not, and what the ledger says of both."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from grpc import StatusCode
from minicommon.identity.names import Caller
from minicommon.ids import new_id
from minimanager.store.api import Delete, Operation, Put
from minimanager.store.keys import Keys
from miniproto.v1 import control_pb2, dispatcher_pb2, objects_pb2, secrets_pb2
from miniproto.v1.secrets_pb2 import LEDGER_EVENT_DELIVERED as DELIVERED
from miniproto.v1.secrets_pb2 import LEDGER_EVENT_RECEIVED as RECEIVED
from miniproto.v1.secrets_pb2 import LEDGER_EVENT_REFUSED as REFUSED
from miniproto.v1.secrets_pb2 import FetchRequest
from support.manager import Client, InProcess, manager_in_process
from support.scripted_agent import PATIENCE, ScriptedAgent
from support.secret_site import Ref, Use, make_config, make_secret, make_service, receipt, service_spec

CANARY = b"canary-7f3a-password"


class Site:
    """A manager, and a worker that runs what it is given."""

    def __init__(self, manager: InProcess, client: Client, node_id: str, worker: Client) -> None:
        self.manager = manager
        self.client = client
        self.node_id = node_id
        self.worker = worker
        self.agent = ScriptedAgent(worker.channel)

    @property
    def keys(self) -> Keys:
        return self.manager.manager.core.keys

    async def task(self, spec: objects_pb2.ServiceSpec) -> dispatcher_pb2.AssignedTask:
        """The one task of a new service, running on the worker."""
        await self.client.nodes.Update(await drained(self.client))
        service_id = await make_service(self.client, spec)
        await self.client.running(service_id, 1)
        return next(task for task in self.agent.tasks().values() if task.service_id == service_id)

    async def records(self, ref: str = "") -> list[secrets_pb2.LedgerRecord]:
        call = self.client.secrets.Audit(secrets_pb2.AuditRequest(ref=ref))
        return [record async for batch in call for record in batch.records]

    async def verdict(self) -> secrets_pb2.AuditVerdict:
        return await self.client.secrets.VerifyAudit(secrets_pb2.VerifyAuditRequest())


async def drained(client: Client) -> control_pb2.UpdateNodeRequest:
    """The manager's own node takes no tasks: nobody runs them there."""
    node = (await client.nodes.Get(Ref(ref="self"))).node
    node.spec.availability = objects_pb2.AVAILABILITY_DRAIN
    return control_pb2.UpdateNodeRequest(ref="self", version=node.meta.version, spec=node.spec)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with manager_in_process() as manager:
        node_id, worker = await manager.join_worker()
        made = Site(manager, await manager.local(), node_id, worker)
        async with made.agent:
            yield made


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def fetch(task: dispatcher_pb2.AssignedTask, **changes: object) -> FetchRequest:
    """For the task's first secret."""
    use = task.spec.container.secrets[0]
    request = FetchRequest(task_id=task.id, secret_id=use.secret, secret_version=use.version)
    for name, value in changes.items():
        setattr(request, name, value)
    return request


async def test_a_task_gets_its_secret_and_the_ledger_a_record_and_a_receipt(site: Site) -> None:
    secret_id = await make_secret(site.client, data=CANARY)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    assert f"secret/{secret_id}/1" in site.agent.assigned
    answer = await site.worker.deliveries.Fetch(fetch(task))
    assert answer.data == CANARY
    credentials = site.manager.home.credentials(Caller.WORKER, site.node_id)
    await site.worker.deliveries.Confirm(receipt(credentials, answer.record))
    await site.worker.deliveries.Confirm(receipt(credentials, answer.record))  # repeated: still one
    delivered, received = await site.records()
    assert (delivered.event, received.event, received.delivery) == (DELIVERED, RECEIVED, delivered.number)
    for record in (delivered, received):
        assert (record.node_id, record.task_id, record.task_name) == (site.node_id, task.id, "web.1")
        assert (record.secret_id, record.secret_name, record.secret_version) == (secret_id, "my-password", 1)
    verdict = await site.verdict()
    assert (verdict.whole, verdict.records, verdict.receipts, verdict.unconfirmed) == (True, 2, 1, 0)
    who = await site.client.secrets.Who(Ref(ref="my-password"))
    assert [(each.task_id, each.node_id, each.version, each.hostname) for each in who.holders] == [
        (task.id, site.node_id, 1, "worker")
    ]


async def test_the_assignment_comes_before_the_task_and_goes_after_it(site: Site) -> None:
    secret_id, config_id = await make_secret(site.client), await make_config(site.client)
    spec = service_spec(secrets=(Use(secret="my-password"),), configs=(objects_pb2.ConfigUse(config="site"),))
    task = await site.task(spec)
    keys = [f"secret/{secret_id}/1", f"config/{config_id}", f"task/{task.id}"]
    came = [change.key for message in site.agent.sets for change in message.changes if change.key in keys]
    assert came[: len(keys)] == keys
    await site.client.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
    await site.agent.until(lambda: not site.agent.tasks())
    gone = [
        change.key
        for message in site.agent.sets
        for change in message.changes
        if change.remove and change.key in keys
    ]
    assert gone == [keys[2], keys[1], keys[0]]
    everything = b"".join(message.SerializeToString() for message in site.agent.sets)
    assert b"first" not in everything


async def test_a_plain_config_leaves_no_record(site: Site) -> None:
    config_id = await make_config(site.client, data=b"root = /")
    task = await site.task(service_spec(configs=(objects_pb2.ConfigUse(config="site"),)))
    answer = await site.worker.deliveries.Fetch(FetchRequest(task_id=task.id, config_id=config_id))
    assert (answer.data, answer.record) == (b"root = /", b"")
    assert not await site.records()


# --- who gets nothing ---


async def test_another_node_is_refused_and_recorded(site: Site) -> None:
    await make_secret(site.client, data=CANARY)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    stranger_id, stranger = await site.manager.join_worker()
    error = await refused(stranger.deliveries.Fetch(fetch(task)))
    assert error.code() is StatusCode.PERMISSION_DENIED
    assert CANARY.decode() not in str(error)
    (record,) = await site.records()
    assert (record.event, record.node_id, record.task_id) == (REFUSED, stranger_id, task.id)
    assert record.message == "the task is not assigned to this node"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"secret_version": 2}, "the task does not use it"),
        ({"secret_id": "other"}, "the task does not use it"),
        ({"secret_id": "", "config_id": "any"}, "the task does not use it"),
        ({"task_id": "t" * 1000}, "the task is not assigned to this node"),
        ({"task_id": ""}, "the task is not assigned to this node"),
    ],
)
async def test_what_is_not_assigned_is_refused_and_recorded(
    changes: dict[str, object], message: str, site: Site
) -> None:
    await make_secret(site.client)
    await make_secret(site.client, "other")
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    error = await refused(site.worker.deliveries.Fetch(fetch(task, **changes)))
    assert (error.code(), message in (error.details() or "")) == (StatusCode.PERMISSION_DENIED, True)
    (record,) = await site.records()
    assert (record.event, record.message, len(record.task_id) <= 200) == (REFUSED, message, True)
    assert (await site.verdict()).whole


async def test_a_task_that_has_ended_gets_nothing_any_more(site: Site) -> None:
    await make_secret(site.client)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    request = fetch(task)
    await site.client.services.Remove(control_pb2.RemoveServiceRequest(ref="web"))
    await site.agent.until(lambda: not site.agent.tasks())
    assert (await refused(site.worker.deliveries.Fetch(request))).code() is StatusCode.PERMISSION_DENIED


async def test_who_asks_on_and_on_does_not_fill_the_ledger(site: Site) -> None:
    requests = [FetchRequest(task_id=f"t{number}", secret_id="s") for number in range(100)]
    await asyncio.gather(*(refused(site.worker.deliveries.Fetch(request)) for request in requests))
    # 60 in a minute; a new one may have begun meanwhile.
    assert 60 <= len(await site.records()) <= 100
    assert (await site.verdict()).whole


@pytest.mark.parametrize("caller", [Caller.WORKER, Caller.MANAGER])
async def test_a_node_of_the_cluster_without_the_task_is_refused(caller: Caller, site: Site) -> None:
    await make_secret(site.client)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    member = await site.manager.member(caller)
    assert (await refused(member.deliveries.Fetch(fetch(task)))).code() is StatusCode.PERMISSION_DENIED


# --- contents that were tampered with ---


async def replace(site: Site, key: str, value: bytes) -> None:
    await site.manager.store.txn((), (Put(key, value),))


async def test_ciphertexts_do_not_open_elsewhere(site: Site) -> None:
    """Copied from another secret, or changed by one bit: nothing is delivered, and nothing is told of it."""
    first, second = await make_secret(site.client, data=CANARY), await make_secret(site.client, "other")
    task = await site.task(service_spec(secrets=(Use(secret="other"),)))
    stolen = await site.manager.store.get(site.keys.secret_content(first, 1))
    own = await site.manager.store.get(site.keys.secret_content(second, 1))
    assert stolen is not None
    assert own is not None
    changed = own.value[:-1] + bytes([own.value[-1] ^ 1])
    for value in (stolen.value, changed, b"", own.value[:40]):
        await replace(site, site.keys.secret_content(second, 1), value)
        error = await refused(site.worker.deliveries.Fetch(fetch(task)))
        assert error.code() is StatusCode.FAILED_PRECONDITION
        assert CANARY.decode() not in str(error)
    assert not await site.records()


# --- receipts ---


async def test_false_receipts_are_refused(site: Site) -> None:
    await make_secret(site.client)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    record = (await site.worker.deliveries.Fetch(fetch(task))).record
    own = site.manager.home.credentials(Caller.WORKER, site.node_id)
    other = site.manager.home.credentials(Caller.WORKER, new_id())
    good = receipt(own, record)
    unsigned = secrets_pb2.Receipt(delivery=good.delivery, certificate=good.certificate, signature=b"x")
    unknown = secrets_pb2.Receipt(delivery=99, certificate=good.certificate, signature=good.signature)
    for wrong in (receipt(other, record), unsigned, unknown, secrets_pb2.Receipt(delivery=good.delivery)):
        await refused(site.worker.deliveries.Confirm(wrong))
    _, stranger = await site.manager.join_worker()
    error = await refused(stranger.deliveries.Confirm(good))
    assert error.code() is StatusCode.PERMISSION_DENIED
    assert (await site.verdict()).unconfirmed == 1


async def test_a_certificate_that_the_cluster_did_not_issue_signs_nothing(site: Site) -> None:
    await make_secret(site.client)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    record = (await site.worker.deliveries.Fetch(fetch(task))).record
    async with manager_in_process() as elsewhere:
        cluster_id = site.manager.home.settings.cluster_id
        forged = elsewhere.home.credentials(Caller.WORKER, site.node_id, cluster_id=cluster_id)
        error = await refused(site.worker.deliveries.Confirm(receipt(forged, record)))
    assert (error.code(), error.details()) == (
        StatusCode.INVALID_ARGUMENT,
        "the receipt's certificate was not issued by this cluster",
    )


# --- templates ---


async def test_a_template_is_expanded_for_its_task(site: Site) -> None:
    await make_secret(site.client, "password", CANARY)
    await make_config(site.client, "plain", b"plain {{.Task.Slot}}")
    text = (
        b'{{.Service.Name}}.{{.Task.Slot}} on {{ .Node.Hostname }}: {{env "MODE"}} {{secret "pw"}} '
        b'{{config "plain"}} {{index .Service.Labels "a.b"}}'
    )
    config_id = await make_config(site.client, "site", text, templating="golang")
    spec = service_spec(
        secrets=(Use(secret="password", file=objects_pb2.FileTarget(name="pw", mode=0o400)),),
        configs=(objects_pb2.ConfigUse(config="site"), objects_pb2.ConfigUse(config="plain")),
        env=("MODE=on-{{.Node.Hostname}}",),
    )
    spec.labels["a.b"] = "c"
    task = await site.task(spec)
    answer = await site.worker.deliveries.Fetch(FetchRequest(task_id=task.id, config_id=config_id))
    # What is filled in is not expanded itself: a content cannot make itself a template.
    assert answer.data == b"web.1 on worker: on-worker " + CANARY + b" plain {{.Task.Slot}} c"
    (record,) = await site.records()
    assert (record.secret_name, record.config_id, record.event) == ("password", config_id, DELIVERED)
    assert answer.record  # a config with a secret in it needs a receipt
    shown = await site.client.configs.Get(Ref(ref="site"))
    assert shown.data == text


async def test_a_template_gets_only_what_its_task_uses(site: Site) -> None:
    await make_secret(site.client, "password", CANARY)
    config_id = await make_config(site.client, data=b'{{secret "password"}}', templating="golang")
    task = await site.task(service_spec(configs=(objects_pb2.ConfigUse(config="site"),)))
    error = await refused(site.worker.deliveries.Fetch(FetchRequest(task_id=task.id, config_id=config_id)))
    assert (error.code(), error.details()) == (
        StatusCode.FAILED_PRECONDITION,
        "template: secret target password not found: the task does not use it",
    )


# --- the ledger under attack ---


async def entries(site: Site) -> dict[int, bytes]:
    listed = await site.manager.store.list(site.keys.ledger_entries)
    return {int(item.key.rpartition("/")[2]): item.value for item in listed.items}


async def change_a_record(site: Site) -> list[Operation]:
    value = (await entries(site))[2]
    return [Put(site.keys.ledger_entry(2), value.replace(b"web.1", b"web.2"))]


async def remove_the_middle(site: Site) -> list[Operation]:
    return [Delete(site.keys.ledger_entry(2))]


async def close_the_gap(site: Site) -> list[Operation]:
    found = await entries(site)
    last = max(found)
    moved: list[Operation] = [Put(site.keys.ledger_entry(n), found[n + 1]) for n in range(2, last)]
    return [*moved, Delete(site.keys.ledger_entry(last))]


async def swap_two(site: Site) -> list[Operation]:
    found = await entries(site)
    return [Put(site.keys.ledger_entry(1), found[2]), Put(site.keys.ledger_entry(2), found[1])]


async def cut_off(site: Site) -> list[Operation]:
    return [Delete(site.keys.ledger_entry(max(await entries(site))))]


async def cut_off_with_the_head(site: Site) -> list[Operation]:
    return [*await cut_off(site), Delete(site.keys.ledger_head)]


async def remove_all(site: Site) -> list[Operation]:
    removed: list[Operation] = [Delete(site.keys.ledger_entry(number)) for number in await entries(site)]
    return [*removed, Delete(site.keys.ledger_head)]


async def append_a_copy(site: Site) -> list[Operation]:
    found = await entries(site)
    return [Put(site.keys.ledger_entry(max(found) + 1), found[max(found)])]


ATTACKS: dict[str, tuple[Callable[[Site], Awaitable[list[Operation]]], str]] = {
    "a record is changed": (change_a_record, "record 2 was changed or is forged"),
    "a record is removed": (remove_the_middle, "record 2 is missing"),
    "a record is removed and the rest moved up": (close_the_gap, "record 2 is not the one that was written"),
    "two records are swapped": (swap_two, "record 1 is not the one that was written there"),
    "the end is cut off": (cut_off, "the ledger's head names record"),
    "the end is cut off with the head": (cut_off_with_the_head, "this manager has seen record"),
    "everything is removed": (remove_all, "the ledger ends with record 0, this manager has seen record"),
    "a record is repeated": (append_a_copy, "is not the one that was written there"),
}


async def filled(site: Site) -> dispatcher_pb2.AssignedTask:
    """Four deliveries and a receipt."""
    await make_secret(site.client)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    for _ in range(4):
        answer = await site.worker.deliveries.Fetch(fetch(task))
    credentials = site.manager.home.credentials(Caller.WORKER, site.node_id)
    await site.worker.deliveries.Confirm(receipt(credentials, answer.record))
    assert (await site.verdict()).whole
    return task


@pytest.mark.parametrize("name", ATTACKS)
async def test_whoever_writes_to_etcd_is_found_out(name: str, site: Site) -> None:
    await filled(site)
    attack, words = ATTACKS[name]
    await site.manager.store.txn((), await attack(site))
    verdict = await site.verdict()
    assert not verdict.whole
    assert any(words in problem for problem in verdict.problems), list(verdict.problems)


async def test_an_older_state_put_back_is_found_out_even_after_new_records(site: Site) -> None:
    task = await filled(site)
    before = await site.manager.store.list(site.keys.ledger)
    await site.worker.deliveries.Fetch(fetch(task))
    await site.worker.deliveries.Fetch(fetch(task))
    after = await site.manager.store.list(site.keys.ledger)
    kept = {item.key: item.value for item in before.items}
    restore: list[Operation] = [Put(key, value) for key, value in kept.items()]
    restore += [Delete(item.key) for item in after.items if item.key not in kept]
    await site.manager.store.txn((), restore)
    await site.worker.deliveries.Fetch(fetch(task))  # the work goes on
    await site.worker.deliveries.Fetch(fetch(task))
    await site.worker.deliveries.Fetch(fetch(task))
    verdict = await site.verdict()
    assert not verdict.whole
    assert any("the ledger was cut off" in problem for problem in verdict.problems), list(verdict.problems)


async def test_the_leader_trims_the_ledger_as_the_cluster_is_set(site: Site) -> None:
    """A receipt that comes when its delivery has been removed is not needed any more; what stays is whole."""
    await make_secret(site.client, data=CANARY)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    answers = [await site.worker.deliveries.Fetch(fetch(task)) for _ in range(118)]
    credentials = site.manager.home.credentials(Caller.WORKER, site.node_id)
    for answer in (answers[0], answers[-1]):
        await site.worker.deliveries.Confirm(receipt(credentials, answer.record))
    cluster = (await site.client.clusters.Get(control_pb2.GetClusterRequest())).cluster
    cluster.spec.ledger_records = 100
    changed = await site.client.clusters.Update(
        control_pb2.UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec)
    )
    async with asyncio.timeout(PATIENCE):
        watch = site.manager.store.watch(site.keys.ledger_checkpoint, after=changed.revision)
        await anext(aiter(watch))
    verdict = await site.verdict()
    assert (list(verdict.problems), verdict.whole, verdict.removed) == ([], True, 20)
    assert (verdict.records, verdict.receipts, verdict.unconfirmed) == (101, 2, 97)
    assert [record.number for record in await site.records()] == list(range(21, 122))
    error = await refused(site.worker.deliveries.Confirm(receipt(credentials, answers[1].record)))
    assert error.code() is StatusCode.NOT_FOUND


async def test_nothing_of_the_ledger_is_secret_and_its_key_is_sealed(site: Site) -> None:
    await make_secret(site.client, data=CANARY)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    await site.worker.deliveries.Fetch(fetch(task))
    for item in (await site.manager.store.list("/")).items:
        for form in (CANARY, CANARY.hex().encode(), base64.b64encode(CANARY).rstrip(b"=")):
            assert form not in item.value, item.key
    macs = await site.manager.manager._ledger.macs()
    assert not [item.key for item in (await site.manager.store.list("/")).items if macs._key in item.value]


async def test_deliveries_at_once_are_all_recorded(site: Site) -> None:
    await make_secret(site.client)
    task = await site.task(service_spec(secrets=(Use(secret="my-password"),)))
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(site.worker.deliveries.Fetch(fetch(task)) for _ in range(200)))
    assert [record.number for record in await site.records()] == list(range(1, 201))
    assert (await site.verdict()).whole
