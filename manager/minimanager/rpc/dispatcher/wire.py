"""Assignments as the protobuf messages of the dispatcher's stream."""

from __future__ import annotations

from miniproto.v1 import dispatcher_pb2, objects_pb2

from minimanager.codec import to_proto
from minimanager.decide.assignments import (
    ConfigAssignment,
    EndpointAssignment,
    Item,
    KeptAssignment,
    NetworkAssignment,
    PeerAssignment,
    PortAssignment,
    SecretAssignment,
    ServiceAssignment,
    TaskAssignment,
)
from minimanager.rpc.dispatcher.feed import Update
from minimanager.rpc.dispatcher.opener import Opener


def assignments(update: Update, opener: Opener) -> dispatcher_pb2.ManagerMessage:
    """One message: what a node needs before its tasks, then the tasks, then what is gone."""
    changes = [
        dispatcher_pb2.AssignmentChange(key=key, assignment=_item(item, opener))
        for key, item in update.delta.ordered_upserts()
    ]
    changes += [
        dispatcher_pb2.AssignmentChange(key=key, remove=True) for key in update.delta.ordered_removals()
    ]
    return dispatcher_pb2.ManagerMessage(
        assignments=dispatcher_pb2.Assignments(
            revision=update.revision, complete=update.complete, changes=changes
        )
    )


def _item(item: Item, opener: Opener) -> dispatcher_pb2.Assignment:
    match item:
        case NetworkAssignment():
            return dispatcher_pb2.Assignment(network=_network(item))
        case EndpointAssignment():
            return dispatcher_pb2.Assignment(endpoint=_endpoint(item))
        case PortAssignment():
            return dispatcher_pb2.Assignment(port=_port(item))
        case TaskAssignment():
            return dispatcher_pb2.Assignment(task=_task(item, opener))
        case KeptAssignment():
            return dispatcher_pb2.Assignment(kept=dispatcher_pb2.KeptTask(id=item.task_id))
        case ServiceAssignment():
            return dispatcher_pb2.Assignment(service=_service(item))
        case PeerAssignment():
            return dispatcher_pb2.Assignment(peer=_peer(item))
        case SecretAssignment(id, name, version):
            secret = dispatcher_pb2.AssignedSecret(id=id, name=name, version=version)
            return dispatcher_pb2.Assignment(secret=secret)
        case ConfigAssignment(id, name):
            return dispatcher_pb2.Assignment(config=dispatcher_pb2.AssignedConfig(id=id, name=name))


def _network(item: NetworkAssignment) -> dispatcher_pb2.AssignedNetwork:
    network = item.network
    return dispatcher_pb2.AssignedNetwork(
        id=network.id,
        name=network.spec.name,
        subnet=network.subnet,
        gateway=network.gateway,
        vni=network.vni,
        mtu=network.spec.mtu,
        ingress=network.spec.ingress,
        node_address=item.node_address,
        internal=network.spec.internal,
        encrypted=network.spec.encrypted,
    )


def _endpoint(item: EndpointAssignment) -> dispatcher_pb2.Endpoint:
    return dispatcher_pb2.Endpoint(
        network_id=item.network_id,
        address=item.address,
        node_id=item.node_id,
        vtep=item.vtep,
        task_id=item.task_id,
    )


def _port(item: PortAssignment) -> dispatcher_pb2.PublishedPort:
    return dispatcher_pb2.PublishedPort(
        protocol=objects_pb2.PortProtocol.ValueType(item.protocol),
        published_port=item.published_port,
        target_port=item.target_port,
        service_id=item.service_id,
        service_name=item.service_name,
        backends=[
            dispatcher_pb2.Backend(task_id=b.task_id, address=b.address, node_id=b.node_id)
            for b in item.backends
        ],
        host_ip=item.host_ip,
        locality=objects_pb2.PortLocality.ValueType(item.locality),
        sticky=item.sticky,
        proxy_protocol=item.proxy_protocol,
    )


def _service(item: ServiceAssignment) -> dispatcher_pb2.NetworkService:
    return dispatcher_pb2.NetworkService(
        network_id=item.network_id,
        service_id=item.service_id,
        name=item.name,
        aliases=item.aliases,
        virtual_address=item.virtual_address,
        backends=[
            dispatcher_pb2.ServiceBackend(
                task_id=b.task_id,
                address=b.address,
                node_id=b.node_id,
                slot=b.slot,
                container_name=b.container_name,
            )
            for b in item.backends
        ],
    )


def _peer(item: PeerAssignment) -> dispatcher_pb2.EncryptionPeer:
    return dispatcher_pb2.EncryptionPeer(node_id=item.node_id, vtep=item.vtep, public_key=item.public_key)


def _task(item: TaskAssignment, opener: Opener) -> dispatcher_pb2.AssignedTask:
    auth = opener.registry_auth(item.service_id, item.sealed_registry_auth)
    return dispatcher_pb2.AssignedTask(
        id=item.id,
        name=item.name,
        service_id=item.service_id,
        service_name=item.service_name,
        slot=item.slot,
        spec=to_proto(item.spec),
        desired_state=objects_pb2.TaskState.ValueType(item.desired_state),
        attachments=[to_proto(attachment) for attachment in item.attachments],
        ports=[to_proto(port) for port in item.ports],
        withdrawn=item.withdrawn,
        resources=[to_proto(resource) for resource in item.resources],
        registry_auth=auth,
        needs_registry_auth=auth is not None,
    )
