"""What the agent does when a living container gets other networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent.container import container_config
from miniworker.agent.hooks.api import Prepared
from miniworker.agent.hooks.sandbox import SandboxHook
from miniworker.network.api import Fabric, OverlayNetwork
from miniworker.network.fake import FakeDataPlane


def fabric(*numbers: int) -> Fabric:
    networks = tuple(
        OverlayNetwork(
            id=f"net{number}",
            name=f"net{number}",
            subnet=IPv4Network(f"10.0.{number}.0/24"),
            gateway=IPv4Address(f"10.0.{number}.1"),
            vni=4096 + number,
            mtu=1450,
            ingress=False,
        )
        for number in numbers
    )
    return Fabric("node", IPv4Address("10.77.0.11"), networks)


def task(*numbers: int) -> dispatch.AssignedTask:
    attachments = [
        pb.NetworkAttachment(network_id=f"net{number}", address=f"10.0.{number}.5") for number in numbers
    ]
    return dispatch.AssignedTask(id="t", name="one.1", attachments=attachments)


class Late:
    """The networks come while somebody waits for them."""

    def __init__(self, data_plane: FakeDataPlane, coming: Fabric) -> None:
        self.data_plane = data_plane
        self.coming = coming
        self.waited: list[frozenset[str]] = []

    async def wait_for_networks(self, network_ids: frozenset[str]) -> None:
        self.waited.append(network_ids)
        await self.data_plane.set_fabric(self.coming)

    async def wait_for_names(self, task_id: str) -> None:
        return


def prepared(of: dispatch.AssignedTask) -> Prepared:
    return Prepared(container_config(of, node_id="node"))


async def test_a_living_container_is_told_of_its_new_networks_once_the_node_has_them() -> None:
    data_plane = FakeDataPlane()
    networks = Late(data_plane, fabric(1, 2))
    hook = SandboxHook(data_plane, networks)
    await hook.prepare(task(), prepared(task()))
    changed = await hook.change(task(2), prepared(task(2)))
    assert changed is not None
    assert changed.config.networks_dns == "10.0.2.1"
    assert ("10.0.2.5", changed.config.hosts[-1][1]) in changed.config.hosts
    assert networks.waited == [frozenset({"net2"})]
    changed = await hook.change(task(), prepared(task()))
    assert changed is not None
    assert changed.config.networks_dns == ""


async def test_what_is_as_it_should_be_needs_no_network() -> None:
    """A new agent looks before it knows any, and must not wait: it has a container to watch."""
    data_plane = FakeDataPlane()
    await data_plane.set_fabric(fabric(1))
    networks = Late(data_plane, fabric())
    hook = SandboxHook(data_plane, networks)
    await hook.prepare(task(1), prepared(task(1)))
    data_plane.fabric = None
    assert await hook.change(task(1), prepared(task(1))) is None
    assert await hook.change(dispatch.AssignedTask(id="other"), prepared(task())) is None
    assert networks.waited == []
