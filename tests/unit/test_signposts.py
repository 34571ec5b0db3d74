"""The ten questions of CONTRIBUTING.md are answered with places that exist, and docs/understand/architecture.md shows the tree as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.signposts import PAGE, Signpost, line_of, renewed, signposts
from tests.unit.source import PACKAGE, ROOT, name_of, python_files

POSTS = list(signposts(PAGE.read_text(encoding="utf-8")))
IN_SIGHT = 40
"""Lines by which a number may be off: the name is in sight from there, and a line more in a file is no reason to change the page."""


def test_there_are_ten_questions_each_with_an_answer() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.split("## Ten questions\n", 1)[1].split("\n## ", 1)[0]
    questions = re.split(r"^\d+\. \*\*", section, flags=re.MULTILINE)[1:]
    assert len(questions) == 10
    for question in questions:
        assert "?**" in question
        assert list(signposts(question)), f"no place is named: {question[:60]}"


@pytest.mark.parametrize("post", POSTS, ids=lambda post: f"{post.file}:{post.name}")
def test_the_place_exists(post: Signpost) -> None:
    actual = post.actual()
    assert actual is not None, f"{post.file} defines no {post.name}"
    assert abs(post.line - actual) <= IN_SIGHT, f"{post.name} is at line {actual}: run `python -m tests.unit.signposts`"


def test_every_place_of_the_page_is_checked() -> None:
    """A place that is written in another form would be passed over."""
    places = re.findall(r"[\w./]+\.\w+:\d+", PAGE.read_text(encoding="utf-8"))
    assert places == [f"{post.file}:{post.line}" for post in POSTS]


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "understand" / "architecture.md").read_text(encoding="utf-8")
    files = [f"/{name_of(file)}" for file in python_files("redisaq")]
    named = set(re.findall(r"(?<!tests/)\b[a-z_/]+\.py\b", text)) | {
        f"{folder}__init__.py" for folder in re.findall(r"^  ([a-z]+/)", text, re.MULTILINE)
    }
    assert [name for name in sorted(named) if not any(file.endswith(f"/{name}") for file in files)] == []


def test_the_architecture_names_every_file() -> None:
    """Those of brokers/ that do the steps have the names of the steps' files, which are listed by subject."""
    text = (ROOT / "docs" / "understand" / "architecture.md").read_text(encoding="utf-8")
    apart = {PACKAGE / "testing", *(PACKAGE / "brokers" / name for name in ("steps", "redis", "memory"))}
    files = {file.name for file in PACKAGE.rglob("*.py") if not file.name.startswith("_") and apart.isdisjoint(file.parents)}
    assert files - set(re.findall(r"\b[a-z_]+\.py\b", text)) == set()


def test_lines_are_found_and_renewed(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("A, B = 1, 2\n\n\nclass C:\n    D: int = 3\n\n    async def e(self) -> None:\n        f = 1\n")
    assert [line_of(file, name) for name in ("A", "B", "C", "C.D", "C.e", "C.e.f", "D", "G")] == [1, 1, 4, 5, 7, None, None, None]
    line = line_of(ROOT / "tests/unit/signposts.py", "line_of")
    assert renewed("`line_of` (`tests/unit/signposts.py:1`), `gone` (`x.py:7`)") == (
        f"`line_of` (`tests/unit/signposts.py:{line}`), `gone` (`x.py:7`)"
    )
