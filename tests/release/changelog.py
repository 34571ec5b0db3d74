"""What the changelog must say of a version before it is released."""

from __future__ import annotations

import re

HEADING = re.compile(r"^## (?P<version>\d+\.\d+\.\d+)(?: \((?P<date>[^)]*)\))?$", re.MULTILINE)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def problems(text: str, version: str, *, dated: bool = True) -> list[str]:
    """Return what is wrong with the changelog, in sentences.

    Args:
        text: the changelog.
        version: the version to be released.
        dated: whether it must have a date: that of its release.
    """
    headings = list(HEADING.finditer(text))
    if not headings or headings[0]["version"] != version:
        first = headings[0]["version"] if headings else "none"
        return [f"the changelog's first version is {first}, not {version}"]
    found: list[str] = []
    if dated and not DATE.fullmatch(headings[0]["date"] or ""):
        found.append(f"the changelog gives no date for {version}: ## {version} (YYYY-MM-DD)")
    end = headings[1].start() if len(headings) > 1 else len(text)
    if not re.search(r"^- ", text[headings[0].end() : end], re.MULTILINE):
        found.append(f"the changelog says nothing of {version}")
    return found
