"""Looking through a backup: it is put into an etcd of its own, as `swarm restore` would, and examined there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from minicommon.backup_file import Backup, BackupError, read_backup
from minicommon.clock import SystemClock
from minicommon.errors import FailedPreconditionError, MiniError, UnavailableError
from minicommon.identity.authority import given_root
from minicommon.identity.etcd import issue_etcd, new_etcd_root
from minicommon.settings import MAX_REQUEST_BYTES, MAX_TXN_OPS, EtcdSettings
from miniproto.v1 import backup_pb2 as pb

from minimanager.backup.invariants import examine
from minimanager.backup.restoring import load, only_manager
from minimanager.ca.sealer import ClusterSealer
from minimanager.domain.objects import NodeRole
from minimanager.domain.snapshot import Snapshot
from minimanager.store import audit
from minimanager.store.anchor import Seen
from minimanager.store.api import Range, Store
from minimanager.store.contents import Contents
from minimanager.store.envelope import Envelope
from minimanager.store.etcd.client import EtcdStore
from minimanager.store.keys import Keys
from minimanager.store.ledger import KEY_PURPOSE, Macs

START_SECONDS: Final = 30.0
"""Until the scratch etcd must answer; it has an empty directory, so only a slow disk holds it up."""

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Report:
    """What a backup holds. `problems`: why it should not be trusted; none: it can be restored."""

    manifest: pb.BackupManifest
    entries: int
    objects: Mapping[str, int]
    """How many of each kind, by the name that users have for it."""
    ledger_records: int
    problems: tuple[str, ...]


async def verify(file: BinaryIO, key: str) -> Report:
    """Read, restore into a scratch etcd, and examine. Raises MiniError for a file that cannot be read at all."""
    backup = await asyncio.to_thread(read_backup, file, key)
    async with scratch_etcd() as store:
        return await examine_in(store, backup)


async def examine_in(store: Store, backup: Backup) -> Report:
    """Restore into `store`, which is empty, read everything back from it, and examine that."""
    manifest = backup.manifest
    keys = Keys(manifest.cluster_id)
    foreign = [each.key for each in backup.entries if not each.key.startswith(_prefixes(keys))]
    if foreign:
        raise BackupError(f"the backup has keys of something else, {foreign[0]!r} first")
    now_ns = SystemClock().now_ns()
    await load(store, only_manager(backup.entries, keys, node_id=manifest.node_id, now_ns=now_ns))
    listed = await store.list(keys.prefix)
    findings = examine(listed, keys)
    problems = list(findings.problems)
    envelope = _envelope(manifest, findings.snapshot)
    problems += _root(manifest, findings.snapshot, envelope)
    problems += await _contents(store, keys, findings.snapshot, envelope)
    ledger = await store.list(keys.ledger)
    verdict = _ledger(ledger, keys, envelope, manifest.cluster_id)
    problems += verdict.problems
    return Report(manifest, len(backup.entries), _counts(findings.snapshot), verdict.records, tuple(problems))


def _prefixes(keys: Keys) -> tuple[str, ...]:
    return (keys.prefix, keys.sealed, keys.ledger)


def _counts(snapshot: Snapshot) -> dict[str, int]:
    return {
        "nodes": len(snapshot.nodes),
        "services": len(snapshot.services),
        "tasks": len(snapshot.tasks),
        "networks": len(snapshot.networks),
        "secrets": len(snapshot.secrets),
        "configs": len(snapshot.configs),
    }


def _envelope(manifest: pb.BackupManifest, snapshot: Snapshot) -> Envelope:
    present = snapshot.cluster.key_id if snapshot.cluster else 0
    keys = dict(manifest.cluster_keys)
    if present not in keys:
        raise BackupError(
            f"the backup has no cluster key {present}, with which the cluster's values are sealed"
        )
    envelope = Envelope(keys[present], manifest.cluster_id, key_id=present)
    envelope.use(keys, present)
    return envelope


def _root(manifest: pb.BackupManifest, snapshot: Snapshot, envelope: Envelope) -> Iterator[str]:
    """The root that signs is the cluster's, in the manifest as in etcd."""
    cluster, sealer = snapshot.cluster, ClusterSealer(envelope)
    if cluster is None:
        return
    if cluster.root_ca_pem != manifest.root_ca_pem:
        yield "the root certificate in the manifest is not the cluster's"
    try:
        given_root(manifest.root_ca_pem, manifest.root_key_pem, now_ns=SystemClock().now_ns())
        if sealer.present_authority(cluster).key_pem != manifest.root_key_pem:
            yield "the root's key in the manifest is not the cluster's"
        for role in NodeRole:
            sealer.token_text(role, cluster)
        sealer.open_unlock_key(cluster)
    except MiniError as error:
        yield error.message


