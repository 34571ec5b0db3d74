"""The command `redisaq`: parses the arguments, runs the subcommand, and turns its result into an exit status.

The exit status is 0 for success, 1 if the answer is no, 2 for invalid arguments, 3 if the server could not do it, and 130 after an
interrupt. An error that redisaq raises on purpose is printed as one line on standard error, never as a traceback.

cyclopts parses the arguments. It takes types, defaults and help from a function's signature and docstring, which are checked like all
others. typer does not support a dataclass for the options that commands share, and shows no help for its fields.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Literal

import cyclopts
from rich.console import Console

from redisaq.cli import changing, dashboard, dead, demo, doctor, looking, messages, server, top, worker
from redisaq.cli.common import INTERRUPTED, NO, SERVER, USAGE, Refused
from redisaq.errors import ConnectionFailed, RedisaqError, ServerError, SettingsError
from redisaq.identity import VERSION


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `redisaq`.

    Args:
        arguments: the arguments after the command's name. None: those of this process.

    Returns:
        The process's exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = "redisaq"
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # so far an interrupt would have ended the process silently
            signal.signal(signal.SIGINT, signal.default_int_handler)
        commands = make_commands()
        name = " ".join(["redisaq", *commands.parse_commands(words)[0]])
        status = commands(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (`redisaq demo | head`). The interpreter must not fail for that reason again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO
    except (cyclopts.CycloptsError, Refused, RedisaqError) as error:
        if not isinstance(error, cyclopts.CycloptsError):  # cyclopts has printed its own
            print(f"{name}: {error}", file=sys.stderr)
        return status_of(error)
    return status if isinstance(status, int) else 0


def status_of(error: Exception) -> int:
    """Return the exit status for an error."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, cyclopts.CycloptsError | SettingsError):
        return USAGE
    return SERVER if isinstance(error, ConnectionFailed | ServerError) else NO


def make_commands() -> cyclopts.App:
    """Return the command line with all its commands."""
    commands = cyclopts.App(
        name="redisaq",
        help="A partitioned job queue on Redis Streams, for asyncio and trio.",
        version=f"redisaq {VERSION}",
        version_flags=["--version", "-V"],
        help_format="plaintext",
        console=Console(highlight=False),
        error_console=Console(stderr=True, highlight=False),
        result_action="return_value",
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    found: list[Callable[..., int] | cyclopts.App] = [
        *(looking.topics, looking.topic, looking.group, looking.history, looking.schedule, dead.dead),
        *(messages.pending, messages.retries, messages.delayed, messages.message, messages.tail, messages.retry, messages.cancel),
        *(changing.produce, changing.run_now, changing.grow, changing.pause, changing.resume, changing.seek, changing.delete),
        *(worker.worker, top.top, dashboard.dashboard, doctor.doctor, demo.demo, server.server),
    ]
    for command in found:
        commands.command(command)

    @commands.command
    def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
        """Print a completion script for a shell.

        Args:
            shell: the shell.
        """
        print(commands.generate_completion(shell=shell))
        return 0

    return commands
