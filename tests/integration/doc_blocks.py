"""The python code blocks of README.md and of the other pages, and how they are run.

Input: Markdown pages. Output: `Block`s, each with its page and line, and functions that run one. Invariant: a block is run as the reader
sees it, character for character; the address `redis://localhost:6379/0`, written out or left to its default, leads to the test's server.

There are four kinds. A *test file* has `pytest=` in its comment, and is run by pytest. A *program* has `if __name__ == "__main__":`, and is
run as a process of its own. *Tests* have functions whose names begin with `test_`; each is called. Anything else is a *fragment*: it may
use `await`, `async with` and `async for` outside of functions, and is run inside an event loop; in asyncio alone if it mentions that, in
trio alone if it mentions that, else in every one. What a fragment leaves open is closed for it.

A comment on the line before a block, which no reader sees, may tell more:

    <!-- run: prelude=orders until="Order 3" prints="Order 1" prints="Order 2" -->

- `prelude`: the names that the text around the block speaks of come from the function of that name in doc_preludes.py.
- `until`: the block would never end; it is ended once it has printed this: a fragment by cancelling it, a program by SIGINT.
- `prints`: it must have printed this, too. May be there several times.
- `pytest`: it is a test file, and pytest's closing line must have this in it, such as "3 passed".
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import inspect
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio

from redisaq import Consumer, Producer
from redisaq.admin import Admin
from tests.testing.inner import installed
from tests.unit.source import ROOT

LOCAL = "redis://localhost:6379/0"
LIMIT = 120.0
OPTIONS = ("prelude", "until", "pytest", "prints")

Prelude = Callable[[dict[str, Any]], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        page: the file, as seen from the project's directory.
        line: where its first line stands.
        source: its text.
        prelude: the module says what this and the following ones are.
        until: "" for none.
        prints: what it must print.
    """

    page: str
    line: int
    source: str
    prelude: str = ""
    until: str = ""
    prints: tuple[str, ...] = ()
    pytest: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> Literal["test file", "program", "tests", "fragment"]:
        """How it is run."""
        if self.pytest:
            return "test file"
        if "__name__" in self.source:
            return "program"
        return "tests" if re.search(r"^def test_", self.source, re.MULTILINE) else "fragment"

    def runs_on(self, backend: str) -> bool:
        """Return whether it is to be run on the backend of this name."""
        loops = {name for name in ("asyncio", "trio") if re.search(rf"\b{name}\.", self.source)}
        return not loops or ("trio" if backend == "trio" else "asyncio") in loops


def pages() -> list[Path]:
    """Return every page whose blocks are run."""
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]


def blocks_of(text: str, page: str) -> list[Block]:
    """Return the python blocks of a page.

    Raises:
        ValueError: a block does not end, or the comment before it cannot be understood.
    """
    found: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        start = at
        at += 1
        if not lines[start].startswith("```"):
            continue
        while at < len(lines) and lines[at] != "```":
            at += 1
        if at == len(lines):
            raise ValueError(f"{page}:{start + 1}: this block does not end")
        if lines[start] == "```python":
            source = "\n".join(lines[start + 1 : at]) + "\n"
            options = options_of(lines[start - 1] if start else "", f"{page}:{start}")
            prints = tuple(options["prints"])
            found.append(Block(page, start + 2, source, options["prelude"], options["until"], prints, options["pytest"]))
        at += 1
    return found


def options_of(line: str, place: str) -> dict[str, Any]:
    """Return what the comment before a block tells."""
    options: dict[str, Any] = {"prelude": "", "until": "", "prints": [], "pytest": ""}
    match = re.fullmatch(r"<!-- run: (.*) -->", line)
    if match is None:
        if "<!--" in line:
            raise ValueError(f"{place}: this comment stands before a block and cannot be understood")
        return options
    for word in shlex.split(match[1]):
        name, _, value = word.partition("=")
        if name not in OPTIONS or not value:
            raise ValueError(f"{place}: {word!r} is none of {', '.join(OPTIONS)}")
        if name == "prints":
            options["prints"].append(value)
        else:
            options[name] = value
    return options


def check_output(block: Block, output: str) -> None:
    """Raise AssertionError unless the block has printed what it should."""
    for text in (block.until, *block.prints):
        assert text in output, f"{block} should print {text!r}; it printed:\n{output}"


# -- programs --------------------------------------------------------------------------------------------------------------------

REDIRECT = """
import runpy, sys
from redisaq.brokers import access
local, server, file = sys.argv[1:]
real = access.open_broker
access.open_broker = lambda url, *more, **named: real(server if url == local else url, *more, **named)
runpy.run_path(file, run_name="__main__")
"""


