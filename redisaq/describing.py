"""Describe a user's objects as text: an exception, a value, a class.

Nothing here raises, however the object is made (a `repr` that fails, a `__class__` that lies, a cyclic chain of causes), and both the text
and the time that it takes are bounded. So nothing here asks the object for facts that Python itself knows: the class is `type(error)`.
Causes, tracebacks and the exceptions of a group are read directly, past any attribute of a subclass.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, cast

from redisaq.error_groups import members_of

MOST_TEXT = 1000
"""Characters kept of an error's text, or of a value."""

MOST_NAME = 200
"""Characters kept of a class's name."""

MOST_TRACEBACK = 8000
"""Characters kept of a traceback."""

MOST_ERRORS = 32
"""Exceptions of one chain or group that are described."""

MOST_FRAMES = 32
"""Frames of one exception that are shown, the last ones."""

MOST_TAME = 2 * MOST_TRACEBACK
"""Characters, approximately, of a traceback that other code may print."""

_FRAME = 120
"""Characters that a frame takes, approximately."""

MOST_DEPTH = 10
"""Levels of groups that are indented."""


def text_of(error: object) -> str:
    """Return `str(error)`, bounded."""
    try:
        return _printable(plain(str(error))[:MOST_TEXT])
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # noqa: BLE001 -- whatever it is, the message has failed, and the consumer has not
        return f"<its text cannot be made: {name_of(type(broken))}>"


def shown(value: object, most: int = MOST_TEXT) -> str:
    """Return `repr(value)`, bounded."""
    try:
        text = plain(repr(value))
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # noqa: BLE001 -- as above
        return f"<{name_of(type(value))} whose repr fails: {name_of(type(broken))}>"
    return _printable(text if len(text) <= most else text[:most] + "…")


def name_of(kind: type) -> str:
    """Return a class's qualified name, without the module for a builtin one."""
    try:
        name = plain(type.__dict__["__qualname__"].__get__(kind))[:MOST_NAME]
        module = type.__dict__["__module__"].__get__(kind)
    except Exception:  # noqa: BLE001 -- as above
        return "<a class without a name>"
    return name if not isinstance(module, str) or module == "builtins" else f"{plain(module)[:MOST_NAME]}.{name}"


def is_tame(error: BaseException) -> bool:
    """Return whether other code can print its traceback: it is not much longer than one that is made here, and nothing in it fails."""
    seen: set[int] = set()
    waiting = [error]
    size = 0
    try:
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            texts = [type(one).__qualname__, str(one), *map(str, getattr(one, "__notes__", ()))]
            size += sum(map(len, texts)) + _FRAME * sum(1 for _ in traceback.walk_tb(_read(one, "__traceback__")))
            if len(seen) > MOST_ERRORS or size > MOST_TAME:
                return False
            for name in ("__cause__", "__context__"):
                link: object = _read(one, name)
                if getattr(one, name) is not link:
                    return False
                waiting += [link] if isinstance(link, BaseException) else []
            waiting += members_of(one)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 -- as above
        return False
    return True


def traceback_of(error: BaseException) -> str:
    """Return an exception's traceback with those of its causes, as Python prints it, bounded."""
    pieces: list[str] = []
    size = 0
    for piece in _pieces(error):
        pieces.append(piece)
        size += len(piece)
        if size > 16 * MOST_TRACEBACK:
            break
    return cut("".join(pieces), MOST_TRACEBACK)


def cut(text: str, most: int) -> str:
    """Return a text without its middle if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    mark = "\n[…]\n"
    head = most // 4
    return text[:head] + mark + text[head + len(mark) - most :]


def _printable(text: str) -> str:
    """Return the text with lone surrogates escaped: neither a log nor a server can encode them."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain(text: str) -> str:
    """Return a text as a plain str: a subclass may slice, join or print itself differently."""
    return str.__str__(text)


_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def _pieces(error: BaseException) -> Iterator[str]:
    """Yield the lines of a traceback: first the error and its causes, the innermost first, then what is in the groups."""
    seen: set[int] = set()
    waiting = [(error, 0)]
    while waiting:
        one, depth = waiting.pop()
        chain = _chain(one, seen)
        if not chain:
            continue
        if depth:
            yield _indented(f"---------------- {name_of(type(one))} ----------------\n", depth)
        for number, (link, joint) in enumerate(reversed(chain)):
            for line in _one(link):
                yield _indented(line, depth)
            if number < len(chain) - 1:
                yield _indented(joint, depth)
            members = sorted(members_of(link)[:MOST_ERRORS], key=_is_group)  # groups last: they may take all the space that is left
            waiting += [(member, depth + 1) for member in reversed(members)]
        if len(seen) >= MOST_ERRORS and waiting:
            yield "[… and more exceptions]\n"
            return


def _is_group(error: BaseException) -> bool:
    return issubclass(type(error), BaseExceptionGroup)


def _chain(error: BaseException, seen: set[int]) -> list[tuple[BaseException, str]]:
    """Return the error and what led to it, each with the sentence that links it to the next."""
    chain: list[tuple[BaseException, str]] = []
    joint = ""
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < MOST_ERRORS:
        seen.add(id(link))
        chain.append((link, joint))
        cause = _read(link, "__cause__")
        if cause is not None:
            joint, link = _CAUSE, cause
        elif _read(link, "__suppress_context__"):
            link = None
        else:
            joint, link = _CONTEXT, _read(link, "__context__")
    return chain


def _read(error: BaseException, name: str) -> Any:  # noqa: ANN401 -- of one of several types
    """Return an attribute that Python itself keeps of every exception, rather than the subclass's version."""
    return BaseException.__dict__[name].__get__(error)


def _one(error: BaseException) -> Iterator[str]:
    """Yield the lines of one exception, without its causes."""
    trace = cast("TracebackType | None", _read(error, "__traceback__"))
    if trace is not None:
        yield "Traceback (most recent call last):\n"
        try:
            yield from traceback.format_list(traceback.StackSummary.extract(traceback.walk_tb(trace), limit=-MOST_FRAMES))
        except Exception:  # noqa: BLE001 -- it looks for source by what modules say of themselves
            yield "  <its frames cannot be shown>\n"
    text = text_of(error)
    yield f"{name_of(type(error))}: {text}\n" if text else f"{name_of(type(error))}\n"
    try:
        notes = list(getattr(error, "__notes__", ()))[:MOST_ERRORS]
    except Exception:  # noqa: BLE001 -- as above
        return
    for note in notes:
        yield text_of(note) + "\n"


def _indented(text: str, depth: int) -> str:
    if not depth:
        return text
    margin = "  " * min(depth, MOST_DEPTH) + "| "
    return "".join(margin + line for line in text.splitlines(keepends=True))
