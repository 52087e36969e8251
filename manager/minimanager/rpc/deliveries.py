"""The way of a content to a task: opened for the node that asks, if a task of its own uses it, and recorded before.

Who asks is known from the certificate; nothing in the request can claim another node. What is refused is recorded, too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from grpc import aio
from minicommon.clock import Clock
from minicommon.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError
from minicommon.log import fields
from minicommon.rpc.gate import identity
from minicommon.units import MINUTE
from miniproto.v1 import secrets_pb2, secrets_pb2_grpc
from miniproto.v1.secrets_pb2 import LedgerRecord

from minimanager.ca.issuer import trusted_roots
from minimanager.decide.assignments import expanded, template_context
from minimanager.domain.content_template import Supplies, environment, expand_content, pulled
from minimanager.domain.objects import ConfigUse, SecretUse, Task
from minimanager.domain.snapshot import Snapshot
from minimanager.rpc.core import Core
from minimanager.rpc.requests import check, require_cluster
from minimanager.store.audit import receipt_problem
from minimanager.store.contents import Contents
from minimanager.store.ledger import Ledger, Written

logger = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]

REFUSALS_PER_MINUTE: Final = 60
"""Of one node that are recorded one by one: who asks on and on must not fill the ledger."""

MAX_MESSAGE: Final = 200
"""Characters of what a node asked for that are recorded."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A content as the task is to have it, and the secrets that are in it."""

    data: bytes
    secrets: tuple[SecretUse, ...]


class DeliveriesServicer(secrets_pb2_grpc.DeliveriesServicer):
    def __init__(self, core: Core, contents: Contents, ledger: Ledger) -> None:
        self._core = core
        self._contents = contents
        self._ledger = ledger
        self._refusals = _Budget(core.clock)

    async def Fetch(self, request: secrets_pb2.FetchRequest, context: Context) -> secrets_pb2.FetchResponse:
        check(request)
        node_id = identity(context).node_id
        snapshot = await self._core.read(request.min_revision)
        task = _assigned(snapshot, request.task_id, node_id)
        if task is None and self._refusals.left(node_id):
            snapshot = await self._core.settle()  # this manager may only be behind
            task = _assigned(snapshot, request.task_id, node_id)
        if task is None:
            raise await self._refused(node_id, request, "the task is not assigned to this node")
        use = _use(task, request)
        if use is None:
            raise await self._refused(node_id, request, "the task does not use it")
        opened = await self._open(snapshot, task, use)
        record = await self._record(task, use, opened)
        return secrets_pb2.FetchResponse(data=opened.data, record=record)

    async def Confirm(self, request: secrets_pb2.Receipt, context: Context) -> secrets_pb2.ReceiptResponse:
        check(request)
        node_id = identity(context).node_id
        entry = await self._ledger.entry(request.delivery)
        if entry is None:
            raise NotFoundError(f"delivery: there is no record {request.delivery}")
        delivered = LedgerRecord.FromString(entry.record)
        if delivered.event != secrets_pb2.LEDGER_EVENT_DELIVERED or delivered.node_id != node_id:
            raise PermissionDeniedError(
                f"delivery: record {request.delivery} is none of a delivery to this node"
            )
        receipt = self._new(
            secrets_pb2.LEDGER_EVENT_RECEIVED,
            node_id=node_id,
            task_id=delivered.task_id,
            task_name=delivered.task_name,
            secret_id=delivered.secret_id,
            secret_name=delivered.secret_name,
            secret_version=delivered.secret_version,
            config_id=delivered.config_id,
            delivery=request.delivery,
            signature=request.signature,
            certificate=request.certificate,
        )
        if problem := receipt_problem(receipt, entry.record, cluster_id=identity(context).cluster_id):
            raise InvalidArgumentError(problem)
        ensure_issued(request.certificate, trusted_roots(require_cluster(await self._core.read())))
        mark = self._core.keys.ledger_receipt(request.delivery)
        if not await self._ledger.is_marked(mark):
            await self._ledger.append(receipt, mark=mark)
        return secrets_pb2.ReceiptResponse()

    # --- contents ---

    async def _open(self, snapshot: Snapshot, task: Task, use: SecretUse | ConfigUse) -> _Opened:
        own: tuple[SecretUse, ...] = (use,) if isinstance(use, SecretUse) else ()
        if isinstance(use, SecretUse):
            data = await self._contents.secret(use.secret, use.version)
            secret = snapshot.secrets.get(use.secret)
            templating = secret.spec.templating if secret else ""
        else:
            data = await self._contents.config(use.config)
            config = snapshot.configs.get(use.config)
            templating = config.spec.templating if config else ""
        if not templating:
            return _Opened(data, own)
        return await self._expand(snapshot, task, data, own)

    async def _expand(
        self, snapshot: Snapshot, task: Task, data: bytes, own: tuple[SecretUse, ...]
    ) -> _Opened:
        """The content with what it asks for, from what the task uses. What is filled in is not expanded itself."""
        wanted, container = pulled(data), expanded(snapshot, task).container
        secrets = {use.file.name or use.name: use for use in container.secrets}
        configs = {use.file.name or use.name: use for use in container.configs}
        filled = [secrets[name] for name in sorted(wanted.secrets & secrets.keys())]
        supplies = Supplies(
            env=environment(container),
            secrets={
                use.file.name or use.name: await self._contents.secret(use.secret, use.version)
                for use in filled
            },
            configs={
                name: await self._contents.config(configs[name].config)
                for name in sorted(wanted.configs & configs.keys())
            },
        )
        content = expand_content(data, template_context(snapshot, task), supplies)
        return _Opened(content, (*own, *(use for use in filled if use not in own)))

    # --- records ---

    async def _record(self, task: Task, use: SecretUse | ConfigUse, opened: _Opened) -> bytes:
        """Of each secret that is in the content; the one to be signed is the first. A plain config leaves none."""
        written: list[Written] = []
        for secret in opened.secrets:
            record = self._new(
                secrets_pb2.LEDGER_EVENT_DELIVERED,
                node_id=task.node_id,
                task_id=task.id,
                task_name=task.name,
                secret_id=secret.secret,
                secret_name=secret.name,
                secret_version=secret.version,
                config_id=use.config if isinstance(use, ConfigUse) else "",
                message="" if secret is opened.secrets[0] else f"with record {written[0].number}",
            )
            written.append(await self._ledger.append(record))
        return written[0].record if written else b""

    async def _refused(
        self, node_id: str, request: secrets_pb2.FetchRequest, why: str
    ) -> PermissionDeniedError:
        what = f"config {request.config_id}" if request.config_id else f"secret {request.secret_id}"
        logger.warning(
            "A node asked for a content that it may not have.",
            extra=fields(node_id=node_id, task_id=request.task_id, error=why),
        )
        if self._refusals.spend(node_id):
            record = self._new(
                secrets_pb2.LEDGER_EVENT_REFUSED,
                node_id=node_id,
                task_id=request.task_id[:MAX_MESSAGE],
                secret_id=request.secret_id[:MAX_MESSAGE],
                secret_version=request.secret_version,
                config_id=request.config_id[:MAX_MESSAGE],
                message=why,
            )
            await self._ledger.append(record)
        return PermissionDeniedError(f"{what} for task {request.task_id}: {why}")

    def _new(self, event: secrets_pb2.LedgerEvent.ValueType, **given: Any) -> LedgerRecord:
        return LedgerRecord(
            event=event, at_ns=self._core.clock.now_ns(), manager_id=self._core.node_id, **given
        )


