"""From what is assigned to the node to what its DNS server answers from. Pure.

The ingress network has no names: services are not reached by name on it, and each node has its own address there.
"""

from __future__ import annotations

from collections.abc import Iterable

from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import ingress_pb2


def dns_table(
    *,
    networks: Iterable[dispatch.AssignedNetwork],
    services: Iterable[dispatch.NetworkService],
    tasks: Iterable[dispatch.AssignedTask],
) -> ingress_pb2.DnsTable:
    """All in a stable order. Nothing is named that is on no network of the node."""
    named = {network.id: network for network in networks if not network.ingress}
    return ingress_pb2.DnsTable(
        networks=[named[key] for key in sorted(named)],
        services=sorted(
            (service for service in services if service.network_id in named),
            key=lambda service: (service.network_id, service.service_id),
        ),
        clients=[
            client
            # One that has been told to stop comes before the others: its address may already be another task's,
            # and the last to name an address has it.
            for task in sorted(tasks, key=lambda task: (-task.desired_state, task.id))
            if (client := _client(task, named.keys())).addresses
        ],
    )


def _client(task: dispatch.AssignedTask, named: Iterable[str]) -> ingress_pb2.DnsClient:
    attachments = [item for item in task.attachments if item.network_id in named]
    return ingress_pb2.DnsClient(
        task_id=task.id,
        addresses=[item.address for item in attachments],
        network_ids=[item.network_id for item in attachments],
        nameservers=task.spec.container.dns.nameservers,
    )
