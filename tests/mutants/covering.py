"""Which tests run which line: noted once, kept outside what is committed, and asked for each mutant.

Input: test files, run under coverage.py with a context for each test. Output: for a line of the product the tests that run it, and how long
each takes. Invariant: lines are known by the place around them and their text, so that what was noted outlives a move to another file and
changes elsewhere in it; only tests that passed are chosen. A script is run by the tests that run a line which names it.

Where too many tests run a line, half of the time is for the quickest, and half for those that are about its function and its file: they run
lines there that few others run.

A test runs on one event loop only, and failing or skipped tests are as good as none.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import coverage
import msgspec

from tests.mutants.copies import ROOT, Copy, copy_of
from tests.mutants.places import Source, Span, product
from tests.mutants.plugin import CONTEXT, ORDERS, Line, Orders, context_of

CACHE = Path(os.environ.get("REDISAQ_MUTANTS_CACHE", ROOT / ".mutants"))
"""The folder of what is noted; .gitignore names it."""

FOLDERS = ("actors", "cancellation", "chaos", "conformance", "integration", "simulation", "testing", "unit")
"""Folders of tests that run the product."""

RCFILE = """\
[run]
branch = false
source = {package}
parallel = true
data_file = {data}
context = ${{{context}-}}
disable_warnings = no-data-collected, module-not-imported, module-not-measured, couldnt-parse, no-ctracer, already-imported
"""


NEAR = 20.0
"""How many points a line of the same function has: a test that runs its rare branches is about it."""

AT_IMPORT = re.compile(r"(async )?def |class |@")
"""Lines of a definition that belong to no test, but to who imports the file first."""


class Covering(msgspec.Struct):
    """What was noted.

    Attributes:
        tests: by number: the test's id, "" for what has been noted again since.
        seconds: how long each took.
        files: of each test file the hash of what was run.
        lines: by file, place and text: the tests, a bit each, in hexadecimal.
    """

    tests: list[str]
    seconds: list[float]
    files: dict[str, str]
    lines: dict[str, dict[str, dict[str, str]]]

    def of(self, sources: Sequence[Source], source: Source, span: Span) -> list[tuple[float, str]]:
        """Return the tests that run one of these lines, and how long each takes; of the function around them, if none is known.

        Nobody sees what runs in a process that is started without the environment: those are the tests of files that name the module.
        """
        found = [(self.seconds[n], self.tests[n]) for n in numbers(self._bits_of(sources, source, span)) if self.tests[n]]
        return found or self._mentioning(Path(source.name).stem)

    def closeness(self, sources: Sequence[Source], source: Source, place: str = "") -> dict[str, float]:
        """Return for each test how much it is about this file: the sum of what it has of each line's one point, shared by all who run it.

        A line of this place, a function, has NEAR points. Of a script, the lines are those of the functions that name it.
        """
        points: dict[str, float] = defaultdict(float)
        for name, texts in self._about(sources, source):
            worth = NEAR if name == place else 1.0
            for text, bits in texts.items():
                tests = [] if AT_IMPORT.match(text) else [self.tests[n] for n in numbers(int(bits, 16)) if self.tests[n]]
                for test in tests:
                    points[test] += worth / len(tests)
        for test in points:
            if Path(test.partition("::")[0]).stem.startswith(f"test_{Path(source.name).stem}"):
                points[test] += 1  # its file is named after this one
        return points

    def _about(self, sources: Sequence[Source], source: Source) -> Iterator[tuple[str, dict[str, str]]]:
        words = [re.compile(rf"\b{name}\b") for name in names_of(sources, Path(source.name).stem)] if source.lua else []
        at_import = {""} if source.lua else source.bodies
        for name, places in self.lines.items():
            for place, texts in places.items():
                if place not in at_import and (name == source.name or any(word.search(text) for word in words for text in texts)):
                    yield place, texts

    def _mentioning(self, module: str) -> list[tuple[float, str]]:
        word = re.compile(rf"\b{re.escape(module)}\b")
        files = {file for file in self.files if (ROOT / file).exists() and word.search((ROOT / file).read_text(encoding="utf-8"))}
        return [(took, test) for took, test in zip(self.seconds, self.tests, strict=True) if test.partition("::")[0] in files]

    def _bits_of(self, sources: Sequence[Source], source: Source, span: Span) -> int:
        if source.lua:
            return self._of_script(sources, Path(source.name).stem)
        place = source.place_of(span[0])
        if place in source.bodies and (bits := self._of_assigned(source, span)):
            return bits
        texts = {source.lines[line - 1].strip() for line in range(span[0], span[1] + 1)} - {""}
        for known in self._known(source.name, place):
            if bits := union(found[text] for found in known for text in texts if text in found):
                return bits
            if place and (bits := union(bits for found in known for bits in found.values())):
                return bits
        elsewhere = self.lines.get(source.name, {}).values()  # the place is new: its lines may have been another function's
        return union(found[text] for found in elsewhere for text in texts if text in found) or self._of_module_level(source, span)

    def _known(self, file: str, place: str) -> Iterator[list[dict[str, str]]]:
        """Give what is known of a place: in any file, since it may have moved; then in any class, which may have another name now."""
        yield [places[place] for name, places in self.lines.items() if place in places and (place or name == file)]
        last = place.rpartition(".")[2]
        yield [texts for places in self.lines.values() for name, texts in places.items() if last and name.rpartition(".")[2] == last]

    def _of_module_level(self, source: Source, span: Span) -> int:
        """Return who runs any line of the file or class, since imports belong to no test."""
        place = source.place_of(span[0])
        known = self.lines.get(source.name, {})
        return union(bits for name, texts in known.items() if name.startswith(place) for bits in texts.values())

    def _of_assigned(self, source: Source, span: Span) -> int:
        """Return who runs a line that uses a name assigned here: the line itself is run by who imports the file first."""
        line = source.lines[span[0] - 1].strip()
        assigned = re.match(r"(\w+(?:, \w+)*)\s*[:=]", line)
        return union(f"{self._naming(name, besides=line):x}" for name in assigned[1].split(", ")) if assigned else 0

    def _of_script(self, sources: Sequence[Source], stem: str) -> int:
        """Return who runs a line that names the script, or one of those that it begins."""
        bits = 0
        for name in names_of(sources, stem):
            bits |= self._naming(name)
        return bits

    def _naming(self, name: str, *, besides: str = "") -> int:
        word = re.compile(rf"\b{re.escape(name)}\b")
        return union(
            bits
            for places in self.lines.values()
            for texts in places.values()
            for text, bits in texts.items()
            if text != besides and word.search(text)
        )


def names_of(sources: Sequence[Source], stem: str) -> list[str]:
    """Return the names of the scripts that are this one, or begin with it."""
    text = "\n".join(source.text for source in sources if not source.lua)
    names: list[str] = re.findall(rf'(\w+) = Script\(\s*"{stem}"', text)
    return names + re.findall(rf'(\w+) = Script\([^()]*begins_with=\([^)]*"{stem}"', text)


def union(bits: Iterable[str]) -> int:
    """Return the tests of any of these."""
    result = 0
    for one in bits:
        result |= int(one, 16)
    return result


def numbers(bits: int) -> list[int]:
    """Return the numbers of the bits that are set."""
    return [n for n, digit in enumerate(reversed(f"{bits:b}")) if digit == "1"]


def choose(covering: list[tuple[float, str]], seconds: float, closeness: Mapping[str, float] | None = None) -> list[str]:
    """Return the tests to run, quick ones first and of each function one before another, for about so many seconds by what was noted.

    Half of the time is for tests that are close.
    """
    points = closeness or {}
    turns: dict[str, int] = defaultdict(int)
    rows: list[tuple[int, float, str]] = []
    for took, test in sorted(covering):
        function = test.partition("[")[0]
        rows.append((turns[function], took, test))
        turns[function] += 1
    rows.sort()
    close = sorted(rows, key=lambda row: (row[0], -points.get(row[2], 0.0)))
    chosen: set[str] = set()
    files: set[str] = set()
    left = 0.0
    for some in (close, rows) if points else (rows,):
        left += seconds / (2 if points else 1)
        for _, took, test in some:
            file = test.partition("::")[0]
            cost = took + 0.02 + (0 if file in files else 0.1)  # a file has to be imported, and a test collected
            if cost <= left and test not in chosen:
                left -= cost
                chosen.add(test)
                files.add(file)
    return [test for _, _, test in rows if test in chosen]


def load() -> Covering:
    """Read what was noted; nothing, if nothing was."""
    file = CACHE / "covering.json.gz"
    if not file.exists():
        return Covering([], [], {}, {})
    return msgspec.json.decode(gzip.decompress(file.read_bytes()), type=Covering)


def save(covering: Covering) -> None:
    """Write it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = CACHE / f"covering.{os.getpid()}"
    partial.write_bytes(gzip.compress(msgspec.json.encode(covering), 5))
    partial.replace(CACHE / "covering.json.gz")


