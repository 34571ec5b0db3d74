"""The report of a simulation: everything that was recorded, and a timeline of it for people, as text and as a picture.

Times are seconds of virtual time since the simulation began. The same seed, backend, plan and scenario give the same report in every
process, and the same report gives the same timelines.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from redisaq.errors import SettingsError
from redisaq.testing.fault_file import encode_faults
from redisaq.testing.faults import Fault
from redisaq.testing.observed import Delivery, Lease, Mark, Settle
from redisaq.testing.picture import LEAST_WIDTH, WIDTH, draw
from redisaq.testing.timeline import LIMIT, WITHIN, write
from redisaq.testing.timeline_story import Story, tell


class Report(msgspec.Struct, frozen=True):
    """What happened under one seed.

    Attributes:
        seed: the seed.
        backend: "trio" or "asyncio".
        violations: each violation of a guarantee, in one sentence. Empty if there is none.
        trace_hash: hash of the trace, in hex.
        trace: everything that happened, in order, one line each.
        produced: ids of the messages whose enqueue returned, so that they are safe.
        dropped: ids of messages that a group could not get, because the scenario let them be trimmed, or because a failover or a lost slot
            took them. These are listed here and are no violation.
        deliveries: each run of a handler, in the order in which the runs started.
        settles: each settlement, in the order in which the server made them.
        leases: each lease, in the order in which they began.
        marks: what happened to members.
        known: known violations that no rule can prevent: two owners side by side, because the server had forgotten that it gave one of them
            the partition. Each is a sentence with the reason. They occur at most one ttl after the loss.
        faults: the faults that happened, in order of time. Pass this list, or a part of it, to `simulate` instead of a FaultPlan.
    """

    seed: int
    backend: str
    violations: list[str]
    trace_hash: str
    trace: list[str]
    produced: list[str]
    dropped: list[str]
    deliveries: list[Delivery]
    settles: list[Settle]
    leases: list[Lease]
    marks: list[Mark]
    faults: list[Fault] = []
    known: list[str] = []

    @property
    def ok(self) -> bool:
        """True if there is no violation."""
        return not self.violations

    def timeline(self, *, around: float | None = None, within: float = WITHIN, limit: int | None = LIMIT) -> str:
        """Return what happened as text: first the violations, then one line for each event of members, leases and faults.

        Around a moment that matters the text is exact: it lists each run of a handler, each settlement, and each lease with its token.
        Without `around`, the moments that matter are those of the violations, and runs and settlements are listed only for the partitions
        that the violations name.

        Args:
            around: the moment that matters, in seconds; None: the moments of the violations. If given, all partitions are listed.
            within: how many seconds before and after such a moment are exact.
            limit: the largest number of event lines; None: no limit. The least important lines are left out first, and counted at the end.

        Raises:
            SettingsError: a time is not finite, `within` is not positive, or `limit` is negative.
        """
        _check(around, within)
        if limit is not None and limit < 0:
            raise SettingsError(f"limit must not be negative: {limit!r}")
        return write(self._story(), around=around, within=within, limit=limit, steps=len(self.trace))

    def timeline_svg(self, *, around: float | None = None, within: float = WITHIN, width: int = WIDTH) -> str:
        """Return what happened as a picture: a complete SVG document that needs no other file.

        Each member is a row, with a lane for each partition that it owned; time runs to the right. Leases are bars, faults are marks, runs
        of handlers are ticks, and violations are red lines. Point at one of these to see a description.

        Args:
            around: draw only what happened around this moment, in seconds; None: draw everything.
            within: how many seconds before and after `around` to draw.
            width: width of the picture in pixels, at least 600.

        Raises:
            SettingsError: a time is not finite, `within` is not positive, or `width` is too small.
        """
        _check(around, within)
        if width < LEAST_WIDTH:
            raise SettingsError(f"a picture is at least {LEAST_WIDTH} pixels wide, not {width!r}")
        window = None if around is None else (max(0.0, around - within), around + within)
        return draw(self._story(), window=window, width=width)

    def save(self, path: str | Path) -> Path:
        """Write the timeline or the faults to a file, and return its path.

        The suffix selects the content: .svg the picture, .txt the whole text, .json the faults, which `load_faults` reads. Missing
        directories are created.

        Args:
            path: the file to write.

        Raises:
            SettingsError: the suffix is none of these.
            OSError: the file cannot be written.
        """
        path = Path(path)
        match path.suffix:
            case ".svg":
                text = self.timeline_svg()
            case ".txt":
                text = self.timeline(limit=None) + "\n"
            case ".json":
                text = encode_faults(self.seed, self.backend, self.violations, self.faults)
            case _:
                raise SettingsError(f"a timeline is saved as .svg or .txt, faults as .json, not as {path.name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        return path

    def _story(self) -> Story:
        return tell(
            seed=self.seed,
            backend=self.backend,
            trace_hash=self.trace_hash,
            violations=self.violations,
            known=self.known,
            trace=self.trace,
            produced=len(self.produced),
            dropped=len(self.dropped),
            marks=self.marks,
            leases=self.leases,
            deliveries=self.deliveries,
            settles=self.settles,
            faults=self.faults,
        )


def _check(around: float | None, within: float) -> None:
    if around is not None and not 0.0 <= around < math.inf:
        raise SettingsError(f"around is a time of the simulation, in seconds, not {around!r}")
    if not 0.0 < within < math.inf:
        raise SettingsError(f"within must be seconds above 0, not {within!r}")
