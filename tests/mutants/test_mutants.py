"""The mutation run itself: its operators, its list, how it chooses tests, and one run of it from beginning to end on a toy.

If `test_a_written_mutant_applies_exactly_once` fails, the product has changed under the list: let the entry of written.toml follow.
"""

from __future__ import annotations

import ast
import random
from itertools import chain
from pathlib import Path

import pytest

from tests.mutants.copies import ROOT, Copy, kill_marked
from tests.mutants.covering import NEAR, Covering, add, choose
from tests.mutants.operators import OPERATORS, Mutant, mutants_of
from tests.mutants.places import Source, product
from tests.mutants.plugin import context_of
from tests.mutants.running import NO_TESTS, Run, collected, first_few, judge, run_tests, try_out
from tests.mutants.written import Equivalent, Written, load_equivalent, load_written, mutant_of, plain, same

PYTHON = '''\
"""A module's docstring."""

T = TypeVar("T", covariant=True)
LIMIT = 3  # at module level
PAGE = 200


@decorated(True)
class Toy(Base, frozen=True):
    """A class."""

    def step(self, n: Literal[7] = 2) -> None:
        """Do 1 step."""
        if n < LIMIT and n is not None:
            self.call(n, wait=1.5)
        elif not (n in self.seen):
            return "é" if n == 0 else "1"
        while True:
            value = await self.read()
            await self.write(value)
            pairs = zip(self.a, self.b, strict=True)
'''

SCRIPT = """\
-- A comment: if 1 == 2 then
local count = tonumber(ARGV[2]) / 1000
if count >= 10 and KEYS[1] ~= '1 == 1' then
    redis.call('DEL', KEYS[1])
    local found = redis.call('GET', KEYS[1]) -- 3
    if found == 'x' then
        return found
    end
end
return true
"""


def changes(source: Source, operator: str) -> list[tuple[str, str]]:
    """Return what each mutant of this operator takes, and what it puts there."""
    return [(source.text[one.start : one.end], one.new) for one in mutants_of(source) if one.operator == operator]


def test_operators_on_python() -> None:
    toy = Source("redisaq/toy.py", PYTHON)
    assert changes(toy, "comparison") == [("<", "<="), ("is not", "is"), ("in", "not in"), ("==", "!=")]
    assert changes(toy, "constant") == [("3", "4"), ("200", "2000"), ("2", "3"), ("1.5", "15.0"), ("0", "1"), ("True", "False")]
    assert changes(toy, "call") == [("self.call(n, wait=1.5)", "pass"), ("await self.write(value)", "pass")]
    assert changes(toy, "branch") == [(test, f"not ({test})") for test in ("n < LIMIT and n is not None", "not (n in self.seen)")]
    assert changes(toy, "await") == [("await ", ""), ("await ", "")]
    for mutant in mutants_of(toy):
        ast.parse(mutant.text)
        assert len(mutant.diff.splitlines()) == 2


def test_operators_on_lua() -> None:
    toy = Source("redisaq/toy.lua", SCRIPT)
    assert changes(toy, "comparison") == [(">=", ">"), ("~=", "=="), ("==", "~=")]
    assert changes(toy, "constant") == [("2", "3"), ("1000", "10000"), ("10", "11"), ("1", "2"), ("1", "2"), ("1", "2"), ("true", "false")]
    assert changes(toy, "call") == [("redis.call('DEL', KEYS[1])", "do end")]
    assert changes(toy, "branch") == [("count >= 10 and KEYS[1] ~= '1 == 1'", "not (count >= 10 and KEYS[1] ~= '1 == 1')")]
    assert changes(toy, "await") == []


SOURCES = product(ROOT)


def test_every_operator_finds_something_in_the_product() -> None:
    """And of what it makes of Python, some can be read: all of it takes a minute."""
    made = [mutant for source in SOURCES for mutant in mutants_of(source)]
    assert {mutant.operator for mutant in made} == set(OPERATORS)
    for mutant in random.Random(0).sample(made, 100):
        assert mutant.text != mutant.source.text
        if not mutant.source.lua:
            ast.parse(mutant.text)


WRITTEN = load_written()


@pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written.name)
def test_a_written_mutant_applies_exactly_once(written: Written) -> None:
    mutant = mutant_of(written, SOURCES)
    assert mutant.text != mutant.source.text
    if not mutant.source.lua:
        ast.parse(mutant.text)


def test_written_mutants_are_named_apart() -> None:
    assert len({written.name for written in WRITTEN}) == len(WRITTEN) >= 60


