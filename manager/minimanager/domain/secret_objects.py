"""Secrets and configs, and how containers use them; part of `objects`, from where they are imported.

No class here has a content: contents have keys of their own in the store, sealed, and are read only to be sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from minimanager.domain.meta import Meta, no_labels

DEFAULT_FILE_MODE = 0o444
"""Docker's (`opts/swarmopts/secret.go`)."""


@dataclass(frozen=True, slots=True)
class FileTarget:
    """Where a secret or config is in the container; without a name, under its own."""

    name: str = ""
    uid: int = 0
    gid: int = 0
    mode: int = DEFAULT_FILE_MODE


@dataclass(frozen=True, slots=True)
class SecretUse:
    secret: str = ""
    """In the store the secret's id."""
    name: str = ""
    version: int = 0
    """In a request 0: the present one."""
    file: FileTarget = FileTarget()


@dataclass(frozen=True, slots=True)
class ConfigUse:
    config: str = ""
    """In the store the config's id."""
    name: str = ""
    file: FileTarget = FileTarget()


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """A content that the secret has, or had."""

    number: int = 0
    created_at_ns: int = 0
    size_bytes: int = 0
    remove_at_ns: int = 0
    """0: it is in use, or has not been replaced."""


@dataclass(frozen=True, slots=True)
class SecretSpec:
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=no_labels)
    templating: str = ""


class RotationState(IntEnum):
    NONE = 0
    ROLLING = 1
    COMPLETED = 2
    REVERTING = 3
    REVERTED = 4

    @property
    def active(self) -> bool:
        """Whether services are being moved."""
        return self in (RotationState.ROLLING, RotationState.REVERTING)


@dataclass(frozen=True, slots=True)
class SecretRotation:
    """The last change of a secret's content."""

    state: RotationState = RotationState.NONE
    old_version: int = 0
    new_version: int = 0
    started_at_ns: int = 0
    ended_at_ns: int = 0
    grace_ns: int = 0
    services: tuple[str, ...] = ()
    """Ids of those that used it when it began."""
    message: str = ""
    pending: tuple[str, ...] = ()
    """Of these, those that still ask for the old version."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Written by the API; a rotation that is under way, and versions that nobody uses any more, are the leader's."""

    id: str
    meta: Meta = Meta()
    spec: SecretSpec = SecretSpec()
    version: int = 1
    """The one that services get."""
    versions: tuple[SecretVersion, ...] = ()
    rotation: SecretRotation = SecretRotation()

    def find(self, number: int) -> SecretVersion | None:
        """The version of this number, if it still exists."""
        return next((each for each in self.versions if each.number == number), None)


@dataclass(frozen=True, slots=True)
class ConfigSpec:
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=no_labels)
    templating: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """Written by the API."""

    id: str
    meta: Meta = Meta()
    spec: ConfigSpec = ConfigSpec()
    size_bytes: int = 0
