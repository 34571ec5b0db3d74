"""Create the SVG elements of a timeline's picture: marks, bars, lines and text.

Input: a parent element and a position. Output: elements in it. The same calls give the same bytes. Every text is escaped so that a parser
accepts it. Colours come in a light and a dark set, and nothing is shown by colour alone.
"""

from __future__ import annotations

from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement

from redisaq.testing.timeline_story import printable

CHAR = 6.1
"""Approximate width in pixels of a character of the usual size: fonts differ."""

COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00", "#999999")
"""Colours of partitions, in turn: those of Okabe and Ito, which most colour-blind people can tell apart; grey replaces black."""

DARK_COLOURS = ("#0072B2",)
"""The colours on which text must be white."""

STYLE = """
.rq text{font:11px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:#1f2328}
.rq .rq-title{font-size:15px;font-weight:600}.rq .rq-name{font-size:12px;font-weight:600}.rq .rq-small{font-size:9px}
.rq .rq-soft{fill:#59636e}.rq .rq-told{fill:#b00020}.rq .rq-number{font-size:9px;font-weight:700;fill:#fff}
.rq .rq-on-dark{fill:#fff}.rq .rq-on-light{fill:#000}.rq-paper{fill:#fff}.rq-row{fill:#f6f8fa}.rq-present{fill:#dde3ea}
.rq-grid{stroke:#d1d9e0;stroke-width:1}.rq-bar{stroke:#1f2328;stroke-opacity:.55;stroke-width:.6}.rq-cap{fill:#1f2328}
.rq-run{fill:#1f2328}.rq-failed{fill:#b00020}.rq-band{stroke:#59636e;stroke-width:.6;stroke-dasharray:2 2}
.rq-paused-ground{fill:#bcc4cd;fill-opacity:.35}.rq-crashed-ground{fill:#59636e;fill-opacity:.3}.rq-hatch{stroke:#59636e;stroke-width:1;stroke-opacity:.75}
.rq-mark{fill:#1f2328;stroke:#1f2328;stroke-width:1.4}.rq-fault{fill:#c2410c;stroke:#c2410c;stroke-width:1.4}.rq .rq-open{fill:#fff}
.rq-violation{stroke:#b00020;stroke-width:1.6}.rq-flag{fill:#b00020}
.rq-loss{stroke:#c2410c;stroke-width:1.4;stroke-dasharray:5 3}
@media (prefers-color-scheme:dark){
.rq text{fill:#e6edf3}.rq .rq-soft{fill:#9aa4af}.rq .rq-told{fill:#ff8a8a}.rq .rq-number{fill:#000}
.rq-paper{fill:#0d1117}.rq-row{fill:#151b23}.rq-present{fill:#2a313c}.rq-grid{stroke:#30363d}.rq-bar{stroke:#e6edf3}.rq-cap{fill:#e6edf3}
.rq-run{fill:#e6edf3}.rq-failed{fill:#ff6b6b}.rq-band{stroke:#9aa4af}.rq-paused-ground{fill:#59636e}.rq-crashed-ground{fill:#000}
.rq-hatch{stroke:#9aa4af}.rq-mark{fill:#e6edf3;stroke:#e6edf3}.rq-fault{fill:#ff9e5e;stroke:#ff9e5e}.rq .rq-open{fill:#0d1117}
.rq-violation{stroke:#ff6b6b}.rq-flag{fill:#ff6b6b}
.rq-loss{stroke:#ff9e5e}
}
"""

_CIRCLE = "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0z"
_DIAMOND = "M0 -4.6L4.6 0L0 4.6L-4.6 0z"
_SQUARE = "M-3.4 -3.4H3.4V3.4H-3.4z"
_BAR = "M-4.2 -1.6H4.2V1.6H-4.2z"
_BARS = "M-4.2 -3.6H4.2V-1.2H-4.2zM-4.2 1.2H4.2V3.6H-4.2z"
_CROSS = "M-4 0H4M0 -4V4"

MARKS = {
    "joins": ("M-3 -4.5L4.5 0L-3 4.5z", False),
    "leaves": ("M3 -4.5L-4.5 0L3 4.5z", True),
    "pauses": ("M-3.2 -4H-1V4H-3.2zM1 -4H3.2V4H1z", False),
    "crashes": ("M-4 -4L4 4M-4 4L4 -4", True),
}
"""Marks of what happens to a member, by the first word: the shape, and whether it is hollow."""

