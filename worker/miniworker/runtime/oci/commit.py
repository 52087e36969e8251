"""An image of a container: its own layer on top of its image's, and a configuration to it. Blocks.

Only what is in the container's own layer goes in: volumes, secrets and other mounts never do, and neither does the
environment that its service gave it.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from miniworker.runtime.api import Commit, RuntimeFaultError

_OPAQUE = "trusted.overlay.opaque"
_WHITEOUT = ".wh."
_OPAQUE_MARK = ".wh..wh..opq"
_KEPT_XATTRS = ("security.capability",)


def write_layer(upper: Path, target: Path) -> None:
    """The directory of an overlay's upper layer as an image layer: an uncompressed tar archive."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        links: dict[tuple[int, int], str] = {}
        for path in _walk(upper):
            _add(archive, path, str(path.relative_to(upper)), links)


def _walk(root: Path) -> Iterator[Path]:
    """Everything below, each directory before what is in it."""
    for name in sorted(os.listdir(root)):
        path = root / name
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _add(archive: tarfile.TarFile, path: Path, name: str, links: dict[tuple[int, int], str]) -> None:
    status = path.lstat()
    if stat.S_ISSOCK(status.st_mode):
        return
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        head, slash, tail = name.rpartition("/")
        archive.addfile(_mark(f"{head}{slash}{_WHITEOUT}{tail}", status))
        return
    info = archive.gettarinfo(str(path), arcname=name)
    archive.inodes = {}  # type: ignore[attr-defined]  # hard links are found here, by our names
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), name)
        if first != name:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
            archive.addfile(info)
            return
        info.type, info.linkname, info.size = tarfile.REGTYPE, "", status.st_size
    info.pax_headers = {**info.pax_headers, **_xattrs(path)}
    if info.isreg():
        with path.open("rb") as file:
            archive.addfile(info, file)
    else:
        archive.addfile(info)
    if info.isdir() and _xattr(path, _OPAQUE) == b"y":
        archive.addfile(_mark(f"{name}/{_OPAQUE_MARK}", status))


def _mark(name: str, status: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mtime = int(status.st_mtime)
    return info


def _xattrs(path: Path) -> dict[str, str]:
    found = {}
    for name in _KEPT_XATTRS:
        value = _xattr(path, name)
        if value:
            found[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
    return found


def _xattr(path: Path, name: str) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return b""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the image is made of."""

    config: bytes
    """Of the container's image."""
    diff_id: str
    """Of the new layer."""
    arguments: tuple[str, ...]
    """What the container was started with."""


def image_document(origin: Origin, commit: Commit) -> bytes:
    """The new image's configuration. Raises RuntimeFaultError for a change that it does not understand."""
    document: dict[str, Any] = json.loads(origin.config)
    created = datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")
    settings: dict[str, Any] = {**(document.get("config") or {})}
    own = (*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ()))
    if origin.arguments != own:
        settings["Entrypoint"], settings["Cmd"] = None, list(origin.arguments)
    for change in commit.changes:
        _apply(settings, change)
    rootfs = document.get("rootfs") or {}
    entry = {"created": created, "created_by": shlex.join(origin.arguments)}
    entry |= {key: text for key, text in (("author", commit.author), ("comment", commit.message)) if text}
    document |= {
        "created": created,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*rootfs.get("diff_ids", ()), origin.diff_id]},
        "history": [*(document.get("history") or ()), entry],
    }
    if commit.author:
        document["author"] = commit.author
    return json.dumps(document).encode()


def _apply(settings: dict[str, Any], change: str) -> None:
    """One instruction of a Dockerfile, of those that change only the configuration."""
    word, _, rest = change.strip().partition(" ")
    rest = rest.strip()
    match word.upper():
        case "CMD":
            settings["Cmd"] = _command(rest)
        case "ENTRYPOINT":
            settings["Entrypoint"] = _command(rest)
        case "ENV":
            values = dict(item.partition("=")[::2] for item in settings.get("Env") or ())
            values.update(_pairs(word, rest))
            settings["Env"] = [f"{key}={value}" for key, value in values.items()]
        case "LABEL":
            settings["Labels"] = {**(settings.get("Labels") or {}), **_pairs(word, rest)}
        case "USER" | "WORKDIR" | "STOPSIGNAL":
            key = {"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}[word.upper()]
            settings[key] = rest
        case "EXPOSE":
            ports: dict[str, Any] = {port if "/" in port else f"{port}/tcp": {} for port in rest.split()}
            settings["ExposedPorts"] = {**(settings.get("ExposedPorts") or {}), **ports}
        case _:
            raise RuntimeFaultError(
                f"change: {word} is not one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, WORKDIR"
            )


def _command(text: str) -> list[str]:
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError as error:
            raise RuntimeFaultError(f"change: {text}: {error}") from error
        return [str(word) for word in words]
    return ["/bin/sh", "-c", text]


def _pairs(word: str, text: str) -> Mapping[str, str]:
    if "=" not in text:
        key, _, value = text.partition(" ")
        return {key: value.strip()}
    parts = shlex.split(text)
    if not all("=" in part for part in parts):
        raise RuntimeFaultError(f"change: {word} takes KEY=value, not {text!r}")
    return dict(part.partition("=")[::2] for part in parts)
