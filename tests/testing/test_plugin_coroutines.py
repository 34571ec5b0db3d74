"""Coroutine tests with seeds: simulations, virtual time, and the other plugins for coroutine functions."""

from __future__ import annotations

import importlib.util
import re
import textwrap
from pathlib import Path

import anyio
import pytest

from redisaq import Message
from redisaq.testing import Simulation, plugin, simulate
from tests.testing.inner import run_inner

pytest_plugins = ["pytester"]

SCENARIO = """
    import pytest
    {imports}
    from redisaq.testing import FaultPlan

    {mark}
    @pytest.mark.redisaq_seeds({arguments})
    async def test_story(sim):
        handled = []

        async def handle(message):
            handled.append(message.payload)

        producer = sim.producer("orders", init_partitions=2)
        await producer.batch_enqueue([{{"n": n}} for n in range(5)])
        sim.member("a", "orders", handle, group_name="billing")
        await sim.until_quiet()
        assert len(handled) == 5
"""

VIRTUAL = """
    import time
    import pytest
    import anyio

    began = time.monotonic()

    @pytest.mark.redisaq_seeds({arguments})
    async def test_hour():
        await anyio.sleep(3600)
        assert time.monotonic() - began < 60
"""


@pytest.mark.parametrize(
    ("arguments", "count"), [("3", 3), ("3, backend='asyncio'", 3), ("2, backend=('trio', 'asyncio')", 4), ("2, faults=FaultPlan()", 2)]
)
def test_a_coroutine_that_takes_sim_is_a_scenario(pytester: pytest.Pytester, arguments: str, count: int) -> None:
    run_inner(pytester, SCENARIO.format(imports="", mark="", arguments=arguments)).assert_outcomes(passed=count)


@pytest.mark.parametrize("arguments", ["2", "2, backend=('trio', 'asyncio')"])
def test_another_coroutine_runs_in_virtual_time(pytester: pytest.Pytester, arguments: str) -> None:
    run_inner(pytester, VIRTUAL.format(arguments=arguments)).assert_outcomes(passed=4 if "trio" in arguments else 2)


def test_the_ids_of_two_backends(pytester: pytest.Pytester) -> None:
    result = run_inner(pytester, VIRTUAL.format(arguments="1, backend=('trio', 'asyncio')"), "-v")
    result.stdout.fnmatch_lines(["*test_hour[[]0-trio] PASSED*", "*test_hour[[]0-asyncio] PASSED*"])


