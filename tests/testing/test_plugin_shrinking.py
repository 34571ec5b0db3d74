"""What the plugin tells of a failed simulation's faults: the few that matter, in words and as a file that brings the same failure."""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from redisaq.testing import load_faults
from tests.testing.inner import installed, run_inner
from tests.testing.test_plugin_coroutines import OTHERS

pytest_plugins = ["pytester"]

HEAD = """
    import anyio
    import pytest
    from redisaq.brokers.memory.store import MemoryStore
    from redisaq.testing import FaultPlan, simulate
    from redisaq.testing.network import Network

    PLAN = FaultPlan(late_request=0.15, delay=(0.0, 0.05))

    @pytest.fixture(autouse=True)
    def broken(monkeypatch):  # the connections of a broken batch are not killed (E1): it may be appended twice
        monkeypatch.setattr(Network, "kill", lambda self, marks: None)

    async def handle(message):
        print("a message is handled")

    async def scenario(sim):
        producer = sim.producer("orders", init_partitions=2)
        sim.member("a", "orders", handle)
        for number in range(15):
            await producer.batch_enqueue([{"n": number}] * 3)
            await anyio.sleep(0.1)
        await sim.until_quiet()
"""

SIM = """
    @pytest.mark.redisaq_seeds(1, faults=PLAN)
    async def test_it(sim):
        await scenario(sim)
"""

RETURNED = """
    @pytest.mark.redisaq_seeds(1)
    def test_it(redisaq_seed):
        return simulate(scenario, redisaq_seed, faults=PLAN)
"""

ASSERTED = """
    @pytest.mark.redisaq_seeds(1)
    def test_it(redisaq_seed):
        for seed in (100, redisaq_seed, 101):
            report = simulate(scenario, seed, faults=PLAN)
            assert report.ok
"""

RAISED = """
    @pytest.mark.redisaq_seeds(1, faults=FaultPlan(delay=(0.0, 0.05), slow_handler=0.05))
    async def test_it(sim):
        began = anyio.current_time()
        await scenario(sim)
        assert anyio.current_time() < began + 12
"""

ENOUGH = re.compile(r"of (\d+) faults (\d+) (?:is|are) enough under seed (\d+) on (trio|asyncio)")


def enough(told: str) -> tuple[int, int]:
    """Return how many faults there were, and how many are printed."""
    ((before, left, _, _),) = ENOUGH.findall(told)
    return int(before), int(left)


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """In continuous integration pytest tells failures a second time, in its summary."""
    monkeypatch.delenv("CI", raising=False)


def test_few_faults_are_printed_and_bring_the_same_failure(pytester: pytest.Pytester) -> None:
    told = run_inner(pytester, HEAD + SIM).stdout.str()
    before, left = enough(told)
    assert before > 150
    assert left <= 2
    assert re.search(r"producer-0  late_request at operation \d+ \(append\): carried out [\d.]+ s later", told)
    assert re.search(r">>> at [\d.]+: message \S+ was appended twice", told)
    (command,) = re.findall("with these faults alone: pytest (.*)", told)
    file = shlex.split(command)[-1].removeprefix("--redisaq-faults=")
    assert len(load_faults(file)) == left
    assert f"as a picture: {Path(file).with_suffix('.svg')}" in told
    assert Path(file).with_suffix(".svg").exists()
    assert Path(file).name == "test-inner-py-test-it-0-trio-few.json"
    again = run_inner(pytester, HEAD + SIM, *shlex.split(command))
    again.assert_outcomes(failed=1)
    assert f"{left} fault" in again.stdout.str()
    assert "was appended twice" in again.stdout.str()
    assert "enough" not in again.stdout.str(), "they are shrunk already"
    more = run_inner(pytester, HEAD + SIM, *shlex.split(command), "--redisaq-shrink=20")
    assert enough(more.stdout.str()) == (left, left)


@pytest.mark.parametrize("test", [RETURNED, ASSERTED], ids=["returned", "asserted"])
def test_a_test_that_simulates_by_itself_learns_how_to_have_them(pytester: pytest.Pytester, test: str) -> None:
    told = run_inner(pytester, HEAD + test).stdout.str()
    before, left = enough(told)
    assert before > 150
    assert left <= 2
    assert re.search(r'with these faults alone: simulate\(scenario, \d+, "trio", load_faults\("\S+-trio-few.json"\)\)', told)


def test_what_a_scenario_raises_is_shrunk(pytester: pytest.Pytester) -> None:
    told = run_inner(pytester, HEAD + RAISED).stdout.str()
    before, left = enough(told)
    assert left < before
    assert "AssertionError in test_it, test_inner.py line" in told
    (command,) = re.findall("with these faults alone: pytest (.*)", told)
    run_inner(pytester, HEAD + RAISED, *shlex.split(command)).stdout.fnmatch_lines(["E*assert *"])


