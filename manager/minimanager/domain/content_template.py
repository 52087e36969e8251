"""Placeholders in the content of a secret or config that was made with `--template-driver golang`.

Those of a specification (`domain.template`), and three functions that give what the same task has been given anyway:
`env "NAME"`, `secret "TARGET"`, `config "TARGET"`; a target is the name of the file as the service asks for it
(swarmkit `template/context.go`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from minicommon.errors import FailedPreconditionError, InvalidArgumentError

from minimanager.domain.objects import ContainerSpec
from minimanager.domain.template import PLACEHOLDERS, TemplateContext, is_known, value_of

_ACTION = re.compile(rb"\{\{(.*?)\}\}", re.DOTALL)
_CALL = re.compile(r'(env|secret|config)\s+(?:"([^"\\]+)"|`([^`]+)`)')
_FUNCTIONS: Final = ("env", "secret", "config")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a content wants filled in besides placeholders: targets of secrets and of configs."""

    secrets: frozenset[str] = frozenset()
    configs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Supplies:
    """What the functions give, by target; the contents of secrets are not in any message of an error."""

    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    configs: Mapping[str, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Supplies({sorted(self.env)}, {sorted(self.secrets)}, {sorted(self.configs)})"


def check_content(data: bytes) -> None:
    """Raises InvalidArgumentError for an action that is none of ours; the text of the content is not repeated."""
    for position, action in _actions(data):
        if not is_known(action) and not _CALL.fullmatch(action):
            raise InvalidArgumentError(
                f"template: the action at byte {position} is none of {', '.join(PLACEHOLDERS)}, "
                f'.Service.Labels.NAME, index .Service.Labels "NAME", {", ".join(_FUNCTIONS)} "NAME"'
            )
    rest = _ACTION.sub(b"x", data)
    if b"{{" in rest:
        raise InvalidArgumentError("template: unclosed action")


def pulled(data: bytes) -> Pulled:
    """What has to be at hand to expand the content."""
    found: dict[str, set[str]] = {name: set() for name in _FUNCTIONS}
    for _, action in _actions(data):
        if call := _CALL.fullmatch(action):
            found[call[1]].add(call[2] or call[3])
    return Pulled(frozenset(found["secret"]), frozenset(found["config"]))


def environment(spec: ContainerSpec) -> dict[str, str]:
    """The variables of a specification whose placeholders have been replaced."""
    return dict(item.partition("=")[::2] for item in spec.env)


def expand_content(data: bytes, context: TemplateContext, supplies: Supplies) -> bytes:
    """The content as one task is to have it. Raises FailedPreconditionError for what the task has not been given."""

    def replaced(found: re.Match[bytes]) -> bytes:
        action = _text(found[1])
        call = _CALL.fullmatch(action)
        if call is None:
            return value_of(action, context).encode()
        return _supplied(call[1], call[2] or call[3], supplies)

    return _ACTION.sub(replaced, data)


def _supplied(function: str, name: str, supplies: Supplies) -> bytes:
    """A variable that is not set is empty, as in Swarm."""
    if function == "env":
        return supplies.env.get(name, "").encode()
    given = supplies.secrets if function == "secret" else supplies.configs
    if name not in given:
        raise FailedPreconditionError(
            f"template: {function} target {name} not found: the task does not use it"
        )
    return given[name]


def _actions(data: bytes) -> Iterator[tuple[int, str]]:
    for found in _ACTION.finditer(data):
        yield found.start(), _text(found[1])


def _text(action: bytes) -> str:
    return action.decode("utf-8", "replace").strip()