def test_a_text_that_stands_twice_or_nowhere_is_refused() -> None:
    sources = [Source("redisaq/a.py", "def f():\n    x = 1\n"), Source("redisaq/b.py", "def g():\n    x = 1\n")]
    written = Written(name="toy", breaks="", old="x = 1", new="x = 2")
    with pytest.raises(ValueError, match="stands 2 times: 'x = 1'"):
        mutant_of(written, sources)
    with pytest.raises(ValueError, match="stands 0 times in h"):
        mutant_of(Written(name="toy", breaks="", old="x = 1", new="x = 2", place="h"), sources)
    assert mutant_of(Written(name="toy", breaks="", old="x = 1", new="x = 2", place="g"), sources).source.name == "redisaq/b.py"


def test_every_equivalent_mutant_still_is_one_of_the_product() -> None:
    """Else it stands for nothing: the line has changed, or its mutant is made no more."""
    entries = load_equivalent()
    made = {entry.place: list[Mutant]() for entry in entries}
    for mutant in (*chain.from_iterable(map(mutants_of, SOURCES)), *(mutant_of(written, SOURCES) for written in WRITTEN)):
        made.get(mutant.place, []).append(mutant)
    assert [entry.diff for entry in entries if not any(same(mutant, entry) for mutant in made[entry.place])] == []


def test_an_equivalent_mutant_is_known_by_its_diff_and_place() -> None:
    (first, *_) = mutants_of(Source("redisaq/toy.py", "def f(n):\n    if n < 3:\n        return 1\n"))
    assert first.diff == "-    if n < 3:\n+    if not (n < 3):"
    assert same(first, Equivalent(place="f", diff="-if n < 3:\n+if not (n < 3):\n", why=""))
    assert not same(first, Equivalent(place="g", diff="-if n < 3:\n+if not (n < 3):", why=""))
    assert plain("-  a \n+ b\n") == "-a\n+b"
    assert plain("-  a  # why\n+  b -- why\n") == "-a\n+b"


# ------------------------------------------------------------------------------------------------------ choosing tests


def test_statements_and_places() -> None:
    toy = Source("redisaq/toy.py", PYTHON)
    assert (toy.place_of(3), toy.place_of(8), toy.place_of(14)) == ("", "Toy", "Toy.step")
    assert toy.statement_of(14) == (14, 14)
    call = Source("redisaq/toy.py", "def f():\n    if (\n        a\n    ):\n        g(\n            1,\n        )\n")
    assert call.statement_of(6) == (5, 7)
    assert call.statement_of(3) == (2, 4)


def covering_of(lines: dict[tuple[str, str, str], set[str]]) -> Covering:
    """Return what is known if these tests, each of a second, ran these lines."""
    covering = Covering([], [], {}, {})
    tests = dict.fromkeys(sorted(set().union(*lines.values())), 1.0)
    add(covering, {"tests/a.py": "0"}, tests, {line: {context_of(test) for test in some} for line, some in lines.items()})
    return covering


def test_tests_are_found_for_a_line_wherever_it_has_moved() -> None:
    covering = covering_of({("redisaq/old.py", "f", "x = 1"): {"tests/a.py::one"}, ("redisaq/old.py", "f", "y = 2"): {"tests/a.py::two"}})
    renamed = Source("redisaq/new.py", "class A:\n    def f():\n        x = 1\n")
    assert covering.of([renamed], renamed, (3, 3)) == [(1.0, "tests/a.py::one")]
    moved = Source("redisaq/new.py", "def f():\n    x = 1\n    y = 3\n")
    assert covering.of([moved], moved, (2, 2)) == [(1.0, "tests/a.py::one")]
    assert covering.of([moved], moved, (3, 3)) == [(1.0, "tests/a.py::one"), (1.0, "tests/a.py::two")]  # new: all of the function's
    parted = Source("redisaq/old.py", "def g():\n    y = 2\n")
    assert covering.of([parted], parted, (2, 2)) == [(1.0, "tests/a.py::two")], "it was a line of another function"


def test_tests_of_a_script_are_those_of_the_line_that_names_it() -> None:
    scripts = Source("redisaq/steps.py", 'STEP = Script("step", keys=1, begins_with=("other", "shared"))\n')
    covering = covering_of({("redisaq/broker.py", "f", "run(STEP(key))"): {"tests/a.py::one"}})
    for name in ("step", "shared"):
        script = Source(f"redisaq/lua/{name}.lua", "return 1\n")
        assert covering.of([scripts, script], script, (1, 1)) == [(1.0, "tests/a.py::one")]


