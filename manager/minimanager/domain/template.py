"""Placeholders in a specification: `{{.Node.Hostname}}` in an environment variable, a host name or a mount.

Swarm's placeholders (swarmkit `template/context.go`), without the rest of Go's template language: no functions but
`index` for a label whose name is no identifier, no conditions, no loops. What is not known is refused when the
specification is, not when a task is started.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from minicommon.errors import InvalidArgumentError

from minimanager.domain.objects import ContainerSpec, Mount, NodeDescription, Service, Task

PLACEHOLDERS: Final = (
    ".Service.ID",
    ".Service.Name",
    ".Node.ID",
    ".Node.Hostname",
    ".Node.Platform.OS",
    ".Node.Platform.Architecture",
    ".Task.ID",
    ".Task.Name",
    ".Task.Slot",
)
"""And `.Service.Labels.NAME`, `index .Service.Labels "NAME"`."""

_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_LABEL = re.compile(r"\.Service\.Labels\.([A-Za-z_][A-Za-z0-9_]*)")
_INDEX = re.compile(r'index\s+\.Service\.Labels\s+"([^"\\]+)"')


@dataclass(frozen=True, slots=True)
class TemplateContext:
    """What the placeholders of one task stand for."""

    values: dict[str, str] = field(default_factory=dict)
    """By placeholder."""
    labels: dict[str, str] = field(default_factory=dict)


def context_of(task: Task, service: Service | None, description: NodeDescription) -> TemplateContext:
    """`description` is that of the task's node."""
    values = (
        *(task.service_id, task.service_name),
        *(task.node_id, description.hostname, description.os, description.architecture),
        *(task.id, f"{task.name}.{task.id}", str(task.slot) if task.slot else task.node_id),
    )
    labels = dict(service.spec.labels) if service else {}
    return TemplateContext(dict(zip(PLACEHOLDERS, values, strict=True)), labels)


def has_templates(spec: ContainerSpec) -> bool:
    """Whether `expand` would change anything; asked of every task, so it is quick."""
    return "{{" in spec.hostname or any("{{" in text for text in _other_texts(spec))


def expand(spec: ContainerSpec, context: TemplateContext) -> ContainerSpec:
    """The specification as its task's node is to have it. A label that the service lacks is empty."""
    return _map(spec, lambda text: _replaced(text, lambda action: value_of(action, context)))


def skeleton(text: str) -> str:
    """The text with a letter for each placeholder, to be checked like one without. Raises InvalidArgumentError."""
    plain = _replaced(text, _known)
    if "{{" in plain:
        raise InvalidArgumentError(f"template: unclosed action in {text!r}")
    return plain


def is_known(action: str) -> bool:
    """Whether it is a placeholder: what is between the braces, without the spaces around it."""
    return action in PLACEHOLDERS or bool(_LABEL.fullmatch(action) or _INDEX.fullmatch(action))


def _known(action: str) -> str:
    if not is_known(action):
        raise InvalidArgumentError(
            f"template: {{{{{action}}}}} is none of {', '.join(PLACEHOLDERS)}, .Service.Labels.NAME "
            'and index .Service.Labels "NAME"'
        )
    return "x"


def value_of(action: str, context: TemplateContext) -> str:
    """What a placeholder stands for. A label that the service lacks is empty."""
    label = _LABEL.fullmatch(action) or _INDEX.fullmatch(action)
    if label:
        return context.labels.get(label[1], "")
    return context.values.get(action, "")


def _replaced(text: str, value: Callable[[str], str]) -> str:
    return _ACTION.sub(lambda found: value(found[1].strip()), text) if "{{" in text else text


def _other_texts(spec: ContainerSpec) -> list[str]:
    return [*spec.env, *(text for mount in spec.mounts for text in (mount.source, mount.target))]


def _map(spec: ContainerSpec, change: Callable[[str], str]) -> ContainerSpec:
    return replace(
        spec,
        hostname=change(spec.hostname),
        env=tuple(_map_value(item, change) for item in spec.env),
        mounts=tuple(_map_mount(mount, change) for mount in spec.mounts),
    )


def _map_value(item: str, change: Callable[[str], str]) -> str:
    """Of KEY=value, the value."""
    key, equals, value = item.partition("=")
    return f"{key}{equals}{change(value)}"


def _map_mount(mount: Mount, change: Callable[[str], str]) -> Mount:
    return replace(mount, source=change(mount.source), target=change(mount.target))