ASYNCIO = pytest.param(
    "import asyncio",
    "pytestmark = pytest.mark.asyncio",
    "asyncio_mode = strict",
    marks=pytest.mark.skipif(importlib.util.find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed"),
    id="asyncio",
)
ASYNCIO_AUTO = pytest.param(
    "import asyncio",
    "",
    "asyncio_mode = auto",
    marks=pytest.mark.skipif(importlib.util.find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed"),
    id="asyncio-auto",
)
OTHERS = [
    pytest.param("", "pytestmark = pytest.mark.anyio", "", id="anyio"),
    pytest.param("", "", "anyio_mode = auto", id="anyio-auto"),
    pytest.param("", "pytestmark = pytest.mark.trio", "", id="trio"),
    pytest.param("", "", "trio_mode = true", id="trio-mode"),
    ASYNCIO,
    ASYNCIO_AUTO,
]


@pytest.mark.parametrize(("imports", "mark", "settings"), OTHERS)
def test_scenarios_are_ours_other_plugins_keep_their_own_and_the_fixtures_work(
    pytester: pytest.Pytester, imports: str, mark: str, settings: str
) -> None:
    """Coroutine tests of theirs in real time, with our fixtures and seeds, beside plain tests; and a scenario, whatever they claim."""
    scenario = textwrap.dedent(SCENARIO.format(imports=imports, mark=mark, arguments="2"))
    text = """
        import time
        import anyio
        from redisaq import Consumer, Producer

        async def bill(url):
            handled = []
            async with Producer("orders", url) as producer:
                await producer.batch_enqueue(range(3))
            async with Consumer("orders", url, group_name="billing") as consumer:
                await consumer.process(lambda message: handled.append(message.payload), until_empty=True)
            return handled

        async def test_memory(redisaq_url):
            assert await bill(redisaq_url) == [0, 1, 2]

        @pytest.mark.redisaq_seeds(2)
        async def test_seeds(redisaq_seed, redisaq_server):
            began = time.monotonic()
            assert await bill(redisaq_server) == [0, 1, 2]
            await anyio.sleep(0.05)
            assert time.monotonic() - began >= 0.05
            assert redisaq_seed in (0, 1)
    """
    plain = "" if mark else "\ndef test_plain(redisaq_url):\n    assert redisaq_url\n"
    result = run_inner(pytester, scenario + textwrap.dedent(text) + plain, "-v", settings=settings, process=True)
    both = "anyio" in mark + settings
    result.assert_outcomes(passed=(3 + 2) * (2 if both else 1) + bool(plain))
    assert len(re.findall(r"::test_story\[\S+ PASSED", result.stdout.str())) == (4 if both else 2)


# -- failures -----------------------------------------------------------------------------------------------------------------------------

BROKEN = """
    import pytest
    from redisaq.testing import simulate

    async def scenario(sim):
        async def handle(message):
            await anyio.sleep_forever()

        import anyio
        producer = sim.producer("orders")
        await producer.enqueue(1)
        sim.member("a", "orders", handle, heartbeat_interval=1.0, heartbeat_ttl=3.0, drain_timeout=0.1)
        await sim.until_quiet(timeout=20)
"""
KINDS = {
    "sim": "@pytest.mark.redisaq_seeds(1)\n    async def test_it(sim):\n        await scenario(sim)\n",
    "returned": "@pytest.mark.redisaq_seeds(1)\n    def test_it(redisaq_seed):\n        return simulate(scenario, redisaq_seed)\n",
    "asserted": (
        "@pytest.mark.redisaq_seeds(1)\n    def test_it(redisaq_seed):\n"
        "        report = simulate(scenario, redisaq_seed)\n        assert report.ok\n"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_with_violations_is_reported(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.delenv("CI", raising=False)  # there, pytest tells failures a second time, in its summary
    result = run_inner(pytester, BROKEN + "\n    " + KINDS[kind])
    result.assert_outcomes(failed=1)
    told = result.stdout.str()
    assert "seed 0 on trio: 1 violation" in told
    assert re.search(r"20\.000  not quiet after 20 s: orders/0 still holds something", told)
    assert len(re.findall(r"a +takes orders/0", told)) == 1
    assert re.search(r"^(E +)? *0\.000  a +joins$", told, re.MULTILINE)
    assert "run it again: pytest test_inner.py::test_it[0] --redisaq-seed=0" in told.replace("'", "")


def test_a_picture_is_written() -> None:
    async def scenario(sim: Simulation) -> None:
        async def handle(message: Message[int]) -> None:
            await anyio.sleep_forever()

        await sim.producer("orders").enqueue(1)
        sim.member("a", "orders", handle, drain_timeout=0.1)
        await sim.until_quiet(timeout=20)

    report = simulate(scenario, 3)
    text = plugin.explained(report, "tests/test_it.py::test_it[3]")
    (picture,) = re.findall("as a picture: (.*)", text)
    assert Path(picture).read_text(encoding="utf-8") == report.timeline_svg()
    assert Path(picture).name == "tests-test-it-py-test-it-3-trio.svg"


def test_a_report_that_is_well_may_be_returned(pytester: pytest.Pytester) -> None:
    text = """
        import pytest
        from redisaq.testing import simulate

        @pytest.mark.redisaq_seeds(2)
        def test_it(redisaq_seed):
            async def scenario(sim):
                pass

            return simulate(scenario, redisaq_seed)

        @pytest.mark.redisaq_seeds(1)
        def test_returns_something_else(redisaq_seed):
            return 7
    """
    run_inner(pytester, text).assert_outcomes(passed=2, failed=1)  # pytest's own warning, which is an error here


def test_a_scenario_that_raises_fails_as_it_is(pytester: pytest.Pytester) -> None:
    text = """
        import pytest

        @pytest.mark.redisaq_seeds(1)
        async def test_it(sim):
            left = 1
            assert left == 2
    """
    result = run_inner(pytester, text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E       assert 1 == 2", "*run it again: *--redisaq-seed=0*"])
