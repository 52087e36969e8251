"""Who may call which method: the `access` option of the .proto files, read from the descriptors.

A method of ours that names nobody is denied to everybody, as is a method that is in no .proto file. Of gRPC's own
services, health and reflection are for whoever has been identified.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from miniproto.v1 import (
    access_pb2,
    backup_pb2,
    control_pb2,
    dispatcher_pb2,
    ingress_pb2,
    join_pb2,
    node_pb2,
    secrets_pb2,
    security_pb2,
    streams_pb2,
)

from minicommon.identity.names import Caller

FILES: Final = (
    backup_pb2,
    control_pb2,
    dispatcher_pb2,
    ingress_pb2,
    join_pb2,
    node_pb2,
    secrets_pb2,
    security_pb2,
    streams_pb2,
)
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
    if _service_name(method) in GRPC_SERVICES:
        return _IDENTIFIED
    found = _descriptor(method)
    return declared(found) if found is not None else frozenset()


@cache
def reads(method: str) -> bool:
    """Whether the method changes nothing: it says so, or a viewer may call it, or it is one of gRPC's own."""
    if _service_name(method) in GRPC_SERVICES:
        return True
    found = _descriptor(method)
    if found is None:
        return False
    return found.GetOptions().Extensions[access_pb2.access].reads or Caller.VIEWER in declared(found)


@cache
def recorded(method: str) -> bool:
    """Whether a call of the method leaves an audit record: it may change something, and does not say otherwise."""
    found = _descriptor(method)
    return not (reads(method) or (found and found.GetOptions().Extensions[access_pb2.access].unrecorded))


def _service_name(method: str) -> str:
    return method.removeprefix("/").rpartition("/")[0]


def _descriptor(method: str) -> MethodDescriptor | None:
    try:
        service = descriptor_pool.Default().FindServiceByName(_service_name(method))
    except KeyError:
        return None
    return service.methods_by_name.get(method.rpartition("/")[2])


def declared(method: MethodDescriptor) -> frozenset[Caller]:
    """What the method's `access` option says."""
    access = method.GetOptions().Extensions[access_pb2.access]
    return frozenset(Caller(number) for number in access.allow if number)
