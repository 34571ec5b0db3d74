"""`redisaq demo`: its words, its closing lines, its exit status."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable

from redisaq.cli.demo.board import Board, partitions_in_words
from redisaq.cli.demo.parent import HEARTBEAT, NAMESPACE, TTL, Demo, DemoSettings, Outcome
from redisaq.cli.demo.view import View, choose_view
from redisaq.cli.groups import leaves
from redisaq.embedded.program import valkey_program
from redisaq.errors import RedisaqError, SettingsError
from redisaq.run import run

BACKENDS = ("asyncio", "uvloop", "trio")
INTERRUPTED = 130

DESCRIPTION = """\
A producer process fills a topic, some consumer processes of one group share its partitions, on a private Valkey that is gone
afterwards. When half of the messages are processed, one consumer is killed with SIGKILL; the others take its partitions over once its
lease has run out. At the end every message must have been processed at least once: the exit status is 0 only then.
"""

EPILOG = f"""\
The demo's consumers send a heartbeat every {HEARTBEAT:g} s and are taken for dead after {TTL:g} s without one (the defaults are 3 s and
12 s). With --redis-url the demo's keys stay on that server, under the namespace {NAMESPACE!r}.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the command's parser what it takes, and what runs it."""
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio", help="the event loop of every process (default: asyncio)")
    parser.add_argument("--messages", type=count(1, 10_000_000), default=10_000, metavar="N", help="messages to produce (default: 10000)")
    parser.add_argument("--consumers", type=count(2, 64), default=3, metavar="N", help="consumer processes, at least 2 (default: 3)")
    parser.add_argument("--partitions", type=count(1, 1024), default=12, metavar="N", help="partitions of the topic (default: 12)")
    parser.add_argument("--redis-url", metavar="URL", help="use this server (default: a private one: embedded://)")
    parser.add_argument("--plain", action="store_true", help="print plain lines, also on a terminal")
    parser.set_defaults(run=run_demo)


def count(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a number within bounds."""

    def number(word: str) -> int:
        if not word.isascii() or not word.isdigit() or not least <= int(word) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, not {word!r}")
        return int(word)

    return number


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo; return 0 only if everything was processed.

    Raises:
        SettingsError: a package is missing, or the URL cannot work.
    """
    settings = DemoSettings(
        backend=options.backend,
        messages=options.messages,
        consumers=options.consumers,
        partitions=options.partitions,
        redis_url=options.redis_url,
    )
    board = Board(
        f"{settings.backend}, {check(settings)}",
        messages=settings.messages,
        partitions=settings.partitions,
        consumers=[f"consumer-{number}" for number in range(1, settings.consumers + 1)],
    )
    with choose_view(sys.stdout, plain=options.plain) as view:
        outcome = run(play, settings, board, view, backend=settings.backend)
    if isinstance(outcome, Exception):
        raise outcome
    if outcome is None:
        print("redisaq demo: interrupted; every process has ended.", file=sys.stderr)
        return INTERRUPTED
    if outcome.failure is not None:
        print(f"redisaq demo: {outcome.failure}", file=sys.stderr)
    takeover = board.takeover
    if takeover is not None and takeover.complete:
        taken = partitions_in_words(takeover.partitions)
        print(f"{takeover.victim} was killed; {taken} had a new owner within {takeover.slowest:.2f} s")
    print(outcome.verdict)
    return 0 if outcome.good else 1


async def play(settings: DemoSettings, board: Board, view: View) -> Outcome | RedisaqError | BrokenPipeError:
    """Run the demo in an event loop; return what it failed of, too, rather than in groups of exceptions."""
    outcome: Outcome | RedisaqError | BrokenPipeError | None = None
    try:
        outcome = await Demo(settings, board, view).run()
    except* RedisaqError as group:
        outcome = leaves(group)[0]
    except* BrokenPipeError as group:  # whoever read our output has gone
        outcome = leaves(group)[0]
    assert outcome is not None  # noqa: S101 -- any other end raises
    return outcome


def check(settings: DemoSettings) -> str:
    """Return where the demo runs, in words; raise before anything is started if it cannot.

    Raises:
        SettingsError: a package is missing, or the URL is of no use to several processes.
    """
    if settings.backend != "asyncio" and importlib.util.find_spec(settings.backend) is None:
        raise SettingsError(f'--backend {settings.backend} needs the package {settings.backend}: pip install "redisaq[{settings.backend}]"')
    url = settings.redis_url
    if url is None:
        valkey_program()
        return "a private Valkey"
    if url.startswith("memory://") or url == "embedded://":
        raise SettingsError(f"--redis-url {url} is for one process alone, and the demo has several; leave it out for a private server")
    if url.startswith("embedded://"):
        return url
    from redisaq.link import parse_address  # noqa: PLC0415 -- takes a moment to import, and is not always needed

    return parse_address(url).display
