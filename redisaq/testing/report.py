"""What a simulation tells: all that it wrote down, and a timeline of it for people, as text and as a picture.

Times are seconds of virtual time since the simulation began. What always holds: the same seed, backend, plan and scenario give the same
report, in every process; and the same report gives the same timelines.
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
        seed: which.
        backend: "trio" or "asyncio".
        violations: what must not have happened, each in a sentence; empty if all is well.
        trace_hash: of the trace, hex.
        trace: everything in order, a line each.
        produced: ids of the messages that producers were told are safe.
        dropped: ids of messages that a group could not get, since the scenario let them be trimmed, or since a failover or a lost
            slot took them: listed, no violation.
        deliveries: each run of a handler, in the order of their starts.
        settles: in the order in which the server did them.
        leases: in the order of their beginnings.
        marks: what happened to members.
        known: what must not happen and no rule can help: two owners side by side, since the server had forgotten that it gave one of them
            the partition; each in a sentence with the reason. At most one ttl after the loss.
        faults: what befell, in order of time; `simulate` takes this list, or a part of it, instead of a FaultPlan.
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
        """True if no invariant was broken."""
        return not self.violations

    def timeline(self, *, around: float | None = None, within: float = WITHIN, limit: int | None = LIMIT) -> str:
        """Return what happened as text: what was violated, then what members, leases and faults did, a line each.

        Around a moment that matters it is exact: each run of a handler, each settlement, each lease with its token. Without `around` these
        moments are the violations', and runs and settlements are told of the partitions that they name.

        Args:
            around: the moment that matters, in seconds; None: those of the violations. With it, all partitions are told of.
            within: how many seconds before and after such a moment are told exactly.
            limit: how many lines of events to give at most; None: all. What matters least is left out first, and counted at the end.

        Raises:
            SettingsError: a time is not finite or `within` not positive; `limit` is negative.
        """
        _check(around, within)
        if limit is not None and limit < 0:
            raise SettingsError(f"limit must not be negative: {limit!r}")
        return write(self._story(), around=around, within=within, limit=limit, steps=len(self.trace))

    def timeline_svg(self, *, around: float | None = None, within: float = WITHIN, width: int = WIDTH) -> str:
        """Return what happened as a picture: a whole SVG document that needs nothing else.

        Members are rows, with a lane for each partition that they owned; time runs to the right. Leases are bars, faults are marks, runs
        of handlers are ticks, and violations are red lines. Pointing at one of these shows what it was.

        Args:
            around: draw only what happened around this moment, in seconds; None: all.
            within: how many seconds before and after `around` are drawn.
            width: of the picture, in pixels; at least 600.

        Raises:
            SettingsError: a time is not finite or `within` not positive; `width` is too small.
        """
        _check(around, within)
        if width < LEAST_WIDTH:
            raise SettingsError(f"a picture is at least {LEAST_WIDTH} pixels wide, not {width!r}")
        window = None if around is None else (max(0.0, around - within), around + within)
        return draw(self._story(), window=window, width=width)

    def save(self, path: str | Path) -> Path:
        """Write the timeline or the faults to a file; return where it is.

        The end of its name says what is written: .svg the picture, .txt all of the text, .json the faults, for `load_faults` to read.
        Directories that do not exist are made.

        Args:
            path: where to.

        Raises:
            SettingsError: the name ends in something else.
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
