"""Reads the pages that mkdocs has built: what the reference says of each name, and what a page would fetch from elsewhere."""

from __future__ import annotations

import html
import re
from pathlib import Path

from tests.site.public import Name


def entries_of(directory: Path) -> dict[str, str]:
    """Return the text that the reference has for each name, without markup."""
    found: dict[str, str] = {}
    for page in sorted((directory / "reference").rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        starts = [*re.finditer(r'<h\d id="(redisaq\.[\w.]+)"', text)]
        ends = [match.start() for match in starts[1:]] + [len(text)]
        for match, end in zip(starts, ends[: len(starts)], strict=True):
            found[match[1]] = plain(text[match.start() : end])
    return found


def plain(markup: str) -> str:
    """Return the text of HTML."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", markup)))


def missing(name: Name, entries: dict[str, str]) -> list[str]:
    """Return what the reference does not say of a name, in sentences."""
    text = next((entries[home] for home in sorted(name.homes) if home in entries), None)
    if text is None:
        return [f"{name.path}: not in the reference"]
    said = [f"no parameter {one}" for one, _ in name.parameters if not has_word(text, one)]
    said += [f"{one} should be {default}" for one, default in name.parameters if default and not has_default(text, one, default)]
    said += [f"no error {one}" for one in name.raises if not has_word(text, one)]
    return [f"{name.path}: {sentence}" for sentence in said]


def has_word(text: str, word: str) -> bool:
    """Return whether a text has a word."""
    return re.search(rf"\b{word}\b", text) is not None


def has_default(text: str, name: str, default: str) -> bool:
    """Return whether the signature gives a parameter this default. A constant's name is as good as its value: the constant is explained."""
    match = re.search(rf"\b{name}(?:: [^=]*?)? ?= ?([^,)]+)", text)
    if match is None:
        return False
    written = match[1].strip().replace('"', "'")
    return written == default or bool(re.fullmatch(r"[A-Z_]+|\d+ << \d+", written))


FETCHED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*(?:src|href)="((?:https?:)?//[^"]+)"')
"""What a browser fetches when it opens a page; a link to click is nothing of it."""


def fetched_from_elsewhere(directory: Path) -> list[str]:
    """Return what pages fetch from other hosts when they are opened: scripts, styles, fonts, pictures."""
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(directory.rglob("*.html"))}
    return [f"{page.relative_to(directory)}: {address}" for page, text in pages.items() for address in FETCHED.findall(text)]
