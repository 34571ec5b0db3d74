"""Numbers and times in the words that the page and `redisaq top` show."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from redisaq.core.history import ranges_of

_BIG = ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"))

_LISTED = 6
"""Ranges of partitions that a sentence lists."""


def count(number: float) -> str:
    """Return a whole number with its thousands set apart: 12,345."""
    return f"{round(number):,}"


def short(number: float) -> str:
    """Return a number in at most six characters: 9,999, then 12.3 k, 612 k, 5.31 M."""
    if number < 10_000:  # noqa: PLR2004 -- four digits are read as quickly as two and a letter
        return count(number)
    size, sign = next((size, sign) for size, sign in _BIG if number >= size)
    scaled = number / size
    return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {sign}"  # noqa: PLR2004 -- three digits in all


def rate(per_second: float | None) -> str:
    """Return a rate without its unit, which is seconds, or minutes ("2/min") if it is small. "–" if it is not known."""
    if per_second is None:
        return "–"
    if 0 < per_second < 0.1:  # noqa: PLR2004 -- less than six a minute
        return f"{per_second * 60:.0f}/min" if per_second * 60 >= 1 else "<1/min"
    return count(per_second) if per_second >= 10 or per_second == 0 else f"{per_second:.1f}"  # noqa: PLR2004 -- two digits


def per(per_second: float | None) -> str:
    """Return a rate with its unit."""
    text = rate(per_second)
    return text if "/" in text or text == "–" else f"{text}/s"


def duration(seconds: float | None) -> str:
    """Return a duration in its largest unit: 0.3 s, 41 s, 12 min, 3 h 12 min, 2 d 4 h. "–" if it is not known."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 100:  # noqa: PLR2004 -- 99 s is as clear as 1 min
        return f"{int(seconds)} s"
    minutes = int(seconds // 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes // 60 % 24} h"


def fine(seconds: float | None) -> str:
    """Return a duration with seconds up to an hour: 12 min 01 s."""
    if seconds is None or not 100 <= seconds < 3600:  # noqa: PLR2004 -- as above
        return duration(seconds)
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def clock(at: float, *, seconds: bool = True) -> str:
    """Return a moment (seconds since 1970) as the time of the day in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):{'%H:%M:%S' if seconds else '%H:%M'}}"


def many(number: int, one: str, more: str = "") -> str:
    """Return a number and its noun: 1 partition, 24 partitions."""
    return f"{count(number)} {one if number == 1 else more or one + 's'}"


def day_and_clock(at: float, now: float) -> str:
    """Return a moment as the time of the day in UTC, with the day if it is another one: 20:06, 29 Nov 20:06."""
    moment = datetime.fromtimestamp(at, UTC)
    same = moment.date() == datetime.fromtimestamp(now, UTC).date()
    return clock(at, seconds=False) if same else f"{moment.day} {moment:%b %H:%M}"


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers of partitions as ranges, and how many there are beyond a few: 3 or 20–23 or 1, 4–6 and 9,970 more."""
    found = ranges_of(numbers, None)
    words = [str(first) if first == last else f"{first}–{last}" for first, last in found[:_LISTED]]
    left = sum(last - first + 1 for first, last in found[_LISTED:])
    return ", ".join(words) + (f" and {count(left)} more" if left else "")


def remedy(error: str) -> str:
    """Return what to do about something that cannot be read, by the server's words for it; "" if they say it themselves."""
    if error.startswith("WRONGTYPE"):
        return "One of its keys has another type than redisaq gives it: find it with TYPE, then rename or delete it."
    if error.startswith("NOPERM"):
        return "The command “redisaq doctor” says which rights are missing."
    return ""


def group_name(topic: str, group: str) -> str:
    """Return a group's name: orders › billing."""
    return f"{topic} › {group}"