async def _contents(store: Store, keys: Keys, snapshot: Snapshot, envelope: Envelope) -> list[str]:
    """Every secret and config has its contents, which open; there are no others."""
    contents, problems, wanted = Contents(store, keys, envelope), [], set()
    for secret in snapshot.secrets.values():
        for version in secret.versions:
            wanted.add(keys.secret_content(secret.id, version.number))
            problems += await _opening(contents.secret(secret.id, version.number))
    for config in snapshot.configs.values():
        wanted.add(keys.config_content(config.id))
        problems += await _opening(contents.config(config.id))
    there = {item.key for item in (await store.list(keys.sealed)).items}
    return [*problems, *(f"the content {key} is nobody's" for key in sorted(there - wanted))]


async def _opening(content: Awaitable[bytes]) -> list[str]:
    try:
        await content
    except MiniError as error:
        return [error.message]
    return []


def _ledger(ledger: Range, keys: Keys, envelope: Envelope, cluster_id: str) -> audit.Verdict:
    """Its chain, by the ledger's own rules."""
    key = next((item.value for item in ledger.items if item.key == keys.ledger_key), None)
    if key is None:
        verdict = audit.Verdict()
        if ledger.items:
            verdict.add("the ledger of deliveries has no key")
        return verdict
    try:
        macs = Macs(envelope.open(KEY_PURPOSE, key))
    except MiniError as error:
        verdict = audit.Verdict()
        verdict.add(error.message)
        return verdict
    return audit.verify(ledger, keys, macs, Seen(), cluster_id=cluster_id)


# --- an etcd of its own ---


@contextlib.asynccontextmanager
async def scratch_etcd() -> AsyncIterator[Store]:
    """A store on an etcd that is alone with itself, on loopback and behind keys of its own; gone at the end.

    Raises FailedPreconditionError when there is no etcd here, UnavailableError when it does not answer.
    """
    program = shutil.which("etcd")
    if program is None:
        raise FailedPreconditionError("etcd is not installed, and a backup is verified in one")
    directory = Path(tempfile.mkdtemp(prefix="mini-verify-"))  # 0700
    settings, command = _prepared(directory, program)
    with (directory / "etcd.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    store = EtcdStore(settings, request_timeout=START_SECONDS)
    try:
        try:
            await store.status()
        except UnavailableError as error:
            said = (directory / "etcd.log").read_text(errors="replace").splitlines()[-3:]
            raise UnavailableError("\n".join(["the scratch etcd does not answer", *said])) from error
        yield store
    finally:
        await store.close()
        process.kill()
        await process.wait()
        shutil.rmtree(directory)


def _prepared(directory: Path, program: str) -> tuple[EtcdSettings, list[str]]:
    """Certificates for one member, and its command line. What it holds is a cluster's: nobody else may read it."""
    now_ns = SystemClock().now_ns()
    authority = new_etcd_root(now_ns)
    issued = issue_etcd(authority, name="scratch", hosts=(LOOPBACK,), now_ns=now_ns)
    files = {"ca.pem": authority.certificate_pem}
    for name, pair in (("server", issued.server), ("client", issued.client)):
        files |= {f"{name}.pem": pair.certificate_pem, f"{name}.key": pair.key_pem}
    for name, content in files.items():
        (directory / name).touch(mode=0o600)
        (directory / name).write_bytes(content)
    client, peer = (f"https://{LOOPBACK}:{port}" for port in _free_ports())
    flags = {
        "name": "scratch",
        "data-dir": directory / "data",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"scratch={peer}",
        "client-cert-auth": "true",
        "trusted-ca-file": directory / "ca.pem",
        "cert-file": directory / "server.pem",
        "key-file": directory / "server.key",
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": directory / "ca.pem",
        "peer-cert-file": directory / "server.pem",
        "peer-key-file": directory / "server.key",
        "max-txn-ops": MAX_TXN_OPS,
        "max-request-bytes": MAX_REQUEST_BYTES,
        "logger": "zap",
        "log-level": "warn",
    }
    certificate, key = str(directory / "client.pem"), str(directory / "client.key")
    settings = EtcdSettings((client,), ca=str(directory / "ca.pem"), certificate=certificate, key=key)
    return settings, [program, *(f"--{flag}={value}" for flag, value in flags.items())]


def _free_ports() -> tuple[int, int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(2)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        one, two = (probe.getsockname()[1] for probe in probes)
    return one, two
