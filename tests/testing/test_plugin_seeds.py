"""The mark redisaq_seeds: an item for each seed, and the command that runs one again."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.testing.inner import run_inner

pytest_plugins = ["pytester"]

PLAIN = """
    import pytest

    @pytest.mark.redisaq_seeds(5)
    def test_plain(redisaq_seed):
        assert redisaq_seed != 3
"""


def test_a_test_runs_once_for_each_seed(pytester: pytest.Pytester) -> None:
    result = run_inner(pytester, PLAIN, "-v")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*test_plain[[]0] PASSED*", "*test_plain[[]3] FAILED*"])


def test_a_failure_tells_the_command_that_runs_it_again(pytester: pytest.Pytester) -> None:
    result = run_inner(pytester, PLAIN)
    (command,) = re.findall("run it again: pytest (.*)", result.stdout.str())
    again = run_inner(pytester, PLAIN, "-v", *shlex.split(command))
    again.assert_outcomes(failed=1)
    assert "--redisaq-seed=3" in command


def test_the_command_is_printed_whatever_is_shown_of_prints_and_tracebacks(pytester: pytest.Pytester) -> None:
    for options in (("--show-capture=no",), ("--tb=line",), ("--tb=native",), ("--tb=short",)):
        result = run_inner(pytester, PLAIN, *options)
        assert "run it again: pytest" in result.stdout.str(), options


@pytest.mark.parametrize(
    ("options", "passed", "failed"),
    [
        (["--redisaq-seeds=2"], 2, 0),
        (["--redisaq-seeds=9"], 8, 1),
        (["--redisaq-seed=3"], 0, 1),
        (["--redisaq-seed=1000"], 1, 0),
        (["--redisaq-seed=3", "--redisaq-seed", "4"], 1, 1),
        (["-x"], 3, 1),
    ],
)
def test_options(pytester: pytest.Pytester, options: list[str], passed: int, failed: int) -> None:
    run_inner(pytester, PLAIN, *options).assert_outcomes(passed=passed, failed=failed)


@pytest.mark.parametrize("option", ["--redisaq-seeds=0", "--redisaq-seeds=many", "--redisaq-seed=-1", "--redisaq-seed=1.5"])
def test_an_option_that_cannot_be(pytester: pytest.Pytester, option: str) -> None:
    result = run_inner(pytester, PLAIN, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a whole number, * or more, not *"])


@pytest.mark.parametrize(
    ("mark", "arguments", "sentence"),
    [
        ("redisaq_seeds", "redisaq_seed", "missing 1 required positional argument: 'count'*redisaq_seeds(200)"),
        ("redisaq_seeds()", "redisaq_seed", "missing 1 required positional argument: 'count'*redisaq_seeds(200)"),
        ("redisaq_seeds(0)", "redisaq_seed", "count is a whole number, 1 or more, not 0"),
        ("redisaq_seeds(True)", "redisaq_seed", "count is a whole number, 1 or more, not True"),
        ("redisaq_seeds(5, start=-1)", "redisaq_seed", "start is a whole number, 0 or more, not -1"),
        ("redisaq_seeds(5, seeds=3)", "redisaq_seed", "unexpected keyword argument 'seeds'"),
        ("redisaq_seeds(5, backend='uvloop')", "redisaq_seed", 'backend is "trio", "asyncio", or a tuple of both, not *uvloop*'),
        ("redisaq_seeds(5, backend=())", "redisaq_seed", 'backend is "trio", "asyncio", or a tuple of both, not ()'),
        ("redisaq_seeds(5, faults=object())", "redisaq_seed", "faults are for coroutine functions that take sim"),
        ("redisaq_seeds(5)", "", "without redisaq_seed every run of it would be the same; let it take that"),
        ("redisaq_seeds(5)", "sim", "without redisaq_seed every run of it would be the same; *sim, is written with `async def`"),
    ],
)
def test_a_mark_that_cannot_be(pytester: pytest.Pytester, mark: str, arguments: str, sentence: str) -> None:
    result = run_inner(pytester, f"import pytest\n\n@pytest.mark.{mark}\ndef test_it({arguments}):\n    pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*test_it*{sentence}*"])
    result.stdout.no_fnmatch_line("*During handling*")


def test_a_file_of_faults_that_is_not_there(pytester: pytest.Pytester) -> None:
    result = run_inner(pytester, PLAIN, "--redisaq-faults=gone.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no file 'gone.json'*"])


def test_the_mark_is_known(pytester: pytest.Pytester) -> None:
    run_inner(pytester, "", "--markers").stdout.fnmatch_lines(["@pytest.mark.redisaq_seeds(count, *"])


def test_a_first_seed_and_other_parameters_and_fixtures_for_each(pytester: pytest.Pytester) -> None:
    text = """
        import pytest

        urls = set()

        class TestIt:
            @pytest.mark.parametrize("letter", ["a", "b"])
            @pytest.mark.redisaq_seeds(3, start=7)
            def test_it(self, redisaq_seed, letter, redisaq_url):
                assert redisaq_seed in (7, 8, 9)
                urls.add(redisaq_url)

        def test_urls():
            assert len(urls) == 6 and all(url.startswith("memory://test-it") for url in urls)

        def test_unmarked(redisaq_seed):
            assert redisaq_seed == 0
    """
    run_inner(pytester, text).assert_outcomes(passed=8)


def test_ten_thousand_seeds_are_collected_in_seconds(pytester: pytest.Pytester) -> None:
    result = run_inner(pytester, PLAIN, "--redisaq-seeds=10000", "--collect-only", "-q", "-q")
    assert result.ret == 0
    assert result.duration < 20
