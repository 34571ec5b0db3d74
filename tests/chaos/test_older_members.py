"""Members of an older version and of this one in one group: they join, share, take over from each other and hand over.

The older ones run the last package that knew neither deltas nor the waiting room nor grants (M10 to M12), from this repository's history.
This one's count three members as a crowd, so that they do all of that.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from redisaq import Producer
from redisaq.brokers.redis.keys import Keys
from redisaq.brokers.terms import GroupName
from redisaq.core.deltas import SMALL
from redisaq.core.membership import Document, decode_document
from tests.chaos.crew import Crew, Program, until
from tests.chaos.test_ownership import owned_by

if TYPE_CHECKING:
    from tests.servers import Server

ROOT = Path(__file__).parents[2]
PARTITIONS = SMALL  # with its members, such a group's document is large enough for deltas
TTL = 4.0
CROWDED = "from redisaq.core import membership; membership.CROWD = 2"
READ = (
    "import sys, importlib.util; from redisaq.core.membership import decode_document, encode_document; "
    "assert importlib.util.find_spec('redisaq.core.deltas') is None; "
    "sys.stdout.buffer.write(encode_document(decode_document(sys.stdin.buffer.read())))"
)


def git(*words: str) -> bytes:
    """Return what git says of this repository; nothing if it has no history."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The tree before the first of these rules."""
    began = git("log", "--diff-filter=A", "--format=%H", "--", "redisaq/core/deltas.py").split()
    archive = git("archive", f"{began[-1].decode()}^", "redisaq", "tests") if began else b""
    if not archive:
        pytest.skip("this repository has no history")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        tree.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def crew(valkey_server: Server, namespace: str) -> Iterator[Crew]:
    crew = Crew(valkey_server.url, "jobs", namespace, interval=1.0, ttl=TTL)
    yield crew
    crew.close()


def test_older_members_and_these_share_a_group(crew: Crew, older: Path, valkey_server: Server) -> None:
    """Nothing is lost, and no partition has two at once; both read the same in each document."""
    names = Keys(crew.base.namespace).group(GroupName("jobs", "default_group"))
    producer = Producer("jobs", crew.base.url, namespace=crew.base.namespace, init_partitions=PARTITIONS)
    ids: list[str] = []

    def document() -> Document:
        """Return the group's document, which the older version reads, and writes again without a change."""
        raw = valkey_server.command("HGET", names.state, "doc")
        again = subprocess.run([sys.executable, "-c", READ], cwd=older, input=raw, capture_output=True, check=True).stdout
        assert decode_document(again) == decode_document(raw)
        return decode_document(raw)

    async def shared(*members: str) -> None:
        """Wait until these have all partitions, and as many each."""

        def even() -> bool:
            loads = [len(owned_by(crew, name)) for name in members]
            return sum(loads) == PARTITIONS and max(loads) - min(loads) <= 1

        await until(even, 60, f"even shares of {members}")

    async def send(on: list[bool]) -> None:
        async with producer:
            while on:
                ids.extend(await producer.batch_enqueue([{}] * 8))
                await anyio.sleep(0.04)

    async def main() -> None:
        on = [True]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, on)
            crew.start("old", "asyncio", Program(older))
            await shared("old")
            for name, backend in (("new", "asyncio"), ("newer", "trio"), ("newest", "uvloop")):  # as they all find one there, they wait
                crew.start(name, backend, Program(prelude=CROWDED))
            await shared("old", "new", "newer", "newest")
            crew.start("second", "trio", Program(older))
            await shared("old", "new", "newer", "newest", "second")
            assert len(document().members) == 5
            of_old, of_new = owned_by(crew, "old").keys(), owned_by(crew, "new").keys()
            crew.kill("old")
            crew.kill("new")
            await shared("newer", "newest", "second")
            assert of_new & owned_by(crew, "second").keys()
            assert of_old & (owned_by(crew, "newer").keys() | owned_by(crew, "newest").keys())
            assert set(document().lease.values()) == set(document().members)
            await crew.leave("newest")
            await shared("newer", "second")
            await crew.leave("second")
            await shared("newer")
            on.clear()
            await until(lambda: set(ids) <= crew.done(), 60, "every message handled")
            await crew.leave("newer")

    anyio.run(main)
    assert valkey_server.command("HLEN", names.deltas) > 0
    assert crew.overlaps() == []
