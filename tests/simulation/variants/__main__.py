"""`python -m tests.simulation.variants`: search the first seed that catches each broken variant; with --shrink, the faults it takes.

Exit status 1 if one is not caught.
"""

from __future__ import annotations

import argparse
import logging
import sys

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.simulation.variants.hunt import few, first_caught
from tests.simulation.variants.registry import VARIANTS, recorded
from tests.simulation.variants.variant import BACKENDS, Backend, Variant


def main() -> int:
    """Search what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.variants", description=__doc__)
    parser.add_argument("--rule", action="append", metavar="M5", help="only variants of this rule; may be given again")
    parser.add_argument("--seeds", type=int, default=500, help="to try at most")
    parser.add_argument("--backend", action="append", choices=BACKENDS)
    parser.add_argument("--shrink", action="store_true", help="shrink the faults of the found seed, and tell how many are left")
    options = parser.parse_args()
    chosen = [variant for variant in VARIANTS.values() if not options.rule or variant.rule in options.rule]
    if not chosen:
        parser.error(f"no such rule; there are {', '.join(sorted({variant.rule for variant in VARIANTS.values()}))}")
    logging.disable(logging.CRITICAL)
    console, missed, shrunk = Console(), 0, list[str]()
    table = Table("variant", "without", "backend", "seed", "recorded", "what showed", title=f"the first of {options.seeds} seeds")
    pairs: list[tuple[Variant, Backend]] = [(variant, backend) for variant in chosen for backend in options.backend or BACKENDS]
    for variant, backend in track(pairs, "searching", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        found = first_caught(variant, backend, range(options.seeds))
        missed += found is None
        seed, shown = ("none", "") if found is None else (str(found[0]), found[1].harms[0])
        if found is not None and options.shrink:
            shrunk.append(f"{variant.name}: {few(variant, found[0], backend)}")
        table.add_row(variant.name, variant.without, backend, seed, str(recorded(variant.name, backend)), shown)
    console.print(table)
    print(*shrunk, sep="\n")
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
