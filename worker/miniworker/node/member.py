"""What runs while the node is a member: its child processes, the agent and the renewal of its certificate."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from minicommon import __version__
from minicommon.clock import Clock
from minicommon.errors import FailedPreconditionError
from minicommon.identity import etcd_keys
from minicommon.identity.keyring import KeyringFile, parse_unlock, unlock_holder
from minicommon.paths import NodePaths
from minicommon.rpc.channel import unix_channel
from minicommon.settings import ManagerSettings, read_json
from minicommon.supervise import Supervisor
from miniproto.v1 import node_pb2
from miniproto.v1 import objects_pb2 as pb

from miniworker.agent.agent import Agent, AgentIdentity, AgentParts
from miniworker.agent.content_files import ContentFiles, Tmpfs
from miniworker.agent.ingress_client import IngressClient
from miniworker.agent.state import AgentState
from miniworker.network.api import DataPlane
from miniworker.network.names import CARRIER
from miniworker.network.wireguard.encryption import PROGRAM
from miniworker.node.certificates import UNIX, CertificateFiles, Renewal
from miniworker.node.children import Child, ChildSpec, stop_all
from miniworker.node.config import DaemonConfig
from miniworker.node.etcd import EtcdMember, etcd_child
from miniworker.node.membership import Membership
from miniworker.runtime.api import Images, Runtime, Volumes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """The machine, as the daemon opened it once at its start."""

    config: DaemonConfig
    runtime: Runtime
    images: Images
    volumes: Volumes
    open_data_plane: Callable[[], DataPlane]
    description: pb.NodeDescription
    clock: Clock
    random: Random
    etcd_version: str = ""

    @property
    def paths(self) -> NodePaths:
        return self.config.paths


class Member:
    """`run` until cancelled; children and containers go on without it."""

    def __init__(self, membership: Membership, site: Site) -> None:
        self.membership = membership
        self._site = site
        paths = site.paths
        self.credentials = CertificateFiles(paths)
        self._unlocked = asyncio.Event()
        etcd_keys.put_to_use(paths, etcd_keys.at_rest(paths))
        self._state = AgentState(paths.agent_database)
        self.renewal = Renewal(
            self.credentials, managers=self._authorities, clock=site.clock, random=site.random
        )
        self._ingress_channel = unix_channel(paths.ingress_socket)
        self.children = tuple(
            Child(spec, run_dir=paths.run_dir, log_dir=paths.log_dir, clock=site.clock)
            for spec in child_specs(membership, site)
        )
        data_plane = site.open_data_plane()
        self._data_plane = data_plane
        self._encrypting = Child(
            ChildSpec(PROGRAM, (PROGRAM, "-f", CARRIER), "", env={"LOG_LEVEL": "error"}),
            run_dir=paths.run_dir,
            log_dir=paths.log_dir,
            clock=site.clock,
        )
        """For encrypted networks where the kernel cannot encrypt; runs once there is one."""
        self.agent = Agent(
            AgentIdentity(
                node_id=membership.node_id,
                data_path_address=IPv4Address(membership.advertise_host),
                description=site.description,
                allowed=site.config.allowed,
                key_period_ns=site.config.encryption_key_period_ns,
                manager_address=(
                    f"{membership.advertise_host}:{membership.control_port}" if membership.is_manager else ""
                ),
            ),
            AgentParts(
                runtime=site.runtime,
                images=site.images,
                data_plane=data_plane,
                ingress=IngressClient(self._ingress_channel, node_id=membership.node_id),
                state=self._state,
                dial=self.credentials.dial,
                certificate=self.credentials.description,
                trust=self.renewal.trust,
                clock=site.clock,
                random=site.random,
                contents=ContentFiles(paths.secrets_dir, Tmpfs()),
                sign=self.credentials.sign,
            ),
            managers=membership.managers,
        )
        self.renewal.changed = self.agent.certificate_changed

    @property
    def problem(self) -> str:
        """What keeps the node from doing its work; empty when nothing does."""
        return self.renewal.problem or self.agent.problem

    async def run(self) -> None:
        try:
            async with Supervisor() as group:
                for child in self.children:
                    group.start_eternal(child.spec.name, self._run_child(child))
                group.start_eternal(PROGRAM, self._encrypt())
                group.start_eternal("agent", self.agent.run())
                group.start_eternal("certificate renewal", self.renewal.run())
        finally:
            await self._ingress_channel.close()
            self._state.close()

    async def unlock(self, key: str) -> None:
        """Make the keys of etcd readable, and start it. Raises KeyringError, InvalidArgumentError."""
        paths = self._site.paths
        file = KeyringFile(paths.cluster_key)
        if not file.locked:
            raise FailedPreconditionError("swarm is not locked")
        keyring = await asyncio.to_thread(file.open, unlock_holder(parse_unlock(key)))
        await asyncio.to_thread(etcd_keys.put_to_use, paths, keyring.files)
        self._unlocked.set()

    async def _run_child(self, child: Child) -> None:
        """etcd cannot start before its keys can be read: on a locked manager after a boot."""
        if child.spec.name == "etcd" and not etcd_keys.in_use(self._site.paths):
            logger.warning("etcd waits for the unlock key.")
            await self._unlocked.wait()
        await child.run()

    async def evict(self) -> None:
        """Nothing of ours stays on the machine: containers, networks, and what encrypts for them.

        Raises RuntimeFaultError. Call it once `run` is over.
        """
        await self._encrypting.stop()  # before its interface goes: with that it would end unseen
        await self.agent.evict()

    async def stop_children(self) -> None:
        """End them: the manager before etcd, which it needs to resign. Call it once `run` is over.

        The names that they served are forgotten: no container is left to ask, and the next cluster has others.
        """
        order = ("mini-manager", "etcd", "mini-ingress")
        await stop_all(sorted(self.children, key=lambda child: order.index(child.spec.name)))
        await self._encrypting.stop()
        self._site.paths.dns_table.unlink(missing_ok=True)

    def child(self, name: str) -> Child | None:
        return next((child for child in self.children if child.spec.name == name), None)

    def describe_children(self) -> list[node_pb2.ChildProcess]:
        return [
            node_pb2.ChildProcess(
                name=child.spec.name,
                running=child.state.pid != 0,
                pid=child.state.pid,
                version=child.spec.version,
                restarts=child.state.restarts,
                message=child.state.message,
            )
            for child in (*self.children, *((self._encrypting,) if self._encrypting.recorded else ()))
        ]

    async def _encrypt(self) -> None:
        """Keep the program up while there is something to encrypt. Cancelled, it goes on."""
        while True:
            await self._data_plane.wait_encryption(wanted=True)
            running = asyncio.create_task(self._encrypting.run(), name=PROGRAM)
            over = asyncio.create_task(self._data_plane.wait_encryption(wanted=False))
            try:
                await asyncio.wait({running, over}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
            finally:
                running.cancel()
                over.cancel()
                await asyncio.gather(running, over, return_exceptions=True)
            await self._encrypting.stop()

    def _authorities(self) -> tuple[str, ...]:
        """Who can renew the certificate: on a manager first its own, which lets in an expired one, too."""
        own = (f"{UNIX}{self._site.paths.manager_socket}",) if self.membership.is_manager else ()
        return own + self.agent.managers


def child_specs(membership: Membership, site: Site) -> tuple[ChildSpec, ...]:
    """The processes that the node's role needs, in the order of their start."""
    specs: list[ChildSpec] = []
    if membership.managed_etcd:
        specs.append(_etcd(site))
    if membership.is_manager:
        specs.append(_our_own("mini-manager", site.config, *site.config.backups))
    specs.append(_our_own("mini-ingress", site.config, f"--ingress-path={site.config.ingress_path}"))
    return tuple(specs)


def _etcd(site: Site) -> ChildSpec:
    settings = read_json(site.paths.manager_settings, ManagerSettings)
    port = urlsplit(settings.etcd.endpoints[0]).port
    assert port is not None, "the daemon itself wrote the endpoint, with a port"
    member = EtcdMember(
        name=settings.node_id,
        host=settings.advertise_host,
        client_port=port,
        peer_port=port + 1,
        cluster_token=settings.cluster_id,
    )
    return etcd_child(member, site.paths, version=site.etcd_version)


def _our_own(name: str, config: DaemonConfig, *more: str) -> ChildSpec:
    """One of our console scripts, from the installation that this process runs from."""
    argv = (
        str(Path(sys.executable).parent / name),
        f"--data-dir={config.paths.data_dir}",
        f"--run-dir={config.paths.run_dir}",
        f"--log-level={config.log_level}",
        f"--log-format={config.log_format}",
        *more,
    )
    return ChildSpec(name, argv, __version__)
