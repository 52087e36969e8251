"""How a registry wants to be asked: the `WWW-Authenticate` challenge, and who knows the passwords."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from miniworker.runtime.api import Login

_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, ...)"

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Keyring(Protocol):
    """Who may pull where."""

    def credentials(self, registry: str) -> Credentials | None:
        """For `registry` (host or host:port, "docker.io" for Docker Hub); None: anonymous."""


class Anonymous:
    """A keyring without keys."""

    def credentials(self, registry: str) -> Credentials | None:
        return None


@dataclass(frozen=True, slots=True)
class OneLogin:
    """The keyring of a pull that brings its own login, for the only registry that it asks."""

    login: Login

    def credentials(self, registry: str) -> Credentials | None:
        return Credentials(self.login.username, self.login.password)


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    """Lower case: "bearer" or "basic"."""
    parameters: Mapping[str, str]


def parse_challenge(header: str) -> Challenge | None:
    """The first challenge of a WWW-Authenticate header that we can answer (RFC 7235); None: there is none."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() not in ("bearer", "basic"):
        return None
    parameters = {
        key.lower(): quoted.replace('\\"', '"') if quoted else plain
        for key, quoted, plain in _PARAMETER.findall(rest)
    }
    return Challenge(scheme.lower(), parameters)
