"""`swarm join`: get a certificate with the token, and write the membership of a worker."""

from __future__ import annotations

from minicommon.clock import Clock
from minicommon.errors import InvalidArgumentError
from minicommon.rpc.join_client import Joined, join
from minicommon.settings import JOIN_PORT
from miniproto.v1 import node_pb2
from miniproto.v1 import objects_pb2 as pb

from miniworker.node.addresses import split_port
from miniworker.node.membership import Membership, StagedMembership, save_membership


async def request_membership(request: node_pb2.JoinClusterRequest, *, hostname: str, clock: Clock) -> Joined:
    """Ask the managers in turn. Raises MiniError; nothing on this node has changed then.

    Only workers: this version has one manager, and a manager's token is refused before the node is registered.
    """
    if not request.remote_addresses:
        raise InvalidArgumentError("at least one remote address must be specified: HOST[:PORT] of a manager")
    addresses = [with_join_port(address) for address in request.remote_addresses]
    return await join(
        addresses,
        request.token,
        hostname=hostname,
        availability=request.availability,
        roles=(pb.NODE_ROLE_WORKER,),
        clock=clock,
    )


def with_join_port(address: str) -> str:
    """`HOST[:PORT]` with the port, 2377 if it names none."""
    host, port = split_port(address, field="remote address")
    return f"{host}:{port or JOIN_PORT}"


def stage_worker(stage: StagedMembership, joined: Joined, *, advertise_host: str) -> Membership:
    """Write the files of a worker to the staging directory."""
    paths = stage.paths
    stage.write(paths.root_ca, joined.root_ca_pem)
    stage.write(paths.node_certificate, joined.certificate_pem)
    stage.write(paths.node_key, joined.key_pem)
    membership = Membership(
        node_id=joined.node_id,
        cluster_id=joined.cluster_id,
        role=joined.role,
        advertise_host=advertise_host,
        managers=joined.managers,
    )
    save_membership(paths, membership)
    return membership
