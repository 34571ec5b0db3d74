"""The recorded traces: the hash of each seed that a whole run plays, so that a change of any await is noticed.

A change that moves an await on purpose records them again, in a commit that says which one: `python -m tests.simulation --record` plays
the seeds (two minutes), says which scenarios differ, and writes the file. The order in which tasks run is also a matter of the event loop,
so hashes count only under the versions of Python, anyio and trio with which they were recorded.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.simulation.catalogue import Backend

FILE = Path(__file__).with_name("traces.json")


def versions() -> dict[str, str]:
    """Return what the order of tasks depends on, beside the code."""
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "anyio": version("anyio"), "trio": version("trio")}


def name_of(scenario: str, backend: Backend, seed: int) -> str:
    """Return the name of a seed in the file."""
    return f"{scenario} {backend} {seed}"


def comparable() -> bool:
    """Return whether the traces were recorded under these versions."""
    return bool(json.loads(FILE.read_text(encoding="utf-8"))["versions"] == versions())


def recorded_trace(scenario: str, backend: Backend, seed: int) -> str:
    """Return the beginning of the hash that was recorded; "" if none was."""
    traces: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["traces"]
    return traces.get(name_of(scenario, backend, seed), "")


def changed(scenario: str, backend: Backend, seed: int, trace_hash: str, recorded: dict[str, Any] | None = None) -> str:
    """Return how to go on if this trace is another one than was recorded; "" if it is not, or if nothing comparable was recorded."""
    kept = json.loads(FILE.read_text(encoding="utf-8")) if recorded is None else recorded
    if kept["versions"] != versions():
        return ""
    was = kept["traces"].get(name_of(scenario, backend, seed))
    if was is None or trace_hash.startswith(was):
        return ""
    return (
        f"seed {seed} of {scenario} on {backend} runs in another order than was recorded. If that is meant, record the traces again: "
        "python -m tests.simulation --record. Say in the commit which await moved."
    )


def write(traces: dict[str, str]) -> list[str]:
    """Keep these hashes in place of those that were recorded; return the scenarios of which one differs."""
    before = json.loads(FILE.read_text(encoding="utf-8"))["traces"] if FILE.exists() else {}
    FILE.write_text(json.dumps({"versions": versions(), "traces": traces}, indent=1) + "\n", encoding="utf-8")
    return sorted({name.split()[0] for name, one in traces.items() if before.get(name) != one})
