"""Keys from a terminal: reads standard input key by key, and restores the terminal afterwards.

Input: bytes. Output: names of keys: the letter itself, or "up", "down", "left", "right", "enter", "escape", "backspace".
"""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

import anyio

_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\r": "enter",
    "\n": "enter",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\x08": "backspace",
}


@contextmanager
def cbreak() -> Generator[None]:
    """Let keys arrive one by one and without an echo. Ctrl-C remains a signal. At the end the terminal is as it was."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def keys() -> AsyncGenerator[str]:
    """Yield keys as they are pressed, until standard input ends."""
    descriptor = sys.stdin.fileno()
    while True:
        await anyio.wait_readable(descriptor)
        data = os.read(descriptor, 1024)
        if not data:
            return
        for key in parse(data.decode("utf-8", "replace")):
            yield key


def parse(text: str) -> list[str]:
    """Return the keys in what a terminal has sent at once. Unknown sequences are left out."""
    found: list[str] = []
    while text:
        size = _length(text)
        word, text = text[:size], text[size:]
        if (key := _SEQUENCES.get(word, word if len(word) == 1 and word.isprintable() else "")) != "":
            found.append(key)
    return found


def _length(text: str) -> int:
    """Return how many characters the first key is."""
    if text[0] != "\x1b" or len(text) == 1 or text[1] not in "[O":
        return 1
    for place, letter in enumerate(text[2:], 3):
        if "@" <= letter <= "~":
            return place
    return len(text)
