r"""Follows a page of the documents as a reader would: writes its files, types its commands, compares what they print.

Input: a Markdown page, whose blocks are read from the top. A block with a title is a file of that name. A `bash` block is typed into a
shell, line by line; `pip install` is left out, since everything is installed here. A `text` block after it shows what must be printed: each
line must come, where `…` stands for anything. Comments that no reader sees say the rest:

    <!-- walk: background -->   the next commands go on running, in a terminal of their own; wait for what the `text` block shows
    <!-- walk: stop -->         press Ctrl-C in the terminal that was opened last, and wait until its command has ended well
    <!-- walk: exit=1 -->       the next commands end with this status
    <!-- walk: ID="(\d+)" -->    from here on, the word ID in a command is what this pattern finds in what was printed last

Invariant: a process that a page has started is gone when the walk is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WALKS = {
    "docs/guides/fastapi.md",
    "docs/guides/replay-a-crash.md",
    "docs/operate/dead-letters.md",
    "docs/operate/systemd.md",
    "docs/start/first-queue.md",
}
"""The pages that test_walkthroughs.py follows; on other pages, a block with a title would be code that nobody runs."""

LIMIT = 120.0
"""Seconds that one command may take, on a machine that does much else."""

PIECE = re.compile(
    r"""^```(?P<language>\w+)(?:[ ]title="(?P<title>[^"\n]+)")?\n(?P<text>.*?)^```$ | ^<!--[ ]walk:[ ](?P<order>[^\n]*?)[ ]-->$""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class Piece:
    """A block of a page, or a comment for the walk.

    Attributes:
        line: where it begins.
        language: of a block, as it is written behind the fence; "" for a comment.
        title: the file's name; "" for a block that is no file.
        text: the block's lines, or the words of the comment.
    """

    line: int
    language: str
    title: str
    text: str


def pieces_of(page: str) -> list[Piece]:
    """Return the blocks and comments of a page."""
    return [
        Piece(page.count("\n", 0, match.start()) + 1, match["language"] or "", match["title"] or "", match["text"] or match["order"] or "")
        for match in PIECE.finditer(page)
    ]


@dataclass
class Terminal:
    """A command that goes on running, and what it has printed so far."""

    process: subprocess.Popen[bytes]
    output: Path

    def printed(self) -> str:
        """Return what it has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Press Ctrl-C, which signals the whole group of processes, and wait."""
        os.killpg(self.process.pid, signal.SIGINT)
        status = self.process.wait(LIMIT)
        assert status in {0, 130, -signal.SIGINT}, f"ended with {status}:\n{self.printed()}"

    def kill(self) -> None:
        """End whatever is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Walk:
    """One walk through a page, in a directory."""

    directory: Path
    environment: dict[str, str]
    terminals: list[Terminal] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    printed: str = ""
    behind: bool = False
    status: int = 0

    def follow(self, pieces: list[Piece]) -> None:
        """Do what the page says, from its top to its end."""
        for piece in pieces:
            try:
                self.take(piece)
            except AssertionError as error:
                error.add_note(f"at line {piece.line} of the page")
                raise
        assert self.terminals == [], "the page leaves something running"

    def take(self, piece: Piece) -> None:
        """Do what one piece says."""
        if piece.title:
            file = self.directory / piece.title.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(piece.text, encoding="utf-8")
        elif not piece.language:
            self.obey(piece.text)
        elif piece.language == "bash":
            self.type(piece.text)
        elif piece.language == "text":
            self.compare(piece.text)

    def obey(self, order: str) -> None:
        """Do what a comment says."""
        name, _, value = shlex.split(order)[0].partition("=")
        if name == "background":
            self.behind = True
        elif name == "stop":
            terminal = self.terminals.pop()
            terminal.stop()
            self.printed = terminal.printed()
        elif name == "exit":
            self.status = int(value)
        else:
            assert name.isupper(), f"no such comment: {order}"
            found = re.search(value, self.printed)
            assert found, f"{value!r} is not in what was printed:\n{self.printed}"
            self.words[name] = found[1]

    def type(self, commands: str) -> None:
        """Type commands into a terminal."""
        lines = [line for line in commands.splitlines() if not line.startswith(("pip install", "python -m venv", ". "))]
        for line in [line for line in lines if line.startswith("export ")]:
            name, _, value = shlex.split(line)[1].partition("=")
            self.environment[name] = value
        script = "\n".join(line for line in lines if not line.startswith("export "))
        for word, value in self.words.items():
            script = re.sub(rf"\b{word}\b", value, script)
        if not script.strip():
            return
        if self.behind:
            self.behind = False
            self.terminals.append(self.open(script))
        else:
            self.run(script)

    def open(self, script: str) -> Terminal:
        """Start what goes on running."""
        output = self.directory / f".terminal-{time.monotonic_ns()}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-e", "-c", f"exec {script}"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=self.environment,
                start_new_session=True,
            )
        return Terminal(process, output)

    def run(self, script: str) -> None:
        """Run commands to their end."""
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=self.environment,
            timeout=LIMIT,
        )
        self.printed = done.stdout.decode(errors="replace")
        expected, self.status = self.status, 0
        assert done.returncode == expected, f"ended with {done.returncode}:\n{self.printed}"

    def compare(self, shown: str) -> None:
        """Compare what the page shows with what was printed; a command that still runs has some time to print it."""
        patterns = [pattern_of(line) for line in shown.splitlines() if line.strip(" …")]
        limit = time.monotonic() + LIMIT
        while self.terminals and missing(patterns, self.printed + self.terminals[-1].printed()) and time.monotonic() < limit:
            assert self.terminals[-1].process.poll() is None, f"it has ended:\n{self.terminals[-1].printed()}"
            time.sleep(0.02)
        printed = self.printed + "".join(terminal.printed() for terminal in self.terminals)
        assert missing(patterns, printed) == [], f"printed:\n{printed}"


def pattern_of(line: str) -> str:
    """Return the pattern that a line of the page stands for; runs of spaces count as one."""
    return r"\s*".join(".*".join(re.escape(part) for part in word.split("…")) for word in line.split())


def missing(patterns: list[str], printed: str) -> list[str]:
    """Return the patterns that no line of what was printed has."""
    lines = printed.splitlines()
    return [pattern for pattern in patterns if not any(re.search(pattern, line) for line in lines)]


@contextlib.contextmanager
def walk(directory: Path, **environment: str) -> Iterator[Walk]:
    """Return a walk that begins in this directory, in a shell with `python`, `pytest` and `redisaq`; end what it leaves."""
    commands = directory / ".commands"
    commands.mkdir()
    redisaq = "-c 'import sys; from redisaq_command import main; sys.exit(main())'"
    for name, run in (("python", ""), ("pytest", "-m pytest"), ("uvicorn", "-m uvicorn"), ("redisaq", redisaq)):
        (commands / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {run} "$@"\n', encoding="utf-8")
        (commands / name).chmod(stat.S_IRWXU)
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("REDISAQ_", "PYTEST_"))}
    path = f"{commands}{os.pathsep}{surroundings['PATH']}"
    walking = Walk(directory, surroundings | {"PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "140", "NO_COLOR": "1"} | environment)
    try:
        yield walking
    finally:
        for terminal in walking.terminals:
            terminal.kill()
