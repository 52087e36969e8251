"""Objects of a small cluster, as the control API shows them."""

from __future__ import annotations

from miniproto.v1 import control_pb2 as control
from miniproto.v1 import node_pb2
from miniproto.v1 import objects_pb2 as objects
from miniproto.v1 import secrets_pb2 as secrets

SECOND = 1_000_000_000
NOW_NS = 1_795_000_000 * SECOND
MINUTE = 60 * SECOND

SERVICE_ID = "web0" + "1" * 21
NODE_ID = "n" * 25
OTHER_NODE_ID = "m" * 25
NETWORK_ID = "backend0" + "3" * 17


def service(name: str = "web", *, replicas: int = 2, running: int = 2) -> control.ServiceView:
    spec = objects.ServiceSpec(
        name=name,
        labels={"tier": "front"},
        replicas=replicas,
        task=objects.TaskSpec(
            container=objects.ContainerSpec(
                image="docker.io/library/whoami:1@sha256:" + "a" * 64,
                env=["A=1", "B=2"],
                args=["-v"],
                user="nobody",
                stop_grace_period_ns=10 * SECOND,
                cap_add=["CAP_NET_ADMIN"],
            ),
            resources=objects.Resources(
                limits=objects.ResourceLimits(nano_cpus=SECOND // 2, memory_bytes=64 << 20, pids=100),
                reservations=objects.ResourceReservations(memory_bytes=32 << 20),
            ),
            restart=objects.RestartPolicy(delay_ns=5 * SECOND),
        ),
        ports=[objects.PortConfig(target_port=4567, published_port=4567)],
    )
    return control.ServiceView(
        service=objects.Service(
            id=SERVICE_ID if name == "web" else (name + "2" * 25)[:25],
            meta=objects.Meta(
                version=21, created_at_ns=NOW_NS - 120 * SECOND, updated_at_ns=NOW_NS - 60 * SECOND
            ),
            spec=spec,
            spec_version=1,
            ports=spec.ports,
        ),
        running=running,
        desired=replicas,
    )


def task(
    slot: int = 1,
    *,
    identity: str = "t1",
    state: int = 512,
    desired: int = 512,
    age: int = 125,
    error: str = "",
    hostname: str = "core-01",
    spec_version: int = 1,
) -> control.TaskView:
    state_value = objects.TaskState.ValueType(state)
    return control.TaskView(
        task=objects.Task(
            id=(identity + "0" * 25)[:25],
            meta=objects.Meta(
                version=30, created_at_ns=NOW_NS - age * SECOND, updated_at_ns=NOW_NS - age * SECOND
            ),
            service_id=SERVICE_ID,
            service_name="web",
            slot=slot,
            node_id=NODE_ID,
            spec=service().service.spec.task,
            spec_version=spec_version,
            desired_state=objects.TaskState.ValueType(desired),
            state=objects.TASK_STATE_ASSIGNED,
        ),
        status=objects.TaskStatus(id=identity, state=state_value, container_id="f" * 64, pid=77),
        state=state_value,
        state_since_ns=NOW_NS - age * SECOND,
        error=error,
        node_hostname=hostname,
    )


def why() -> control.WhyResponse:
    """A task that two nodes refused, one of them for two reasons."""
    return control.WhyResponse(
        task=task(3, identity="t3", state=64, hostname="", error="no suitable node"),
        summary="web.3 is pending: no suitable node (insufficient resources on 2 nodes)",
        refusals=[
            control.NodeRefusal(
                node_id=NODE_ID,
                hostname="core-01",
                filter="resource",
                reason="needs 2 CPUs, 0.5 of 4 are free",
                others=["constraint node.labels.disk==hdd: it has 'ssd'"],
            ),
            control.NodeRefusal(
                node_id=OTHER_NODE_ID, filter="resource", reason="needs 2 CPUs, 1.5 of 4 are free"
            ),
        ],
        help=[f"free 0.5 CPUs on {OTHER_NODE_ID}, or reserve less"],
        revision=42,
    )


def node(hostname: str = "core-01", *, manager: bool = True, identity: str = NODE_ID) -> control.NodeView:
    role = objects.NODE_ROLE_MANAGER if manager else objects.NODE_ROLE_WORKER
    return control.NodeView(
        node=objects.Node(
            id=identity,
            meta=objects.Meta(version=9, created_at_ns=NOW_NS - 3600 * SECOND, updated_at_ns=NOW_NS),
            spec=objects.NodeSpec(labels={"disk": "ssd"}, role=role),
        ),
        status=objects.NodeStatus(
            id=identity,
            state=objects.NODE_STATE_READY,
            description=objects.NodeDescription(
                hostname=hostname,
                os="linux",
                architecture="x86_64",
                resources=objects.NodeResources(nano_cpus=2 * SECOND, memory_bytes=8 << 30),
                engine_version="0.1.0",
                runtime="oci",
            ),
            address="10.77.0.11",
            manager_address="10.77.0.11:2378" if manager else "",
        ),
        leader=manager,
        tls_status="Ready",
        reachable=manager,
    )


def network() -> objects.Network:
    return objects.Network(
        id="ingressnet" + "3" * 15,
        meta=objects.Meta(version=3, created_at_ns=NOW_NS - 3600 * SECOND),
        spec=objects.NetworkSpec(name="ingress", driver="overlay", ingress=True, mtu=1450),
        subnet="10.0.0.0/24",
        gateway="10.0.0.1",
        vni=4096,
    )


def image() -> node_pb2.Image:
    return node_pb2.Image(
        id="sha256:" + "ab" * 32,
        references=["whoami:1"],
        digests=["whoami@sha256:" + "cd" * 32],
        created_at_ns=NOW_NS - 2 * 3600 * SECOND,
        size_bytes=1_234_567,
    )


def cluster_info() -> control.ClusterInfo:
    spec = objects.ClusterSpec(
        name="default",
        task_history_limit=5,
        heartbeat_period_ns=5 * SECOND,
        certificate_lifetime_ns=2160 * 3600 * SECOND,
    )
    cluster = objects.Cluster(
        id="c" * 25,
        meta=objects.Meta(version=7, created_at_ns=NOW_NS - 3600 * SECOND, updated_at_ns=NOW_NS),
        spec=spec,
        default_address_pools=["10.0.0.0/8"],
        subnet_size=24,
    )
    etcd = control.EtcdInfo(
        version="3.4.23", endpoints=["https://10.77.0.11:2379"], healthy=True, database_bytes=1 << 20
    )
    manager = control.ManagerInfo(node_id=NODE_ID, address="10.77.0.11:2378", leader=True)
    return control.ClusterInfo(cluster=cluster, managers=[manager], etcd=etcd, revision=42, nodes=3)


def local_info() -> node_pb2.LocalInfo:
    return node_pb2.LocalInfo(
        state=node_pb2.LOCAL_STATE_ACTIVE,
        node_id=NODE_ID,
        cluster_id="c" * 25,
        role=objects.NODE_ROLE_MANAGER,
        advertise_address="10.77.0.11",
        managers=["10.77.0.11:2378"],
        version="0.1.0",
        description=objects.NodeDescription(
            hostname="core-01",
            os="linux",
            architecture="x86_64",
            resources=objects.NodeResources(nano_cpus=2 * SECOND, memory_bytes=8 << 30),
            runtime="oci",
            runtime_version="runc 1.1.5",
        ),
        children=[
            node_pb2.ChildProcess(name="etcd", running=True, pid=12, version="3.4.23", restarts=2),
            node_pb2.ChildProcess(name="mini-ingress", message="exited with code 1"),
        ],
        connected=True,
    )


def backend() -> objects.Network:
    return objects.Network(
        id=NETWORK_ID,
        meta=objects.Meta(version=30, created_at_ns=NOW_NS - 60 * SECOND, updated_at_ns=NOW_NS - 60 * SECOND),
        spec=objects.NetworkSpec(
            name="backend",
            driver="overlay",
            mtu=1370,
            attachable=True,
            internal=True,
            encrypted=True,
            ip_range="10.0.1.128/25",
            options={"encrypted": ""},
            labels={"tier": "back"},
        ),
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        vni=4097,
    )


def network_view(network: objects.Network) -> control.NetworkView:
    """The network with one task of a service on it."""
    return control.NetworkView(
        network=network,
        peers=[control.NetworkPeer(node_id=NODE_ID, hostname="core-01", address="10.77.0.11")],
        services=[
            control.NetworkServiceView(
                service_id=SERVICE_ID,
                name="web",
                virtual_address="10.0.1.254",
                aliases=["front"],
                ports=[objects.PortConfig(target_port=4567, published_port=4567)],
                tasks=[
                    control.NetworkTask(
                        task_id="t1" + "1" * 23,
                        name="web.1.t1" + "1" * 23,
                        address="10.0.1.130",
                        node_id=NODE_ID,
                        node_address="10.77.0.11",
                        container_id="c" * 64,
                    )
                ],
            )
        ],
        revision=42,
    )


def secret(name: str = "my-password", *, rotated: bool = False) -> objects.Secret:
    """With one version, or with two of which the old one goes soon."""
    versions = [objects.SecretVersion(number=1, created_at_ns=NOW_NS - 2 * MINUTE, size_bytes=21)]
    shown = objects.Secret(
        id=(name.replace("-", "") + "3" * 25)[:25],
        meta=objects.Meta(version=30, created_at_ns=NOW_NS - 2 * MINUTE, updated_at_ns=NOW_NS - MINUTE),
        spec=objects.SecretSpec(name=name, labels={"team": "a"}),
        version=1,
    )
    if rotated:
        versions[0].remove_at_ns = NOW_NS + 10 * MINUTE
        versions.append(objects.SecretVersion(number=2, created_at_ns=NOW_NS - MINUTE, size_bytes=30))
        shown.version = 2
        shown.rotation.CopyFrom(
            objects.SecretRotation(
                state=objects.ROTATION_STATE_COMPLETED,
                old_version=1,
                new_version=2,
                started_at_ns=NOW_NS - MINUTE,
                ended_at_ns=NOW_NS - 30 * SECOND,
            )
        )
    shown.versions.extend(versions)
    return shown


def config() -> secrets.ConfigView:
    return secrets.ConfigView(
        config=objects.Config(
            id="site" + "4" * 21,
            meta=objects.Meta(version=31, created_at_ns=NOW_NS - 2 * MINUTE, updated_at_ns=NOW_NS - MINUTE),
            spec=objects.ConfigSpec(name="site", templating="golang"),
            size_bytes=9,
        ),
        data=b"root = /\n",
    )


def service_with_secrets() -> control.ServiceView:
    view = service()
    container = view.service.spec.task.container
    container.secrets.append(objects.SecretUse(secret="i" * 25, name="key", version=2))
    container.secrets[0].file.CopyFrom(objects.FileTarget(name="key", mode=0o444))
    container.configs.append(objects.ConfigUse(config="j" * 25, name="site"))
    container.configs[0].file.CopyFrom(objects.FileTarget(name="/etc/site", uid=5, gid=6, mode=0o400))
    return view


def holders() -> list[secrets.SecretHolder]:
    return [
        secrets.SecretHolder(
            task_id=f"t{slot}" + "5" * 23,
            task_name=f"web.{slot}",
            hostname=f"core-0{slot}",
            version=version,
            state=objects.TASK_STATE_RUNNING,
            state_since_ns=NOW_NS - MINUTE,
        )
        for slot, version in ((2, 1), (1, 2))
    ]


def ledger() -> list[secrets.LedgerRecord]:
    known = {
        "node_id": NODE_ID,
        "task_id": "t1" + "5" * 23,
        "task_name": "web.1",
        "secret_id": "s" * 25,
        "secret_name": "key",
        "secret_version": 2,
    }
    return [
        secrets.LedgerRecord(number=1, at_ns=NOW_NS, event=secrets.LEDGER_EVENT_DELIVERED, **known),  # type: ignore[arg-type]
        secrets.LedgerRecord(
            number=2,
            at_ns=NOW_NS,
            event=secrets.LEDGER_EVENT_RECEIVED,
            delivery=1,
            **known,  # type: ignore[arg-type]
        ),
        secrets.LedgerRecord(
            number=3,
            at_ns=NOW_NS,
            event=secrets.LEDGER_EVENT_REFUSED,
            node_id=OTHER_NODE_ID,
            task_id="t1" + "5" * 23,
            secret_id="s" * 25,
            secret_version=2,
            message="the task is not assigned to this node",
        ),
    ]
