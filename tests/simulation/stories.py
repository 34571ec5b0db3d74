"""Reports made by hand, and what a timeline's picture shows of them."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import msgspec

from redisaq.testing import Delivery, Fault, Lease, Mark, Report, Settle

EMPTY = Report(
    seed=1,
    backend="trio",
    violations=[],
    trace_hash="ab" * 32,
    trace=[],
    produced=[],
    dropped=[],
    deliveries=[],
    settles=[],
    leases=[],
    marks=[],
)


def told(**parts: Any) -> Report:
    """Return a report of these parts."""
    return msgspec.structs.replace(EMPTY, **parts)


def lease(member: str, partition: int, since: float, until: float | None = None, end: str = "released", *, topic: str = "orders") -> Lease:
    return Lease(member, topic, "billing", partition, 1000 + partition, since, until, "" if until is None else end)


def run(member: str, partition: int, started: float, ended: float | None, outcome: str = "returned", *, entry: str = "5-0") -> Delivery:
    return Delivery(member, "orders", "billing", partition, f"m-{entry}", entry, 1, 1000 + partition, started, ended, outcome)


def settle(member: str, partition: int, time: float, entry: str = "5-0", to: str = "done", *, accepted: bool = True) -> Settle:
    return Settle(time, member, "orders", "billing", partition, 1000 + partition, (entry,), to, accepted)


FULL = told(
    violations=["at 6.000: b began orders/1 7-0 attempt 1 while a runs 5-0 since 5.900", "it stood still"],
    trace=[
        "2.000000 a settle: the request was lost",
        "2.500000 a read: the reply was lost",
        "3.000000 b heartbeat: late",
        "3.500000 producer-0 append: the connection broke",
        "4.000000 a settle: done",
        "7.200000 server replication: stands still",
        "7.500000 server failover: the last 0.300 s are forgotten",
        "7.600000 server slot loss: orders/2 is gone",
    ],
    produced=["m-1", "m-2"],
    deliveries=[run("a", 1, 5.9, 6.1), run("b", 1, 6.0, 6.02, entry="7-0"), run("b", 2, 5.95, 5.96), run("b", 0, 9.0, 9.5, "raised")],
    settles=[settle("a", 1, 6.1, accepted=False), settle("b", 1, 6.03, "7-0"), settle("b", 0, 9.6, to="retry")],
    leases=[
        lease("a", 1, 1.0, 8.0, "crashed"),
        lease("b", 2, 1.5, 7.0),
        lease("b", 0, 2.0),
        lease("b", 1, 5.5, 6.5, "lost"),
    ],
    marks=[
        Mark(0.0, "a", "joins"),
        Mark(0.5, "b", "joins"),
        Mark(4.5, "a", "pauses for 1.000 s"),
        Mark(5.5, "a", "goes on"),
        Mark(8.0, "a", "crashes"),
        Mark(9.0, "a", "joins"),
        Mark(10.0, "b", "leaves"),
    ],
    faults=[
        Fault("a", 3, "delay", 0.1, 1.0),
        Fault("b", 1, "slow_handler", 0.4, 9.1),
        Fault("a", 7, "failover", 0.3, 7.2),
        Fault("a", 8, "slot_loss", 0.7, 7.6),
        Fault("a", 9, "crash", 1.0, 8.0),
    ],
)
"""One of everything; it ends at 10 s."""


class Picture:
    """A picture, parsed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root = ET.fromstring(text)  # noqa: S314 -- we have written it

    def titled(self, class_: str) -> dict[str, ET.Element]:
        """Return the elements of a class that have a title, by title."""
        return {title: one for one in self.of(class_) if (title := one.findtext(f"{SVG}title"))}

    def of(self, class_: str) -> list[ET.Element]:
        """Return the elements of a class, in order."""
        return [one for one in self.root.iter() if class_ in one.get("class", "").split()]

    def texts(self) -> list[str]:
        """Return what is written, in order."""
        return ["".join(one.text or "") for one in self.root.iter(f"{SVG}text")]

    def time(self, x: float) -> float:
        """Return the time at a position, measured by the axis's outermost lines."""
        labels = [float(text.text.removesuffix(" s")) for text in self.of("rq-axis")[0].iter(f"{SVG}text") if text.text][::2]
        xs = [float(line.get("x1", "")) for line in self.of("rq-grid")]
        return labels[0] + (x - xs[0]) / (xs[-1] - xs[0]) * (labels[-1] - labels[0])

    def extent(self, lease: ET.Element) -> tuple[float, float]:
        """Return the times from and to which a lease's bar reaches."""
        bar = next(one for one in lease if one.get("class") == "rq-bar")
        x, width = float(bar.get("x", "")), float(bar.get("width", ""))
        return self.time(x), self.time(x + width)


SVG = "{http://www.w3.org/2000/svg}"