@pytest.mark.parametrize("text", ["LIMIT = 3\n", "LIMIT: int = 3\n", "LEAST, LIMIT = 1, 3\n"])
def test_tests_of_a_constant_are_those_of_the_lines_that_use_it(text: str) -> None:
    source = Source("redisaq/a.py", text)
    covering = covering_of({("redisaq/b.py", "f", "if n > LIMIT:"): {"tests/a.py::one"}, ("redisaq/b.py", "f", "n"): {"tests/a.py::two"}})
    assert covering.of([source], source, (1, 1)) == [(1.0, "tests/a.py::one")]


def test_who_imports_a_constant_or_a_field_tests_nothing_of_it() -> None:
    source = Source("redisaq/a.py", "LIMIT = 3\nclass A:\n    width: int = 1\n")
    lines: dict[tuple[str, str, str], set[str]] = {
        ("redisaq/a.py", "", "LIMIT = 3"): {"tests/a.py::imports"},
        ("redisaq/a.py", "A", "width: int = 1"): {"tests/a.py::imports"},
        ("redisaq/b.py", "f", "if n > LIMIT:"): {"tests/a.py::one"},
        ("redisaq/b.py", "f", "n = a.width"): {"tests/a.py::two"},
    }
    covering = covering_of(lines)
    assert covering.of([source], source, (1, 1)) == [(1.0, "tests/a.py::one")]
    assert covering.of([source], source, (3, 3)) == [(1.0, "tests/a.py::two")]


def test_what_is_noted_again_takes_the_place_of_what_was() -> None:
    line = ("redisaq/a.py", "f", "x = 1")
    covering = covering_of({line: {"tests/a.py::one"}})
    add(covering, {"tests/a.py": "1"}, {"tests/a.py::new": 2.0}, {line: {context_of("tests/a.py::new")}})
    source = Source("redisaq/a.py", "def f():\n    x = 1\n")
    assert covering.of([source], source, (2, 2)) == [(2.0, "tests/a.py::new")]


def test_quick_tests_come_first_and_of_each_function_one_before_another() -> None:
    known = [(0.3, "a.py::slow"), (0.1, "a.py::f[1]"), (0.11, "a.py::f[2]"), (50.0, "b.py::endless"), (0.2, "b.py::g")]
    assert choose(known, 10.0) == ["a.py::f[1]", "b.py::g", "a.py::slow", "a.py::f[2]"]
    assert choose(known, 0.3) == ["a.py::f[1]"]


def test_half_of_the_time_is_for_tests_about_the_file() -> None:
    """They run lines of it that few others run."""
    lines = {
        ("redisaq/a.py", "f", "x = 1"): {*(f"tests/a.py::quick{n}" for n in range(20)), "tests/b.py::about"},
        ("redisaq/a.py", "f", "rare()"): {"tests/b.py::about"},
        ("redisaq/b.py", "g", "run(STEP(key))"): {*(f"tests/a.py::quick{n}" for n in range(20)), "tests/b.py::about"},
        ("redisaq/b.py", "g", "answer()"): {"tests/b.py::about"},
    }
    covering = covering_of(lines)
    source, steps = Source("redisaq/a.py", "def f():\n    x = 1\n"), Source("redisaq/b.py", 'STEP = Script("step", keys=1)\n')
    script = Source("redisaq/lua/step.lua", "return 1\n")
    for points in (covering.closeness([source, steps], one) for one in (source, script)):
        assert points["tests/b.py::about"] == pytest.approx(1 + 1 / 21)
        assert points["tests/a.py::quick0"] == pytest.approx(1 / 21)
    named = covering_of({("redisaq/a.py", "f", "x = 1"): {"tests/test_a.py::one", "tests/test_b.py::one"}})
    assert named.closeness([source], source) == {"tests/test_a.py::one": 1.5, "tests/test_b.py::one": 0.5}
    assert named.closeness([source], source, "f") == {"tests/test_a.py::one": 1 + NEAR / 2, "tests/test_b.py::one": NEAR / 2}
    known = [(5.0, "tests/b.py::about"), *((0.5, f"tests/a.py::quick{n}") for n in range(20))]
    assert "tests/b.py::about" not in choose(known, 11.0)
    chosen = choose(known, 11.0, covering.closeness([source, steps], source))
    assert (chosen[-1], len(chosen)) == ("tests/b.py::about", 12)


