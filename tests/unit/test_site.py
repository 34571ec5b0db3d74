"""What checks a built site (`python -m tests.site`) can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site.built import entries_of, fetched_from_elsewhere, missing
from tests.site.public import Name, names

PAGE = """
<h2 id="redisaq.Thing" class="doc">Thing</h2><p>Thing(size: int = 3, name: str = <b>"a"</b>)</p>
<h3 id="redisaq.Thing.go" class="doc">go</h3><p>go(limit: float)</p><table><td>SettingsError</td></table>
"""


def thing(path: str, parameters: tuple[tuple[str, str], ...] = (), raises: tuple[str, ...] = ()) -> Name:
    return Name(path, frozenset({path}), parameters, raises)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "index.html").write_text(PAGE)
    return tmp_path


def test_what_is_there(site: Path) -> None:
    entries = entries_of(site)
    assert missing(thing("redisaq.Thing", (("size", "3"), ("name", "'a'"))), entries) == []
    assert missing(thing("redisaq.Thing.go", (("limit", ""),), ("SettingsError",)), entries) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (thing("redisaq.Other"), "redisaq.Other: not in the reference"),
        (thing("redisaq.Thing", (("limit", ""),)), "redisaq.Thing: no parameter limit"),
        (thing("redisaq.Thing", (("size", "4"),)), "redisaq.Thing: size should be 4"),
        (thing("redisaq.Thing", (), ("SettingsError",)), "redisaq.Thing: no error SettingsError"),
    ],
)
def test_what_is_missing(site: Path, name: Name, sentence: str) -> None:
    assert missing(name, entries_of(site)) == [sentence]


@pytest.mark.parametrize(
    ("markup", "found"),
    [
        ('<script src="https://example.org/a.js">', ["index.html: https://example.org/a.js"]),
        ('<link rel="stylesheet" href="//example.org/a.css">', ["index.html: //example.org/a.css"]),
        ('<a href="https://example.org/">', []),
        ('<script src="assets/a.js">', []),
    ],
)
def test_what_is_fetched(tmp_path: Path, markup: str, found: list[str]) -> None:
    (tmp_path / "index.html").write_text(markup)
    assert fetched_from_elsewhere(tmp_path) == found


def test_the_public_names_with_what_belongs_to_them() -> None:
    found = {name.path: name for name in names()}
    assert {"redisaq.Consumer.process", "redisaq.errors.QueueFull", "redisaq.events.LeaseLost", "redisaq.testing.simulate"} <= set(found)
    assert ("send_timeout", "30.0") in found["redisaq.Producer"].parameters
    assert "SettingsError" in found["redisaq.Producer"].raises
