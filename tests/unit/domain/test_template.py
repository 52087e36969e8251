"""Placeholders: which there are, what they stand for, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minicommon.errors import InvalidArgumentError
from minimanager.domain.objects import (
    ContainerSpec,
    Mount,
    MountType,
    NodeDescription,
    Service,
    ServiceSpec,
    Task,
    TaskSpec,
)
from minimanager.domain.template import PLACEHOLDERS, context_of, expand, has_templates, skeleton
from minimanager.domain.validate_task import validate_task

TASK = Task("t1", service_id="s1", service_name="web", slot=3, node_id="n1")
SERVICE = Service("s1", spec=ServiceSpec(name="web", labels={"tier": "front", "a.b": "dotted"}))
CONTEXT = context_of(TASK, SERVICE, NodeDescription(hostname="core-01", os="linux", architecture="x86_64"))


def value(text: str) -> str:
    return expand(ContainerSpec(env=(f"X={text}",)), CONTEXT).env[0].removeprefix("X=")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{.Service.ID}}", "s1"),
        ("{{ .Service.Name }}", "web"),
        ("{{.Service.Labels.tier}}", "front"),
        ('{{index .Service.Labels "a.b"}}', "dotted"),
        ("{{.Service.Labels.none}}", ""),
        ("{{.Node.ID}}/{{.Node.Hostname}}", "n1/core-01"),
        ("{{.Node.Platform.OS}}-{{.Node.Platform.Architecture}}", "linux-x86_64"),
        ("{{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}", "t1 web.3.t1 3"),
        ("plain {single} text", "plain {single} text"),
    ],
)
def test_what_they_stand_for(text: str, expected: str) -> None:
    assert value(text) == expected


def test_the_slot_of_a_task_without_one_is_its_node() -> None:
    context = context_of(Task("t", node_id="n1"), None, NodeDescription())
    assert context.values[".Task.Slot"] == "n1"
    assert context.labels == {}


def test_where_they_may_be() -> None:
    spec = ContainerSpec(
        image="whoami:1",
        hostname="{{.Task.Slot}}",
        env=("{{.Task.ID}}={{.Task.ID}}",),
        args=("{{.Task.ID}}",),
        labels={"x": "{{.Task.ID}}"},
        mounts=(Mount(MountType.BIND, "/srv/{{.Node.ID}}", "/by/{{.Task.Slot}}"),),
    )
    assert has_templates(spec)
    expanded = expand(validate_task(TaskSpec(spec)).container, CONTEXT)
    assert expanded.hostname == "3"
    assert expanded.env == ("{{.Task.ID}}=t1",)
    assert (expanded.args, expanded.labels) == (spec.args, spec.labels)
    assert expanded.mounts == (Mount(MountType.BIND, "/srv/n1", "/by/3"),)
    assert not has_templates(expand(ContainerSpec(hostname="{{.Task.ID}}"), CONTEXT))


@pytest.mark.parametrize(
    "text", ["{{.Task.Owner}}", "{{printf 1}}", "{{.Service.Labels}}", "{{- .Task.ID}}", "{{}}", "{{.Task.ID"]
)
def test_what_is_not_known_is_refused_with_the_service(text: str) -> None:
    for spec in (
        ContainerSpec(image="i", env=(f"A={text}",)),
        ContainerSpec(image="i", hostname=text),
        ContainerSpec(image="i", mounts=(Mount(target=f"/{text}"),)),
    ):
        with pytest.raises(InvalidArgumentError, match="template: "):
            validate_task(TaskSpec(spec))


def test_what_is_around_a_placeholder_must_be_right() -> None:
    with pytest.raises(InvalidArgumentError, match="hostname must be a host name"):
        validate_task(TaskSpec(ContainerSpec(image="i", hostname="_{{.Task.ID}}")))
    with pytest.raises(InvalidArgumentError, match="mount path must be absolute"):
        validate_task(TaskSpec(ContainerSpec(image="i", mounts=(Mount(target="{{.Task.ID}}"),))))


@given(
    st.lists(st.one_of(st.sampled_from(PLACEHOLDERS).map(lambda name: f"{{{{{name}}}}}"), st.text("ab{. ")))
)
def test_what_is_accepted_is_expanded_completely(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        skeleton(text)
    except InvalidArgumentError:
        return
    assert "{{" not in value(text)
