"""`stats --no-stream` waits for every node that the manager asks, however uneven their pace."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, cast

import pytest
from minictl.client.channel import Channel
from minictl.commands.container import COMMANDS
from minictl.context import Context
from minictl.flags import parse
from miniproto.v1 import streams_pb2 as pb


class _Responses:
    def __init__(self, responses: Iterable[pb.StatsResponse]) -> None:
        self._left = iter(responses)

    def receive(self) -> pb.StatsResponse | None:
        return next(self._left, None)

    def cancel(self) -> None:
        return


class _Daemon:
    def __init__(self, responses: Iterable[pb.StatsResponse]) -> None:
        self._responses = responses

    def stream(self, method: str, request: Any) -> _Responses:
        return _Responses(self._responses)


ASKED = pb.StatsResponse(asked_node_ids=["a", "b"])


def sample(node_id: str) -> pb.StatsResponse:
    used = pb.ContainerUsage(id=f"{node_id}1", name=f"web.{node_id}", node_id=node_id, cpus=2)
    return pb.StatsResponse(node_id=node_id, containers=[used])


def lost(node_id: str) -> pb.StatsResponse:
    return pb.StatsResponse(node_id=node_id, warning=f"node {node_id} is gone")


def told(*responses: pb.StatsResponse) -> tuple[list[str], str]:
    """The containers of the table, and what is on standard error."""
    out, err = io.StringIO(), io.StringIO()
    daemon = cast(Channel, _Daemon(responses))
    context = Context(environment={}, connect=lambda: daemon, out=out, err=err)
    command = next(command for command in COMMANDS if command.name == "stats")
    assert command.run(context, parse(command.flags, ["--no-stream", "--format", "{{.Name}}"])) == 0
    return out.getvalue().split(), err.getvalue()


@pytest.mark.parametrize(
    "order",
    ["aabb", "abab", "baaab", "aaaabb"],
    ids=["one after the other", "in turns", "uneven", "very uneven"],
)
def test_every_node_is_in_the_table(order: str) -> None:
    names, warnings = told(ASKED, *(sample(node_id) for node_id in order))
    assert (names, warnings) == (["web.a", "web.b"], "")


def test_a_node_that_is_lost_is_told_and_not_waited_for() -> None:
    names, warnings = told(ASKED, sample("b"), lost("b"), sample("a"), sample("a"), sample("a"))
    assert names == ["web.a", "web.b"]
    assert warnings == "WARNING: node b is gone\n"


def test_a_node_that_was_away_already_is_told_too() -> None:
    away = pb.StatsResponse(warning="node c is not connected")
    names, warnings = told(away, pb.StatsResponse(asked_node_ids=["a"]), sample("a"), sample("a"))
    assert (names, warnings) == (["web.a"], "WARNING: node c is not connected\n")


def test_nobody_to_ask_is_an_empty_table() -> None:
    assert told(pb.StatsResponse()) == ([], "")