class _Budget:
    """So many in a minute, by node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: dict[str, tuple[int, int]] = {}

    def left(self, node_id: str) -> bool:
        """Whether the node may cause work for a refusal."""
        since, spent = self._spent.get(node_id, (0, 0))
        return spent < REFUSALS_PER_MINUTE or since != self._minute()

    def spend(self, node_id: str) -> bool:
        """Whether there was something left."""
        left = self.left(node_id)
        since, spent = self._spent.get(node_id, (0, 0))
        self._spent[node_id] = (self._minute(), spent + 1 if since == self._minute() else 1)
        return left

    def _minute(self) -> int:
        return self._clock.now_ns() // MINUTE


def _assigned(snapshot: Snapshot, task_id: str, node_id: str) -> Task | None:
    """The task, if it is the node's and has not ended."""
    task = snapshot.tasks.get(task_id)
    if task is None or task.node_id != node_id or snapshot.state(task).finished:
        return None
    return task


def _use(task: Task, request: secrets_pb2.FetchRequest) -> SecretUse | ConfigUse | None:
    """What of the task's uses is meant; None: none of them."""
    container = task.spec.container
    if request.config_id:
        return next((use for use in container.configs if use.config == request.config_id), None)
    return next(
        (
            use
            for use in container.secrets
            if use.secret == request.secret_id and use.version == request.secret_version
        ),
        None,
    )


def ensure_issued(certificate: bytes, roots_pem: bytes) -> None:
    """Raises InvalidArgumentError unless one of the cluster's roots has issued the certificate, DER."""
    shown = x509.load_der_x509_certificate(certificate)
    for root in x509.load_pem_x509_certificates(roots_pem):
        try:
            shown.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return
    raise InvalidArgumentError("the receipt's certificate was not issued by this cluster")