def hash_of(file: Path) -> str:
    """Return the hash of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def stale(covering: Covering, folders: Sequence[str]) -> list[str]:
    """Return the test files, these or below these folders, that are new, or changed since they were noted."""
    places = [ROOT / "tests" / folder for folder in folders]
    found = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("test_*.py")))]
    return [name for file in found if covering.files.get(name := file.relative_to(ROOT).as_posix()) != hash_of(file)]


def note(covering: Covering, files: Sequence[str], limit: float) -> None:
    """Run these test files, and note what each test covers and how long it takes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with copy_of() as copy, tempfile.TemporaryDirectory(prefix="rq-covering-") as folder:
        work = Path(folder)
        rcfile = work / "coveragerc"
        rcfile.write_text(RCFILE.format(package=copy.root / "redisaq", data=work / "data", context=CONTEXT))
        orders = work / "orders"
        orders.write_bytes(msgspec.json.encode(Orders(log=str(work / "log"))))
        env = {ORDERS: str(orders), "COVERAGE_PROCESS_START": str(rcfile)}
        words = ["-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-p", "tests.mutants.plugin", *files]
        status = copy.python(*words, env=env, limit=limit, output=CACHE / "noting.log")
        if status not in (0, 1):
            raise SystemExit(f"pytest ended with {status}: see {CACHE / 'noting.log'}")
        log = [msgspec.json.decode(line, type=Line) for line in (work / "log").read_bytes().splitlines()]
        hashes = {file: hash_of(copy.root / file) for file in files}
        add(covering, hashes, {line.test: line.seconds for line in log if line.passed}, read(work, copy))


