"""`--secret` and `--config` of services: a name, or comma-separated options, as Docker reads them."""

from __future__ import annotations

from minictl import values
from minictl.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from miniproto.v1.objects_pb2 import ServiceSpec

    from minictl.flags import Parsed

DEFAULT_MODE = 0o444
_MAX_ID = (1 << 32) - 1


def _parse(kind: str, text: str) -> dict[str, Any]:
    """The source and the fields of the API's FileTarget. Raises ValueError, in Docker's words."""
    use: dict[str, Any] = {"source": "", "name": "", "uid": 0, "gid": 0, "mode": DEFAULT_MODE}
    parts = text.split(",")
    if len(parts) == 1 and "=" not in text:
        return {**use, "source": text, "name": text}
    for part in parts:
        key, separator, value = part.partition("=")
        if not separator:
            raise ValueError(f"invalid field '{part}' must be a key=value pair")
        _set(kind, use, key.strip().lower(), value)
    if not use["source"]:
        raise ValueError("source is required")
    return {**use, "name": use["name"] or use["source"]}


def _set(kind: str, use: dict[str, Any], key: str, value: str) -> None:
    match key:
        case "source" | "src":
            use["source"] = value
        case "target":
            use["name"] = value
        case "uid" | "gid":
            use[key] = _id(key, value)
        case "mode":
            use["mode"] = _mode(value)
        case _:
            raise ValueError(f"invalid field in {kind} request: {key}")


def _id(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= _MAX_ID:
        raise ValueError(f"invalid {key} specified: {text}: must be a number")
    return int(text)


def _mode(text: str) -> int:
    """As Go reads a number: octal with a leading 0, else decimal."""
    try:
        octal = text[:1] == "0" and text[1:].isdigit()
        mode = int(text, 8) if octal else int(text, 0)
    except ValueError:
        raise ValueError(
            f'invalid mode specified: strconv.ParseUint: parsing "{text}": invalid syntax'
        ) from None
    if not 0 < mode <= 0o7777:
        raise ValueError(f"invalid mode specified: {text}: must be 0001 to 7777, with a leading 0")
    return mode


_SECRET = values.Kind("secret", lambda text: _parse("secret", text), repeat=True)
_CONFIG = values.Kind("config", lambda text: _parse("config", text), repeat=True)

CREATE_FLAGS = (
    Flag("config", "Specify configurations to expose to the service", kind=_CONFIG),
    Flag("secret", "Specify secrets to expose to the service", kind=_SECRET),
)

UPDATE_FLAGS = (
    Flag("config-add", "Add or update a config file on a service", kind=_CONFIG),
    Flag("config-rm", "Remove a configuration file", kind=values.LIST),
    Flag("secret-add", "Add or update a secret on a service", kind=_SECRET),
    Flag("secret-rm", "Remove a secret", kind=values.LIST),
)


def apply_new(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service create` was given."""
    for kind in ("secret", "config"):
        _add(spec, kind, parsed[kind])


def apply_change(spec: ServiceSpec, parsed: Parsed) -> None:
    """What `service update` was given: what is removed goes first, so that it can be added anew."""
    for kind in ("secret", "config"):
        if not parsed.changed(f"{kind}-add", f"{kind}-rm"):
            continue
        uses: Any = getattr(spec.task.container, f"{kind}s")
        removed = {*parsed[f"{kind}-rm"]}
        kept = [use for use in uses if use.name not in removed and getattr(use, kind) not in removed]
        spec.task.container.ClearField("secrets" if kind == "secret" else "configs")
        uses = getattr(spec.task.container, f"{kind}s")
        uses.extend(kept)
        _add(spec, kind, parsed[f"{kind}-add"])


def _add(spec: ServiceSpec, kind: str, asked: list[dict[str, Any]]) -> None:
    from minictl.client import messages

    for each in asked:
        fields = {name: each[name] for name in ("name", "uid", "gid", "mode")}
        file = messages.FileTarget(**fields)
        if kind == "secret":
            spec.task.container.secrets.append(messages.SecretUse(secret=each["source"], file=file))
        else:
            spec.task.container.configs.append(messages.ConfigUse(config=each["source"], file=file))
