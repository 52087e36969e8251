"""`--mount` and `--tmpfs`: comma-separated options, as Docker reads them."""

from __future__ import annotations

from minictl.values import parse_bool, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TYPES = ("volume", "bind", "tmpfs")
"""At the place of their numbers in the API."""

_SAME = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
}
_FLAGS = {"readonly": "read_only", "volume-nocopy": "no_copy", "bind-nonrecursive": "non_recursive"}
_TMPFS_WORDS = ("rw", "noexec", "nosuid", "nodev")
"""How every tmpfs is mounted anyway."""


def parse_mount(text: str) -> dict[str, Any]:
    """The fields of the API's Mount. Raises ValueError."""
    mount: dict[str, Any] = {"type": 0}
    for part in text.split(","):
        key, separator, value = part.partition("=")
        key = _SAME.get(key.strip().lower(), key.strip().lower())
        if key in _FLAGS:
            mount[_FLAGS[key]] = _flag(key, value) if separator else True
        elif not separator:
            raise ValueError(f"invalid field '{part}' must be a key=value pair")
        else:
            _set(mount, key, value)
    if not mount.get("target"):
        raise ValueError("target is required")
    _check(mount)
    return mount


def parse_tmpfs(text: str) -> dict[str, Any]:
    """`/run` or `/run:size=64m,mode=0770,ro`. Raises ValueError."""
    target, _, options = text.partition(":")
    mount: dict[str, Any] = {"type": TYPES.index("tmpfs"), "target": target}
    for part in options.split(",") if options else ():
        key, separator, value = part.partition("=")
        if separator and key in ("size", "mode"):
            _set(mount, f"tmpfs-{key}", value)
        elif part == "ro":
            mount["read_only"] = True
        elif part not in _TMPFS_WORDS:
            raise ValueError(f"invalid tmpfs option {quote(part)}: must be size=, mode=, ro or rw")
    return mount


def _set(mount: dict[str, Any], key: str, value: str) -> None:
    match key:
        case "type":
            if value.lower() not in TYPES:
                raise ValueError(f"invalid mount type: {value}: must be {', '.join(TYPES)}")
            mount["type"] = TYPES.index(value.lower())
        case "source" | "target":
            mount[key] = value
        case "bind-propagation":
            mount["propagation"] = value.lower()
        case "tmpfs-size":
            mount["size_bytes"] = _bytes(value)
        case "tmpfs-mode":
            mount["mode"] = _mode(value)
        case _:
            raise ValueError(f"unexpected key '{key}' in '{key}={value}'")


def _check(mount: dict[str, Any]) -> None:
    """Options of another type than the mount's."""
    allowed = {
        "volume": ("no_copy",),
        "bind": ("propagation", "non_recursive"),
        "tmpfs": ("size_bytes", "mode"),
    }
    kind = TYPES[mount["type"]]
    for other, fields in allowed.items():
        if other != kind and any(field in mount for field in fields):
            raise ValueError(f"cannot mix '{other}-*' options with mount type '{kind}'")


def _flag(key: str, text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {text}") from None


def _bytes(text: str) -> int:
    from minicommon.errors import MiniError
    from minicommon.units import parse_bytes

    try:
        return parse_bytes(text)
    except MiniError:
        raise ValueError(f"invalid value for tmpfs-size: {text}") from None


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise ValueError(f"invalid value for tmpfs-mode: {text}") from None
