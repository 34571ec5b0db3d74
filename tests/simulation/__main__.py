"""The long simulation: `python -m tests.simulation --seeds 10000 --backend both --jobs 2`.

Input: which scenario, how many seeds, on which backends. Output: progress, then figures: seeds a second, different traces, faults that
happened; and each failing seed with the command that replays it; with --shrink, the few faults that bring it about. The exit status is 1 if
one failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from redisaq.testing import load_faults
from tests.simulation.against import compare
from tests.simulation.catalogue import LOSSES, SCENARIOS, Backend
from tests.simulation.playing import Failure, Outcome, play, play_some
from tests.simulation.shares import record
from tests.simulation.shrinking import shrink_seed

CHUNK = 10
"""Seeds that one process is given at once."""

SHRUNK = 3
"""Failed seeds of a scenario that are shrunk: more of them seldom tell more."""


def chunks(scenario: str, backends: list[Backend], first: int, seeds: int) -> Iterator[tuple[str, Backend, range]]:
    """Yield the work, backends in turn."""
    for start in range(first, first + seeds, CHUNK):
        for backend in backends:
            yield scenario, backend, range(start, min(start + CHUNK, first + seeds))


def run(work: Iterator[tuple[str, Backend, range]], jobs: int, limit: float, told: Callable[[Outcome], None]) -> None:
    """Run it in processes, until done or `limit` seconds have passed; what has begun by then is finished."""
    until = time.monotonic() + limit
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running: set[Future[Outcome]] = {pool.submit(play_some, *one) for one in islice(work, 2 * jobs)}
        while running:
            done, running = wait(running, return_when="FIRST_COMPLETED")
            for future in done:
                told(future.result())
                if time.monotonic() < until:
                    running |= {pool.submit(play_some, *one) for one in islice(work, 1)}


def replay(scenario: str, backend: Backend, seed: int, faults: Path | None) -> int:
    """Run one seed, with the faults of a file if there is one, and show all of it."""
    report = play(scenario, backend, seed, None if faults is None else load_faults(faults))
    print(*report.trace, sep="\n")
    print(report.timeline())
    return 0 if report.ok else 1


def arguments(words: list[str]) -> Any:
    """Read the command line."""
    listed = "\n".join(f"  {name:10} {found.about}" for name, found in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        "python -m tests.simulation",
        description="Simulate whole groups, seed by seed.",
        epilog=f"scenarios (each also as NAME{LOSSES}: then the server fails over and loses slots, too):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [name + ending for name in (*SCENARIOS, "all") for ending in ("", LOSSES)]
    parser.add_argument("--scenario", action="append", metavar="NAME", choices=names, help="default: orders; may be said again; all")
    parser.add_argument("--seeds", type=int, default=1000, help="how many, of each scenario on each backend (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first one (default 0)")
    parser.add_argument("--backend", choices=[*get_args(Backend), "both"], default="both")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which nothing new is begun, of each scenario")
    parser.add_argument("--replay", action="store_true", help="run the first seed alone and show its whole trace")
    parser.add_argument("--faults", type=Path, help="with --replay: take the faults of this file")
    parser.add_argument(
        "--shrink",
        type=float,
        nargs="?",
        const=60.0,
        metavar="SECONDS",
        help=f"then shrink the faults of failed seeds ({SHRUNK} of a scenario), for so long each (60); with --replay: of that one",
    )
    parser.add_argument("--out", type=Path, help="where to leave what shrinking found (default: a new folder for temporary files)")
    parser.add_argument("--against", metavar="REV", help="another commit: play the seeds there, too, and say which have another trace")
    parser.add_argument("--record", action="store_true", help="only record the traces of the seeds that a whole run of the tests plays")
    return parser.parse_args(words)


def expanded(every: str) -> list[str]:
    """Return the names of all scenarios, with the same ending."""
    return [name + every.removeprefix("all") for name in SCENARIOS]


def main(words: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    options = arguments(words)
    if options.record:
        logging.disable(logging.CRITICAL)
        record()
        return 0
    backends: list[Backend] = ["trio", "asyncio"] if options.backend == "both" else [options.backend]
    wanted: list[str] = options.scenario or ["orders"]
    names = [name for one in wanted for name in (expanded(one) if one.startswith("all") else [one])]
    if options.against:
        return 0 if compare(options.against, names, backends, range(options.first, options.first + options.seeds), options.jobs) else 1
    folder: Path = options.out or Path(tempfile.gettempdir()) / f"redisaq-simulation-{os.getpid()}"
    if options.replay and options.shrink:
        return 0 if shrink_seed(names[0], backends[0], options.first, within=options.shrink, folder=folder) is None else 1
    if options.replay:
        return replay(names[0], backends[0], options.first, options.faults)
    console, status = Console(), 0
    for name in names:
        total, began = Outcome(), time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(name, total=options.seeds * len(backends))

            def told(outcome: Outcome, total: Outcome = total, progress: Progress = progress, bar: Any = bar) -> None:
                total.add(outcome)
                progress.update(bar, completed=total.seeds)

            try:
                run(chunks(name, backends, options.first, options.seeds), options.jobs, options.limit, told)
            except BrokenProcessPool as error:
                print(f"{name}: a process died: {error}")
                status = 1
        tell(name, total, time.monotonic() - began, backends)
        status = 1 if total.failures else status
        for _, backend, seed, _ in in_order(total.failures)[:SHRUNK] if options.shrink else ():
            shrink_seed(name, backend, seed, within=options.shrink, folder=folder)
    return status


def in_order(failures: list[Failure]) -> list[Failure]:
    """Sort failures by backend and seed."""
    return sorted(failures, key=lambda failure: failure[1:3])


def tell(name: str, total: Outcome, took: float, backends: list[Backend]) -> None:
    """Print the figures of one scenario."""
    print(
        f"{name}: {total.seeds} seeds on {' and '.join(backends)} in {took:.0f} s, {total.seeds / max(took, 0.001):.1f} a second;", end=" "
    )
    print(f"{len(total.traces)} different traces, {len(total.failures)} failed")
    print("   " + ", ".join(f"{count} {event}" for event, count in sorted(total.events.items())))
    for scenario, backend, seed, why in in_order(total.failures):
        print(f"   seed {seed} on {backend}: {why}")
        print(f"      python -m tests.simulation --scenario {scenario} --backend {backend} --first {seed} --replay")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
