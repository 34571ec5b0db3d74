"""Each worker's row of a run begins with long files and ends with short ones, and no item is lost."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest

from tests.longest_first import LONG, WAITING, arranged
from tests.unit.source import ROOT

Item = tuple[str, int]

LONG_FILES = [f"tests/simulation/test_{letter}.py" for letter in "abcdefg"]
FILES = {f"tests/unit/test_{number:02}.py": 7 for number in range(30)} | dict.fromkeys(LONG_FILES, 5)


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_each_row_begins_with_long_files_and_none_is_torn(workers: int) -> None:
    items: list[Item] = [(file, number) for file in sorted(FILES) for number in range(FILES[file])]
    found = arranged(items, workers, lambda item: item[0])
    assert sorted(found) == items
    ends = [len(items) * number // workers for number in range(workers + 1)]
    rows = [found[begin:end] for begin, end in pairwise(ends)]
    long = [[file for file, _ in groupby(row, lambda item: item[0]) if file in LONG_FILES] for row in rows]
    assert sorted(file for row in long for file in row) == LONG_FILES, "each in one row"
    assert max(map(len, long)) - min(map(len, long)) <= 1
    for row, files in zip(rows, long, strict=True):
        assert [item[0] for item in row[: 5 * len(files)]] == [file for file in files for _ in range(5)]


def test_the_files_that_wait_begin_at_another_place_in_each_row() -> None:
    items: list[Item] = [(file, 0) for file in sorted([*WAITING, *(f"tests/simulation/test_{number:02}.py" for number in range(50))])]
    found = arranged(items, 5, lambda item: item[0])
    rows = [[file in WAITING for file, _ in found[begin : begin + 12]] for begin in range(0, 60, 12)]
    assert [row.index(True) for row in rows] == [0, 2, 4, 6, 8]
    assert [row.count(True) for row in rows] == [2] * 5


def test_where_all_are_long_all_are_there() -> None:
    items: list[Item] = [(file, number) for file in LONG_FILES for number in range(5)]
    assert sorted(arranged(items, 4, lambda item: item[0])) == items


def test_each_name_is_that_of_files() -> None:
    files = [file.relative_to(ROOT).as_posix() for file in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in (*LONG, *WAITING) if not any(file.startswith(name) for file in files)] == []
