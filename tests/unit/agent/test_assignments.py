"""The assignment set follows any sequence of messages as a plain dictionary would."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent.assignments import AssignmentSet
from miniworker.agent.state import AgentState
from miniworker.network.api import EncryptionPeer, Fabric

keys = st.sampled_from(["task/a", "task/b", "task/c"])
changes = st.lists(
    st.tuples(keys, st.booleans(), st.integers(1, 3)), max_size=4, unique_by=lambda item: item[0]
)
messages = st.lists(st.tuples(st.booleans(), changes), max_size=6)


def item(key: str, slot: int) -> dispatch.Assignment:
    return dispatch.Assignment(task=dispatch.AssignedTask(id=key.removeprefix("task/"), slot=slot))


def message(revision: int, complete: bool, wanted: list[tuple[str, bool, int]]) -> dispatch.Assignments:
    return dispatch.Assignments(
        revision=revision,
        complete=complete,
        changes=[
            dispatch.AssignmentChange(key=key, remove=remove, assignment=None if remove else item(key, slot))
            for key, remove, slot in wanted
        ],
    )


@given(messages)
def test_the_set_and_what_is_stored_follow_the_messages(
    story: list[tuple[bool, list[tuple[str, bool, int]]]],
) -> None:
    assignments, model, stored = AssignmentSet(), dict[str, int](), dict[str, dispatch.Assignment]()
    for revision, (complete, wanted) in enumerate(story, start=1):
        change = assignments.apply(message(revision, complete, wanted))
        if complete:
            model.clear()
        for key, remove, slot in wanted:
            if remove:
                model.pop(key, None)
            else:
                model[key] = slot
        for key in change.removed:
            del stored[key]
        stored.update(change.changed)
        assert {f"task/{task.id}": task.slot for task in assignments.tasks()} == model
        assert {key: value.task.slot for key, value in stored.items()} == model
        assert assignments.revision == revision


def test_networks_and_endpoints_become_a_fabric() -> None:
    assignments = AssignmentSet(
        {
            "network/n": dispatch.Assignment(
                network=dispatch.AssignedNetwork(
                    id="n",
                    name="ingress",
                    subnet="10.0.0.0/24",
                    gateway="10.0.0.1",
                    vni=4096,
                    mtu=1450,
                    ingress=True,
                    node_address="10.0.0.2",
                )
            ),
            "endpoint/n/10.0.0.3": dispatch.Assignment(
                endpoint=dispatch.Endpoint(
                    network_id="n", address="10.0.0.3", node_id="x", vtep="10.77.0.12", task_id="t"
                )
            ),
        }
    )
    fabric = assignments.fabric(node_id="me", data_path_address=IPv4Address("10.77.0.11"))
    (network,) = fabric.networks
    (endpoint,) = fabric.endpoints
    assert network.subnet == IPv4Network("10.0.0.0/24")
    assert network.node_address == IPv4Address("10.0.0.2")
    assert (endpoint.address, endpoint.vtep) == (IPv4Address("10.0.0.3"), IPv4Address("10.77.0.12"))


def service(address: str, *backends: str) -> dispatch.Assignment:
    return dispatch.Assignment(
        service=dispatch.NetworkService(
            network_id="n",
            service_id="s",
            name="web",
            virtual_address=address,
            backends=[dispatch.ServiceBackend(task_id=item, address=item) for item in backends],
        )
    )


def test_services_with_an_address_and_peers_are_part_of_the_fabric_and_change_with_it() -> None:
    peer = dispatch.EncryptionPeer(node_id="x", vtep="10.77.0.12", public_key="a2V5")
    assignments = AssignmentSet(
        {
            "service/n/s": service("10.0.1.9", "10.0.1.12", "10.0.1.11"),
            "service/n/dnsrr": service("", "10.0.1.11"),
            "peer/x": dispatch.Assignment(peer=peer),
        }
    )

    def fabric() -> Fabric:
        return assignments.fabric(node_id="me", data_path_address=IPv4Address("10.77.0.11"))

    def put(key: str, wanted: dispatch.Assignment) -> None:
        change = dispatch.AssignmentChange(key=key, assignment=wanted)
        assignments.apply(dispatch.Assignments(revision=2, changes=[change]))

    (only,) = fabric().services
    assert only.address == IPv4Address("10.0.1.9")
    assert only.backends == (IPv4Address("10.0.1.11"), IPv4Address("10.0.1.12"))
    assert fabric().peers == (EncryptionPeer("x", IPv4Address("10.77.0.12"), "a2V5"),)
    put("service/n/dnsrr", service("10.0.1.10", "10.0.1.11"))
    assert only is next(item for item in fabric().services if item.address == only.address)
    assert len(fabric().services) == 2
    put("service/n/s", service(""))
    assert [item.address for item in fabric().services] == [IPv4Address("10.0.1.10")]
    assignments.apply(dispatch.Assignments(revision=3, complete=True))
    assert (fabric().services, fabric().peers) == ((), ())


def test_the_file_gives_back_what_was_stored(tmp_path: Path) -> None:
    state = AgentState(tmp_path / "agent.db")
    state.save_assignments({"task/a": item("task/a", 1), "task/b": item("task/b", 2)}, ())
    state.save_assignments({"task/a": item("task/a", 3)}, ("task/b",))
    state.save_status(pb.TaskStatus(id="a", state=pb.TASK_STATE_STARTING))
    state.save_status(pb.TaskStatus(id="a", state=pb.TASK_STATE_RUNNING))
    state.save_status(pb.TaskStatus(id="gone"))
    state.forget_status("gone")
    state.save_managers(("10.77.0.12:2378", "10.77.0.11:2378"))
    state.close()

    again = AgentState(tmp_path / "agent.db")
    stored = again.load()
    again.close()
    assert stored.assignments == {"task/a": item("task/a", 3)}
    assert {key: value.state for key, value in stored.statuses.items()} == {"a": pb.TASK_STATE_RUNNING}
    assert stored.managers == ("10.77.0.11:2378", "10.77.0.12:2378")
    assert (tmp_path / "agent.db").stat().st_mode & 0o777 == 0o600
