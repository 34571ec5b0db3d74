"""`python -m tests.bench`: redisaq beside the bare loop and redis-py, in one run, in turn, several rounds.

Compare ratios within one run only: machines are noisy, and the rounds are interleaved so that noise hits all alike. With
`--against REV`, the same jobs of another commit and of what is here, in turn (see paired.py); the exit
status is 1 if one takes over 2 % more CPU in the median, and more than two measurements of the same commit differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import msgspec

from tests.bench import cases, paired
from tests.bench.backends import BACKENDS
from tests.bench.cases import Bench, Rate
from tests.servers import PROGRAMS, Server, Watchdog

MESSAGES = 20_000
MESSAGES_PAIRED = 100_000
"""Runs of a process of its own, of a second or so: in shorter ones starting up counts for more than what is compared."""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        run: redisaq's way.
        bare: the bare loop's, by its kind ("socket", "stream").
        other: redis-py's, on asyncio.
        goal: the ratio to the bare loop that is aimed at (to redis-py's where `against_other`).
    """

    run: Callable[[Bench], Awaitable[Rate]]
    bare: Callable[[Bench, str], Awaitable[Rate]]
    other: Callable[[Bench], Awaitable[Rate]] | None
    goal: float
    against_other: bool = False


CASES: dict[str, Case] = {
    "batch_enqueue of 100": Case(cases.batch_enqueue, lambda b, k: cases.bare_append(b, k, size=100), cases.redis_py_batches, 0.5),
    "enqueue, one task": Case(cases.enqueue_from_one, lambda b, k: cases.bare_append(smaller(b), k, size=1), None, 0.6),
    "enqueue, 100 tasks": Case(
        cases.enqueue_from_many, lambda b, k: cases.bare_append(b, k, size=100), cases.redis_py_from_many, 4.0, against_other=True
    ),
    "process_batch": Case(cases.process_batch, cases.bare_consume, None, 0.5),
    "process": Case(cases.process, cases.bare_consume, None, 0.35),
    "process, key, 100 at once": Case(cases.process_key, cases.bare_consume, None, 0.2),
}


def smaller(bench: Bench) -> Bench:
    """Return the same with a tenth of the messages."""
    return Bench(bench.path, bench.messages // 10, bench.partitions)


class Row(msgspec.Struct, frozen=True):
    """One case on one event loop: medians of messages per second."""

    case: str
    backend: str
    redisaq: float
    bare: float
    bare_kind: str
    redis_py: float | None
    ratio: float
    goal: float


def measure(name: str, backend: str, bench: Bench, rounds: int) -> Row:
    """Run one case on one event loop, all ways in turn."""
    case, figures = CASES[name], defaultdict[str, list[float]](list)
    ways: dict[str, Callable[[], Awaitable[Rate]]] = {"redisaq": lambda: case.run(bench)}
    for kind in ("socket", "stream"):
        ways[kind] = lambda kind=kind: case.bare(bench, kind)  # type: ignore[misc]
    if case.other is not None:
        other = case.other
        ways["redis_py"] = lambda: other(bench)
    for _ in range(rounds):
        for way, run in ways.items():
            where = BACKENDS["asyncio"] if way == "redis_py" and backend == "trio" else BACKENDS[backend]
            figures[way].append(anyio.run(run, **where).clock)
    medians = {way: statistics.median(some) for way, some in figures.items()}
    kind = max(("socket", "stream"), key=lambda one: medians[one])
    base = medians["redis_py"] if case.against_other else medians[kind]
    return Row(name, backend, medians["redisaq"], medians[kind], kind, medians.get("redis_py"), medians["redisaq"] / base, case.goal)


def show(rows: list[Row], latencies: dict[str, tuple[float, float]]) -> None:
    """Print the table."""
    head = f"{'case':<27}{'loop':<9}{'redisaq/s':>11}{'bare/s':>10}{'':>8}{'redis-py/s':>12}{'ratio':>7}{'goal':>6}"
    print(head)
    for row in rows:
        other = f"{row.redis_py:>12,.0f}" if row.redis_py is not None else f"{'-':>12}"
        figures = f"{row.redisaq:>11,.0f}{row.bare:>10,.0f} {row.bare_kind:<7}{other}{row.ratio:>7.2f}{row.goal:>6.2f}"
        print(f"{row.case:<27}{row.backend:<9}{figures}")
    for backend, (median, worst) in latencies.items():
        print(f"latency on an idle group, {backend}: median {median * 1000:.2f} ms, 99th percentile {worst * 1000:.2f} ms")
    print("ratio: to the bare loop; of `enqueue, 100 tasks`: to redis-py with a pool of 20 (on asyncio)")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, help=f"a tenth or a half for some; default {MESSAGES}, with --against {MESSAGES_PAIRED}")
    parser.add_argument("--partitions", type=int, default=1, help="of the topics that are consumed")
    parser.add_argument("--backend", action="append", choices=sorted(BACKENDS))
    parser.add_argument("--only", action="append", choices=[*CASES, "latency"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--against", metavar="REV", help="another commit: measure it and what is here in turn, and compare")
    options = parser.parse_args()
    backends = options.backend or list(BACKENDS)
    wanted = options.only or [*CASES, "latency"]
    watchdog = Watchdog()
    server = Server("valkey9", PROGRAMS["valkey9"](), watchdog)
    server.start()
    messages = options.messages or (MESSAGES_PAIRED if options.against else MESSAGES)
    bench = Bench(server.unix_url.removeprefix("unix://").split("?")[0], messages, options.partitions)
    rows: list[Row] = []
    latencies: dict[str, tuple[float, float]] = {}
    try:
        if options.against:
            pairs = paired.every(backends, wanted)
            sizes = {"rounds": options.rounds, "messages": messages, "partitions": options.partitions}
            sys.exit(not paired.report(paired.compare(server, options.against, pairs, **sizes), options.against))
        for backend in backends:
            for name in CASES:
                if name in wanted:
                    rows.append(measure(name, backend, bench, options.rounds))
                    server.flush()
                    print(".", end="", file=sys.stderr, flush=True)
            if "latency" in wanted:
                latencies[backend] = anyio.run(cases.latency, bench, **BACKENDS[backend])
    finally:
        server.close()
        watchdog.close()
    print(file=sys.stderr)
    if options.json:
        print(msgspec.json.encode({"rows": rows, "latency": latencies}).decode())
    else:
        show(rows, latencies)


if __name__ == "__main__":
    main()
