"""The agent between a dispatcher over real gRPC and a runtime and data plane in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from random import Random

import pytest
from minicommon.clock import SystemClock
from minicommon.errors import UnavailableError
from miniproto.v1 import dispatcher_pb2 as pb
from miniproto.v1 import objects_pb2 as objects
from miniproto.v1.ingress_pb2 import DnsTable
from miniworker.agent.agent import Agent, AgentIdentity, AgentParts
from miniworker.agent.content_files import ContentFiles
from miniworker.agent.deliveries import Signature
from miniworker.agent.ingress_client import IngressWant
from miniworker.agent.state import AgentState
from miniworker.network.api import Connections
from miniworker.network.fake import FakeDataPlane
from miniworker.runtime.api import Container, ContainerStatus, Login, RuntimeFaultError
from miniworker.runtime.fake import Behavior, FakeRuntime
from support.content_files import PlainFileSystems
from support.dispatcher import FakeDispatcher

NODE = "node-2"
RUNNING = objects.TASK_STATE_RUNNING
NETWORK = pb.AssignedNetwork(
    id="ing",
    name="ingress",
    subnet="10.0.0.0/24",
    gateway="10.0.0.1",
    vni=4096,
    mtu=1450,
    ingress=True,
    node_address="10.0.0.2",
)
PORT = pb.PublishedPort(published_port=4567, target_port=4567, service_id="s", service_name="web")


class FakeIngress:
    """Takes tables; `lose` is what happens when its process is replaced."""

    def __init__(self) -> None:
        self.tables: list[tuple[pb.PublishedPort, ...]] = []
        self.names: list[DnsTable] = []
        self.down = False
        self._lost = asyncio.Event()

    async def apply(self, want: IngressWant) -> None:
        if self.down:
            raise UnavailableError("mini-ingress is down")
        self.tables.append(want.ports)
        self.names.append(want.dns)

    async def watch(self, lost: Callable[[], None]) -> None:
        while True:
            await self._lost.wait()
            self._lost.clear()
            lost()

    def lose(self) -> None:
        self._lost.set()


async def signed(text: bytes) -> Signature:
    return Signature(b"signed " + text, b"certificate")


class Machine:
    """What survives the agent: containers, the kernel, the file."""

    def __init__(self, directory: Path) -> None:
        self.dispatcher = FakeDispatcher(directory / "d.sock")
        self.runtime = FakeRuntime(
            {
                ("true",): Behavior(exit_code=0),
                ("false",): Behavior(exit_code=3),
                ("broken",): Behavior(start_error='exec: "broken": executable file not found in $PATH'),
            },
            registry=("whoami:1",),
        )
        self.data_plane = FakeDataPlane()
        self.ingress = FakeIngress()
        self.contents = ContentFiles(directory / "secrets", PlainFileSystems())
        self._database = directory / "agent.db"

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Agent]:
        """One life of the agent process."""
        state = AgentState(self._database)
        agent = Agent(
            AgentIdentity(NODE, IPv4Address("10.77.0.12"), objects.NodeDescription(hostname="core-02")),
            AgentParts(
                runtime=self.runtime,
                images=self.runtime.images,
                data_plane=self.data_plane,
                ingress=self.ingress,
                state=state,
                dial=FakeDispatcher.dial,
                clock=SystemClock(),
                random=Random(1),
                contents=self.contents,
                sign=signed,
            ),
            managers=(self.dispatcher.address,),
        )
        running = asyncio.create_task(agent.run())
        try:
            yield agent
            assert not running.done(), running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            state.close()

    async def container(self, task_id: str) -> Container | None:
        found = {container.id: container for container in await self.runtime.list()}
        return found.get(task_id)

    async def gone(self, task_id: str) -> None:
        """Wait until the container is removed."""
        while await self.container(task_id):  # noqa: ASYNC110  the fake tells nobody
            await asyncio.sleep(0)

    def lose_file(self) -> None:
        for path in self._database.parent.glob("agent.db*"):
            path.unlink()


def task(
    task_id: str = "t1",
    *args: str,
    desired: objects.TaskState.ValueType = RUNNING,
    image: str = "whoami:1",
    ports: tuple[objects.PortConfig, ...] = (),
    attached: bool = True,
) -> pb.AssignedTask:
    return pb.AssignedTask(
        id=task_id,
        name="web.1",
        service_id="s",
        service_name="web",
        slot=1,
        spec=objects.TaskSpec(container=objects.ContainerSpec(image=image, args=args)),
        desired_state=desired,
        attachments=[objects.NetworkAttachment(network_id="ing", address="10.0.0.3")] if attached else [],
        ports=ports,
        withdrawn=desired >= objects.TASK_STATE_SHUTDOWN,
    )


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path)
    machine.dispatcher.assign(network__ing=pb.Assignment(network=NETWORK))
    await machine.dispatcher.start()
    yield machine
    await machine.dispatcher.stop()


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  the fakes tell nobody
        await asyncio.sleep(0)


async def test_a_task_comes_to_run_on_its_network(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        status = await machine.dispatcher.task_state("t1", RUNNING)
        assert (status.message, status.container_id, status.node_id) == ("started", "t1", NODE)
        assert status.pid > 0
        config = machine.runtime.config("t1")
        assert config.name == "web.1.t1"
        assert config.hosts == (("10.0.0.3", "t1"),)
        assert config.netns == Path("/run/mini/netns/t1")
        assert dict(config.labels) == {
            "com.docker.swarm.task": "",
            "com.docker.swarm.task.id": "t1",
            "com.docker.swarm.task.name": "web.1.t1",
            "com.docker.swarm.node.id": NODE,
            "com.docker.swarm.service.id": "s",
            "com.docker.swarm.service.name": "web",
        }
        history = machine.dispatcher.history["t1"]
        assert history == sorted(history)


async def test_ready_waits_for_running(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task(desired=objects.TASK_STATE_READY))
        await machine.dispatcher.task_state("t1", objects.TASK_STATE_READY)
        container = await machine.container("t1")
        assert container is not None
        assert container.status is ContainerStatus.CREATED
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)


def checked(**numbers: int) -> pb.AssignedTask:
    """A task whose health is what the program "check" says."""
    subject = task(attached=False)
    subject.spec.container.health.CopyFrom(objects.HealthCheck(test=["CMD", "check"], **numbers))
    return subject


async def test_readiness_comes_and_goes_without_a_restart(machine: Machine) -> None:
    subject = task()
    probe = objects.HealthCheck(test=["CMD", "check"], interval_ns=10**7, retries=2)
    subject.spec.container.ready.CopyFrom(probe)
    machine.runtime.script(("check",), Behavior(exit_code=1, output=(("stdout", b"no data yet"),)))
    async with machine.agent():
        machine.dispatcher.assign_task(subject)
        status = machine.dispatcher.statuses
        await machine.dispatcher.until(lambda: "t1" in status and "no data yet" in status["t1"].message)
        assert status["t1"].state == objects.TASK_STATE_STARTING
        machine.runtime.script(("check",), Behavior(exit_code=0))
        running = await machine.dispatcher.task_state("t1", RUNNING)
        assert not running.not_ready
        machine.runtime.script(("check",), Behavior(exit_code=1))
        await machine.dispatcher.until(lambda: status["t1"].not_ready)
        assert status["t1"].state == RUNNING
        machine.runtime.script(("check",), Behavior(exit_code=0))
        await machine.dispatcher.until(lambda: not status["t1"].not_ready)
        assert status["t1"].pid == running.pid
    assert ("stop", "t1") not in machine.runtime.calls


async def test_readiness_is_known_after_a_restart_of_the_agent(machine: Machine) -> None:
    subject = task()
    probe = objects.HealthCheck(test=["CMD", "check"], interval_ns=10**7, retries=1)
    subject.spec.container.ready.CopyFrom(probe)
    machine.runtime.script(("check",), Behavior(exit_code=0))
    status = machine.dispatcher.statuses
    async with machine.agent():
        machine.dispatcher.assign_task(subject)
        await machine.dispatcher.task_state("t1", RUNNING)
        machine.runtime.script(("check",), Behavior(exit_code=1))
        await machine.dispatcher.until(lambda: status["t1"].not_ready)
    machine.runtime.script(("check",), Behavior(exit_code=0))
    async with machine.agent():
        await machine.dispatcher.until(lambda: not status["t1"].not_ready)
        assert status["t1"].state == RUNNING


async def test_a_stop_waits_for_the_other_nodes_and_for_open_connections(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)
        machine.data_plane.open["t1"] = Connections(open=1)
        stopping = task(desired=objects.TASK_STATE_SHUTDOWN)
        stopping.withdrawn = False
        machine.dispatcher.assign_task(stopping)
        revision = machine.dispatcher.revision
        await machine.dispatcher.until(lambda: revision in machine.dispatcher.applied)
        assert ("stop", "t1") not in machine.runtime.calls
        machine.dispatcher.assign_task(task(desired=objects.TASK_STATE_SHUTDOWN))
        revision = machine.dispatcher.revision
        await machine.dispatcher.until(lambda: revision in machine.dispatcher.applied)
        assert ("stop", "t1") not in machine.runtime.calls
        del machine.data_plane.open["t1"]
        stop = (await machine.dispatcher.task_state("t1", objects.TASK_STATE_SHUTDOWN)).stop
        assert 0 < stop.told_at_ns <= stop.withdrawn_at_ns <= stop.drained_at_ns
        assert not stop.unacknowledged
        assert stop.open_connections == 0


async def test_what_the_node_does_not_allow_is_rejected_by_name(machine: Machine) -> None:
    subject = task(attached=False)
    subject.spec.container.privileged = True
    subject.spec.container.host_pid = True
    async with machine.agent():
        machine.dispatcher.assign_task(subject)
        status = await machine.dispatcher.task_state("t1", objects.TASK_STATE_REJECTED)
        assert status.error == (
            "this node does not allow pid-host, privileged: "
            "start its mini-worker with --allow pid-host,privileged"
        )
    assert await machine.container("t1") is None


async def test_a_checked_task_is_starting_until_its_first_success(machine: Machine) -> None:
    machine.runtime.script(("check",), Behavior(exit_code=1))
    async with machine.agent():
        machine.dispatcher.assign_task(checked())
        await machine.dispatcher.task_state("t1", objects.TASK_STATE_STARTING)
        await eventually(lambda: machine.runtime.calls.count(("exec", "t1")) >= 2)
        assert machine.dispatcher.history["t1"][-1] == objects.TASK_STATE_STARTING
        machine.runtime.script(("check",), Behavior(exit_code=0))
        status = await machine.dispatcher.task_state("t1", RUNNING)
        assert (status.message, status.unhealthy) == ("started", False)


async def test_an_unhealthy_task_fails_and_says_why(machine: Machine) -> None:
    machine.runtime.script(("check",), Behavior(exit_code=0))
    millisecond = 1_000_000
    async with machine.agent():
        machine.dispatcher.assign_task(checked(interval_ns=20 * millisecond, retries=2))
        await machine.dispatcher.task_state("t1", RUNNING)
        machine.runtime.script(("check",), Behavior(exit_code=1, output=(("stdout", b"no database"),)))
        status = await machine.dispatcher.task_state("t1", objects.TASK_STATE_FAILED)
        assert (status.message, status.error) == (
            "health check failed: no database",
            "task: unhealthy container",
        )
        assert status.unhealthy


async def test_a_checked_task_that_starts_when_the_agent_dies_is_taken_up(machine: Machine) -> None:
    machine.runtime.script(("check",), Behavior(exit_code=1))
    async with machine.agent():
        machine.dispatcher.assign_task(checked())
        await machine.dispatcher.task_state("t1", objects.TASK_STATE_STARTING)
        await eventually(lambda: ("exec", "t1") in machine.runtime.calls)
    machine.runtime.script(("check",), Behavior(exit_code=0))
    async with machine.agent():
        await machine.dispatcher.task_state("t1", RUNNING)
    assert [call for call, _ in machine.runtime.calls].count("create") == 1


@pytest.mark.parametrize(
    ("subject", "state", "error"),
    [
        (task("t", "true"), objects.TASK_STATE_COMPLETE, ""),
        (task("t", "false"), objects.TASK_STATE_FAILED, "task: non-zero exit (3)"),
        (
            task("t", "broken"),
            objects.TASK_STATE_FAILED,
            'exec: "broken": executable file not found in $PATH',
        ),
        (task("t", image="nope:1"), objects.TASK_STATE_REJECTED, "No such image: nope:1"),
    ],
    ids=["complete", "non-zero", "start fails", "no image"],
)
async def test_an_end_is_told_with_its_reason(
    machine: Machine, subject: pb.AssignedTask, state: int, error: str
) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(subject)
        status = await machine.dispatcher.task_state("t", state)
        assert status.error == error
        await eventually(lambda: not machine.data_plane.sandboxes)


async def test_shutdown_stops_the_container_and_frees_its_network_but_keeps_it_for_its_logs(
    machine: Machine,
) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)
        machine.dispatcher.assign_task(task(desired=objects.TASK_STATE_SHUTDOWN))
        await machine.dispatcher.task_state("t1", objects.TASK_STATE_SHUTDOWN)
        await eventually(lambda: not machine.data_plane.sandboxes)
        container = await machine.container("t1")
        assert container is not None
        assert container.status is ContainerStatus.EXITED


@pytest.mark.parametrize("unassign", [False, True])
async def test_removal_leaves_nothing(machine: Machine, unassign: bool) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)
        if unassign:
            machine.dispatcher.remove("task/t1")
        else:
            machine.dispatcher.assign_task(task(desired=objects.TASK_STATE_REMOVE))
            await machine.dispatcher.task_state("t1", objects.TASK_STATE_SHUTDOWN)
        await machine.gone("t1")
        assert not machine.data_plane.sandboxes


async def test_host_ports_are_told_as_they_were_bound(machine: Machine) -> None:
    host_port = objects.PortConfig(target_port=80, publish_mode=objects.PUBLISH_MODE_HOST)
    async with machine.agent():
        machine.dispatcher.assign_task(task(ports=(host_port,)))
        status = await machine.dispatcher.task_state("t1", RUNNING)
        assert [(port.published_port, port.target_port) for port in status.host_ports] == [(32768, 80)]


async def test_applied_is_told_only_once_the_ingress_follows(machine: Machine) -> None:
    async with machine.agent() as agent:
        await machine.dispatcher.until(lambda: machine.dispatcher.revision in machine.dispatcher.applied)
        machine.ingress.down = True
        machine.dispatcher.assign(port__tcp__4567=pb.Assignment(port=PORT))
        wanted = machine.dispatcher.revision
        await eventually(lambda: agent.problem == "mini-ingress is down")
        assert wanted not in machine.dispatcher.applied
        machine.ingress.down = False
        await machine.dispatcher.until(lambda: wanted in machine.dispatcher.applied)
        assert machine.ingress.tables[-1] == (PORT,)


async def test_a_replaced_ingress_gets_its_table_again(machine: Machine) -> None:
    machine.dispatcher.assign(port__tcp__4567=pb.Assignment(port=PORT))
    async with machine.agent():
        await eventually(lambda: machine.ingress.tables == [(PORT,)])
        machine.ingress.lose()
        await eventually(lambda: machine.ingress.tables == [(PORT,), (PORT,)])


async def test_a_task_starts_once_the_names_of_its_networks_are_served(machine: Machine) -> None:
    backend = pb.AssignedNetwork(id="net", name="backend", subnet="10.0.1.0/24", gateway="10.0.1.1", vni=4097)
    wanted = task(desired=RUNNING)
    wanted.attachments.append(objects.NetworkAttachment(network_id="net", address="10.0.1.3"))
    wanted.spec.container.dns.nameservers.append("9.9.9.9")
    async with machine.agent() as agent:
        await machine.dispatcher.until(lambda: machine.dispatcher.revision in machine.dispatcher.applied)
        machine.ingress.down = True
        machine.dispatcher.assign(network__net=pb.Assignment(network=backend))
        machine.dispatcher.assign_task(wanted)
        await eventually(lambda: agent.problem == "mini-ingress is down")
        machine.dispatcher.assign_task(task("t2", attached=False))
        await machine.dispatcher.task_state("t2", RUNNING)
        assert machine.data_plane.sandboxes.keys() == {"t2"}
        machine.ingress.down = False
        await machine.dispatcher.task_state("t1", RUNNING)
    (client,) = machine.ingress.names[-1].clients
    assert (list(client.addresses), list(client.network_ids)) == (["10.0.1.3"], ["net"])
    assert list(client.nameservers) == ["9.9.9.9"]


async def test_a_new_agent_adopts_what_runs_before_any_manager_answers(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        before = await machine.dispatcher.task_state("t1", RUNNING)
    await machine.dispatcher.stop()
    machine.runtime.calls.clear()
    async with machine.agent() as agent:
        await eventually(lambda: machine.data_plane.fabric is not None and bool(agent.session.problem))
        assert machine.data_plane.sandboxes.keys() == {"t1"}
        assert machine.runtime.calls == []
        container = await machine.container("t1")
        assert container is not None
        assert container.pid == before.pid


async def test_what_ended_while_no_agent_ran_is_told_by_the_next(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)
    machine.runtime.finish("t1", 9)
    async with machine.agent():
        status = await machine.dispatcher.task_state("t1", objects.TASK_STATE_FAILED)
        assert status.error == "task: non-zero exit (9)"
        assert status.exit_code == 9


async def test_a_container_that_vanished_meanwhile_is_a_failure(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)
    await machine.runtime.remove("t1")
    async with machine.agent():
        status = await machine.dispatcher.task_state("t1", objects.TASK_STATE_FAILED)
        assert status.error == "task: its container is gone"


async def test_a_container_that_nobody_assigned_is_removed_once_the_manager_has_spoken(
    machine: Machine,
) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)
    machine.dispatcher.remove("task/t1")
    async with machine.agent():
        await machine.gone("t1")


async def test_a_container_that_cannot_be_removed_does_not_end_the_agent(machine: Machine) -> None:
    async with machine.agent():
        for task_id in ("t1", "t2"):
            machine.dispatcher.assign_task(task(task_id))
            await machine.dispatcher.task_state(task_id, RUNNING)
    machine.lose_file()
    machine.dispatcher.remove("task/t1")
    machine.dispatcher.remove("task/t2")
    machine.runtime.fail_next("stop", RuntimeFaultError("conmon does not answer"))
    async with machine.agent():
        await eventually(lambda: [call for call, _ in machine.runtime.calls].count("remove") == 1)
        machine.dispatcher.assign_task(task("t3"))
        await machine.dispatcher.task_state("t3", RUNNING)


async def test_an_agent_without_its_file_adopts_what_the_manager_still_assigns(
    machine: Machine,
) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        before = await machine.dispatcher.task_state("t1", RUNNING)
    machine.lose_file()
    machine.dispatcher.statuses.clear()
    async with machine.agent():
        after = await machine.dispatcher.task_state("t1", RUNNING)
        assert after.pid == before.pid


async def test_a_failing_stop_is_repeated_until_the_container_is_down(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)
        machine.runtime.fail_next("stop", RuntimeFaultError("conmon does not answer"))
        machine.dispatcher.assign_task(task(desired=objects.TASK_STATE_SHUTDOWN))
        await machine.dispatcher.task_state("t1", objects.TASK_STATE_SHUTDOWN)
        container = await machine.container("t1")
        assert container is not None
        assert container.status is ContainerStatus.EXITED


async def test_eviction_empties_the_machine(machine: Machine) -> None:
    async with machine.agent() as agent:
        machine.dispatcher.assign_task(task())
        await machine.dispatcher.task_state("t1", RUNNING)
    await agent.evict()
    assert await machine.runtime.list() == ()
    assert machine.data_plane.fabric is None


def private(task_id: str, password: str = "secret") -> pb.AssignedTask:
    assigned = task(task_id)
    assigned.needs_registry_auth = True
    if password:
        assigned.registry_auth.username, assigned.registry_auth.password = "ann", password
    return assigned


async def test_an_image_is_pulled_with_the_login_that_came_with_the_task(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(private("t1"))
        await machine.dispatcher.task_state("t1", RUNNING)
        assert machine.runtime.logins == {"whoami:1": Login("ann", "secret")}
        machine.dispatcher.assign_task(task("t2"))
        await machine.dispatcher.task_state("t2", RUNNING)
        assert machine.runtime.logins == {"whoami:1": None}


def written(folder: Path) -> bytes:
    """All that the agent has on disk."""
    return b"".join(path.read_bytes() for path in folder.glob("agent.db*"))


async def test_a_login_is_not_written_down_and_waited_for_after_a_restart(
    machine: Machine, tmp_path: Path
) -> None:
    """The agent dies before it has pulled: its successor knows only that it needs the login."""
    machine.runtime.fail_next("pull", RuntimeFaultError("never"))
    async with machine.agent():
        machine.dispatcher.assign_task(private("t1"))
        await machine.dispatcher.task_state("t1", objects.TASK_STATE_REJECTED)
        machine.dispatcher.assign_task(private("t2", password=""))
        await machine.dispatcher.until(lambda: "t2" in machine.dispatcher.statuses)
        assert b"secret" not in await asyncio.to_thread(written, tmp_path)
    async with machine.agent():
        machine.dispatcher.assign_task(task("t3"))
        await machine.dispatcher.task_state("t3", RUNNING)
        assert machine.dispatcher.statuses["t2"].state == objects.TASK_STATE_PREPARING
        machine.dispatcher.assign_task(private("t2"))
        await machine.dispatcher.task_state("t2", RUNNING)
        assert machine.runtime.logins == {"whoami:1": Login("ann", "secret")}


# --- secrets ---

CANARY = b"canary-7f3a-password"


def with_secret(task_id: str = "t1", *args: str) -> pb.AssignedTask:
    assigned = task(task_id, *args)
    container = assigned.spec.container
    container.secrets.append(
        objects.SecretUse(secret="s1", name="key", version=2, file=objects.FileTarget(name="key", mode=0o400))
    )
    container.configs.append(
        objects.ConfigUse(config="c1", name="site", file=objects.FileTarget(name="/etc/site", mode=0o444))
    )
    return assigned


def give(machine: Machine) -> None:
    machine.dispatcher.deliveries.contents = {"s1": CANARY, "c1": b"root = /"}


def files_of(machine: Machine, task_id: str = "t1") -> dict[str, bytes]:
    """What the container has been given, by its target."""
    found: dict[str, bytes] = {}
    for mount in machine.runtime.config(task_id).mounts:
        source = Path(mount.source)
        paths = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
        for path in paths:
            relative = path.relative_to(source).as_posix()
            target = mount.target if relative == "." else f"{mount.target}/{relative}"
            found[target] = path.read_bytes()
        assert mount.read_only
    return found


async def test_a_task_gets_its_secrets_as_files_and_the_manager_a_receipt(machine: Machine) -> None:
    give(machine)
    async with machine.agent():
        machine.dispatcher.assign_task(with_secret())
        await machine.dispatcher.task_state("t1", RUNNING)
        assert files_of(machine) == {"/run/secrets/key": CANARY, "/etc/site": b"root = /"}
        deliveries = machine.dispatcher.deliveries
        secret, config = deliveries.asked
        assert (secret.task_id, secret.secret_id, secret.secret_version) == ("t1", "s1", 2)
        assert (config.task_id, config.config_id) == ("t1", "c1")
        assert secret.min_revision == machine.dispatcher.revision
        await deliveries.confirmed.wait()
        (receipt,) = deliveries.receipts
        assert receipt.signature.startswith(b"signed mini receipt 1\0")
        assert (receipt.delivery, receipt.certificate) == (1, b"certificate")


async def test_a_task_waits_for_a_manager_that_gives_its_secrets(machine: Machine) -> None:
    give(machine)
    machine.dispatcher.deliveries.down = True
    async with machine.agent():
        machine.dispatcher.assign_task(with_secret())
        await machine.dispatcher.task_state("t1", objects.TASK_STATE_PREPARING)
        await eventually(lambda: len(machine.dispatcher.deliveries.asked) > 1)
        machine.dispatcher.deliveries.down = False
        await machine.dispatcher.task_state("t1", RUNNING)


async def test_a_task_that_may_not_have_its_secret_is_rejected(machine: Machine) -> None:
    async with machine.agent():
        machine.dispatcher.assign_task(with_secret())
        status = await machine.dispatcher.task_state("t1", objects.TASK_STATE_REJECTED)
        assert status.error == "the task does not use it"
        assert not list((machine.contents._directory).glob("*"))


async def test_secrets_go_with_their_task(machine: Machine) -> None:
    give(machine)
    async with machine.agent():
        machine.dispatcher.assign_task(with_secret())
        await machine.dispatcher.task_state("t1", RUNNING)
        machine.dispatcher.remove("task/t1")
        await machine.gone("t1")
        assert not machine.contents.is_complete("t1")
        assert not list(machine.contents._directory.iterdir())


async def test_a_restarted_agent_finds_the_files_of_running_tasks_and_asks_for_none(machine: Machine) -> None:
    give(machine)
    async with machine.agent():
        machine.dispatcher.assign_task(with_secret())
        await machine.dispatcher.task_state("t1", RUNNING)
        machine.dispatcher.assign_task(with_secret("t2"))
        await machine.dispatcher.task_state("t2", RUNNING)
    asked = len(machine.dispatcher.deliveries.asked)
    machine.dispatcher.remove("task/t2")
    async with machine.agent():
        await machine.gone("t2")
        assert files_of(machine)["/run/secrets/key"] == CANARY
        assert len(machine.dispatcher.deliveries.asked) == asked
        await eventually(lambda: [path.name for path in machine.contents._directory.iterdir()] == ["t1"])


async def test_no_content_is_in_the_agents_file(machine: Machine) -> None:
    give(machine)
    machine.dispatcher.assign(
        secret__s1__2=pb.Assignment(secret=pb.AssignedSecret(id="s1", name="key", version=2))
    )
    async with machine.agent():
        machine.dispatcher.assign_task(with_secret())
        await machine.dispatcher.task_state("t1", RUNNING)
        for path in machine._database.parent.glob("agent.db*"):
            assert CANARY not in path.read_bytes(), path
            assert b"root = /" not in path.read_bytes(), path


async def test_a_node_that_leaves_keeps_no_secret(machine: Machine) -> None:
    give(machine)
    async with machine.agent() as agent:
        machine.dispatcher.assign_task(with_secret())
        await machine.dispatcher.task_state("t1", RUNNING)
    await agent.evict()
    assert not list(machine.contents._directory.iterdir())
