"""What the API shows of a network besides the network: the nodes, services and tasks on it."""

from __future__ import annotations

from miniproto.v1 import control_pb2

from minimanager.codec import to_proto
from minimanager.decide.assignments import address_on
from minimanager.domain.names import container_name
from minimanager.domain.objects import Network, Task
from minimanager.domain.snapshot import Snapshot
from minimanager.domain.usage import services_on, tasks_on
from minimanager.rpc import views


def details(snapshot: Snapshot, network: Network) -> control_pb2.NetworkView:
    """The network with who is on it; of the ingress network, that are the services with published ports."""
    tasks = tasks_on(snapshot, network)
    view = control_pb2.NetworkView(network=views.network(network), revision=snapshot.revision)
    for node_id in sorted({task.node_id for task in tasks if task.node_id}):
        view.peers.append(
            control_pb2.NetworkPeer(
                node_id=node_id,
                hostname=views.hostname(snapshot, node_id),
                address=_node_address(snapshot, node_id),
            )
        )
    present = {service.id: service for service in services_on(snapshot, network)}
    for task in tasks:
        service = snapshot.services.get(task.service_id)
        if service is not None and not service.removing:
            present.setdefault(service.id, service)
    for service in present.values():
        use = next((use for use in service.spec.task.networks if use.network == network.id), None)
        own = (each.address for each in service.virtual_addresses if each.network_id == network.id)
        view.services.append(
            control_pb2.NetworkServiceView(
                service_id=service.id,
                name=service.spec.name,
                virtual_address=next(own, ""),
                aliases=use.aliases if use is not None else (),
                ports=[to_proto(port) for port in service.ports],
                tasks=[_task(snapshot, network, task) for task in tasks if task.service_id == service.id],
            )
        )
    return view


def _task(snapshot: Snapshot, network: Network, task: Task) -> control_pb2.NetworkTask:
    status = snapshot.statuses.get(task.id)
    return control_pb2.NetworkTask(
        task_id=task.id,
        name=container_name(task),
        address=address_on(task, network.id),
        node_id=task.node_id,
        node_address=_node_address(snapshot, task.node_id),
        container_id=status.container_id if status is not None else "",
    )


def _node_address(snapshot: Snapshot, node_id: str) -> str:
    status = snapshot.node_statuses.get(node_id)
    return status.address if status is not None else ""
