"""Runs `redisaq worker` in a directory of its own, with a program that the test writes there, and asks it how it is."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.integration.cli_processes import LIMIT, ROOT
from tests.servers import free_port

DIRECTLY = """
import json, sys
from redisaq.worker.parent import run_worker
from redisaq.worker.settings import WorkerSettings, address_of
address, settings = sys.argv[1], json.loads(sys.argv[2])
sys.exit(run_worker(WorkerSettings("shop:app", health=address_of(address) if address else None, **settings)))
"""
"""A worker without the command line, which takes as long to import as everything else."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fail if it does not come true."""
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, f"{what}: it did not happen"
        time.sleep(0.02)


class Running:
    """A worker that was started.

    Attributes:
        process: the parent.
        port: where it answers probes; 0 if nowhere.
        place: its directory.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, place: Path) -> None:
        self.process = process
        self.port = port
        self.place = place

    def get(self, path: str) -> tuple[int, str]:
        """Return its answer, status and text; (0, "") if it does not answer (yet)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        return 0, ""

    def says(self, path: str, status: int) -> bool:
        """Return whether it answers with this status."""
        return self.get(path)[0] == status

    def status(self) -> dict[str, Any]:
        """Return what /status says."""
        texts: list[str] = []

        def answered() -> bool:
            texts.append(self.get("/status")[1])
            return texts[-1] != ""

        until(answered, "an answer to /status")
        status: dict[str, Any] = json.loads(texts[-1])
        return status

    def pids(self) -> list[int]:
        """Return the children's processes."""
        return [child["pid"] for child in self.status()["children"]]

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's values that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(one in line for one in wanted))

    def handled(self) -> list[int]:
        """Return what its handlers have written to the file `handled`."""
        file = self.place / "handled"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def signal(self, number: signal.Signals) -> None:
        """Send the parent a signal."""
        self.process.send_signal(number)

    def log(self) -> str:
        """Return what it and its children have logged so far."""
        return (self.place / "log").read_text()

    def end(self) -> int:
        """Wait for its end; return its exit status."""
        return self.process.wait(LIMIT)


@contextlib.contextmanager
def worker(
    place: Path, program: str, *words: str, health: bool = True, env: dict[str, str] | None = None, **settings: Any
) -> Iterator[Running]:
    """Run a worker of shop:app; kill it at the end, if it has not ended.

    Args:
        place: its directory.
        program: what is written to shop.py.
        words: of the command `redisaq worker`; without any, and with settings, the command line is left out.
        health: let it answer probes.
        env: more variables of its environment.
        settings: of WorkerSettings.
    """
    (place / "shop.py").write_text(textwrap.dedent(program))
    port = free_port() if health else 0
    address = f":{port}" if health else ""
    command = [sys.executable, "-m", "redisaq.cli", "worker", "shop:app", *(("--health", address) if health else ()), *words]
    if settings:
        command = [sys.executable, "-c", DIRECTLY, address, json.dumps(settings)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place), **(env or {})}
    with (
        (place / "log").open("w") as log,
        subprocess.Popen(command, cwd=place, env=variables, stdout=log, stderr=log, text=True) as process,
    ):
        try:
            yield Running(process, port, place)
        finally:
            process.kill()
