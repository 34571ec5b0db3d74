"""Decides what of payloads and headers is shown, and shows it as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from redisaq.core.records import UNREADABLE
from redisaq.errors import SettingsError

LARGEST = 64 * 1024
"""Bytes of a payload that are shown."""

LINES = 2000
"""Lines of a payload that are shown in their own lines."""


class Shown(msgspec.Struct, frozen=True):
    """A payload as it is shown: its text, what kind of thing it is, and whether that is all of it."""

    text: str
    what: str
    whole: bool


class Privacy:
    """Decides what of payloads and headers is shown."""

    def __init__(self, *, payloads: bool = True, redact: str | None = None) -> None:
        """Begin with these settings.

        Args:
            payloads: whether payloads and headers are shown at all.
            redact: a regular expression. Values whose place in the JSON, such as "order.card.number", has a match are not shown.

        Raises:
            SettingsError: the expression cannot be compiled.
        """
        self.payloads = payloads
        try:
            self._redact = None if redact is None else re.compile(redact, re.IGNORECASE)
        except re.error as error:
            raise SettingsError(f"redact is no regular expression: {error}") from error

    @property
    def raw(self) -> bool:
        """Whether payloads may be shown as they are."""
        return self.payloads and self._redact is None

    def payload(self, data: bytes) -> Shown:
        """Return a payload as text."""
        if not self.payloads:
            return Shown("", "not shown", whole=True)
        what = f"{len(data):,} bytes"
        if self._redact is not None:
            try:
                data = msgspec.json.encode(self._without(msgspec.json.decode(data), ""))
            except UNREADABLE:
                return Shown("", f"{what}, not shown: it is not JSON, or too deep, so that nothing can be left out", whole=True)
        text, json = _text_of(data)
        return Shown(text[:LARGEST], f"{what} of JSON" if json else what, whole=len(text) <= LARGEST)

    def value(self, data: bytes, payload: object, *, readable: bool) -> object:
        """Return a payload for programs: as JSON if it can be read, otherwise as text; None if it is not shown."""
        if not self.payloads or (self._redact is not None and not readable):
            return None
        if not readable:
            return data.decode("utf-8", "backslashreplace")
        try:
            return payload if self._redact is None else self._without(payload, "")
        except RecursionError:  # too deep, so that nothing can be left out
            return None

    def preview(self, start: bytes, size: int) -> str:
        """Return the beginning of a payload in one line."""
        if not self.payloads:
            return "not shown"
        if self._redact is not None:
            if len(start) < size:
                return "not shown: too long to leave parts of it out"
            shown = self.payload(start)
            return " ".join(shown.text.split()) or shown.what
        try:
            text = start.decode()
        except UnicodeDecodeError as error:
            cut = len(start) < size and error.start >= len(start) - 3  # only its last letter is cut
            text = start[: error.start].decode() if cut else start.hex(" ")
        return " ".join(text.split()) + ("…" if len(start) < size else "")

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return headers without what is not shown."""
        if not self.payloads:
            return {}
        return {name: "…" if self._redact is not None and self._redact.search(name) else value for name, value in headers.items()}

    def _without(self, value: Any, place: str) -> Any:  # noqa: ANN401 -- whatever is in a payload
        if place and self._redact is not None and self._redact.search(place):
            return "…"
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return {name: self._without(one, f"{place}.{name}" if place else name) for name, one in fields.items()}
        if isinstance(value, list):
            return [self._without(one, place) for one in cast("Sequence[Any]", value)]
        return value


def _text_of(data: bytes) -> tuple[str, bool]:
    """Return a payload as text, and whether it is JSON. What is not UTF-8 is shown as hexadecimal digits."""
    if len(data) <= LARGEST:
        try:
            pretty = msgspec.json.format(data, indent=2)
            if pretty.count(b"\n") < LINES and len(pretty) <= 2 * LARGEST:
                return pretty.decode(), True
            return data.decode(), True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data[: LARGEST // 3 + 1].hex(" "), False  # three characters for each byte; what does not fit makes it too long
