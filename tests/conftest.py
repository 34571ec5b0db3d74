"""The backend matrix and the servers, for every test.

A coroutine test marked `pytest.mark.anyio` runs once per event loop of BACKENDS: that list is the only place that names them.
The servers' fixtures come from tests/servers.py; nothing is started before a test asks for it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis.internal.conjecture import engine

from tests.longest_first import arranged
from tests.matrix import TURNS, everything, thin_out
from tests.server_fixtures import (
    breakable_server,
    guarded,
    key_leaks,
    namespace,
    patient,
    redis7_server,
    redis8_server,
    server,
    server_pool,
    valkey_server,
)

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

__all__ = [
    "anyio_backend",
    "breakable_server",
    "guarded",
    "key_leaks",
    "namespace",
    "patient",
    "redis7_server",
    "redis8_server",
    "server",
    "server_pool",
    "valkey_server",
]

# No deadline: how long an example takes tells of the machine. Continuous integration tries the same examples each time.
hypothesis.settings.register_profile("redisaq", deadline=None, print_blob=True, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("redisaq")

# A failure is made smaller for this long, and then told. Of the five minutes that it may take otherwise, a slow test tells nothing: its
# process is ended before (faulthandler_timeout).
engine.MAX_SHRINKING_SECONDS = 60

Backend = tuple[str, dict[str, Any]]


def eager_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose tasks run up to their first wait at once, where they are made."""
    loop = asyncio.new_event_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


UVLOOP = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")

BACKENDS: list[ParameterSet] = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=UVLOOP),
    pytest.param(("trio", {}), id="trio"),
]
if sys.version_info >= (3, 12):  # which brought eager tasks
    BACKENDS.append(pytest.param(("asyncio", {"loop_factory": eager_loop}), id="asyncio-eager"))


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """The event loop a test runs on, as anyio names it."""
    backend: Backend = request.param
    return backend


IMPORT_ONLY = "REDISAQ_IMPORT_ONLY"
"""Set for a process that is to import the test files, so that they are compiled, and to collect nothing from them."""


class Imports:
    """A plugin that finds no test in any file."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self) -> list[pytest.Item]:
        """Make nothing of whatever a module has."""
        return []


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Collect garbage more rarely, which saves a fifth of a simulation's time. But not too rarely, or tasks that are done pile up.

    And keep the byte code of what is imported for as long as the run lasts, where Python is set to write none. Hundreds of processes are
    started; each would compile the package again, which takes longer than running it.
    """
    everything()
    if IMPORT_ONLY in os.environ:
        config.pluginmanager.register(Imports())
    gc.set_threshold(200_000, 2, 20)
    config.addinivalue_line("markers", f"{TURNS}: run on one event loop with each value of the other parameters (see tests/matrix.py)")
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        directory = tempfile.TemporaryDirectory(prefix="rq-bytecode-")
        config.add_cleanup(directory.cleanup)
        os.environ["PYTHONPYCACHEPREFIX"] = directory.name
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the test files before workers start: all go through them in one order, and would compile each at the same time.

    Two processes do it, each half of the files: they import them, and make no tests. What they cannot import, a worker reports.
    """
    config = session.config
    if not config.pluginmanager.hasplugin("dsession"):  # there are no workers, or this is one of them
        return
    folders = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    files = sorted(str(file) for folder in folders for file in folder.rglob("test_*.py"))
    if files and (sys.dont_write_bytecode or not Path(importlib.util.cache_from_source(files[0])).parent.exists()):
        command = [sys.executable, "-m", "pytest", "--collect-only", "--numprocesses=0", "-p", "no:cacheprovider"]
        quiet: dict[str, Any] = {
            "cwd": config.rootpath,
            "env": {**os.environ, IMPORT_ONLY: "1"},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        for process in [subprocess.Popen([*command, *half], **quiet) for half in (files[::2], files[1::2]) if half]:
            process.wait()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None]:
    """Leave combinations of event loop and server out."""
    yield
    thin_out(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, where there are workers."""
    workers: int = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        items[:] = arranged(items, workers, lambda item: item.nodeid.partition("::")[0])


def pytest_collection_finish() -> None:
    """Let the collector pass over the tests themselves, a third of a million objects."""
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Spread folders over workers, two for each processor and one more, five at most: tests wait as much as they work.

    Files and single tests run in pytest's own process: they start at once, and a debugger reaches them. `-n 3` overrides both.
    """
    if not any((config.invocation_params.dir / argument.partition("::")[0]).is_dir() for argument in config.args):
        return 0
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(5, 2 * processors + 1)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape lone surrogates in what a worker reports: some tests log them, and what carries reports takes only valid Unicode."""
    return escaped((yield))


def escaped(data: Any) -> Any:
    """Return the data with every string in it valid."""
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode()
    if isinstance(data, dict):
        return {escaped(key): escaped(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(escaped, data))
    return data


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt the tests' processes where pytest was started with SIGINT ignored, as a shell's background jobs are.

    Processes inherit that, and some tests interrupt what they have started.
    """
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection that breaks again and again be opened again without much of a pause: the test is about what comes then."""
    monkeypatch.setattr("redisaq.link.switchboard.CAP", 0.01)
