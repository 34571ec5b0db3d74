"""The command `redisaq`: finds the command that was asked for, runs it, and turns what comes out into an exit status.

In: the words after the command's name. Out: 0 if all went well, 1 if not, 2 for words that cannot be understood, 130 after an
interrupt. What always holds: an error that redisaq raises on purpose is one line on standard error, never a traceback.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import sys
from collections.abc import Sequence

from redisaq.cli import demo, server
from redisaq.errors import RedisaqError

INTERRUPTED = 130
"""The status that shells give to what an interrupt ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `redisaq`.

    Args:
        arguments: the words after the command's name; None: those of this process.

    Returns:
        The process's exit status.

    Raises:
        SystemExit: with 2 for words that cannot be understood, with 0 after --help and --version; as argparse does.
    """
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # until now an interrupt has ended the process, silently
            signal.signal(signal.SIGINT, signal.default_int_handler)
        parser = make_parser()
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.print_help()
            return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except RedisaqError as error:
        print(f"redisaq {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (`redisaq demo | head`); the interpreter must not stumble over that again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def make_parser() -> argparse.ArgumentParser:
    """Return the parser, with what each command brings."""
    parser = argparse.ArgumentParser(
        prog="redisaq",
        description="A partitioned job queue on Redis Streams, for asyncio and trio.",
        epilog="`redisaq COMMAND --help` tells more about a command.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"redisaq {importlib.metadata.version('redisaq')}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    demo.add_arguments(
        commands.add_parser(
            "demo",
            help="watch consumers share partitions, one die, and nothing get lost",
            description=demo.DESCRIPTION,
            epilog=demo.EPILOG,
        )
    )
    server.add_arguments(
        commands.add_parser("server", help="run a private Valkey server in the foreground", description=server.DESCRIPTION)
    )
    return parser
