"""Where a node keeps what. One place, so that the daemon and the processes it starts cannot disagree.

Everything under `data_dir` survives a reboot; everything under `run_dir` is made anew. Both belong to root, 0700.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_DATA_DIR = Path("/var/lib/mini")
DEFAULT_RUN_DIR = Path("/run/mini")


@dataclass(frozen=True, slots=True)
class NodePaths:
    data_dir: Path = DEFAULT_DATA_DIR
    run_dir: Path = DEFAULT_RUN_DIR

    # --- membership: present only while the node belongs to a cluster ---

    @property
    def swarm_dir(self) -> Path:
        """Removed whole by `swarm leave`."""
        return self.data_dir / "swarm"

    @property
    def membership(self) -> Path:
        """JSON: what this node is a member of. Written last when joining, so a half-joined node has none."""
        return self.swarm_dir / "membership.json"

    @property
    def root_ca(self) -> Path:
        return self.swarm_dir / "root-ca.pem"

    @property
    def node_certificate(self) -> Path:
        return self.swarm_dir / "node.pem"

    @property
    def node_key(self) -> Path:
        return self.swarm_dir / "node.key"

    @property
    def encryption_keys(self) -> Path:
        """JSON, 0600: the node's WireGuard keys."""
        return self.swarm_dir / "wireguard.json"

    # --- managers only ---

    @property
    def manager_settings(self) -> Path:
        """JSON of `minicommon.settings.ManagerSettings`."""
        return self.swarm_dir / "manager.json"

    @property
    def bootstrap(self) -> Path:
        """JSON of `minicommon.settings.Bootstrap`; the manager removes it once the cluster exists in etcd."""
        return self.swarm_dir / "bootstrap.json"

    @property
    def restore(self) -> Path:
        """`BackupEntries`: what `swarm restore` gives the manager; it removes the file once all is in etcd."""
        return self.swarm_dir / "restore.pb"

    @property
    def cluster_key(self) -> Path:
        """The keyring (`minicommon.identity.keyring`): what seals the secrets in etcd."""
        return self.swarm_dir / "cluster.key"

    @property
    def etcd_data(self) -> Path:
        return self.swarm_dir / "etcd"

    @property
    def etcd_pki(self) -> Path:
        """ca.pem, ca.key, server.{pem,key}, peer.{pem,key}, client.{pem,key}: the etcd CA's own."""
        return self.swarm_dir / "etcd-pki"

    # --- the agent and the runtime ---

    @property
    def agent_database(self) -> Path:
        return self.swarm_dir / "agent.db"

    @property
    def runtime_dir(self) -> Path:
        """Images and containers of the `oci` runtime; survives `swarm leave`."""
        return self.data_dir / "oci"

    @property
    def docker_dir(self) -> Path:
        """What the `docker` runtime keeps beside the Engine; survives `swarm leave`."""
        return self.data_dir / "docker"

    @property
    def log_dir(self) -> Path:
        """Output of the supervised children."""
        return self.data_dir / "log"

    @property
    def audit_dir(self) -> Path:
        """The audit journal of this node's manager; survives `swarm leave`."""
        return self.data_dir / "audit"

    @property
    def dns_table(self) -> Path:
        """What mini-ingress answers names from; kept for its restart."""
        return self.run_dir / "dns-table.pb"

    @property
    def ledger_anchor(self) -> Path:
        """How far this manager has seen the ledger of deliveries; managers only."""
        return self.swarm_dir / "ledger.json"

    @property
    def secrets_dir(self) -> Path:
        """One tmpfs per task that has been given secrets or configs."""
        return self.run_dir / "secrets"

    # --- sockets ---

    @property
    def local_socket(self) -> Path:
        """The node daemon's API, and through it the control API: what minictl talks to."""
        return self.run_dir / "mini.sock"

    @property
    def manager_socket(self) -> Path:
        """The control API of this node's manager."""
        return self.run_dir / "manager.sock"

    @property
    def ingress_socket(self) -> Path:
        return self.run_dir / "ingress.sock"

    @property
    def etcd_keys(self) -> Path:
        """Private keys of etcd's certificates, for etcd and the manager to read: server.key, peer.key, client.key."""
        return self.run_dir / "etcd-keys"

    @property
    def locked(self) -> Path:
        """There while this node's manager waits for the unlock key."""
        return self.run_dir / "manager.locked"

    @property
    def netns_dir(self) -> Path:
        """One bind-mounted network namespace per task."""
        return self.run_dir / "netns"
