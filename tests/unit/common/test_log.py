"""The log line, as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from minicommon.log import JsonFormatter, TextFormatter, configure, fields

MOMENT = 1_800_000_000.25


def _record(message: str = "Session opened.", **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("mini.test", logging.INFO, __file__, 1, message, None, None)
    record.created = MOMENT
    record.__dict__.update(fields(**extra))
    return record


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_text_is_a_sentence_and_fields() -> None:
    line = TextFormatter().format(_record(node_id="n1", count=3, reason="two words", empty="", line="a\nb"))
    assert line == (
        "2027-01-15T08:00:00.250Z INFO mini.test Session opened. "
        'node_id=n1 count=3 reason="two words" empty="" line="a\\nb"'
    )


@pytest.mark.parametrize("value", ['a"b', "a=b", "a b", "\x1b[31m", "tab\t"])
def test_a_value_cannot_be_taken_for_another_field(value: str) -> None:
    line = TextFormatter().format(_record(key=value))
    assert json.loads(line.partition("key=")[2]) == value


def test_a_message_cannot_begin_another_line() -> None:
    assert "\n" not in TextFormatter().format(_record("one\ntwo"))


def test_json_is_one_object_per_line() -> None:
    line = JsonFormatter().format(_record(node_id="n1", error=ValueError("bad")))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "logger": "mini.test",
        "message": "Session opened.",
        "node_id": "n1",
        "error": "bad",
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_exception_shows_its_trace(formatter: logging.Formatter) -> None:
    record = _record()
    try:
        raise RuntimeError("inside")
    except RuntimeError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    assert "RuntimeError: inside" in formatter.format(record)


def test_a_field_cannot_have_a_name_of_loggings_own() -> None:
    with pytest.raises(ValueError, match="message, name belong to logging itself"):
        fields(name="x", message="y", node_id="n1")


def test_configure_sets_up_the_whole_process(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure(level="warning", stream=stream)
    logging.getLogger("a.b").info("Not shown.")
    logging.getLogger("a.b").warning("Shown.", extra=fields(task_id="t1"))
    assert stream.getvalue().endswith(" WARNING a.b Shown. task_id=t1\n")
    configure(format="json", level="debug", stream=stream)
    logging.getLogger("a.b").debug("As JSON.")
    assert json.loads(stream.getvalue().splitlines()[-1])["message"] == "As JSON."
    assert len(root_logger.handlers) == 1


@pytest.mark.parametrize(("format", "level"), [("xml", "info"), ("text", "loud")])
def test_an_unknown_setting_is_refused(format: str, level: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        configure(format=format, level=level)  # type: ignore[arg-type]
