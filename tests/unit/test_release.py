"""The check before a release can fail: of the changelog, and of what was built. What needs the network is run by hand."""

from __future__ import annotations

import io
import runpy
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from redisaq.identity import VERSION
from tests.release import artifacts, changelog
from tests.release.__main__ import files_of_git
from tests.unit.source import ROOT

CHANGES = "# Changelog\n\n## 1.2.0 (2026-01-31)\n\n### Added\n\n- Something.\n\n## 1.1.0 (2025-12-01)\n\n- Something else.\n"


def test_the_changelog_has_this_version() -> None:
    assert changelog.problems((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), VERSION, dated=False) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (CHANGES, []),
        (CHANGES.replace("1.2.0", "1.1.9"), ["the changelog's first version is 1.1.9, not 1.2.0"]),
        ("# Changelog\n", ["the changelog's first version is none, not 1.2.0"]),
        (CHANGES.replace("2026-01-31", "unreleased"), ["the changelog gives no date for 1.2.0: ## 1.2.0 (YYYY-MM-DD)"]),
        (CHANGES.replace("- Something.\n", ""), ["the changelog says nothing of 1.2.0"]),
    ],
)
def test_what_is_wrong_with_a_changelog(text: str, wrong: list[str]) -> None:
    assert changelog.problems(text, "1.2.0") == wrong


def built(directory: Path, *, without: str = "", version: str = "1.2.0") -> list[Path]:
    """Make a wheel and an sdist of a small tree, as a build would, but for one file."""
    tree = directory / "tree"
    for name in ("redisaq/__init__.py", "redisaq/settle.lua", *artifacts.BESIDE):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("")
    information = f"redisaq-{version}.dist-info"
    wheel, sdist = directory / f"redisaq-{version}-py3-none-any.whl", directory / f"redisaq-{version}.tar.gz"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{information}/METADATA", f"Name: redisaq\nVersion: {version}\n")
        for name in artifacts.of_package(tree) - {without}:
            archive.writestr(name, "")
        if without != "LICENSE":
            archive.writestr(f"{information}/licenses/LICENSE", "")
    with tarfile.open(sdist, "w:gz") as tar:
        for name in (artifacts.of_package(tree) | set(artifacts.IN_SDIST)) - {without}:
            tar.addfile(tarfile.TarInfo(f"redisaq-{version}/{name}"), io.BytesIO())
    return [wheel, sdist]


@pytest.mark.parametrize(
    ("without", "wrong"),
    [
        ("", []),
        ("redisaq/settle.lua", ["the wheel: redisaq/settle.lua is only in one of wheel and tree", "the sdist: no redisaq/settle.lua"]),
        ("LICENSE", ["the wheel: no licence", "the sdist: no LICENSE"]),
    ],
)
def test_what_is_wrong_with_what_was_built(tmp_path: Path, without: str, wrong: list[str]) -> None:
    assert artifacts.problems(built(tmp_path, without=without), "1.2.0", tmp_path / "tree") == wrong


def test_another_version_was_built(tmp_path: Path) -> None:
    (sentence,) = artifacts.problems(built(tmp_path, version="1.1.0"), "1.2.0", tmp_path / "tree")
    assert sentence.startswith("built are redisaq-1.1.0-py3-none-any.whl")


def test_only_files_of_git_are_built(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    files_of_git(tmp_path)
    assert artifacts.of_package(tmp_path) <= artifacts.of_package(ROOT)
    assert (tmp_path / "pyproject.toml").is_file()
    assert not (tmp_path / ".git").exists()


def test_the_sdist_has_every_file_that_is_asked_for() -> None:
    assert [name for name in artifacts.IN_SDIST if not (ROOT / name).is_file()] == []


def test_the_smoke_test_notices_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["smoke.py", "0.0.0"])
    with pytest.raises(AssertionError):
        runpy.run_path(str(ROOT / "tests" / "release" / "smoke.py"), run_name="__main__")