def test_what_the_scenario_prints_is_shown_once(pytester: pytest.Pytester) -> None:
    printed = run_inner(pytester, HEAD + SIM, "--redisaq-shrink=0").stdout.str().count("a message is handled")
    told = run_inner(pytester, HEAD + SIM).stdout.str()
    assert enough(told)
    assert told.count("a message is handled") == printed > 0


@pytest.mark.parametrize(("imports", "mark", "settings"), [one for one in OTHERS if one.id in ("anyio", "trio-mode", "asyncio-auto")])
def test_with_the_other_plugins(pytester: pytest.Pytester, imports: str, mark: str, settings: str) -> None:
    text = HEAD + f"\n    {imports}\n    {mark}\n" + SIM
    result = run_inner(pytester, text, settings=settings, process=True)
    found = ENOUGH.findall(result.stdout.str())
    assert [backend for *_, backend in found] == (["asyncio", "trio"] if "anyio" in mark + settings else [found[0][3]])
    assert all(int(left) <= 2 for _, left, _, _ in found)


@pytest.mark.parametrize(("options", "settings"), [(["--redisaq-shrink=0"], ""), ([], "redisaq_shrink = 0")])
def test_it_can_be_switched_off(pytester: pytest.Pytester, options: list[str], settings: str) -> None:
    result = run_inner(pytester, HEAD + SIM, *options, settings=settings)
    result.assert_outcomes(failed=1)
    assert "redisaq: faults" not in result.stdout.str()
    assert "enough" not in result.stdout.str()


def test_the_option_wins_over_the_setting(pytester: pytest.Pytester) -> None:
    assert enough(run_inner(pytester, HEAD + SIM, "--redisaq-shrink=20", settings="redisaq_shrink = 0").stdout.str())


def test_it_ends_after_so_long(pytester: pytest.Pytester) -> None:
    """The first failure takes what time there is for all, since a run that has begun is finished; the others report that it is over."""
    result = run_inner(pytester, HEAD + SIM.replace("(1,", "(4,"), "--redisaq-shrink=0.000001")
    told = result.stdout.str()
    failures = told.count("run it again")
    assert failures > 1
    assert told.count("enough under") == told.count("(1 runs, not finished: fewer may be enough)") == 1
    assert told.count("its faults were not shrunk: other failures have used up the time (see --redisaq-shrink)") == failures - 1


@pytest.mark.parametrize("text", ["-1", "soon", "inf", "nan"])
def test_a_time_that_cannot_be(pytester: pytest.Pytester, text: str) -> None:
    for result in (run_inner(pytester, SIM, f"--redisaq-shrink={text}"), run_inner(pytester, SIM, settings=f"redisaq_shrink = {text}")):
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*redisaq*shrink: seconds, 0 or more, not *"])


def test_a_scenario_without_faults_has_none_to_tell(pytester: pytest.Pytester) -> None:
    text = HEAD + SIM.replace(", faults=PLAN", "").replace("await scenario(sim)", "await scenario(sim)\n        assert False")
    result = run_inner(pytester, text)
    result.assert_outcomes(failed=1)
    assert "redisaq: faults" not in result.stdout.str()


def test_a_scenario_that_fails_by_itself_says_so(pytester: pytest.Pytester) -> None:
    told = run_inner(pytester, HEAD + SIM.replace("await scenario(sim)", "assert not sim")).stdout.str()
    assert "redisaq: faults" not in told, "there was none"
    told = run_inner(
        pytester, HEAD + SIM.replace("await scenario(sim)", 'await sim.producer("orders").enqueue(1)\n        assert 0')
    ).stdout.str()
    assert "no fault is needed: it fails by itself under seed 0 on trio (2 runs)" in told


@pytest.mark.parametrize(("times", "sentence"), [(1, "run once more, it did not fail"), (2, "but it did not fail")])
def test_a_failure_that_does_not_come_again_is_reported(pytester: pytest.Pytester, times: int, sentence: str) -> None:
    check = f'await sim.producer("orders").enqueue(1)\n        tries.append(1)\n        assert len(tries) > {times}'
    text = HEAD.replace("PLAN =", "tries = []\n    PLAN =") + SIM.replace("await scenario(sim)", check)
    run_inner(pytester, text).stdout.fnmatch_lines([f"its faults could not be shrunk: *{sentence}. Does the scenario depend on more *"])


def test_nothing_of_a_simulation_lives_on_with_its_test(pytester: pytest.Pytester) -> None:
    """Items live as long as the run, and there may be thousands of seeds."""
    held: list[bool] = []

    class Spy:
        def pytest_sessionfinish(self, session: pytest.Session) -> None:
            key = sys.modules[
                "redisaq_pytest"
            ]._failed  # not imported above: pytest warns of plugins that were before it could rewrite them
            held.extend(key in item.stash for item in session.items)

    pytester.makepyfile(test_inner=textwrap.dedent(HEAD + SIM.replace("(1,", "(2,")))
    plugin = () if installed() else ("-p", "redisaq_pytest")
    pytester.inline_run(*plugin, "-p", "no:cacheprovider", "--redisaq-shrink=0", plugins=[Spy()])
    assert held == [False, False]
