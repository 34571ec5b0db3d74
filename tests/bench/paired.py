"""The main jobs, paired with another commit's: `python -m tests.bench --against REV`.

In: a commit. Out: for each job and event loop the median of the ratios to that commit, with its quartiles, and what is more than
5 % slower.
Both are measured in turn (A B A B …), each in a process of its own, with the same server, jobs and machine; the pair of one round makes one
ratio, so that what slows the machine down for a while slows both.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.bench.job import JOBS, Job
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[2]
SLOWER = 0.95
"""The least ratio, in the median, that is no loss."""

BAR = 30

Way = tuple[str, str]
"""A job and an event loop."""


@dataclass
class Pairs:
    """One job on one event loop: messages per second, before and now, round by round."""

    case: str
    backend: str
    before: list[float] = field(default_factory=list[float])
    now: list[float] = field(default_factory=list[float])
    failed: str = ""

    @property
    def ratios(self) -> list[float]:
        """Return how many times as fast it is now, round by round."""
        return [now / before for before, now in zip(self.before, self.now, strict=True)]

    @property
    def median(self) -> float:
        """Return the median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def slower(self) -> bool:
        """True if it has lost more than 5 % in the median."""
        return not self.failed and self.median < SLOWER

    def line(self) -> str:
        """Return its line of the table."""
        head = f"{self.case:<27}{self.backend:<9}"
        if self.failed:
            return f"{head}not measured: {self.failed}"
        low, _, high = statistics.quantiles(self.ratios, n=4) if len(self.ratios) > 1 else [self.median] * 3
        rates = f"{statistics.median(self.before):>11,.0f}{statistics.median(self.now):>11,.0f}"
        return f"{head}{rates}{self.median:>8.3f}   {low:.3f} to {high:.3f}"


def unpack(revision: str, directory: Path) -> None:
    """Put the package as it was at that commit into a directory: it alone, so that the jobs are today's.

    Raises:
        SystemExit: there is no such commit.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, "redisaq"]
    made = subprocess.run(command, check=False, capture_output=True)
    if made.returncode:
        raise SystemExit(f"{revision}: {made.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(directory, filter="data")


def measure(job: Job) -> float:
    """Run one job.

    Raises:
        RuntimeError: it failed; the text is the last line that it said.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([job.package, str(ROOT)])}
    command = [sys.executable, "-m", "tests.bench.job", msgspec.json.encode(job).decode()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=job.package, env=environment)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no word").splitlines()[-1])
    return float(done.stdout)


def compare(server: Server, revision: str, wanted: Sequence[Way], *, rounds: int, messages: int, partitions: int) -> list[Pairs]:
    """Measure these, all of them once a round, after a round that does not count."""
    found = [Pairs(case, backend) for case, backend in wanted]
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as name:
        before = Path(name)
        unpack(revision, before)
        steps = (rounds + 1) * len(found)
        for step in range(steps):
            pairs = found[step % len(found)]
            show_progress(step, steps, f"{pairs.case}, {pairs.backend}")
            if pairs.failed:
                continue
            try:
                rates: list[float] = []
                for package in (before, ROOT):
                    where = {"package": str(package), "path": str(server.socket_path)}
                    count = messages if step >= len(found) else messages // 10
                    rates.append(measure(Job(case=pairs.case, backend=pairs.backend, messages=count, partitions=partitions, **where)))
                    server.flush()
            except RuntimeError as error:
                pairs.failed = str(error)
                continue
            if step >= len(found):
                pairs.before.append(rates[0])
                pairs.now.append(rates[1])
    show_progress(1, 1, "")
    return found


def show_progress(done: int, of: int, what: str) -> None:
    """Draw how far it is, where somebody looks."""
    if sys.stderr.isatty():
        filled = BAR * done // of
        end = "\n" if done == of else ""
        print(f"\r[{'#' * filled}{'.' * (BAR - filled)}] {done}/{of} {what:<40}", end=end, file=sys.stderr, flush=True)


def report(found: Sequence[Pairs], revision: str) -> bool:
    """Print the table and the verdict; return whether nothing has become more than 5 % slower."""
    print(f"{'case':<27}{'loop':<9}{'before/s':>11}{'now/s':>11}{'ratio':>8}   quartiles")
    for pairs in found:
        print(pairs.line())
    slower = [f"{pairs.case} ({pairs.backend}): {pairs.median:.3f}" for pairs in found if pairs.slower]
    print(f"ratio: now to {revision}, the median over rounds; below 1 is slower")
    print(f"above 5 % slower: {'; '.join(slower) or 'nothing'}")
    return not slower


def every(backends: Sequence[str], only: Sequence[str]) -> list[Way]:
    """Return each job on each event loop."""
    return [(case, backend) for backend in backends for case in JOBS if case in only]
