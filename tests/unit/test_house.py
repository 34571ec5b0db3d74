"""House rules that no linter knows: where chance, clocks and threads come from, and what is never written down."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.source import ROOT, imported, module_of, name_of, python_files, tree_of

ONE_DOOR = "redisaq/environment.py"
VIRTUAL_TIME = "redisaq/testing/standstill.py"
"""It compares virtual with real time."""

LOOP_FILES = {"redisaq/testing/_trio.py", "redisaq/testing/_asyncio.py"}
OWN_PROCESS = "redisaq/embedded/keeper.py"
"""It is a program of its own, which imports nothing of the package."""

UNSAFE_MODULES = {"dill", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"__import__", "compile", "eval", "exec"}

CHANCE_AND_CLOCKS = re.compile(
    r"""time\.(time|monotonic|perf_counter|process_time)(_ns)? | time\.sleep
    | datetime\.(datetime\.)?(now|utcnow|today) | date\.today
    | uuid(\..*)? | secrets(\..*)? | os\.(urandom|getrandom)
    | random\.(?!Random$|SystemRandom$).+
    | threading\.(Thread|Timer) | _thread\..* | (concurrent|multiprocessing)(\..*)?
    | anyio\.to_(thread|process|interpreter)(\..*)?""",
    re.VERBOSE,
)


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for an expression of that form, "" for others."""
    if isinstance(node, ast.Attribute):
        return f"{before}.{node.attr}" if (before := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def names_used(file: Path) -> set[str]:
    """Return every dotted name that the file imports, or spells out below a module that it imports as a whole."""
    used = set(imported(file))
    whole = {alias.name.split(".")[0] for node in ast.walk(tree_of(file)) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Attribute) and (name := dotted(node)).split(".")[0] in whole:
            used.add(name)
    return used


PACKAGE_FILES = python_files("redisaq")


def test_nothing_is_unpickled_or_evaluated() -> None:
    assert len(PACKAGE_FILES) > 200
    for file in PACKAGE_FILES:
        unsafe = {name.split(".")[0] for name in imported(file)} & UNSAFE_MODULES
        called = {node.func.id for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert unsafe | (called & UNSAFE_CALLS) == set(), name_of(file)


def test_chance_clocks_and_threads_come_from_the_environment() -> None:
    for file in PACKAGE_FILES:
        if name_of(file) not in {ONE_DOOR, OWN_PROCESS, VIRTUAL_TIME}:
            assert sorted(name for name in names_used(file) if CHANCE_AND_CLOCKS.fullmatch(name)) == [], name_of(file)


@pytest.mark.parametrize(
    "name",
    ["time.time", "time.time_ns", "uuid", "uuid.uuid4", "random.random", "os.urandom", "threading.Thread", "anyio.to_thread.run_sync"],
)
def test_what_only_the_environment_may_use(name: str) -> None:
    assert CHANCE_AND_CLOCKS.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["random", "random.Random", "time", "threading.Lock", "os.path", "anyio.from_thread.run", "datetime.datetime"]
)
def test_what_everybody_may_use(name: str) -> None:
    assert not CHANCE_AND_CLOCKS.fullmatch(name)


def test_nothing_acts_when_it_is_collected() -> None:
    for file in PACKAGE_FILES:
        found = [node.lineno for node in ast.walk(tree_of(file)) if isinstance(node, ast.FunctionDef) and node.name == "__del__"]
        assert found == [], name_of(file)


def test_hiredis_is_imported_by_the_link_alone_and_redis_py_by_nothing() -> None:
    for file in PACKAGE_FILES:
        libraries = {name.split(".")[0] for name in imported(file)} & {"hiredis", "redis"}
        assert libraries <= ({"hiredis"} if name_of(file).startswith("redisaq/link/") else set()), name_of(file)


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(sorted({"redis", "trio", "uvloop"} & set(sys.modules)))
"""


def test_importing_everything_takes_neither_redis_py_nor_an_event_loop_along() -> None:
    """redis-py is no dependency, and of the event loops one may not be installed."""
    modules = [module_of(file) for file in python_files("redisaq") if name_of(file) not in LOOP_FILES]
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL, *modules], check=False, capture_output=True, text=True, cwd=ROOT)
    assert (result.stderr, result.stdout) == ("", "[]\n")


# The project speaks of itself alone. Each word is put together here, so that this file does not hold it.
PRIVATE_PLACES = re.compile("|".join("/" + place for place in ("work/", "root/", "home/", "Users/", "tmp/ve/", "tmp/notes")))
PRIVATE_PAPERS = re.compile(
    "|".join(r"\b" + "".join(parts) + r"\b" for parts in (("DE", "SIGN"), ("SEED", "-README"), ("API", ".md"), ("STYLE", ".md")))
)
TEXT = {".cfg", ".lua", ".md", ".py", ".svg", ".toml", ".txt", ".yaml", ".yml", ".json", ""}
PLACES = ("redisaq", "tests", "examples", "docs", ".ci")


def text_files() -> list[Path]:
    """Return every text file of the project."""
    found = [file for file in ROOT.iterdir() if file.is_file() and file.suffix in TEXT - {""}]
    for place in PLACES:
        found += [file for file in (ROOT / place).rglob("*") if file.is_file() and file.suffix in TEXT and "__pycache__" not in file.parts]
    return sorted(found)


def test_the_project_speaks_of_itself_alone() -> None:
    files = text_files()
    assert len(files) > 700
    for file in files:
        text = file.read_text(encoding="utf-8")
        for pattern in (PRIVATE_PLACES, PRIVATE_PAPERS):
            found = [f"line {text.count(chr(10), 0, match.start()) + 1}: {match.group()}" for match in pattern.finditer(text)]
            assert found == [], name_of(file)


OLD_WORDS = re.compile(
    r"""\b(anew | for\ ever | heed(s|ed)? | lest | of\ a\ sudden | whoever
    | (is|are|was|were|be|been|being)\ told(?!\ apart)
    | (?<="{3})see\ the\ module)\b""",
    re.IGNORECASE | re.VERBOSE,
)


def test_plain_words() -> None:
    """Again, forever, follow, so that … not, suddenly, reported: text and names of the product and its tests have the words of today."""
    files = [file for file in text_files() if file != Path(__file__) and name_of(file) != "CHANGELOG.md"]
    found = [
        f"{name_of(file)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for file in files
        for text in [file.read_text(encoding="utf-8").replace("_", " ")]
        for match in OLD_WORDS.finditer(text)
    ]
    assert found == []


EXTRAS = (
    "cronsim",
    "cyclopts",
    "jinja2",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "rich",
    "starlette",
    "trio",
    "uvloop",
    "watchfiles",
)


def test_importing_the_package_takes_no_extra_along() -> None:
    program = f"import sys, redisaq; print([name for name in {EXTRAS} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=ROOT)
    assert (result.stderr, result.stdout) == ("", "[]\n")
