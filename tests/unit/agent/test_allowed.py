"""What a node gives containers of itself: only what its own command line allows."""

from __future__ import annotations

import pytest
from minicommon.errors import PermissionDeniedError
from minicommon.grants import GRANTS
from miniproto.v1 import dispatcher_pb2 as dispatch
from miniproto.v1 import objects_pb2 as pb
from miniworker.agent.hooks.allowed import AllowedHook
from miniworker.agent.hooks.api import Prepared
from miniworker.node.config import parse_args
from miniworker.runtime.api import ContainerConfig

PREPARED = Prepared(ContainerConfig(id="t", name="t", image="i"))

WANTED = {
    "device": pb.ContainerSpec(devices=[pb.Device(source="/dev/fuse")]),
    "pid-host": pb.ContainerSpec(host_pid=True),
    "privileged": pb.ContainerSpec(privileged=True),
    "seccomp-unconfined": pb.ContainerSpec(seccomp_unconfined=True),
}


def task(spec: pb.ContainerSpec) -> dispatch.AssignedTask:
    return dispatch.AssignedTask(id="t", spec=pb.TaskSpec(container=spec))


@pytest.mark.parametrize("grant", GRANTS)
async def test_each_grant_is_asked_for_by_name(grant: str) -> None:
    subject = task(WANTED[grant])
    others = frozenset(GRANTS) - {grant}
    with pytest.raises(PermissionDeniedError, match=f"start its mini-worker with --allow {grant}$"):
        await AllowedHook(others).prepare(subject, PREPARED)
    assert await AllowedHook(frozenset({grant})).prepare(subject, PREPARED) == PREPARED


async def test_what_takes_away_needs_no_grant() -> None:
    hook = AllowedHook(frozenset())
    subject = task(pb.ContainerSpec(no_new_privileges=True, cap_drop=["ALL"], read_only=True))
    assert await hook.prepare(subject, PREPARED) == PREPARED


def test_the_daemons_command_line() -> None:
    assert parse_args([]).allowed == frozenset()
    given = parse_args(["--allow", "device,pid-host", "--allow", "privileged"])
    assert given.allowed == {"device", "pid-host", "privileged"}
    with pytest.raises(SystemExit):
        parse_args(["--allow", "everything"])
