"""The main jobs, paired with another commit's: `python -m tests.bench --against REV`.

Input: a commit. Output: for each job and event loop the median of the ratios to that commit, by the clock and by the client's CPU, how far
two measurements of that one commit differ, and what is slower. A round measures that commit, what is here, and that commit again, each in a
process of its own, with the same server, jobs and machine. What slows the machine down for a while slows all three. A round makes two
ratios: of what is here to the mean of the two beside it, and of those two, which are alike (A/A).
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.bench.cases import Rate
from tests.bench.job import JOBS, Job
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[2]
SLOWER = 0.98
"""The least ratio of the rates by CPU, in the median, that is no loss."""

BAR = 30

Way = tuple[str, str]
"""A job and an event loop."""


class Round(NamedTuple):
    """Three rates in turn: of the other commit, of what is here, of the other commit again."""

    first: Rate
    now: Rate
    last: Rate

    def ratio(self, of: Callable[[Rate], float]) -> float:
        """Return how many times as fast it is now."""
        return of(self.now) / statistics.mean([of(self.first), of(self.last)])

    def alike(self) -> float:
        """Return the ratio of two that should be the same, by CPU."""
        return self.last.cpu / self.first.cpu


@dataclass
class Pairs:
    """One job on one event loop, round by round."""

    case: str
    backend: str
    rounds: list[Round] = field(default_factory=list[Round])
    failed: str = ""

    @property
    def slower(self) -> bool:
        """True if it takes over 2 % more CPU in the median, and more than three of four A/A pairs differ by chance."""
        cpu = statistics.median(one.ratio(by_cpu) for one in self.rounds) if not self.failed else 1.0
        return cpu < SLOWER and cpu < quartiles([one.alike() for one in self.rounds])[0]

    def line(self) -> str:
        """Return its line of the table."""
        head = f"{self.case:<27}{self.backend:<9}"
        if self.failed:
            return f"{head}not measured: {self.failed}"
        clock = statistics.median(one.ratio(by_clock) for one in self.rounds)
        low, cpu, high = quartiles([one.ratio(by_cpu) for one in self.rounds])
        least, _, most = quartiles([one.alike() for one in self.rounds])
        rate = statistics.median(one.now.clock for one in self.rounds)
        return f"{head}{rate:>11,.0f}{clock:>8.3f}{cpu:>8.3f}   {low:.3f} to {high:.3f}   {least:.3f} to {most:.3f}"


def by_clock(rate: Rate) -> float:
    """Return messages per second."""
    return rate.clock


def by_cpu(rate: Rate) -> float:
    """Return messages per second of CPU."""
    return rate.cpu


def quartiles(ratios: list[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3


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


def measure(job: Job) -> Rate:
    """Run one job.

    Raises:
        RuntimeError: it failed; the text is the last line that it said.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([job.package, str(ROOT)])}
    command = [sys.executable, "-m", "tests.bench.job", msgspec.json.encode(job).decode()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=job.package, env=environment)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no word").splitlines()[-1])
    return msgspec.json.decode(done.stdout, type=Rate)


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
                rates: list[Rate] = []
                for package in (before, ROOT, before):
                    where = {"package": str(package), "path": str(server.socket_path)}
                    count = messages if step >= len(found) else messages // 10
                    rates.append(measure(Job(case=pairs.case, backend=pairs.backend, messages=count, partitions=partitions, **where)))
                    server.flush()
            except RuntimeError as error:
                pairs.failed = str(error)
                continue
            if step >= len(found):
                pairs.rounds.append(Round(*rates))
    show_progress(1, 1, "")
    return found


def show_progress(done: int, of: int, what: str) -> None:
    """Draw how far it is, where somebody looks."""
    if sys.stderr.isatty():
        filled = BAR * done // of
        end = "\n" if done == of else ""
        print(f"\r[{'#' * filled}{'.' * (BAR - filled)}] {done}/{of} {what:<40}", end=end, file=sys.stderr, flush=True)


def report(found: Sequence[Pairs], revision: str) -> bool:
    """Print the table and the verdict; return whether nothing is slower."""
    print(f"{'case':<27}{'loop':<9}{'now/s':>11}{'clock':>8}{'CPU':>8}   {'quartiles':<16}   A/A quartiles")
    for pairs in found:
        print(pairs.line())
    slower = [f"{pairs.case} ({pairs.backend})" for pairs in found if pairs.slower]
    print(f"clock, CPU: the rate now to that of {revision}, the median over rounds; below 1 is slower")
    print(f"over 2 % more CPU, and beyond A/A: {'; '.join(slower) or 'nothing'}")
    return not slower


def every(backends: Sequence[str], only: Sequence[str]) -> list[Way]:
    """Return each job on each event loop."""
    return [(case, backend) for backend in backends for case in JOBS if case in only]
