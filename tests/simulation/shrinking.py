"""Shrinks the faults of failed seeds, for the commands: with a progress bar, and a file for each result.

Input: a scenario, its faults, a seed, a backend, and a time limit. Output: the result, printed; its faults as JSON, and its timelines in
files.
"""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from redisaq.testing import NotReproduced, Report, Shrunk
from tests.simulation.catalogue import Backend, scenario_of
from tests.simulation.judged import shrink, simulate


def shrink_seed(scenario: str, backend: Backend, seed: int, *, within: float, folder: Path) -> Shrunk | None:
    """Shrink one failed seed and print the result; return None if it does not fail."""
    found = scenario_of(scenario)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        report = simulate(found.play, seed, backend, found.faults, raises=False)
        if report.ok:
            print(f"{scenario}, seed {seed} on {backend}, does not fail")
            return None
        with bar(f"{scenario} {seed}", len(report.faults)) as progress:
            task = progress.task_ids[0]

            def told(runs: int, left: int) -> None:
                progress.update(task, completed=len(report.faults) - left, runs=runs, left=left)

            shrunk = shrink(found.play, report, within=within, progress=told)
    except NotReproduced as error:
        print(error)
        return None
    finally:
        logging.disable(before)
    print(shrunk.text())
    for file in save(shrunk.report, folder / f"{scenario}-{seed}-{backend}"):
        print(f"   {file}")
    print(f"   python -m tests.simulation --scenario {scenario} --backend {backend} --first {seed} --replay --faults {file}")
    return shrunk


def bar(name: str, faults: int) -> Progress:
    """Return what shows how far shrinking is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]} faults left, {task.fields[runs]} runs"))
    progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    progress.add_task(name, total=faults, left=faults, runs=0)
    return progress


def save(report: Report, stem: Path) -> list[Path]:
    """Write both timelines, and the faults last."""
    return [report.save(stem.with_name(stem.name + ending)) for ending in (".svg", ".txt", ".json")]
