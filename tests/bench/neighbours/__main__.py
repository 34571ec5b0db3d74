"""`python -m tests.bench.neighbours`: the same jobs through redisaq, arq, streaq and Celery, on one Valkey, in turn.

A job does nothing. It is enqueued by itself, and handled by one worker process that may run 100 jobs at once, with the library's defaults
otherwise. What is counted: jobs enqueued in a second, by 100 callers at once, of Celery by one, since its client is synchronous; and jobs
handled in a second, from the first job's begin to the last one's; of redisaq, until all are acknowledged as well.

Each library has its own environment, which pip fills (so this needs the network), and its own program in this folder, which prints its
seconds as JSON. The rounds are interleaved, so that noise hits all alike: only ratios between the lines of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from pathlib import Path

from tests.servers import PROGRAMS, Server, Watchdog
from tests.unit.source import ROOT

HERE = Path(__file__).parent
INSTALL = {"redisaq": [], "arq": ["arq"], "streaq": ["streaq"], "celery": ["celery[redis]"]}
"""What pip installs beside each program; redisaq runs in this environment."""

LIMIT = 300


def python_of(name: str, directory: Path) -> Path:
    """Return the Python that has a library, and install it if need be."""
    if not INSTALL[name]:
        return Path(sys.executable)
    place = directory / name
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        for package in INSTALL[name]:
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    return python


def version_of(name: str, python: Path) -> str:
    """Return a library's version."""
    command = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
    return subprocess.run([python, "-c", command], check=True, capture_output=True, text=True).stdout.strip()


def run(name: str, python: Path, url: str, jobs: int) -> tuple[float, float]:
    """Run a library's program; return jobs enqueued and handled in a second."""
    surroundings = os.environ | {"PYTHONPATH": str(ROOT) if name == "redisaq" else ""}
    command = [str(python), str(HERE / f"{name}_job.py"), url, str(jobs)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT, env=surroundings, cwd=HERE)
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    seconds = json.loads(done.stdout.splitlines()[-1])
    return jobs / seconds["enqueue"], jobs / seconds["work"]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.neighbours", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--environments", type=Path, help="where the neighbours' environments are kept; default: made and removed")
    parser.add_argument("--only", action="append", choices=list(INSTALL))
    options = parser.parse_args()
    names = options.only or list(INSTALL)
    watchdog = Watchdog()
    server = Server("valkey9", PROGRAMS["valkey9"](), watchdog)
    figures = defaultdict[str, list[tuple[float, float]]](list)
    with tempfile.TemporaryDirectory(prefix="redisaq-neighbours-") as temporary:
        pythons = {name: python_of(name, options.environments or Path(temporary)) for name in names}
        server.start()
        try:
            for _ in range(options.rounds):
                for name in names:
                    server.flush()
                    figures[name].append(run(name, pythons[name], server.url, options.jobs))
                    print(".", end="", file=sys.stderr, flush=True)
        finally:
            server.close()
            watchdog.close()
        print(file=sys.stderr)
        print(f"{'':<18}{'enqueued/s':>12}{'handled/s':>12}   medians of {options.rounds} rounds of {options.jobs} jobs")
        for name in names:
            enqueued, handled = (statistics.median(column) for column in zip(*figures[name], strict=True))
            print(f"{name + ' ' + version_of(name, pythons[name]):<18}{enqueued:>12,.0f}{handled:>12,.0f}")


if __name__ == "__main__":
    main()
