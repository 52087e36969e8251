"""Who may call what, as the contract declares it, and that nothing undeclared is callable."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from minicommon.errors import PermissionDeniedError
from minicommon.identity.names import Caller
from minicommon.identity.peer import ANYONE, LOCAL, Identity
from minicommon.rpc import access
from minicommon.rpc.gate import check_access
from miniproto import v1

METHODS = [
    f"/{service.full_name}/{method.name}" for service in access.services() for method in service.methods
]

READS = {
    "CheckNetwork",
    "Get",
    "GetDetails",
    "History",
    "Inspect",
    "List",
    "Logs",
    "Stats",
    "Top",
    "Trace",
    "Watch",
    "WatchService",
    "Who",
    "Why",
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_declares_at_least_one_caller(method: str) -> None:
    assert access.allowed(method), f"{method} has no `access` option: nobody could call it"


def test_every_proto_file_with_services_is_known() -> None:
    known = {file.DESCRIPTOR.name for file in access.FILES}
    for path in v1.__path__:
        for proto in Path(path).glob("*.proto"):
            if "\nservice " in proto.read_text():
                assert f"miniproto/v1/{proto.name}" in known


def test_methods_were_found() -> None:
    assert "/mini.v1.Services/Create" in METHODS
    assert len(METHODS) > 20


@pytest.mark.parametrize("method", METHODS)
def test_nobody_unidentified_calls_anything_but_join(method: str) -> None:
    assert (Caller.ANYONE in access.allowed(method)) == method.startswith("/mini.v1.Join/")


@pytest.mark.parametrize("method", METHODS)
def test_workers_reach_only_the_dispatcher_and_their_membership(method: str) -> None:
    reachable = method.startswith(
        (
            "/mini.v1.Deliveries/",
            "/mini.v1.Dispatcher/",
            "/mini.v1.Membership/",
            "/mini.v1.NodeStreams/Open",
        )
    )
    assert (Caller.WORKER in access.allowed(method)) == reachable


@pytest.mark.parametrize("method", METHODS)
def test_viewers_only_read(method: str) -> None:
    if Caller.VIEWER in access.allowed(method):
        assert method.rpartition("/")[2] in READS


NOT_IN_THE_JOURNAL = {
    "Audit/List",
    "ClientCertificates/List",
    "Containers/StatPath",
    "Deliveries/Confirm",  # the ledger has it
    "Deliveries/Fetch",  # the ledger has it
    "Dispatcher/Session",  # open as long as the node lives; its sessions are in the log
    "EncryptionKeys/Status",
    "EncryptionKeys/Watch",
    "Images/List",
    "Images/Resolve",
    "Images/Save",  # changes nothing, and the log of the daemon has it
    "Ingress/Status",
    "Join/RootCertificate",
    "JoinTokens/List",
    "LocalNode/Info",
    "NodeStreams/Open",  # an answer to a call that has its record
    "NodeStreams/Relay",  # likewise
    "Secrets/Audit",
    "Secrets/VerifyAudit",
    "Volumes/Get",
    "Volumes/List",
}
"""What says of itself that it changes nothing, though no viewer may call it: each one is looked at here."""


def test_whatever_may_change_something_leaves_an_audit_record() -> None:
    unrecorded = {
        method.removeprefix("/mini.v1.")
        for method in METHODS
        if not access.recorded(method) and Caller.VIEWER not in access.allowed(method)
    }
    assert unrecorded <= NOT_IN_THE_JOURNAL


@pytest.mark.parametrize("method", METHODS)
def test_who_may_do_less_may_do_no_more(method: str) -> None:
    """An admin can do what an operator can, and an operator what a viewer can."""
    allowed = access.allowed(method)
    if Caller.VIEWER in allowed:
        assert Caller.OPERATOR in allowed
    if Caller.OPERATOR in allowed:
        assert Caller.ADMIN in allowed


@pytest.mark.parametrize(
    "method", ["", "/", "/mini.v1.Services/Nope", "/mini.v1.Nope/Get", "mini.v1.Services", "/Services/List"]
)
def test_what_is_not_in_the_contract_is_denied_to_all(method: str) -> None:
    for caller in Caller:
        with pytest.raises(PermissionDeniedError, match="allowed for nobody"):
            check_access(method, Identity(caller))


def test_a_method_that_declares_nobody_is_denied_to_all() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="undeclared.proto", package="undeclared", syntax="proto3")
    file.message_type.add(name="Empty")
    service = file.service.add(name="Open")
    service.method.add(name="Call", input_type=".undeclared.Empty", output_type=".undeclared.Empty")
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    assert access.allowed("/undeclared.Open/Call") == frozenset()
    with pytest.raises(PermissionDeniedError, match="allowed for nobody"):
        check_access("/undeclared.Open/Call", LOCAL)


def test_a_refusal_names_the_method_the_allowed_and_the_caller() -> None:
    worker = Identity(Caller.WORKER, "node1", "cluster1")
    with pytest.raises(PermissionDeniedError) as caught:
        check_access("/mini.v1.Services/Create", worker)
    assert caught.value.message == (
        "/mini.v1.Services/Create: allowed for admin, local, manager, operator; the caller is worker node1"
    )


def test_health_and_reflection_are_for_whoever_is_identified() -> None:
    for method in (
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ):
        check_access(method, Identity(Caller.WORKER, "node1", "cluster1"))
        with pytest.raises(PermissionDeniedError):
            check_access(method, ANYONE)


@pytest.mark.parametrize(
    ("method", "reads"),
    [
        ("LocalNode/Info", True),
        ("LocalNode/Leave", False),
        ("Services/List", True),
        ("Services/Create", False),
        ("Join/RootCertificate", True),
        ("Join/IssueCertificate", False),
        ("Nothing/Known", False),
    ],
)
def test_a_method_that_changes_nothing_is_known_as_one(method: str, reads: bool) -> None:
    assert access.reads(f"/mini.v1.{method}") is reads
