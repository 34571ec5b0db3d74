"""What README.md and docs/ say is so: settings and their defaults, events, keys, actors, names of tests, rules and files, links."""

from __future__ import annotations

import ast
import builtins
import inspect
import logging
import re
import shlex
import tomllib
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from redisaq import Consumer, Message, Producer, RetryPolicy, errors, events
from redisaq.cli.command_line import make_commands
from redisaq.consuming.bulletin import LEVELS
from redisaq.settings import ConsumerSettings
from tests.integration.doc_blocks import pages
from tests.integration.walkthroughs import pieces_of
from tests.unit.source import PACKAGE, ROOT, tree_of

if TYPE_CHECKING:
    from redisaq.actors import Node
    from tests.servers import Server

DOCS = ROOT / "docs"


@cache
def text_of(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


README = text_of(ROOT / "README.md")
GUARANTEES = text_of(DOCS / "understand" / "guarantees.md")
SETTINGS = text_of(DOCS / "reference" / "settings.md")
EVENTS = text_of(DOCS / "reference" / "events.md")
KEYS = text_of(DOCS / "reference" / "keys.md")
ARCHITECTURE = text_of(DOCS / "understand" / "architecture.md")


def table(text: str, *head: str) -> list[list[str]]:
    """Return the cells of the rows of the first table with these heads, from there on."""
    lines = text[text.index(f"| {' | '.join(head)} |") :].splitlines()[2:]
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


# -- the API -----------------------------------------------------------------------------------------------------------------------


def default_told(text: str) -> object:
    """Return what a default in a table stands for."""
    return RetryPolicy() if text == "RetryPolicy()" else ast.literal_eval(text)


def settings_told(heading: str) -> dict[str, object]:
    """Return the settings of the table below this heading, with their defaults; `...` for none."""
    rows = table(SETTINGS[SETTINGS.index(f"**{heading}**") :], "setting", "default", "what it is")
    return {name.strip("`"): default_told(default.strip("`")) if default else ... for name, default, _ in rows}


def test_the_producers_settings() -> None:
    parameters = list(inspect.signature(Producer).parameters.values())
    assert settings_told("Producer") == {p.name: ... if p.default is p.empty else p.default for p in parameters}
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == list(settings_told("Producer"))[:2]


def test_the_consumers_settings() -> None:
    parameters = [p for p in inspect.signature(Consumer.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD][1:]
    expected = {p.name: ... if p.default is p.empty else p.default for p in parameters}
    for field in fields(ConsumerSettings):
        assert field.default is not MISSING
        expected[field.name] = field.default
    assert settings_told("Consumer") == expected
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == list(settings_told("Consumer"))[:2]


def test_the_retry_policy() -> None:
    told = table(text_of(DOCS / "guides" / "retries.md"), "`RetryPolicy`", "default", "what it is")
    defaults = {field.name: field.default for field in fields(RetryPolicy)}
    assert {name.strip("`"): ast.literal_eval(default.strip("`")) for name, default, _ in told} == defaults


def test_the_commands() -> None:
    """Each that there is has its row, and each row its command."""
    told = {
        name
        for row in table(text_of(DOCS / "reference" / "commands.md"), "command", "what it does")
        for name in re.findall(r"`redisaq ([a-z -]+)", row[0])
    }
    commands = make_commands()
    there = {name for name in commands if not name.startswith("-") and name != "dead"}
    there |= {f"dead {name}" for name in commands["dead"] if not name.startswith("-")}
    assert {name.strip() for name in told} == there


def test_commands_to_type_can_be_read() -> None:
    """Each is a command that exists, with options that exist; words in capitals stand for what the reader puts in."""
    commands = make_commands()
    examples = {"N": "3", "TIME": "2026-01-31T03:00:00+00:00"}
    blocks = [block for page in pages() for block in re.findall(r"^```bash\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)]
    typed = [line for block in blocks for line in block.splitlines() if line.startswith("redisaq ")]
    assert len(typed) > 30
    for line in typed:
        words = [examples.get(word, word) for word in shlex.split(line, comments=True)]
        commands.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_commands_in_sentences_exist() -> None:
    commands = make_commands()
    named = {words for page in pages() for words in re.findall(r"`redisaq\s+([a-z]+(?:-[a-z]+)*)\b(?!:)", text_of(page))}
    assert len(named) > 15
    assert {name for name in named if name not in commands} == set()


def test_the_events_and_their_levels() -> None:
    kinds = [thing for thing in vars(events).values() if inspect.isclass(thing) and issubclass(thing, events.Event)]
    leaves = {kind for kind in kinds if not kind.__subclasses__()}
    told = {name.strip("`"): level for name, level, _ in table(EVENTS, "event", "logged at", "when")}
    assert told == {kind.__name__: logging.getLevelName(LEVELS.get(kind, logging.DEBUG)) for kind in leaves}
    assert {word for page in pages() for word in re.findall(r"`([A-Z]\w+)` \(event", text_of(page))} <= set(told)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_each_page_says_whom_it_is_for(page: Path) -> None:
    assert re.search(r"\bfor\s+you\s+if\b", "\n".join(text_of(page).splitlines()[:8]))


def test_errors_that_are_named_exist() -> None:
    named = {word for page in pages() for word in re.findall(r"\b([A-Z][a-z]\w+(?:Error|Failed|Missing\w+|TooLarge))\b", text_of(page))}
    assert {name for name in named if not any(hasattr(place, name) for place in (errors, events, builtins))} == set()


def test_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    words = [words for page in pages() for words in re.findall(r"(?:\.|redisaq)\[([\w,]+)\]", text_of(page))]
    named = {name for one in words for name in one.split(",")}
    assert named <= set(extras)
    assert '\npip install -e ".[all]" && redisaq demo\n' in README
    assert '\npip install -e ".[dev]" && pytest\n' in README


# -- names -------------------------------------------------------------------------------------------------------------------------


def test_every_test_that_is_named_exists() -> None:
    named = {name for page in pages() for name in re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", text_of(page))}
    missing: list[str] = []
    for name in sorted(named):
        file, _, function = name.partition("::")
        if not (ROOT / file).is_file() or (function and function not in functions_of(ROOT / file)):
            missing.append(name)
    assert missing == []


@cache
def functions_of(file: Path) -> set[str]:
    """Return the names of a file's functions."""
    return {node.name for node in tree_of(file).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("promise", re.findall(r"^## (\d+\. .+)$", GUARANTEES, re.MULTILINE))
def test_every_promise_names_what_shows_it_and_what_it_leaves_open(promise: str) -> None:
    section = GUARANTEES.split(f"## {promise}\n")[1].split("\n## ")[0]
    assert [part for part in ("**Means.**", "**Shown by.**", "**Not covered.**") if part not in section] == []
    assert re.search(r"\*\*Shown by\.\*\* `tests/", section)


def test_every_rule_that_is_named_exists() -> None:
    rules = set(re.findall(r"^\*\*([A-Z]\d+)\b", text_of(DOCS / "understand" / "protocol.md"), re.MULTILINE))
    assert len(rules) > 20
    brackets = [bracket for page in pages() for bracket in re.findall(r"\(([A-Z]\d\b[^()]*)\)", text_of(page))]
    named = {rule for bracket in brackets for rule in re.findall(r"\b[A-Z]\d\b", bracket)}
    assert named
    assert named <= rules


def test_every_file_that_is_named_exists() -> None:
    named = {name for page in (ROOT / "README.md", *DOCS.glob("**/*.md")) for name in re.findall(r"`([\w/]+\.(?:py|lua))`", text_of(page))}
    places = (ROOT, PACKAGE, PACKAGE / "brokers" / "redis" / "lua", ROOT / "tests" / "integration")
    written = {piece.title for page in pages() for piece in pieces_of(text_of(page))}
    neighbours = tuple(f"{name}/" for name in ("arq", "celery", "coredis", "kombu", "streaq"))
    ours = {name for name in named - written if not name.startswith(neighbours)}
    assert {name for name in ours if not any((place / name).is_file() for place in places)} == set()


# -- links -------------------------------------------------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a renderer gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            broken.append(target)
    assert broken == []


# -- what is in the pictures -----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_picture_of_the_actors(namespace: str) -> None:
    picture = ARCHITECTURE.split("```text\nthe task that called process()\n")[1].split("```")[0]
    drawn = [(len(indent) // 3, name) for indent, name in re.findall(r"^([│ └├─]+)([\w-]+)", picture, re.MULTILINE)]
    url = f"memory://{namespace}"
    async with Producer("jobs", url, init_partitions=4) as producer, Consumer("jobs", url) as consumer:
        for number in range(4):  # whatever partition the round begins at, partition 3 has a message
            await producer.enqueue(number)
        found: list[tuple[int, str]] = []

        async def look(message: Message[Any]) -> None:
            if message.partition == 3:
                runtime = consumer._runtime
                assert runtime is not None
                assert runtime.supervisor is not None
                found.extend(names_of(runtime.supervisor.tree(), 1))

        with anyio.fail_after(30):
            await consumer.process(look, until_empty=True)
    others = [(4, f"partition-{number}") for number in (0, 1, 2)]
    assert {name for name in found if name not in others and name[1] in {n for _, n in drawn}} == set(drawn)
    assert {name for name in found if name not in drawn} == set(others)


def names_of(node: Node, depth: int) -> list[tuple[int, str]]:
    """Return the names of a tree's nodes with their depths."""
    return [(depth, node.name), *(pair for child in node.children for pair in names_of(child, depth + 1))]


@pytest.mark.anyio
async def test_the_table_of_keys(valkey_server: Server, namespace: str) -> None:
    """The page lists every key that a producer and a consumer make, under its type, and no other."""
    told = {key.strip("`"): kind for key, kind, _ in table(KEYS, "key", "type", "what it holds")}
    async with Producer("orders", valkey_server.url, init_partitions=4, namespace=namespace) as producer:
        await producer.batch_enqueue(range(8))
    found: dict[str, str] = {}

    async def look(_message: Message[Any]) -> None:
        for key in valkey_server.command("KEYS", f"*{namespace}:*"):
            kind = {b"zset": "sorted set"}.get(raw := valkey_server.command("TYPE", key), raw.decode() if isinstance(raw, bytes) else raw)
            name = re.sub(r":[0-3]\}", ":3}", key.decode().replace(namespace, "redisaq"))
            found[name] = kind

    async with Consumer("orders", valkey_server.url, group_name="billing", namespace=namespace) as consumer:
        with anyio.fail_after(30):
            await consumer.process(look, until_empty=True)
    assert found == told