def run_program(block: Block, server_url: str, directory: Path) -> str:
    """Run a program to its end, in a directory; return what it printed."""
    file = directory / "program.py"
    file.write_text(block.source, encoding="utf-8")
    command = [sys.executable, "-u", "-W", "error", "-c", REDIRECT, LOCAL, server_url, str(file)]
    surroundings = os.environ | {"PYTHONPATH": ""}
    output, errors = directory / "output", directory / "errors"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=directory, env=surroundings)
        try:
            limit = time.monotonic() + LIMIT
            while block.until and process.poll() is None and block.until not in output.read_text() and time.monotonic() < limit:
                time.sleep(0.01)
            if block.until:
                process.send_signal(signal.SIGINT)
            process.wait(max(1.0, limit - time.monotonic()))
        finally:
            process.kill()
            process.wait()
    printed, complaints = output.read_text(), errors.read_text()
    check_output(block, printed)
    if block.until and process.returncode:  # interrupted, asyncio.run and trio.run end so: with that, or with a group of nothing else
        assert set(re.findall(r"^[ |]*(\w+)(?::.*)?$", complaints, re.MULTILINE)) <= {"KeyboardInterrupt", "BaseExceptionGroup"}, complaints
        assert "KeyboardInterrupt" in complaints
    else:
        assert (process.returncode, complaints) == (0, ""), complaints
    return printed


def run_test_file(block: Block, directory: Path) -> str:
    """Let pytest run a test file, with redisaq's plugin, in a directory; return what it printed."""
    (directory / "test_block.py").write_text(block.source, encoding="utf-8")
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\naddopts = --strict-markers -ra\n", encoding="utf-8")
    plugin = () if installed() else ("-p", "redisaq_pytest")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider"],
        check=False,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert block.pytest in result.stdout.splitlines()[-1], result.stdout + result.stderr
    check_output(block, result.stdout)
    return result.stdout


# -- tests and fragments ---------------------------------------------------------------------------------------------------------


def compiled(block: Block) -> types.CodeType:
    """Return the block's code, whose lines are the page's."""
    code = compile("\n" * (block.line - 1) + block.source, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    assert isinstance(code, types.CodeType)
    return code


@contextlib.contextmanager
def namespace_of_a_block() -> Iterator[dict[str, Any]]:
    """Return the names of a module that is there while a block runs: annotations are looked up in it."""
    module = types.ModuleType("redisaq_doc_block")
    vars(module)["__builtins__"] = builtins  # what exec would do
    sys.modules[module.__name__] = module
    try:
        yield vars(module)
    finally:
        del sys.modules[module.__name__]


def run_tests(block: Block) -> None:
    """Define the block's functions and call each test."""
    with namespace_of_a_block() as names:
        types.FunctionType(compiled(block), names)()
        for test in [thing for name, thing in names.items() if name.startswith("test_")]:
            test()


async def run_fragment(block: Block, preludes: Mapping[str, Prelude]) -> str:
    """Run a fragment in this event loop; return what it printed."""
    printed = io.StringIO()
    with namespace_of_a_block() as names, contextlib.redirect_stdout(printed), anyio.fail_after(LIMIT):
        async with preludes[block.prelude](names) if block.prelude else contextlib.nullcontext(), closing(names):
            await run_until(block, names, printed)
    check_output(block, printed.getvalue())
    return printed.getvalue()


async def run_until(block: Block, names: dict[str, Any], printed: io.StringIO) -> None:
    """Run the source; cancel it where it is not to end by itself."""
    if not block.until:
        await run_source(block, names)
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_when_printed, block.until, printed, tasks.cancel_scope)
        await run_source(block, names)
        tasks.cancel_scope.cancel()


async def run_source(block: Block, names: dict[str, Any]) -> None:
    """Run the source in this task."""
    code = compiled(block)
    result = types.FunctionType(code, names)()
    if code.co_flags & inspect.CO_COROUTINE:
        await result


async def cancel_when_printed(text: str, printed: io.StringIO, scope: anyio.CancelScope) -> None:
    """Cancel the scope once the text has been printed."""
    while text not in printed.getvalue():  # handlers may print from threads
        await anyio.sleep(0.01)
    scope.cancel()


@contextlib.asynccontextmanager
async def closing(names: dict[str, Any]) -> AsyncIterator[None]:
    """Close the producers and consumers that a fragment has made."""
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            for thing in list(names.values()):
                if isinstance(thing, Admin | Consumer | Producer):
                    await thing.close()
