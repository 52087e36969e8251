"""`minictl context`: Docker's words, for clusters instead of engines."""

from __future__ import annotations

import os

from minictl import contexts, values
from minictl.command import Command
from minictl.commands import common
from minictl.errors import CliError
from minictl.flags import Flag
from minictl.output import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.context import Context
    from minictl.flags import Parsed

_LAYOUT = listing.Layout(
    {
        "Name": "NAME",
        "Description": "DESCRIPTION",
        "Endpoint": "ENDPOINT",
        "Current": "CURRENT",
        "Error": "ERROR",
    },
    ("Name", "Description", "Endpoint", "Error"),
    quiet="Name",
    cells={"Name": lambda row: f"{row['Name']} *" if row["Current"] else str(row["Name"])},
)

_KEYS = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


def _create(context: Context, parsed: Parsed) -> int:
    (name,) = parsed.arguments
    given = _pairs(parsed["mini"])
    host = given.pop("host", "")
    if not host:
        raise CliError("--mini: give at least host=tcp://MANAGER[:PORT]")
    from minictl.client import endpoint

    target = endpoint.parse(host, context.environment)
    files = {_KEYS[key]: _read(path) for key, path in given.items()}
    if target.host and set(given) != set(_KEYS):
        missing = ", ".join(key for key in _KEYS if key not in given)
        raise CliError(f"--mini: {host} needs TLS: give ca, cert and key (missing: {missing})")
    contexts.store(name, context.environment, host=host, description=parsed["description"], files=files)
    context.print(name)
    context.warn(f'Successfully created context "{name}"')
    return 0


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        key, separator, value = pair.partition("=")
        if not separator or not value or key not in ("host", *_KEYS):
            raise CliError(
                f"--mini: must be host=..., ca=..., cert=... and key=..., got {values.quote(pair)}"
            )
        found[key] = value
    return found


def _read(path: str) -> bytes:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return file.read()
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from error


def _ls(context: Context, parsed: Parsed) -> int:
    used = contexts.current(context.environment)
    rows: list[dict[str, Any]] = [
        _row(contexts.DEFAULT, "This machine's own daemon", "unix:///run/mini/mini.sock", used)
    ]
    for name in contexts.names(context.environment):
        if name.startswith("."):
            continue
        try:
            found = contexts.load(name, context.environment)
            rows.append(_row(name, found.description, found.host, used))
        except CliError as error:
            rows.append(_row(name, "", "", used, str(error)))
    context.out.write(listing.render(_LAYOUT, rows, format=parsed["format"], quiet=parsed["quiet"]))
    return 0


def _row(name: str, description: str, host: str, used: str, error: str = "") -> dict[str, Any]:
    return {
        "Current": name == used,
        "Description": description,
        "Endpoint": host,
        "Error": error,
        "Name": name,
    }


def _use(context: Context, parsed: Parsed) -> int:
    (name,) = parsed.arguments
    contexts.use(name, context.environment)
    context.print(name)
    if context.environment.get("MINI_HOST"):
        context.warn("Warning: MINI_HOST environment variable overrides the active context.")
    context.warn(f'Current context is now "{name}"')
    return 0


def _show(context: Context, parsed: Parsed) -> int:
    context.print(contexts.current(context.environment))
    return 0


def _rm(context: Context, parsed: Parsed) -> int:
    def remove(name: str) -> None:
        contexts.remove(name, context.environment, force=parsed["force"])
        context.print(name)

    return common.for_each(parsed.arguments, remove)


def _export(context: Context, parsed: Parsed) -> int:
    import io
    import sys
    import tarfile

    name, *rest = parsed.arguments
    target = rest[0] if rest else f"{name}.minicontext"
    found = contexts.load(name, context.environment)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in (found.ca, found.certificate, found.key, _meta(name, context)):
            if path:
                archive.add(path, arcname=os.path.basename(path), filter=_anonymous)
    if target == "-":
        if sys.stdout.isatty():
            raise CliError("cowardly refusing to export to a terminal, specify a file path")
        sys.stdout.buffer.write(packed.getvalue())
        return 0
    if os.path.exists(target):
        raise CliError(f"{target} already exists")
    contexts.write(target, packed.getvalue())
    context.warn(f'Written file "{target}": whoever has it has the key in it')
    return 0


def _anonymous(info: Any) -> Any:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _meta(name: str, context: Context) -> str:
    return os.path.join(contexts.directory_of(name, context.environment), "meta.json")


def _import(context: Context, parsed: Parsed) -> int:
    import io
    import json
    import sys
    import tarfile

    name, source = parsed.arguments
    data = sys.stdin.buffer.read() if source == "-" else _read(source)
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = {
                wanted: member.read()
                for wanted in (*contexts.FILES, "meta.json")
                if wanted in archive.getnames() and (member := archive.extractfile(wanted)) is not None
            }
        meta = json.loads(files.pop("meta.json"))
        host, description = str(meta["host"]), str(meta["description"])
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise CliError(f"{source} is not an exported context: {error}") from None
    contexts.store(name, context.environment, host=host, description=description, files=files)
    context.print(name)
    context.warn(f'Successfully imported context "{name}"')
    return 0


COMMANDS = (
    Command(
        "create",
        "Create a context",
        _create,
        arguments="CONTEXT",
        least=1,
        most=1,
        flags=(
            Flag("description", "Description of the context", kind=values.STRING),
            Flag(
                "mini",
                'The way to the cluster: "host=tcp://MANAGER:2378,ca=FILE,cert=FILE,key=FILE"',
                kind=values.STRING,
            ),
        ),
    ),
    Command(
        "export",
        "Export a context to a tar archive FILE or a tar stream on STDOUT.",
        _export,
        arguments="CONTEXT [FILE|-]",
        least=1,
        most=2,
    ),
    Command(
        "import", "Import a context from a tar file", _import, arguments="CONTEXT FILE|-", least=2, most=2
    ),
    Command(
        "ls",
        "List contexts",
        _ls,
        aliases=("list",),
        shown_aliases=("minictl context ls", "minictl context list"),
        flags=(common.LIST_FORMAT, common.quiet_flag("context names")),
    ),
    Command(
        "rm",
        "Remove one or more contexts",
        _rm,
        arguments="CONTEXT [CONTEXT...]",
        least=1,
        most=None,
        aliases=("remove",),
        shown_aliases=("minictl context rm", "minictl context remove"),
        flags=(Flag("force", "Force the removal of a context in use", short="f"),),
    ),
    Command("show", "Print the name of the current context", _show),
    Command("use", "Set the default context", _use, arguments="CONTEXT", least=1, most=1),
)
