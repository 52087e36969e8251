"""Contexts: named ways to a cluster, each a directory of its own with the host and the TLS files.

`<configuration>/contexts/<name>/` has meta.json, ca.pem, cert.pem and key.pem; `<configuration>/context` has the name
of the one in use. The configuration is MINI_CONFIG, else ~/.mini. Without any, `default` is this machine's own daemon.
"""

from __future__ import annotations

import os

from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = "default"

FILES = ("ca.pem", "cert.pem", "key.pem")

_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")


class Stored:
    """One context: `host` as -H takes it; paths of TLS files, empty when it has none."""

    __slots__ = ("ca", "certificate", "description", "host", "key", "name")

    def __init__(self, name: str, host: str, description: str, directory: str) -> None:
        self.name = name
        self.host = host
        self.description = description
        self.ca, self.certificate, self.key = (_present(directory, file) for file in FILES)


def _present(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    return path if os.path.exists(path) else ""


def configuration(environment: Mapping[str, str]) -> str:
    """The directory of the user's settings."""
    return environment.get("MINI_CONFIG") or os.path.join(environment.get("HOME", "/"), ".mini")


def directory_of(name: str, environment: Mapping[str, str]) -> str:
    """Where a context is, or would be. Raises CliError for a name that none can have."""
    if not name or name[0] in ".-" or not set(name) <= _CHARACTERS:
        raise CliError(
            f'context name "{name}" is invalid, names are of letters, digits and "_.+-", and begin with none of ".-"'
        )
    return os.path.join(configuration(environment), "contexts", name)


def current(environment: Mapping[str, str]) -> str:
    """The name of the context in use: MINI_CONTEXT's, that of `context use`, or `default`."""
    if named := environment.get("MINI_CONTEXT"):
        return named
    try:
        with open(os.path.join(configuration(environment), "context")) as file:
            return file.read().strip() or DEFAULT
    except OSError:
        return DEFAULT


def use(name: str, environment: Mapping[str, str]) -> None:
    """Use it from now on. Raises CliError when there is none."""
    path = os.path.join(configuration(environment), "context")
    if name == DEFAULT:
        if os.path.exists(path):
            os.unlink(path)
        return
    load(name, environment)
    write(path, name.encode() + b"\n")


def load(name: str, environment: Mapping[str, str]) -> Stored:
    """A context. Raises CliError when there is none, or when it is damaged."""
    import json

    directory = directory_of(name, environment)
    try:
        with open(os.path.join(directory, "meta.json")) as file:
            meta = json.load(file)
        return Stored(name, str(meta["host"]), str(meta["description"]), directory)
    except FileNotFoundError:
        raise CliError(f'context "{name}" does not exist') from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CliError(f'context "{name}" cannot be read: {error}') from None


def names(environment: Mapping[str, str]) -> list[str]:
    """Every context but `default`, sorted."""
    try:
        return sorted(os.listdir(os.path.join(configuration(environment), "contexts")))
    except FileNotFoundError:
        return []


def store(
    name: str,
    environment: Mapping[str, str],
    *,
    host: str,
    description: str,
    files: Mapping[str, bytes],
) -> None:
    """Write a new context, whole or not at all. Raises CliError when the name is taken."""
    import json
    import shutil

    directory = directory_of(name, environment)
    if name == DEFAULT or os.path.exists(directory):
        raise CliError(f'context "{name}" already exists')
    parent = os.path.dirname(directory)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    staged = os.path.join(parent, f".{name}.{os.getpid()}")
    os.mkdir(staged, 0o700)
    try:
        for file, content in files.items():
            write(os.path.join(staged, file), content)
        meta = {"host": host, "description": description}
        write(os.path.join(staged, "meta.json"), json.dumps(meta).encode() + b"\n")
        os.rename(staged, directory)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def remove(name: str, environment: Mapping[str, str], *, force: bool) -> None:
    """Remove a context. Raises CliError for the one in use, unless forced."""
    import shutil

    if name == DEFAULT:
        raise CliError('context "default" cannot be removed')
    load(name, environment)
    if current(environment) == name:
        if not force:
            raise CliError(f'context "{name}" is in use, set -f flag to force remove')
        use(DEFAULT, environment)
    shutil.rmtree(directory_of(name, environment))


def write(path: str, content: bytes) -> None:
    """Write a file for its owner only, in one step."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
