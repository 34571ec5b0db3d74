"""Every python block of README.md and of the other pages runs, and none is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq import brokers
from redisaq.brokers import access
from tests.conftest import BACKENDS, Backend
from tests.integration.doc_blocks import LOCAL, Block, blocks_of, pages, run_fragment, run_program, run_test_file, run_tests
from tests.integration.doc_preludes import PRELUDES
from tests.integration.walkthroughs import WALKS, pieces_of
from tests.server_fixtures import ServerPool
from tests.servers import Server
from tests.unit.source import ROOT

BLOCKS = [block for page in pages() for block in blocks_of(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))]
FRAGMENTS = [block for block in BLOCKS if block.kind == "fragment"]
PROGRAMS = [block for block in BLOCKS if block.kind == "program"]
TESTS = [block for block in BLOCKS if block.kind == "tests"]
TEST_FILES = [block for block in BLOCKS if block.kind == "test file"]
ON_BACKENDS = [
    pytest.param(block, backend.values[0], id=f"{block}-{backend.id}", marks=backend.marks)
    for backend in BACKENDS
    for block in FRAGMENTS
    if block.runs_on(str(backend.id))
]


@pytest.fixture(scope="module")
def docs_server(server_pool: ServerPool) -> Iterator[Server]:
    """A server for the blocks alone: they use the default namespace."""
    own = server_pool.new("valkey9")
    yield own
    own.close()


@pytest.fixture
def redis(docs_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same, empty, and the one that the default address leads to."""
    docs_server.flush()

    def open_broker(url: str, *more: Any, **named: Any) -> Any:
        return real(docs_server.url if url == LOCAL else url, *more, **named)

    real = brokers.open_broker
    monkeypatch.setattr(access, "open_broker", open_broker)
    return docs_server


@pytest.mark.anyio
@pytest.mark.parametrize(("block", "anyio_backend"), ON_BACKENDS, indirect=["anyio_backend"])
async def test_fragment(block: Block, anyio_backend: Backend, redis: Server) -> None:
    await run_fragment(block, PRELUDES)


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_program(block: Block, redis: Server, tmp_path: Path) -> None:
    async def before() -> None:
        async with PRELUDES[block.prelude]({}):
            pass

    if block.prelude:
        anyio.run(before)
    run_program(block, redis.url, tmp_path)


@pytest.mark.parametrize("block", TESTS, ids=str)
def test_tests(block: Block) -> None:
    run_tests(block)


@pytest.mark.parametrize("block", TEST_FILES, ids=str)
def test_test_file(block: Block, tmp_path: Path) -> None:
    run_test_file(block, tmp_path)


# -- none is left out ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_is_left_out(page: Path) -> None:
    """Counted in another way than `blocks_of` finds them: whatever a Markdown renderer would take for code in Python."""
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^[ \t>*-]*(?:`{3,}|~{3,})[ \t]*(?:py|python|python3|pycon|\{\.?python\})\b", text, re.IGNORECASE | re.MULTILINE)
    name = str(page.relative_to(ROOT))
    files = [piece for piece in pieces_of(text) if piece.title.endswith(".py")]
    assert not files or name in WALKS, "a file that no walk writes"
    run = {block for block in BLOCKS if block.page == name and block in [*FRAGMENTS, *PROGRAMS, *TESTS, *TEST_FILES]}
    assert len(fences) == len(run) + len(files)
    backends_of = {block: [param.id for param in ON_BACKENDS if param.values[0] is block] for block in run if block.kind == "fragment"}
    assert all(backends_of.values()), "a fragment that no backend runs"
    untold = re.findall(r"^```[ \t]*\n[^`]*?^(?:import|from|async|await|def|class) .*$", text, re.MULTILINE)
    assert untold == [], "a block of code that does not say it is Python"


def test_there_are_all_kinds() -> None:
    assert {"README.md", "docs/guides/retries.md", "docs/operate/admin.md"} <= {block.page for block in BLOCKS}
    assert FRAGMENTS
    assert TESTS
    assert {"asyncio", "trio"} <= {name for block in PROGRAMS for name in ("asyncio", "trio") if f"{name}.run(" in block.source}


# -- what runs them can fail ------------------------------------------------------------------------------------------------------------

PAGE = """
Text.

```python
print("one")
```

<!-- run: prelude=orders until="order 3" prints="order 1" prints='order "2"' -->
```python
await something()
```

```bash
ls
```

```python
def test_it():
    assert False
```
"""


def test_blocks_are_found() -> None:
    assert blocks_of(PAGE, "page.md") == [
        Block("page.md", 5, 'print("one")\n'),
        Block("page.md", 10, "await something()\n", "orders", "order 3", ("order 1", 'order "2"')),
        Block("page.md", 18, "def test_it():\n    assert False\n"),
    ]


@pytest.mark.parametrize("comment", ["<!-- run: skip=yes -->", "<!-- run: prelude -->", "<!-- run prelude=orders -->", "<!-- skip -->"])
def test_a_comment_that_means_nothing_is_an_error(comment: str) -> None:
    with pytest.raises(ValueError, match=r"page\.md:1"):
        blocks_of(f"{comment}\n```python\nprint()\n```\n", "page.md")


def test_a_block_that_does_not_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not end"):
        blocks_of("```python\nprint()\n", "page.md")


@pytest.mark.anyio
async def test_a_wrong_fragment_fails_where_it_stands() -> None:
    with pytest.raises(ZeroDivisionError) as failure:
        await run_fragment(Block("page.md", 30, "import anyio\nawait anyio.sleep(0)\n1 / 0\n"), PRELUDES)
    assert (failure.traceback[-1].path, failure.traceback[-1].lineno + 1) == ("page.md", 32)


@pytest.mark.anyio
async def test_a_fragment_that_does_not_print_fails() -> None:
    with pytest.raises(AssertionError, match="should print 'two'"):
        await run_fragment(Block("page.md", 1, "print('one')\n", prints=("two",)), PRELUDES)


@pytest.mark.anyio
async def test_a_fragment_is_ended_when_it_has_printed() -> None:
    source = "import anyio\nn = 0\nwhile True:\n    print(n)\n    n += 1\n    await anyio.sleep(0.001)\n"
    assert "3\n" in await run_fragment(Block("page.md", 1, source, until="3"), PRELUDES)


@pytest.mark.parametrize(("source", "match"), [("1 / 0\n", "ZeroDivisionError"), ("import sys; print('x', file=sys.stderr)\n", "x")])
def test_a_wrong_program_fails(source: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=match):
        run_program(Block("page.md", 1, source), LOCAL, tmp_path)


def test_wrong_tests_fail() -> None:
    with pytest.raises(AssertionError):
        run_tests(blocks_of(PAGE, "page.md")[-1])
