"""What commands ask of an image's registry, and who for: Docker's own configuration.

A tag is resolved to the digest that it stands for, so that every node runs the same, and to the platforms it is made
for. Who logs in where is read from `~/.docker/config.json` and the helpers that it names, as `docker login` left it.
"""

from __future__ import annotations

import os

from minicommon.errors import InvalidArgumentError, MiniError

from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from miniproto.v1.objects_pb2 import RegistryAuth, ServiceSpec

    from minictl.context import Context
    from minictl.flags import Parsed

HUB_KEY = "https://index.docker.io/v1/"
"""What Docker's configuration calls the registry docker.io."""

_TOKEN_USER = "<token>"
"""What helpers say instead of a user's name when they give an identity token."""

_HELPER_SECONDS = 30

_UNRESOLVED = (
    "image {0} could not be accessed on a registry to record\n"
    "its digest. Each node will access {0} independently,\n"
    "possibly leading to different nodes running different\n"
    "versions of the image.\n"
)
"""docker/cli's words."""


class Prepared:
    """What a request sends along for the image's registry, and what the user is told once it has been granted."""

    __slots__ = ("auth", "warnings")

    def __init__(self) -> None:
        self.auth: RegistryAuth | None = None
        self.warnings: list[str] = []


def prepare(context: Context, spec: ServiceSpec, parsed: Parsed, *, new_image: bool = True) -> Prepared:
    """Pin the image of `spec`, if it is new and unless told not to, and find the login that nodes shall use."""
    prepared = Prepared()
    if parsed["with-registry-auth"]:
        prepared.auth = _auth(context, spec, prepared.warnings)
    if new_image:
        spec.placement.ClearField("platforms")
        if not parsed["no-resolve-image"]:
            _pin(context, spec, prepared)
    return prepared


def _auth(context: Context, spec: ServiceSpec, warnings: list[str]) -> RegistryAuth | None:
    from minicommon.reference import parse_reference

    image = spec.task.container.image
    try:
        domain = parse_reference(image).domain
    except InvalidArgumentError:
        return None  # the manager says what is wrong with it
    try:
        found = login(context.environment, domain)
    except CliError as error:
        raise CliError(f"--with-registry-auth: {error}") from error
    if found is None:
        warnings.append(
            f"--with-registry-auth: nobody has logged in to {domain} here, so nodes will pull {image} as anybody"
        )
        return None
    from minictl.client import messages

    return messages.RegistryAuth(username=found[0], password=found[1])


def _pin(context: Context, spec: ServiceSpec, prepared: Prepared) -> None:
    """Resolve the image of the specification, where its registry can be asked from this node."""
    from minicommon.reference import parse_reference

    container = spec.task.container
    try:
        image = parse_reference(container.image).tagged
    except InvalidArgumentError:
        return  # the manager says what is wrong with it
    found = _resolve(context, image.familiar, prepared.auth)
    if found is None:
        prepared.warnings.append(_UNRESOLVED.format(container.image))
        return
    if not image.digest:
        container.image = f"{image.familiar}@{found.digest}"
    spec.placement.platforms.extend(found.platforms)


def _resolve(context: Context, image: str, auth: RegistryAuth | None) -> Any:
    """None: the registry cannot be asked, or does not say. Only a node's own daemon asks registries."""
    if not context.local:
        return None
    from minictl.client import messages

    request = messages.ResolveImageRequest(ref=image)
    if auth is not None:
        request.registry_auth.username = auth.username
        request.registry_auth.password = auth.password
    try:
        return context.call("Images/Resolve", request)
    except MiniError:
        return None


def authorize(context: Context, request: Any) -> None:
    """Put the user's login for the registry of `request.ref` into the request, if there is one. Raises CliError."""
    from minicommon.reference import parse_reference

    try:
        domain = parse_reference(request.ref).domain
    except InvalidArgumentError:
        return  # the daemon says what is wrong with it
    if (found := login(context.environment, domain)) is not None:
        request.registry_auth.username, request.registry_auth.password = found


def login(environment: Mapping[str, str], domain: str) -> tuple[str, str] | None:
    """User and password for a registry: its own helper, the general one, or what is in the file.

    Raises CliError for what cannot be read, or cannot be used.
    """
    path = os.path.join(
        environment.get("DOCKER_CONFIG") or os.path.join(environment.get("HOME", "/"), ".docker"),
        "config.json",
    )
    config = _read(path)
    key = HUB_KEY if domain == "docker.io" else domain
    helper = (config.get("credHelpers") or {}).get(key) or config.get("credsStore")
    if helper:
        return _ask(str(helper), key)
    entries = {_host(name): entry for name, entry in (config.get("auths") or {}).items()}
    entry = entries.get(_host(key))
    return _decode(path, domain, entry) if isinstance(entry, dict) else None


def _read(path: str) -> dict[str, Any]:
    import json

    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CliError(f"{path} is not a JSON object")
    return found


def _host(key: str) -> str:
    """Keys are hosts, old ones URLs."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _decode(path: str, domain: str, entry: Mapping[str, Any]) -> tuple[str, str] | None:
    import base64
    import binascii

    if entry.get("identitytoken"):
        raise CliError(_no_token(domain))
    if entry.get("username") and entry.get("password"):
        return str(entry["username"]), str(entry["password"])
    if not entry.get("auth"):
        return None
    try:
        user, colon, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise CliError(f"the entry for {domain} in {path} is not user and password")
    return user, password.rstrip("\0")


def _ask(helper: str, key: str) -> tuple[str, str] | None:
    """docker-credential-helpers' protocol: the registry on stdin, JSON on stdout."""
    import json
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=key, capture_output=True, text=True, timeout=_HELPER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CliError(f"{program} cannot be asked: {error}") from error
    told = done.stdout.strip()
    if done.returncode != 0:
        if "credentials not found" in told:
            return None
        raise CliError(f"{program} failed: {told or done.stderr.strip()}")
    try:
        answer = json.loads(told)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise CliError(f"{program} did not answer as a credential helper") from None
    if user == _TOKEN_USER:
        raise CliError(_no_token(key))
    return user, secret


def _no_token(registry: str) -> str:
    return (
        f"the login for {registry} is an identity token, which nodes cannot use yet; "
        "log in with a user and a password or access token"
    )
