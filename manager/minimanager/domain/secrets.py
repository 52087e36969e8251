"""Secrets and configs: what they may be, how services refer to them, and which services use one.

The rules and words are Swarm's (swarmkit `api/validation/secrets.go`, `manager/controlapi`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from minicommon.errors import InvalidArgumentError, NotFoundError

from minimanager.domain.content_template import check_content
from minimanager.domain.objects import (
    Config,
    ConfigSpec,
    ConfigUse,
    ContainerSpec,
    FileTarget,
    Secret,
    SecretSpec,
    SecretUse,
    Service,
    ServiceSpec,
)
from minimanager.domain.resolve import resolve
from minimanager.domain.secret_objects import DEFAULT_FILE_MODE
from minimanager.domain.snapshot import Snapshot

T = TypeVar("T")

SECRET_LIMIT_BYTES = 512_000
"""A secret is smaller (swarmkit `api/validation/secrets.go`)."""

CONFIG_LIMIT_BYTES = 1_024_000
"""A config is smaller (swarmkit `manager/controlapi/config.go`)."""

MAX_NAME_LENGTH = 64
SECRETS_DIRECTORY = "/run/secrets"
TEMPLATING = "golang"

_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-_.]*[a-zA-Z0-9])?")
_MAX_MODE = 0o7777
_MAX_ID = (1 << 32) - 2
"""The greatest user or group id; the one above means "none" to the kernel."""


def check_secret(spec: SecretSpec, data: bytes) -> None:
    """Raises InvalidArgumentError, which never has a part of the content."""
    check_object_name(spec.name)
    check_secret_data(spec, data)


def check_secret_data(spec: SecretSpec, data: bytes) -> None:
    """The same, of the content alone."""
    _check_size("secret", data, SECRET_LIMIT_BYTES)
    _check_templating(spec.templating, data)


def check_config(spec: ConfigSpec, data: bytes) -> None:
    """Raises InvalidArgumentError."""
    check_object_name(spec.name)
    _check_size("config", data, CONFIG_LIMIT_BYTES)
    _check_templating(spec.templating, data)


def check_object_name(name: str) -> None:
    """Raises InvalidArgumentError unless it can name a secret or a config."""
    if not name:
        raise InvalidArgumentError("name must be provided")
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"invalid name, only {MAX_NAME_LENGTH} [a-zA-Z0-9-_.] characters allowed, and the start and end character "
            f"must be [a-zA-Z0-9], not {name!r}"
        )


def _check_size(kind: str, data: bytes, limit: int) -> None:
    if not 0 < len(data) < limit:
        raise InvalidArgumentError(
            f"{kind} data must be larger than 0 and less than {limit} bytes, not {len(data)}"
        )


def _check_templating(driver: str, data: bytes) -> None:
    if driver not in ("", TEMPLATING):
        raise InvalidArgumentError(f"template driver: must be {TEMPLATING!r}, not {driver!r}")
    if driver:
        check_content(data)


# --- where they are in a container ---


def secret_path(use: SecretUse) -> str:
    """The absolute path of the secret's file in the container."""
    return posixpath.normpath(posixpath.join(SECRETS_DIRECTORY, use.file.name or use.name or use.secret))


def config_path(use: ConfigUse) -> str:
    return posixpath.normpath(posixpath.join("/", use.file.name or use.name or use.config))


def normal_uses(spec: ContainerSpec) -> ContainerSpec:
    """The specification with every file's mode set. Raises InvalidArgumentError for what cannot be."""
    secrets = tuple(replace(use, file=_normal_file("secret", use.secret, use.file)) for use in spec.secrets)
    configs = tuple(replace(use, file=_normal_file("config", use.config, use.file)) for use in spec.configs)
    return replace(spec, secrets=secrets, configs=configs)


def _normal_file(kind: str, ref: str, file: FileTarget) -> FileTarget:
    if not ref:
        raise InvalidArgumentError(f"malformed {kind} reference: its name or id must be given")
    if file.mode > _MAX_MODE:
        raise InvalidArgumentError(f"{kind} {ref}: mode must be at most 7777, not {file.mode:o}")
    for what, number in (("uid", file.uid), ("gid", file.gid)):
        if number > _MAX_ID:
            raise InvalidArgumentError(f"{kind} {ref}: {what} must be at most {_MAX_ID}, not {number}")
    if "\0" in file.name or ".." in file.name.split("/") or file.name.endswith("/"):
        raise InvalidArgumentError(f"{kind} {ref}: target must be the path of a file, not {file.name!r}")
    return file if file.mode else replace(file, mode=DEFAULT_FILE_MODE)


