"""Writes what a node of a new cluster needs on disk: keys, certificates, settings."""

from __future__ import annotations

import secrets
from pathlib import Path

from minicommon.backup_file import Backup
from minicommon.clock import Clock
from minicommon.identity.authority import (
    Authority,
    KeyPair,
    issue_with_key,
    new_cluster_root,
    node_subject,
)
from minicommon.identity.etcd import issue_etcd, new_etcd_root
from minicommon.identity.keyring import KEY_BYTES, Keyring, KeyringFile, node_holder
from minicommon.paths import NodePaths
from minicommon.settings import EtcdSettings, write_json
from miniproto.v1 import backup_pb2
from miniproto.v1 import objects_pb2 as pb

from miniworker.node.init import ExternalEtcd, InitPlan, bootstrap, manager_settings
from miniworker.node.membership import Membership, StagedMembership


def stage_manager(stage: StagedMembership, plan: InitPlan, final: NodePaths, *, clock: Clock) -> Membership:
    """Everything of a first manager but its membership, which follows when it runs. `final` is where it will be."""
    root = new_cluster_root(clock.now_ns())
    keyring = Keyring({0: secrets.token_bytes(KEY_BYTES)})
    membership = _stage(stage, plan, final, root=root, keyring=keyring, now_ns=clock.now_ns())
    first = bootstrap(plan, root_ca_pem=root.certificate_pem, root_key_pem=root.key_pem)
    write_json(stage.paths.bootstrap, first)
    return membership


def stage_restored(
    stage: StagedMembership, plan: InitPlan, backup: Backup, final: NodePaths, *, clock: Clock
) -> Membership:
    """The same for the only manager of a cluster that was: its keys are the backup's, only etcd's own are new."""
    manifest = backup.manifest
    membership = _stage(
        stage,
        plan,
        final,
        root=Authority(manifest.root_ca_pem, manifest.root_key_pem),
        keyring=Keyring(dict(manifest.cluster_keys)),
        now_ns=clock.now_ns(),
    )
    entries = backup_pb2.BackupEntries(entries=backup.entries)
    stage.write(stage.paths.restore, entries.SerializeToString())
    return membership


def _stage(
    stage: StagedMembership,
    plan: InitPlan,
    final: NodePaths,
    *,
    root: Authority,
    keyring: Keyring,
    now_ns: int,
) -> Membership:
    """What any manager of a cluster with one has."""
    paths = stage.paths
    subject = node_subject(plan.node_id, manager=True, cluster_id=plan.cluster_id)
    node = issue_with_key(root, subject, now_ns=now_ns, lifetime_ns=plan.choices.certificate_lifetime_ns)
    stage.write(paths.root_ca, root.certificate_pem)
    _write_pair(stage, paths.node_certificate, node)
    KeyringFile(paths.cluster_key).write(keyring, [node_holder(node.key_pem)])
    if plan.external_etcd is None:
        etcd = _managed_etcd(stage, plan, final, now_ns=now_ns)
    else:
        etcd = _external_etcd(stage, plan.external_etcd, final)
    write_json(paths.manager_settings, manager_settings(plan, etcd))
    return Membership(
        node_id=plan.node_id,
        cluster_id=plan.cluster_id,
        role=pb.NODE_ROLE_MANAGER,
        advertise_host=plan.advertise_host,
        managers=(plan.control_address,),
        control_port=plan.listen.ports.control,
        managed_etcd=plan.external_etcd is None,
    )


def _managed_etcd(stage: StagedMembership, plan: InitPlan, final: NodePaths, *, now_ns: int) -> EtcdSettings:
    authority: Authority = new_etcd_root(now_ns)
    issued = issue_etcd(authority, name=plan.node_id, hosts=(plan.advertise_host,), now_ns=now_ns)
    pki = stage.paths.etcd_pki
    stage.write(pki / "ca.pem", authority.certificate_pem)
    stage.write(pki / "ca.key", authority.key_pem)
    for name, pair in (("server", issued.server), ("peer", issued.peer), ("client", issued.client)):
        _write_pair(stage, pki / f"{name}.pem", pair)
    return EtcdSettings(
        endpoints=(f"https://{plan.advertise_host}:{plan.listen.ports.etcd_client}",),
        ca=str(final.etcd_pki / "ca.pem"),
        certificate=str(final.etcd_pki / "client.pem"),
        key=str(final.etcd_pki / "client.key"),
    )


def _external_etcd(stage: StagedMembership, etcd: ExternalEtcd, final: NodePaths) -> EtcdSettings:
    def kept(name: str, content: bytes) -> str:
        if not content:
            return ""
        stage.write(stage.paths.etcd_pki / name, content)
        return str(final.etcd_pki / name)

    return EtcdSettings(
        endpoints=etcd.endpoints,
        ca=kept("ca.pem", etcd.ca_pem),
        certificate=kept("client.pem", etcd.certificate_pem),
        key=kept("client.key", etcd.key_pem),
        managed=False,
    )


def _write_pair(stage: StagedMembership, certificate: Path, pair: KeyPair) -> None:
    stage.write(certificate, pair.certificate_pem)
    stage.write(certificate.with_suffix(".key"), pair.key_pem)
