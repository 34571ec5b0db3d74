"""`python -m tests.mutants`: does any test notice if the product does something else?

Input: how many mutants to sample, from which seed; all of written.toml. Output: a line for each with who caught it and in how long, then
those that survived, with what they changed. The exit status is 1 if one survived.

Noting which test covers what comes first and takes as long as the whole suite: `python -m tests.mutants note`. Do it again when tests are
new or changed; only those are run.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.mutants import covering
from tests.mutants.copies import ROOT, Copy, copy_of
from tests.mutants.operators import OPERATORS, Mutant, mutants_of
from tests.mutants.places import Source, product
from tests.mutants.running import CAUGHT, Result, run_tests, try_out
from tests.mutants.written import load_equivalent, load_written, mutant_of, same

AREAS = tuple(f"redisaq/{area}/" for area in ("actors", "brokers", "consuming", "core", "link", "producing"))
"""Where mutants are sampled: what decides and what speaks with the server."""

TOGETHER = 12
"""Test files that are noted in one process."""


def arguments(words: list[str]) -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m tests.mutants", description="Mutants of the product, and which test catches each.")
    parser.add_argument("--sample", type=int, default=100, metavar="N", help="how many mutants to take of those that operators make (100)")
    parser.add_argument("--seed", type=int, default=0, help="from which seed (0)")
    parser.add_argument("--operator", choices=OPERATORS, action="append", help="sample those of this operator alone")
    parser.add_argument("--under", default="", metavar="PATH", help="sample and take those of files below this path alone")
    parser.add_argument("--written", action="append", metavar="WORD", help="of the mutants written by hand, those with this in their name")
    parser.add_argument("--no-written", action="store_true", help="take none of those written by hand")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="how long one mutant may take (60)")
    parser.add_argument("--jobs", type=int, default=1, help="how many to try at once, each in a copy of the tree (1)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write each result there; what stands there is not run again")
    parser.add_argument("--list", action="store_true", help="show the mutants, run nothing")
    parser.add_argument("command", nargs="?", choices=["run", "note"], default="run", help="note which test covers what, or run (run)")
    parser.add_argument("folders", nargs="*", help=f"with `note`: which folders or files of tests ({', '.join(covering.FOLDERS)})")
    return parser.parse_args(words)


def note(folders: Sequence[str], console: Console) -> int:
    """Note which test covers what, some files at a time: what was noted is kept if this is interrupted."""
    while files := covering.stale(known := covering.load(), folders or covering.FOLDERS):
        console.print(f"{len(files)} files are new or changed, {files[0]} and the next ones")
        covering.note(known, files[:TOGETHER], limit=7200)
        covering.save(known)
    return 0


def chosen(args: Any, sources: Sequence[Source]) -> list[Mutant]:
    """Return the mutants to try: the sampled ones in the order of the sample, then those written by hand."""
    operators = args.operator or OPERATORS
    concerned = [source for source in sources if source.name.startswith(AREAS) and source.name.startswith(args.under)]
    made = [mutant for source in concerned for mutant in mutants_of(source) if mutant.operator in operators]
    sampled = random.Random(args.seed).sample(made, min(args.sample, len(made)))
    words = [] if args.no_written else args.written or [""]
    written = [mutant_of(one, sources) for one in load_written() if any(word in one.name for word in words)]
    return sampled + [mutant for mutant in written if mutant.source.name.startswith(args.under)]


def run(mutants: Sequence[Mutant], args: Any, sources: Sequence[Source], told: Callable[[Result], None]) -> list[Result]:
    """Try the mutants in copies of the tree; known results are printed as they are."""
    known = read_results(args.results)
    equivalent = load_equivalent()
    cover = covering.load()
    results: list[Result] = []

    def end(result: Result) -> None:
        results.append(result)
        if args.results is not None and (result.mutant, result.diff) not in known and result.verdict != "equivalent":
            with args.results.open("ab") as file:
                file.write(msgspec.json.encode(result) + b"\n")
        told(result)

    with ExitStack() as stack:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for _ in range(args.jobs):
            copies.put(stack.enter_context(copy_of()))
        pool = stack.enter_context(ThreadPoolExecutor(args.jobs))

        def one(mutant: Mutant) -> Result:
            copy = copies.get()
            try:
                return try_out(mutant, copy, cover, sources, args.limit)
            finally:
                copies.put(copy)

        waiting = []
        for mutant in mutants:
            because = next((entry.why for entry in equivalent if same(mutant, entry)), "")
            if because:
                end(Result(mutant=mutant.title, diff=mutant.diff, verdict="equivalent", why=because))
            elif (mutant.title, mutant.diff) in known:
                end(known[mutant.title, mutant.diff])
            else:
                waiting.append(pool.submit(one, mutant))
        try:
            for future in as_completed(waiting):
                end(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        doubt(results, copies.get())
    return results


def doubt(results: Sequence[Result], copy: Copy) -> None:
    """Believe no test that fails without any mutant, too."""
    killers = list(dict.fromkeys(result.by for result in results if result.verdict == "caught" and result.by))
    while killers and (failed := run_tests(copy, killers, limit=1200).failed):
        for result in results:
            if result.by == failed:
                result.verdict = "flaky"
        killers = killers[killers.index(failed) + 1 :]


def read_results(file: Path | None) -> dict[tuple[str, str], Result]:
    """Return the results of an earlier run."""
    if file is None or not file.exists():
        return {}
    read = (msgspec.json.decode(line, type=Result) for line in file.read_bytes().splitlines())
    return {(result.mutant, result.diff): result for result in read}


def line_of(result: Result) -> str:
    """Return a result on one line."""
    by = f" by {result.by}" if result.by else ""
    return f"{result.verdict:10} {result.seconds:5.1f} s {result.mutant}{by}"


def report(results: Iterable[Result], console: Console) -> int:
    """Print what survived and the figures; return the exit status."""
    results = list(results)
    survivors = [result for result in results if result.verdict not in CAUGHT | {"equivalent"}]
    for result in survivors:
        console.print(f"\n{line_of(result)}, {result.tests} tests\n{result.breaks}", markup=False)
        console.print(result.diff, markup=False)
    figures = Counter(result.verdict for result in results)
    counted = ", ".join(f"{number} {verdict}" for verdict, number in figures.most_common())
    changing = len(results) - figures["equivalent"]
    caught = sum(figures[verdict] for verdict in CAUGHT)
    console.print(f"\n{len(results)} mutants: {counted}; caught {caught} of {changing}, {caught / max(1, changing):.1%}")
    return 1 if survivors else 0


def main(words: list[str]) -> int:
    """Do it."""
    args = arguments(words)
    console = Console(soft_wrap=True, highlight=False)
    if args.command == "note":
        return note(args.folders, console)
    sources = product(ROOT)
    mutants = chosen(args, sources)
    if args.list:
        for mutant in mutants:
            console.print(f"{mutant.title}\n{mutant.diff}", markup=False)
        return 0
    cover = covering.load()
    if not cover.tests:
        console.print("it is not known yet which test covers what: `python -m tests.mutants note`")
        return 2
    if missing := covering.stale(cover, covering.FOLDERS):
        console.print(f"what {len(missing)} test files cover is not known, or has changed: `python -m tests.mutants note`")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("mutants", total=len(mutants))

        def told(result: Result) -> None:
            console.print(escape(line_of(result)))
            progress.advance(task)

        results = run(mutants, args, sources, told)
    return report(results, console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
