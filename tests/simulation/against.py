"""Compares traces with those of another commit: a change that moves nothing leaves each seed's trace as it was.

Input: a commit, scenarios, seeds. Output: for each scenario, which seeds have another trace. The commit's own tests play its seeds, so a
scenario that has changed since then shows as other traces, too.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.simulation.catalogue import Backend

ROOT = Path(__file__).parents[2]

SCRIPT = """
import logging, sys
from tests.simulation.playing import play
logging.disable(logging.CRITICAL)
for line in sys.stdin:
    scenario, backend, seed = line.split()
    try:
        told = play(scenario, backend, int(seed)).trace_hash
    except Exception as error:
        told = type(error).__name__
    print(told, flush=True)
"""
"""A program that reads seeds, a line each, and prints a trace's hash for each, or the class of what it raised."""

CHUNK = 25
"""Seeds that one process plays."""


def unpack(revision: str, directory: Path) -> None:
    """Put the package and its tests as they were at that commit into a directory.

    Raises:
        SystemExit: there is no such commit.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, "redisaq", "tests"]
    made = subprocess.run(command, check=False, capture_output=True)
    if made.returncode:
        raise SystemExit(f"{revision}: {made.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(directory, filter="data")


def hashes(tree: Path, scenario: str, backend: Backend, seeds: Sequence[int]) -> list[str]:
    """Return the hashes of these seeds as that tree plays them, in a process of its own."""
    lines = "".join(f"{scenario} {backend} {seed}\n" for seed in seeds)
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, check=True, input=lines, stdout=subprocess.PIPE, cwd=tree, env=environment, text=True)
    return done.stdout.split()


def others(tree: Path, scenario: str, backend: Backend, seeds: Sequence[int], jobs: int) -> list[int]:
    """Return those of the seeds that have another trace in that tree than here."""
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with ThreadPoolExecutor(jobs) as pool:
        asked = [(pool.submit(hashes, ROOT, scenario, backend, one), pool.submit(hashes, tree, scenario, backend, one)) for one in chunks]
        pairs = [(here.result(), there.result()) for here, there in asked]
    told = [(one, here, there) for chunk, pair in zip(chunks, pairs, strict=True) for one, here, there in zip(chunk, *pair, strict=True)]
    return [seed for seed, here, there in told if here != there]


def compare(revision: str, scenarios: Sequence[str], backends: Sequence[Backend], seeds: Sequence[int], jobs: int) -> bool:
    """Print for each scenario how many of the seeds have another trace; return whether none has."""
    same = True
    with tempfile.TemporaryDirectory(prefix="rq-traces-") as name:
        unpack(revision, Path(name))
        for scenario in scenarios:
            for backend in backends:
                found = others(Path(name), scenario, backend, seeds, jobs)
                more = f": {', '.join(map(str, found[:10]))}{', …' if found[10:] else ''}" if found else ""
                print(f"{scenario} {backend}: {len(found)} of {len(seeds)} seeds have another trace than at {revision}{more}", flush=True)
                same = same and not found
    return same
