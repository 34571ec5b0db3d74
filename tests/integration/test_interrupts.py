"""An interrupt ends a program quietly, whenever it comes; a plain handler that goes on does not keep a program from ending."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from redisaq import Message
from tests.actors.group import fresh_url, produce, quick
from tests.integration.cli_processes import LIMIT, ROOT, own_place

COMMANDS = {"script": ["-c", "import sys, redisaq_command; sys.exit(redisaq_command.main())"], "module": ["-m", "redisaq.cli"]}


def catches_interrupts(pid: int) -> bool:
    """Return True if the process has a handler of SIGINT: Python's own, from its start on, or another."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGINT - 1))
    return False


def until_it_imports(pid: int) -> None:
    """Return once the interpreter has begun with what is ours: no program can keep an interrupt of the interpreter's own start quiet.

    The moments may have passed before we look: then it has mapped a library of ours, and keeps it.
    """
    limit = time.monotonic() + LIMIT
    for caught in (True, False):
        while catches_interrupts(pid) != caught and "msgspec" not in Path(f"/proc/{pid}/maps").read_text():
            assert time.monotonic() < limit
            time.sleep(0.001)


@pytest.mark.parametrize("how", COMMANDS)
@pytest.mark.parametrize("words", [["demo", "--messages", "100"], ["server"]], ids=["demo", "server"])
def test_an_interrupt_in_the_first_second_is_quiet(how: str, words: list[str]) -> None:
    """Whatever is being imported or started just then."""
    with own_place() as place:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place)}
        for step in range(9):
            process = subprocess.Popen(
                [sys.executable, *COMMANDS[how], *words],
                cwd=place,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            with process:
                try:
                    until_it_imports(process.pid)
                    time.sleep(0.1 * step)
                    process.send_signal(signal.SIGINT)
                    _, errors = process.communicate(timeout=LIMIT)
                finally:
                    process.kill()
            assert "Traceback" not in errors, f"{step}: {errors}"
            assert process.returncode in {0, 130, -signal.SIGINT}, f"{step}: {process.returncode} {errors}"


def test_other_programs_keep_their_interrupts() -> None:
    program = "import signal, redisaq, redisaq.startup; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    result = subprocess.run([sys.executable, "-c", program, "-m", "redisaq.cli"], check=True, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "True\n"


ABANDONED = """
import sys, time
import anyio
import redisaq

consumer = redisaq.Consumer("jobs", "memory://", timeout=0.1, retry=redisaq.RetryPolicy(max_attempts=1))

def handle(message):
    if message.payload == 1:
        time.sleep(3600)
    anyio.from_thread.run(anyio.sleep, 0)
    print("handled", message.payload, flush=True)

async def main():
    async with redisaq.Producer("jobs", "memory://") as producer:
        await producer.enqueue(1)
        await producer.enqueue(2, timeout=60)
    await consumer.process(handle, until_empty=True)

redisaq.run(main, backend=sys.argv[1])
print("ended", flush=True)
"""


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_plain_handler_that_was_abandoned_lets_the_process_end(backend: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", ABANDONED, backend], check=False, capture_output=True, text=True, timeout=LIMIT, cwd=ROOT
    )
    assert (result.returncode, result.stdout) == (0, "handled 2\nended\n"), result.stderr


PULLING = """
import sys
import anyio
from redisaq import Consumer, Producer

async def main(where):
    async with Producer("jobs", "memory://interrupted") as producer:
        await producer.batch_enqueue([{"n": 0}])
    async with Consumer("jobs", "memory://interrupted") as consumer:
        async with consumer.messages() as messages:
            async for message in messages:
                async with message:
                    print("ready", flush=True)
                    if where == "body":
                        await anyio.sleep(20)

anyio.run(main, sys.argv[2], backend=sys.argv[1])
"""


@pytest.mark.parametrize("where", ["body", "waiting"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_process_that_is_interrupted_ends_of_that(backend: str, where: str) -> None:
    """Ctrl-C: as any program that does not catch KeyboardInterrupt, it ends of the signal, and not with an error."""
    arguments = [sys.executable, "-c", PULLING, backend, where]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait(20) == -signal.SIGINT, errors
    assert "ExceptionGroup" not in errors


def test_what_ends_a_program_passes_through_a_consumer(anyio_backend: Any) -> None:
    async def handle(_message: Message[Any]) -> None:
        raise SystemExit(3)

    async def main() -> None:
        url = fresh_url()
        await produce(url, 1)
        await quick(url).process(handle)

    with pytest.raises(SystemExit):  # asyncio itself raises it out of its loop, from whichever task
        anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
