"""Says what failures have in common: the line of your own code that they come from, and the text without what differs each time.

Pure. Two failures are of one kind if type, text without its holes, and own line are the same.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

LIBRARIES = ("/site-packages/", "/dist-packages/", "/redisaq/consuming/", "/lib/python", "/Lib/")
"""Parts of paths of code that is not the user's. dead_summaries.lua knows them, too."""

_FRAME = re.compile(r'File "([^"\n]*)", line (\d+), in ([^\n]*)')

_HOLES = re.compile(
    r"""(?P<url>\b[a-z][a-z0-9+.-]*://[^\s'"<>]+)
    | (?P<uuid>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)
    | (?P<address>\b[\w.+-]+@[\w-]+\.[\w.-]+)
    | (?P<text>'[^'\n]*'|"[^"\n]*")
    | (?P<path>(?<![\w/])(?:/[\w.@+-]+){2,}/?)
    | (?P<hex>\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b)
    | (?P<number>(?<![\w.])-?\d+(?:[.,:]\d+)*(?![\w]))
    | (?P<id>\b(?=[a-z]*\d)[a-z0-9]{16,}\b)""",
    re.VERBOSE,
)


def is_own(path: str) -> bool:
    """Return whether a file is the user's own code, judged by its path."""
    path = path.replace("\\", "/")
    return not path.startswith("<") and not any(part in path for part in LIBRARIES)


def own_frame(traceback: str) -> tuple[str, str, str]:
    """Return file, line and function of the last frame that is the user's own; three times "" if there is none."""
    own = [match.groups() for match in _FRAME.finditer(traceback) if is_own(match[1])]
    return (own[-1][0], own[-1][1], own[-1][2]) if own else ("", "", "")


def where(file: str, line: str, function: str) -> str:
    """Return a frame in a few words: `bank.py:41 in charge`; "" for none."""
    return f"{file.replace(chr(92), '/').rpartition('/')[2]}:{line} in {function}" if file else ""


@lru_cache(maxsize=2048)  # a page asks for the same texts every few seconds
def template(text: str) -> tuple[str, ...]:
    """Return a text in pieces: what is always the same at even places, and what differs, by its sort ("number"), at odd ones.

    Numbers, identifiers, quoted texts, URLs, addresses and paths differ. Only the first line counts.
    """
    line = text.partition("\n")[0]
    pieces: list[str] = []
    end = 0
    for match in _HOLES.finditer(line):
        pieces += [line[end : match.start()], str(match.lastgroup)]
        end = match.end()
    return (*pieces, line[end:])


def kind_of(error_type: str, pieces: tuple[str, ...], frame: str) -> str:
    """Return 12 characters that identify a kind of failures."""
    digest = hashlib.blake2b("\x00".join((error_type, frame, *pieces)).encode("utf-8", "replace"), digest_size=6)
    return digest.hexdigest()
