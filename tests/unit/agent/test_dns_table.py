"""What the node's DNS server is told."""

from __future__ import annotations

from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent.assignments import AssignmentSet
from miniworker.agent.dns_table import dns_table
from support.dns import network, service

INGRESS = dispatch.AssignedNetwork(id="ing", name="ingress", subnet="10.0.0.0/24", ingress=True)
BACKEND, FRONTEND = network("b"), network("f", third=2)


def task(
    ident: str,
    *attachments: tuple[str, str],
    desired: pb.TaskState.ValueType = pb.TASK_STATE_RUNNING,
    dns: tuple[str, ...] = (),
) -> dispatch.AssignedTask:
    return dispatch.AssignedTask(
        id=ident,
        desired_state=desired,
        attachments=[pb.NetworkAttachment(network_id=key, address=address) for key, address in attachments],
        spec=pb.TaskSpec(container=pb.ContainerSpec(dns=pb.DnsConfig(nameservers=dns))),
    )


def test_a_clients_networks_are_in_the_order_of_its_attachments() -> None:
    asks = task("t", ("ing", "10.0.0.9"), ("f", "10.0.2.9"), ("b", "10.0.1.9"), dns=("9.9.9.9",))
    table = dns_table(networks=[INGRESS, FRONTEND, BACKEND], services=[], tasks=[asks])
    assert list(table.networks) == [BACKEND, FRONTEND]
    (client,) = table.clients
    assert (client.task_id, list(client.network_ids)) == ("t", ["f", "b"])
    assert (list(client.addresses), list(client.nameservers)) == (["10.0.2.9", "10.0.1.9"], ["9.9.9.9"])


def test_who_is_on_no_network_with_names_is_no_client() -> None:
    tasks = [task("none"), task("published", ("ing", "10.0.0.9")), task("early", ("x", "10.0.3.9"))]
    assert not dns_table(networks=[INGRESS, BACKEND], services=[], tasks=tasks).clients


def test_services_of_other_networks_are_left_out_and_the_order_is_stable() -> None:
    here, there = service("b", "web"), service("x", "web")
    also = service("b", "api")
    table = dns_table(networks=[BACKEND], services=[here, there, also], tasks=[])
    assert list(table.services) == [also, here]


def test_an_address_belongs_to_the_task_that_is_to_run() -> None:
    old = task("z", ("b", "10.0.1.9"), desired=pb.TASK_STATE_SHUTDOWN)
    new = task("a", ("b", "10.0.1.9"))
    table = dns_table(networks=[BACKEND], services=[], tasks=[new, old])
    assert [client.task_id for client in table.clients] == ["z", "a"]


def test_the_table_follows_the_assignments() -> None:
    assignments = AssignmentSet()
    changes = {
        "network/b": dispatch.Assignment(network=BACKEND),
        "service/b/id-web": dispatch.Assignment(service=service("b", "web", tasks=("10.0.1.5",))),
        "task/t": dispatch.Assignment(task=task("t", ("b", "10.0.1.9"))),
    }
    for revision, (key, item) in enumerate(changes.items(), 1):
        before = assignments.dns()
        change = dispatch.AssignmentChange(key=key, assignment=item)
        assignments.apply(dispatch.Assignments(revision=revision, changes=[change]))
        assert assignments.dns() != before
        assert assignments.dns() is assignments.dns()
    assert [item.name for item in assignments.dns().services] == ["web"]
    for key in ("service/b/id-web", "task/t"):
        removal = dispatch.AssignmentChange(key=key, remove=True)
        assignments.apply(dispatch.Assignments(revision=9, changes=[removal]))
    assert not assignments.dns().services
    assert not assignments.dns().clients
