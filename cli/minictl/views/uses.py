"""The secrets and configs of a service, as Docker's JSON and in its pretty form."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import ConfigUse, ContainerSpec, FileTarget, SecretUse


def uses_json(container: ContainerSpec) -> dict[str, Any]:
    """What a container's specification has of them, as Docker's JSON."""
    shown: dict[str, Any] = {}
    if container.secrets:
        shown["Secrets"] = [_secret_use_json(use) for use in container.secrets]
    if container.configs:
        shown["Configs"] = [_config_use_json(use) for use in container.configs]
    return shown


def _secret_use_json(use: SecretUse) -> dict[str, Any]:
    return {
        "File": _file_json(use.file, use.name),
        "SecretID": use.secret,
        "SecretName": use.name,
        "SecretVersion": use.version,
    }


def _config_use_json(use: ConfigUse) -> dict[str, Any]:
    return {"File": _file_json(use.file, use.name), "ConfigID": use.config, "ConfigName": use.name}


def _file_json(file: FileTarget, name: str) -> dict[str, Any]:
    return {"Name": file.name or name, "UID": str(file.uid), "GID": str(file.gid), "Mode": file.mode}


def uses_lines(container: ContainerSpec) -> list[str]:
    """The same in the pretty form of a service."""
    lines: list[str] = []
    for title, uses in (("Configs:", container.configs), ("Secrets:", container.secrets)):
        if uses:
            lines.append(title)
            for use in uses:
                lines += [f" Target:\t{use.file.name or use.name}", f"  Source:\t{use.name}"]
    return lines
