"""Log lines as JSON: one object a line, whatever a record holds."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from redisaq.worker.logs import JsonFormatter, TextFormatter


class Nasty:
    def __repr__(self) -> str:
        raise ValueError


def line_of(text: str, *words: object, extra: dict[str, Any] | None = None, error: BaseException | None = None) -> dict[str, Any]:
    """Log, and return the one line that came."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(3))
    logger = logging.Logger("shop")  # noqa: LOG001 -- nobody else shall have it
    logger.addHandler(handler)
    logger.warning(text, *words, extra=extra, exc_info=error)
    assert stream.getvalue().count("\n") == 1
    line: dict[str, Any] = json.loads(stream.getvalue())
    return line


def test_a_line_has_the_record_and_its_extra() -> None:
    line = line_of("took %s", "long\nand more", extra={"topic": "orders", "took": 1.5, "level": "high"})
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "shop",
        "message": "took long\nand more",
        "child": 3,
        "topic": "orders",
        "took": 1.5,
        "level_": "high",
    }


def test_an_exception_is_three_fields() -> None:
    try:
        raise ValueError("no")  # noqa: TRY301 -- with a traceback
    except ValueError as error:
        line = line_of("failed", error=error)
    assert (line["error"], line["error_message"]) == ("ValueError", "no")
    assert line["traceback"].startswith("Traceback")


@pytest.mark.parametrize("value", [Nasty(), {(1, 2): object()}, 1 << 80, float("nan"), "\ud800", ValueError("x"), b"\xff"])
def test_nothing_breaks_a_line(value: object) -> None:
    assert line_of("with a value", extra={"value": value})["message"].strip("'") == "with a value"


def test_text_names_the_child() -> None:
    record = logging.LogRecord("shop", logging.INFO, "", 1, "hello", None, None)
    assert TextFormatter(2).format(record).endswith("INFO shop[2]: hello")
    assert TextFormatter(0).format(record).endswith("INFO shop: hello")
