"""`minictl info` and `minictl version`."""

from __future__ import annotations

from minicommon.errors import FailedPreconditionError, MiniError, UnavailableError

from minictl.command import Command
from minictl.commands import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minictl.context import Context
    from minictl.flags import Parsed


def _info(context: Context, parsed: Parsed) -> int:
    from minictl.client import messages
    from minictl.views import cluster

    if not context.local:
        return _remote_info(context, parsed)
    local = context.call("LocalNode/Info", messages.InfoRequest())
    info = None
    if local.role == messages.NODE_ROLE_MANAGER and local.state == messages.LOCAL_STATE_ACTIVE:
        try:
            info = context.call("Clusters/Get", messages.GetClusterRequest())
        except (UnavailableError, FailedPreconditionError) as error:
            context.warn(f"WARNING: the manager of this node does not answer: {error}")
    if parsed["format"]:
        _print_formatted(context, cluster.info_json(local, info), parsed["format"])
        return 0
    context.print("\n".join([*_client(), "", "Server:", *cluster.info_lines(local, info)]))
    return 0


def _remote_info(context: Context, parsed: Parsed) -> int:
    """From a manager elsewhere there is nothing to say of a node's own daemon: show the cluster."""
    from minictl.client import messages
    from minictl.views import cluster

    info = context.call("Clusters/Get", messages.GetClusterRequest())
    if parsed["format"]:
        _print_formatted(context, cluster.to_json(info), parsed["format"])
    else:
        context.print("\n".join([*_client(), "", "Server:", *(f" {line}" for line in cluster.lines(info))]))
    return 0


def _print_formatted(context: Context, value: dict[str, Any], format: str) -> None:
    from minictl.output.inspect import show_one

    context.print(show_one(value, format))


def _client() -> list[str]:
    from minicommon import __version__

    return ["Client:", f" Version:    {__version__}"]


def _version(context: Context, parsed: Parsed) -> int:
    import platform

    from minicommon import __version__

    client = {
        "Version": __version__,
        "PythonVersion": platform.python_version(),
        "Os": platform.system().lower(),
        "Arch": platform.machine(),
    }
    server: dict[str, Any] | None = None
    failure: MiniError | None = None
    try:
        server = _server_version(context) if context.local else _manager_version(context)
    except MiniError as error:
        failure = error
    if parsed["format"]:
        _print_formatted(context, {"Client": client, "Server": server}, parsed["format"])
    else:
        context.print("Client:")
        _print_fields(context, client)
        if server is not None:
            context.print("\nServer:")
            _print_fields(context, server)
    if failure is not None:
        raise failure
    return 0


def _server_version(context: Context) -> dict[str, Any]:
    from minictl.client import messages

    local = context.call("LocalNode/Info", messages.InfoRequest())
    described = local.description
    return {
        "Version": local.version,
        "Runtime": described.runtime_version,
        "Os": described.os,
        "Arch": described.architecture,
    }


def _manager_version(context: Context) -> dict[str, Any]:
    from minictl.client import messages

    info = context.call("Clusters/Get", messages.GetClusterRequest())
    return {"Managers": len(info.managers), "Etcd": info.etcd.version}


_TITLES = {"PythonVersion": "Python version"}


def _print_fields(context: Context, fields: dict[str, Any]) -> None:
    shown = {name: value for name, value in fields.items() if name not in ("Os", "Arch")}
    if "Os" in fields:
        shown["OS/Arch"] = f"{fields['Os']}/{fields['Arch']}"
    for name, value in shown.items():
        title = _TITLES.get(name, name) + ":"
        context.print(f" {title:<18} {value}")


COMMANDS = (
    Command("info", "Display system-wide information", _info, flags=(common.INSPECT_FORMAT,)),
    Command("version", "Show the version information", _version, flags=(common.INSPECT_FORMAT,)),
)
