"""Replicated services: slots are filled, emptied and refilled."""

from __future__ import annotations

from dataclasses import replace

from minimanager.decide.actions import CreateTask, UpdateTask
from minimanager.decide.overlay import MAX_NEW_TASKS
from minimanager.domain.objects import SECOND, RestartPolicy, TaskState
from support.simulation import Simulation, host_port, ingress_port, service, task_spec


def test_a_new_task_is_one_action_with_node_and_address() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=1, ports=(ingress_port(),)))

    (action,) = sim.decide().actions

    assert isinstance(action, CreateTask)
    task = action.task
    assert (task.slot, task.name, task.state, task.desired_state) == (
        1,
        "web.1",
        TaskState.ASSIGNED,
        TaskState.RUNNING,
    )
    assert task.node_id in sim.nodes
    assert [(each.network_id, each.address) for each in task.attachments] == [("ingress-id", "10.0.0.5")]
    assert task.meta.created_at_ns == sim.now_ns
    assert task.message == "scheduler assigned task to node"
    assert action.service_version == sim.services["web"].meta.version


def test_replicas_fill_the_slots_from_one() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=5))
    sim.settle()
    assert [task.slot for task in sim.running()] == [1, 2, 3, 4, 5]
    assert sorted(list(sim.where().values()).count(node) for node in sim.nodes) == [1, 2, 2]


def test_scaling_up_keeps_what_runs() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=2))
    sim.settle()
    before = {task.id for task in sim.running()}
    sim.update(replicas=4)
    sim.settle()
    assert before < {task.id for task in sim.running()}
    assert [task.slot for task in sim.running()] == [1, 2, 3, 4]


def test_scaling_down_takes_first_what_does_not_run() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=3))
    sim.step()
    for task in sim.of():
        if task.slot != 1:
            sim.report(task.id, TaskState.RUNNING)
    sim.update(replicas=2)
    sim.settle()
    assert [task.slot for task in sim.running()] == [2, 3]


def test_scaling_down_empties_the_fullest_node_first() -> None:
    sim = Simulation(nodes=2)
    sim.put_service(service(replicas=4))
    sim.settle()
    crowded = sim.where()[1]
    moved = next(task for task in sim.of() if task.node_id != crowded)
    sim.tasks[moved.id] = replace(moved, node_id=crowded)
    sim.update(replicas=2)
    sim.settle()
    assert sorted(sim.where().values()) == ["node-1", "node-2"]


def test_a_slot_that_was_removed_in_the_middle_is_used_again() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=3))
    sim.step()
    for task in sim.of():
        if task.slot != 2:
            sim.report(task.id, TaskState.RUNNING)
    sim.update(replicas=2)
    sim.settle()
    assert [task.slot for task in sim.running()] == [1, 3]
    sim.update(replicas=3)
    sim.settle()
    assert [task.slot for task in sim.running()] == [1, 2, 3]


def test_zero_replicas_leave_nothing() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=3))
    sim.settle()
    sim.update(replicas=0)
    sim.settle()
    assert sim.of() == []


def test_a_new_specification_replaces_each_task_after_it_has_stopped() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=1))
    sim.settle()
    (old,) = sim.running()
    sim.update(task=task_spec(force_update=1))

    sim.step()
    fresh = sim.of()[-1]
    assert sim.tasks[old.id].desired_state is TaskState.SHUTDOWN
    assert (fresh.desired_state, fresh.slot, fresh.spec_version) == (TaskState.READY, 1, 2)
    assert sim.step() == ()  # the old one has not stopped: the new one waits, without a delay to run out

    sim.report(old.id, TaskState.SHUTDOWN)
    sim.step()
    assert sim.tasks[fresh.id].desired_state is TaskState.RUNNING


def test_a_stuck_predecessor_is_waited_for_a_minute_only() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=1))
    sim.settle()
    sim.update(task=task_spec(force_update=1))
    sim.step()
    sim.step()
    assert sim.wake_at_ns is not None
    assert sim.wake_at_ns // SECOND == sim.now_ns // SECOND + 60
    sim.pass_time(sim.wake_at_ns - sim.now_ns)
    sim.step()
    assert [task.desired_state for task in sim.of()] == [TaskState.SHUTDOWN, TaskState.RUNNING]


def test_a_task_that_was_never_placed_is_replaced_without_a_trace() -> None:
    sim = Simulation(nodes=0)
    sim.put_service(service(replicas=1))
    sim.step()
    (old,) = sim.of()
    sim.update(task=task_spec(force_update=1))
    sim.settle()
    (fresh,) = sim.of()
    assert (fresh.id != old.id, fresh.spec_version) == (True, 2)


def test_new_ingress_ports_leave_running_tasks_alone() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=1, ports=(ingress_port(80),)))
    sim.settle()
    sim.update(ports=(ingress_port(80), ingress_port(81)))
    assert sim.decide().actions == ()


def test_the_first_ingress_port_and_other_host_ports_replace_the_tasks() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=1))
    sim.settle()
    for ports in ((ingress_port(80),), (ingress_port(80), host_port(81))):
        (old,) = sim.running()
        sim.update(ports=ports)
        sim.settle()
        (fresh,) = sim.running()
        assert fresh.id != old.id
        assert fresh.ports == ports


def test_two_tasks_in_a_slot_become_the_one_that_came_furthest() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=1))
    sim.step()
    (first,) = sim.of()
    twin = replace(first, id="twin")
    sim.tasks[twin.id] = twin
    sim.report(twin.id, TaskState.RUNNING)

    (action,) = sim.decide().actions

    assert isinstance(action, UpdateTask)
    assert (action.task.id, action.task.desired_state) == (first.id, TaskState.SHUTDOWN)


def test_removal_stops_the_tasks_and_then_deletes_all() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=2, ports=(ingress_port(),)))
    sim.settle()
    sim.remove_service()
    sim.step()
    assert {task.desired_state for task in sim.of()} == {TaskState.REMOVE}
    assert "web" in sim.services
    sim.settle()
    assert (sim.of(), sim.services, sim.statuses) == ([], {}, {})


def test_tasks_of_a_service_that_is_gone_are_cleaned_up() -> None:
    sim = Simulation()
    sim.put_service(service(replicas=2))
    sim.settle()
    del sim.services["web"]
    sim.settle()
    assert sim.of() == []


def test_a_pass_makes_only_so_many_tasks_and_asks_for_the_next_at_once() -> None:
    sim = Simulation()
    sim.put_service(service("big", replicas=MAX_NEW_TASKS + 3))
    sim.put_service(service("small", replicas=2))
    first = sim.decide()
    assert (len(first.actions), first.wake_at_ns) == (MAX_NEW_TASKS, sim.now_ns)
    sim.step()
    second = sim.decide()
    assert (len(second.actions), second.wake_at_ns) == (5, None)
    sim.step()
    assert sim.step() == ()


def test_a_refill_that_finds_no_room_is_made_in_the_next_pass() -> None:
    sim = Simulation()
    sim.put_service(service("web", replicas=1, task=task_spec(restart=RestartPolicy(delay_ns=0))))
    sim.settle()
    sim.put_service(service("big", replicas=MAX_NEW_TASKS))
    sim.report(sim.running("web")[0].id, TaskState.FAILED)
    sim.step()
    assert sim.live("web") == []
    sim.step()
    assert len(sim.live("web")) == 1