# ------------------------------------------------------------------------------------------------------ running


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (Run(0, "", "", 0.0, 3), ("survived", "")),
        (Run(1, "t", "", 0.0, 2), ("caught", "t")),
        (Run(None, "", "u", 30.0, 2), ("hung", "u")),
        (Run(None, "", "u", 3.0, 200), ("slow", "u")),  # no test hung: there were only too many
        (Run(-11, "", "u", 0.1, 2), ("caught", "u")),
        (Run(2, "", "", 0.0, 0), ("broken", "")),
        (Run(5, "", "", 0.0, 0), ("uncovered", "")),
    ],
)
def test_what_a_run_says(run: Run, verdict: tuple[str, str]) -> None:
    assert judge(run, {"u": 1.0}) == verdict


PRODUCT = """\
import time

def double(n):
    return n * 2

def loop(n):
    while n > 0:
        n -= 1
        time.sleep(0.01)  # where the mutant never ends, the processor is not kept busy
"""
TESTS = """\
import os, subprocess, sys
from redisaq.toy import double, loop

def test_double():
    assert double(3) == 6

def test_zero():
    assert double(0) == 0

def test_loop():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    loop(3)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Copy:
    """A tree with a product of one module, and the plugin."""
    files = {"redisaq/toy.py": PRODUCT, "redisaq/__init__.py": "", "tests/__init__.py": "", "tests/test_toy.py": TESTS}
    for name in ("plugin.py", "__init__.py"):
        files[f"tests/mutants/{name}"] = (ROOT / "tests" / "mutants" / name).read_text(encoding="utf-8")
    files["tests/matrix.py"] = (ROOT / "tests" / "matrix.py").read_text(encoding="utf-8")
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:redisaq\n")
    return Copy(tmp_path)


def toy_mutant(old: str, new: str) -> tuple[Mutant, list[Source]]:
    source = Source("redisaq/toy.py", PRODUCT)
    at = PRODUCT.index(old)
    return Mutant(source, at, at + len(old), new, "written"), [source]


COVERING = covering_of(
    {
        ("redisaq/toy.py", "double", "return n * 2"): {"tests/test_toy.py::test_double"},
        ("redisaq/toy.py", "loop", "n -= 1"): {"tests/test_toy.py::test_loop", "tests/test_toy.py::test_double"},
    }
)


@pytest.mark.parametrize(
    ("old", "new", "verdict", "by"),
    [
        ("n * 2", "n * 3", "caught", "tests/test_toy.py::test_double"),
        ("n * 2", "n + n", "survived", ""),
        ("def loop", "def lop", "broken", ""),
    ],
)
def test_a_run_in_a_copy(toy: Copy, old: str, new: str, verdict: str, by: str) -> None:
    mutant, sources = toy_mutant(old, new)
    result = try_out(mutant, toy, COVERING, sources, 60.0)
    assert (result.verdict, result.by) == (verdict, by)
    assert (toy.root / "redisaq" / "toy.py").read_text() == PRODUCT


def test_while_time_is_left_further_tests_are_chosen(toy: Copy) -> None:
    mutant, sources = toy_mutant("n * 2", "n * 3")
    known = covering_of({("redisaq/toy.py", "double", "return n * 2"): {"tests/test_toy.py::test_double", "tests/test_toy.py::test_zero"}})
    known.seconds[:] = [40.0 if test.endswith("double") else 30.0 for test in known.tests]
    result = try_out(mutant, toy, known, sources, 60.0)
    assert (result.verdict, result.by, result.tests) == ("caught", "tests/test_toy.py::test_double", 2)


def test_what_hangs_is_killed_with_all_that_it_started(toy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.mutants.running.HUNG", 1.0)
    monkeypatch.setattr("tests.mutants.copies.secrets.token_hex", lambda _: "of-this-test")
    mutant, sources = toy_mutant("n -= 1", "n += 1")
    COVERING.seconds[:] = [0.1] * len(COVERING.seconds)
    result = try_out(mutant, toy, COVERING, sources, 12.0)  # all of which it takes
    assert (result.verdict, result.by) == ("hung", "tests/test_toy.py::test_loop")
    assert kill_marked("of-this-test") == 0


def test_only_what_is_there_is_collected(toy: Copy) -> None:
    tests = [
        "tests/test_toy.py::test_loop[1]",
        "tests/test_toy.py::test_gone",
        "tests/test_gone.py::test_x",
        "tests/test_toy.py::test_loop[2]",
    ]
    assert collected(toy, tests) == ["tests/test_toy.py::test_loop"]
    assert run_tests(toy, tests[1:3], 10.0).status == NO_TESTS


def test_the_first_few_stand_in_few_files() -> None:
    assert first_few([f"tests/{n // 2}.py::test_{n}" for n in range(20)]) == 10
    assert first_few(["tests/a.py::test"]) == 1
