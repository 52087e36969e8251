"""Logging, the same in every process: one line per record on standard error.

A record is a sentence and fields: `logger.info("Session opened.", extra=fields(node_id=node_id))`. Ids are always
spelled `node_id`, `service_id`, `task_id`. No secret is ever a field or part of a sentence: nothing here
takes one out again.

What the levels mean: debug, what a developer follows; info, what changed; warning, something is wrong and is being
dealt with; error, somebody has to act.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

Format = Literal["text", "json"]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What a record has by itself; everything else came in as a field."""


def fields(**values: object) -> dict[str, object]:
    """The fields of a record. Raises ValueError for a name that `logging` uses itself."""
    if taken := _STANDARD & values.keys():
        raise ValueError(
            f"log fields: {', '.join(sorted(taken))} belong to logging itself; choose other names"
        )
    return values


def configure(*, format: Format = "text", level: str = "info", stream: TextIO | None = None) -> None:
    """Send the records of the whole process to `stream`, standard error unless told. Replaces what was set up before.

    Raises ValueError for an unknown level or format.
    """
    formatters: dict[str, logging.Formatter] = {"text": TextFormatter(), "json": JsonFormatter()}
    if format not in formatters:
        raise ValueError(f"log format: must be text or json, got {format!r}")
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level: must be debug, info, warning or error, got {level!r}")
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(formatters[format])
    logging.basicConfig(level=number, handlers=[handler], force=True)
    logging.captureWarnings(True)


def keep_grpc_quiet() -> None:
    """Let gRPC's own library write nothing: it logs what a peer sent, byte for byte, to standard error.

    It looks at this when it is imported. Whoever wants to see it sets GRPC_VERBOSITY.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO minimanager.app Sentence. key=value key="two words"`."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), record.levelname, record.name, record.getMessage().replace("\n", "\\n")]
        parts += [f"{key}={_text(value)}" for key, value in _fields(record).items()]
        return "\n".join([" ".join(parts), *_trace(self, record)])


class JsonFormatter(logging.Formatter):
    """One JSON object per line; the fields stand beside `time`, `level`, `logger` and `message`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in _fields(record).items() if key not in entry}
        if trace := _trace(self, record):
            entry["trace"] = "\n".join(trace)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    return formatter.formatException(record.exc_info).splitlines()


def _text(value: object) -> str:
    """The value as it is, or quoted where it could be taken for something else."""
    text = str(value)
    plain = text and text.isprintable() and not any(char in text for char in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)
