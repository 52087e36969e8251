"""The cluster, for `swarm info` and `info`."""

from __future__ import annotations

from minicommon import units

from minictl.views import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.control_pb2 import ClusterInfo
    from miniproto.v1.node_pb2 import LocalInfo

LOCAL_STATES = ("inactive", "pending", "active", "error", "locked")


def to_json(info: ClusterInfo) -> dict[str, Any]:
    """The cluster in the style of Docker's `Swarm` objects, with its managers and its store."""
    cluster, spec = info.cluster, info.cluster.spec
    return {
        "ID": cluster.id,
        **common.meta(cluster.meta),
        "Spec": {
            "Name": spec.name,
            "Labels": dict(sorted(spec.labels.items())),
            "Orchestration": {"TaskHistoryRetentionLimit": spec.task_history_limit},
            "Dispatcher": {"HeartbeatPeriod": spec.heartbeat_period_ns},
            "CAConfig": {"NodeCertExpiry": spec.certificate_lifetime_ns},
            "Ledger": {"Age": spec.ledger_age_ns, "Records": spec.ledger_records},
        },
        "DefaultAddrPool": list(cluster.default_address_pools),
        "SubnetSize": cluster.subnet_size,
        "Nodes": info.nodes,
        "Managers": [
            {"NodeID": manager.node_id, "Addr": manager.address, "Leader": manager.leader}
            for manager in info.managers
        ],
        "Etcd": {
            "Version": info.etcd.version,
            "Endpoints": list(info.etcd.endpoints),
            "Healthy": info.etcd.healthy,
            "Message": info.etcd.message,
            "DatabaseBytes": info.etcd.database_bytes,
        },
    }


def lines(info: ClusterInfo) -> list[str]:
    """`swarm info`."""
    etcd = info.etcd
    health = "healthy" if etcd.healthy else f"unhealthy: {etcd.message or 'no reason was given'}"
    return [
        f"ClusterID: {info.cluster.id}",
        f"Created: {common.timestamp(info.cluster.meta.created_at_ns)}",
        f"Nodes: {info.nodes}",
        *settings(info),
        "Managers:",
        *(
            f" {manager.node_id} {manager.address}{' (leader)' if manager.leader else ''}"
            for manager in info.managers
        ),
        "Etcd:",
        f" Version: {etcd.version}",
        f" Health: {health}",
        f" Database Size: {units.bytes_size(etcd.database_bytes)}",
        " Endpoints:",
        *(f"  {endpoint}" for endpoint in etcd.endpoints),
    ]


def settings(info: ClusterInfo) -> list[str]:
    """What `docker info` says of a swarm's settings."""
    spec = info.cluster.spec
    return [
        f"Default Address Pool: {' '.join(info.cluster.default_address_pools)}",
        f"SubnetSize: {info.cluster.subnet_size}",
        "Orchestration:",
        f" Task History Retention Limit: {spec.task_history_limit}",
        "Dispatcher:",
        f" Heartbeat Period: {units.human_duration(spec.heartbeat_period_ns)}",
        "CA Configuration:",
        f" Expiry Duration: {units.human_duration(spec.certificate_lifetime_ns)}",
    ]


def info_json(local: LocalInfo, info: ClusterInfo | None) -> dict[str, Any]:
    """`info --format`: Docker's field names."""
    described = local.description
    swarm: dict[str, Any] = {
        "NodeID": local.node_id,
        "NodeAddr": local.advertise_address,
        "LocalNodeState": LOCAL_STATES[local.state],
        "ControlAvailable": info is not None,
        "Error": local.message,
        "RemoteManagers": [{"Addr": address} for address in local.managers],
    }
    if info is not None:
        swarm |= {"Nodes": info.nodes, "Managers": len(info.managers), "Cluster": to_json(info)}
    return {
        "Name": described.hostname,
        "ServerVersion": local.version,
        "OSType": described.os,
        "Architecture": described.architecture,
        "NCPU": described.resources.nano_cpus // units.SECOND,
        "MemTotal": described.resources.memory_bytes,
        "DefaultRuntime": described.runtime,
        "RuntimeVersion": described.runtime_version,
        "Processes": [
            {
                "Name": child.name,
                "Running": child.running,
                "Pid": child.pid,
                "Version": child.version,
                "Restarts": child.restarts,
                "Message": child.message,
            }
            for child in local.children
        ],
        "Swarm": swarm,
    }


def info_lines(local: LocalInfo, info: ClusterInfo | None) -> list[str]:
    """`info`, in Docker's layout."""
    described = local.description
    text = [
        f" Server Version: {local.version}",
        f" Default Runtime: {described.runtime}",
        f" Runtime Version: {described.runtime_version}",
        f" Swarm: {LOCAL_STATES[local.state]}",
    ]
    if local.message:
        text.append(f"  Error: {local.message}")
    if local.node_id:
        text += [f"  NodeID: {local.node_id}", f"  Is Manager: {'true' if info is not None else 'false'}"]
    if info is not None:
        text += [
            f"  ClusterID: {info.cluster.id}",
            f"  Managers: {len(info.managers)}",
            f"  Nodes: {info.nodes}",
        ]
        text += [f"  {line}" for line in settings(info)]
        health = "healthy" if info.etcd.healthy else "unhealthy"
        text += ["  Etcd:", f"   Version: {info.etcd.version}", f"   Health: {health}"]
    if local.advertise_address:
        text.append(f"  Node Address: {local.advertise_address}")
    if local.managers:
        text += ["  Manager Addresses:", *(f"   {address}" for address in local.managers)]
    if local.children:
        text.append(" Processes:")
        text += [f"  {child.name}: {_process(child)}" for child in local.children]
    return [
        *text,
        f" OSType: {described.os}",
        f" Architecture: {described.architecture}",
        f" CPUs: {described.resources.nano_cpus // units.SECOND}",
        f" Total Memory: {units.bytes_size(described.resources.memory_bytes)}",
        f" Name: {described.hostname}",
    ]


def _process(child: Any) -> str:
    if not child.running:
        return f"not running ({child.message})" if child.message else "not running"
    version = f"{child.version}, " if child.version else ""
    restarts = f", {child.restarts} restarts" if child.restarts else ""
    return f"{version}pid {child.pid}{restarts}"