FAULTS = {
    "lost_request": (_CIRCLE, True),
    "lost_reply": (_CIRCLE, False),
    "late_request": (_DIAMOND, True),
    "disconnect": (_SQUARE, True),
    "slow_handler": ("M-4 -4H4L-4 4H4z", True),
    "failover": (_SQUARE, False),
    "slot_loss": (_DIAMOND, False),
    "silent_request": (_BAR, True),
    "silent_reply": (_BAR, False),
    "silent_network": (_BARS, True),
    "silent_notifications": (_CROSS, False),
    "silence": (_BARS, False),
    "outage": (_CROSS, True),
}
"""Shapes of faults, by the name of the fault in FaultPlan."""

_OTHER_FAULT = ("M0 -4.5L4.2 3.2H-4.2z", False)


class Box(NamedTuple):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float

    def attributes(self) -> dict[str, float]:
        """Return the attributes of a rect element."""
        return self._asdict()


def number(value: float) -> str:
    """Format a coordinate; a tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


def add(parent: Element, tag: str, title: str = "", /, **attributes: str | float) -> Element:
    """Add an element; `class_` sets class, and `stroke_width` sets stroke-width. A title is shown when you point at the element."""
    named = {key.rstrip("_").replace("_", "-"): value if isinstance(value, str) else number(value) for key, value in attributes.items()}
    element = SubElement(parent, tag, named)
    if title:
        SubElement(element, "title").text = printable(title)
    return element


def write(
    parent: Element, x: float, y: float, text: str, class_: str = "", *, room: float | None = None, anchor: str = "", char: float = CHAR
) -> None:
    """Write a text at its base line. A text that is too long for its room is cut; point at it to read it all."""
    text = printable(text)
    most = len(text) if room is None else max(1, int(room / char))
    shown = text if len(text) <= most else text[: most - 1] + "…"
    more = ({"class_": class_} if class_ else {}) | ({"text_anchor": anchor} if anchor else {})
    element = add(parent, "text", x=x, y=y, **more)
    element.text = shown
    if shown != text:
        add(element, "title").text = text


def mark(parent: Element, x: float, y: float, what: str, title: str) -> None:
    """Draw what happened to a member; things without a shape are not drawn."""
    shape = MARKS.get(what.partition(" ")[0])
    if shape is not None:
        _glyph(add(parent, "g", title, class_="rq-mark"), x, y, shape)


def fault(parent: Element, x: float, y: float, kind: str, title: str) -> None:
    """Draw a fault; all unknown kinds are drawn as a triangle."""
    _glyph(add(parent, "g", title, class_="rq-fault"), x, y, FAULTS.get(kind, _OTHER_FAULT))


def _glyph(parent: Element, x: float, y: float, shape: tuple[str, bool]) -> None:
    path, hollow = shape
    hollowed = {"class_": "rq-open"} if hollow else {}
    add(parent, "path", d=path, transform=f"translate({number(x)} {number(y)})", **hollowed)


def band(parent: Element, box: Box, head: float, what: str, title: str) -> None:
    """Shade a time in which a member was paused ("paused") or gone ("crashed"); the part below `head` is hatched."""
    group = add(parent, "g", title, class_=f"rq-absence rq-{what}")
    add(group, "rect", class_=f"rq-band rq-{what}-ground", **box.attributes())
    if box.height > head:
        hatched = Box(box.x, box.y + head, box.width, box.height - head)
        add(group, "rect", fill=f"url(#rq-{what}-hatch)", **hatched.attributes())


def bar(parent: Element, box: Box, colour: str, end: str, title: str) -> None:
    """Draw a lease. Its end has a cap if the lease was lost or its owner crashed, and an arrow if it never ended."""
    group = add(parent, "g", title, class_="rq-lease")
    add(group, "rect", class_="rq-bar", fill=colour, **box.attributes())
    right = box.x + box.width
    if end in ("lost", "crashed"):
        cap = min(3.0, box.width)
        add(group, "rect", class_="rq-cap", x=right - cap, y=box.y - 1, width=cap, height=box.height + 2)
    elif not end:
        half = number(box.height / 2)
        add(group, "path", class_="rq-cap", d=f"M{number(right)} {number(box.y)}l5 {half}l-5 {half}z")


def hatches(defs: Element) -> None:
    """Define how bands are hatched."""
    for what, size, path in (("paused", 7.0, "M-1 8L8 -1"), ("crashed", 7.0, "M0 0L7 7M0 7L7 0")):
        pattern = add(defs, "pattern", id=f"rq-{what}-hatch", width=size, height=size, patternUnits="userSpaceOnUse")
        add(pattern, "path", class_="rq-hatch", d=path, fill="none")