def check_targets(spec: ContainerSpec) -> None:
    """Raises InvalidArgumentError when two of them, or one and a mount, are at one path. References are resolved."""
    taken: dict[str, str] = {posixpath.normpath(mount.target): "a mount" for mount in spec.mounts}
    for what, path in _targets(spec):
        if path in taken:
            raise InvalidArgumentError(f"{what} and {taken[path]} have a conflicting target: {path!r}")
        taken[path] = what


def _targets(spec: ContainerSpec) -> Iterator[tuple[str, str]]:
    for secret in spec.secrets:
        yield f"secret {secret.name!r}", secret_path(secret)
    for config in spec.configs:
        yield f"config {config.name!r}", config_path(config)


# --- references ---


def find_secret(snapshot: Snapshot, ref: str) -> Secret:
    """A secret by id, name or beginning of its id."""
    return resolve("secret", ref, snapshot.secrets, name=lambda secret: secret.spec.name)


def find_config(snapshot: Snapshot, ref: str) -> Config:
    return resolve("config", ref, snapshot.configs, name=lambda config: config.spec.name)


def with_contents(snapshot: Snapshot, spec: ServiceSpec, *, renew: bool = False) -> ServiceSpec:
    """The specification with ids, names and versions where it refers to secrets and configs.

    A version that is asked for stays, if there still is one of that number; `renew`: one that is gone becomes the
    present one. A job, which no rotation moves, always gets the present ones. Raises NotFoundError, and
    InvalidArgumentError for targets in conflict.
    """
    container = spec.task.container
    if not container.secrets and not container.configs:
        return spec
    if spec.mode.is_job:
        latest = tuple(replace(use, version=0) for use in container.secrets)
        container = replace(container, secrets=latest)
    resolved = replace(
        container,
        secrets=tuple(_resolved_secret(snapshot, use, renew=renew) for use in container.secrets),
        configs=tuple(_resolved_config(snapshot, use) for use in container.configs),
    )
    check_targets(resolved)
    return replace(spec, task=replace(spec.task, container=resolved))


def _resolved_secret(snapshot: Snapshot, use: SecretUse, *, renew: bool) -> SecretUse:
    secret = _found("secret", use.secret, lambda: find_secret(snapshot, use.secret))
    version = use.version or secret.version
    if secret.find(version) is None:
        if not renew:
            kept = ", ".join(str(each.number) for each in secret.versions)
            raise NotFoundError(f"secret {secret.spec.name} has no version {version}, only {kept}")
        version = secret.version
    return replace(use, secret=secret.id, name=secret.spec.name, version=version)


def _resolved_config(snapshot: Snapshot, use: ConfigUse) -> ConfigUse:
    config = _found("config", use.config, lambda: find_config(snapshot, use.config))
    return replace(use, config=config.id, name=config.spec.name)


def _found(kind: str, ref: str, find: Callable[[], T]) -> T:
    try:
        return find()
    except NotFoundError as error:
        raise NotFoundError(f"{kind} not found: {ref}") from error


# --- who uses one ---


def secret_ids(spec: ServiceSpec) -> frozenset[str]:
    return frozenset(use.secret for use in spec.task.container.secrets)


def config_ids(spec: ServiceSpec) -> frozenset[str]:
    return frozenset(use.config for use in spec.task.container.configs)


def users_of_secret(snapshot: Snapshot, secret_id: str) -> list[Service]:
    """The services that use the secret and are not being removed, by name."""
    return _by_name(each for each in _present(snapshot) if secret_id in secret_ids(each.spec))


def users_of_config(snapshot: Snapshot, config_id: str) -> list[Service]:
    return _by_name(each for each in _present(snapshot) if config_id in config_ids(each.spec))


def in_use(kind: str, name: str, users: Iterable[Service]) -> str:
    """Swarm's words for an object that cannot be removed."""
    names = [service.spec.name for service in users]
    noun = "service" if len(names) == 1 else "services"
    return f"{kind} '{name}' is in use by the following {noun}: {', '.join(names)}"


def _present(snapshot: Snapshot) -> Iterator[Service]:
    return (service for service in snapshot.services.values() if not service.removing)


def _by_name(services: Iterable[Service]) -> list[Service]:
    return sorted(services, key=lambda service: service.spec.name)