def read(work: Path, copy: Copy) -> dict[tuple[str, str, str], set[str]]:
    """Return the contexts of each line that has one: by file, place and text."""
    measured = coverage.Coverage(data_file=str(work / "data"), config_file=str(work / "coveragerc"))
    measured.combine(keep=True)
    data = measured.get_data()
    result: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for source in product(copy.root):
        for line, contexts in data.contexts_by_lineno(str(copy.root / source.name)).items():
            if line <= len(source.lines):
                key = source.name, source.place_of(line), source.lines[line - 1].strip()
                result[key].update(context.rpartition("|")[2] for context in contexts)
    return result


def add(covering: Covering, hashes: dict[str, str], seconds: dict[str, float], lines: dict[tuple[str, str, str], set[str]]) -> None:
    """Take up what was just noted, in place of what was known of these files."""
    covering.tests = ["" if test.partition("::")[0] in hashes else test for test in covering.tests]
    bits: dict[str, int] = {}
    for test, took in seconds.items():
        bits[context_of(test)] = 1 << len(covering.tests)
        covering.tests.append(test)
        covering.seconds.append(took)
    for (file, place, text), contexts in lines.items():
        found = covering.lines.setdefault(file, {}).setdefault(place, {})
        known = int(found.get(text, "0"), 16)
        for context in contexts:
            known |= bits.get(context, 0)
        if known:
            found[text] = f"{known:x}"
    covering.files |= hashes
