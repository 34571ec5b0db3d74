"""What an installed redisaq must be able to do, in an environment that knows nothing of this project: `python smoke.py VERSION`.

It is a program of its own: it imports redisaq and the standard library alone.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import anyio

import redisaq
from redisaq import App, Message

TEST = """
import pytest
from redisaq.testing import HandlerKit

def test_a_handler():
    assert HandlerKit(lambda message: None).deliver({"n": 1}).to == "done"

@pytest.mark.redisaq_seeds(3)
async def test_in_virtual_time(redisaq_url):
    async with __import__("redisaq").Producer("orders", redisaq_url) as producer:
        assert await producer.enqueue({"n": 1})
"""


async def through_a_server(directory: Path) -> None:
    """Send messages through a private server: its scripts and the embedded Valkey are there."""
    app = App(f"embedded://{directory}")
    orders = app.topic("orders", partitions=2)
    handled: list[int] = []
    finished = anyio.Event()

    @orders.consumer("billing", ordering="key")
    async def bill(message: Message[dict[str, int]]) -> None:
        handled.append(message.payload["n"])
        if len(handled) == 10:
            finished.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            await orders.batch_enqueue([{"n": n} for n in range(10)], partition_key="n")
            await finished.wait()
            await app.stop()
    assert sorted(handled) == list(range(10)), handled


def main() -> None:
    """Do everything; what fails raises."""
    (version,) = sys.argv[1:]
    assert importlib.metadata.version("redisaq") == version
    assert Path(redisaq.__file__).is_relative_to(sysconfig.get_path("purelib")), redisaq.__file__
    assert Path(redisaq.__file__).with_name("py.typed").is_file()
    command = Path(sysconfig.get_path("scripts")) / "redisaq"
    said = subprocess.run([command, "--version"], check=True, capture_output=True, text=True).stdout
    assert version in said, said
    with tempfile.TemporaryDirectory(prefix="redisaq-smoke-") as directory:
        for backend in ("asyncio", "trio"):
            anyio.run(through_a_server, Path(directory) / backend, backend=backend)
        (Path(directory) / "test_smoke.py").write_text(TEST, encoding="utf-8")
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], check=True, cwd=directory)
    print(f"redisaq {version} works in {sys.prefix}")


if __name__ == "__main__":
    main()
