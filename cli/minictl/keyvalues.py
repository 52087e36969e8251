"""`KEY=value` options: labels, environment variables and files of them."""

from __future__ import annotations

from minictl.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def labels(items: Iterable[str]) -> dict[str, str]:
    """A mapping of `key=value` and `key` (an empty value); the last of a key wins."""
    result: dict[str, str] = {}
    for item in items:
        key, _, value = item.partition("=")
        result[key] = value
    return result


def resolve_env(items: Iterable[str], environment: Mapping[str, str]) -> list[str]:
    """`KEY=value` as it is; `KEY` takes the caller's own value, and is left out when there is none."""
    result = []
    for item in items:
        if "=" in item:
            result.append(item)
        elif item in environment:
            result.append(f"{item}={environment[item]}")
    return result


def read_env_file(path: str, environment: Mapping[str, str]) -> list[str]:
    """The variables of a file: one per line, `#` begins a comment line. Raises CliError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise CliError(f"env file {path} contains invalid utf8 bytes: {error.reason}") from error
    items = []
    for line in lines:
        text = line.lstrip()
        if not text or text.startswith("#"):
            continue
        name = text.partition("=")[0]
        if not name:
            raise CliError(f"no variable name on line '{text}' of env file {path}")
        if any(char.isspace() for char in name):
            raise CliError(f"variable '{name}' contains whitespaces")
        items.append(text)
    return resolve_env(items, environment)


def last_of_each(items: Iterable[str]) -> list[str]:
    """Without earlier values of a variable that is given again; in the order of the values that count."""
    last: dict[str, str] = {}
    for item in items:
        name = item.partition("=")[0]
        last.pop(name, None)
        last[name] = item
    return list(last.values())
