"""Who may call which method: the `access` option of the .proto files, read from the descriptors.

A method of ours that names nobody is denied to everybody, as is a method that is in no .proto file. Of gRPC's own
services, health and reflection are for whoever has been identified.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from miniproto.v1 import access_pb2, control_pb2, dispatcher_pb2, ingress_pb2, join_pb2, node_pb2

from minicommon.identity.names import Caller

FILES: Final = (control_pb2, dispatcher_pb2, ingress_pb2, join_pb2, node_pb2)
"""Every file with services: importing one puts it into the descriptor pool."""

_IDENTIFIED: Final = frozenset(Caller) - {Caller.ANYONE}

GRPC_SERVICES: Final = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)


def services() -> list[ServiceDescriptor]:
    """Every service of the contract."""
    return [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]


@cache
def allowed(method: str) -> frozenset[Caller]:
    """The callers of `/package.Service/Method`; none for a method that is unknown or declares nobody."""
    service_name, _, method_name = method.removeprefix("/").rpartition("/")
    if service_name in GRPC_SERVICES:
        return _IDENTIFIED
    try:
        service = descriptor_pool.Default().FindServiceByName(service_name)
    except KeyError:
        return frozenset()
    found = service.methods_by_name.get(method_name)
    return declared(found) if found is not None else frozenset()


def declared(method: MethodDescriptor) -> frozenset[Caller]:
    """What the method's `access` option says."""
    access = method.GetOptions().Extensions[access_pb2.access]
    return frozenset(Caller(number) for number in access.allow if number)
