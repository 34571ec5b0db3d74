"""The mutants that no operator makes, written by hand in written.toml; and those that are known to change nothing, in equivalent.toml.

Input: these files and the product. Output: mutants. Invariant: the text that a written mutant replaces stands exactly once in the product,
or in the definition that it names. It is looked for in every file, so that code may move.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tests.mutants.operators import Mutant
from tests.mutants.places import Source

FOLDER = Path(__file__).parent


class Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mutant of written.toml.

    Attributes:
        name: to call it by.
        breaks: the rule that it breaks, or what a user sees.
        old: the text that it replaces.
        new: what stands there instead.
        place: the definition or script in which to look for the text; "" looks in the whole product.
    """

    name: str
    breaks: str
    old: str
    new: str
    place: str = ""


class Equivalent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mutant of equivalent.toml.

    Attributes:
        place: the definition or script around it.
        diff: as the report shows it, without the spaces before each line.
        why: nobody can see it.
    """

    place: str
    diff: str
    why: str


class WrittenFile(msgspec.Struct, forbid_unknown_fields=True):
    """What written.toml holds."""

    mutant: list[Written]


class EquivalentFile(msgspec.Struct, forbid_unknown_fields=True):
    """What equivalent.toml holds."""

    mutant: list[Equivalent] = []


def load_written() -> list[Written]:
    """Read the mutants written by hand."""
    return msgspec.toml.decode((FOLDER / "written.toml").read_bytes(), type=WrittenFile).mutant


def load_equivalent() -> list[Equivalent]:
    """Read those that are known to change nothing."""
    return msgspec.toml.decode((FOLDER / "equivalent.toml").read_bytes(), type=EquivalentFile).mutant


def found(written: Written, sources: Sequence[Source]) -> Iterator[tuple[Source, int]]:
    """Give every place of the product where its text stands."""
    for source in sources:
        whole = [(1, len(source.lines))]
        for first, last in source.places.get(written.place, []) if written.place else whole:
            end = source.offset(last, 0) + len(source.lines[last - 1])
            at = source.text.find(written.old, source.offset(first, 0), end)
            while at >= 0:
                yield source, at
                at = source.text.find(written.old, at + 1, end)


def mutant_of(written: Written, sources: Sequence[Source]) -> Mutant:
    """Return it as an edit of the file where its text stands now.

    Raises:
        ValueError: The text does not stand there exactly once.
    """
    places = list(found(written, sources))
    if len(places) != 1:
        where = f" in {written.place}" if written.place else ""
        raise ValueError(f"{written.name!r}: its text stands {len(places)} times{where}: {written.old!r}")
    ((source, at),) = places
    return Mutant(source, at, at + len(written.old), written.new, "written", written.name, written.breaks)


def plain(diff: str) -> str:
    """Return a diff without comments, and without the spaces that its lines begin and end with."""
    lines = (re.sub(r"\s+(#|--) .*", "", line) for line in diff.strip().splitlines())
    return "\n".join(f"{line[0]}{line[1:].strip()}" for line in lines if line.strip())


def same(mutant: Mutant, equivalent: Equivalent) -> bool:
    """Return whether this mutant is that one."""
    return mutant.place == equivalent.place and plain(mutant.diff) == plain(equivalent.diff)
