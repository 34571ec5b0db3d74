"""Faults in a file: what befell one run, so that another process, on another day, has the same again.

In: seed, backend, violations and faults of a report, or a file. Out: the file's text, or its faults. Always: JSON with a line for each
fault, for people to read, to shorten, and to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from redisaq.errors import SettingsError
from redisaq.testing.faults import Fault


class FaultFile(msgspec.Struct, forbid_unknown_fields=True):
    """What a file holds. Seed and backend are told for people: the faults alone bring the same run only under these."""

    faults: list[Fault]
    seed: int = 0
    backend: str = ""
    violations: list[str] = []


def encode_faults(seed: int, backend: str, violations: Sequence[str], faults: Sequence[Fault]) -> str:
    """Return the text of a file."""

    def lines(values: Sequence[object]) -> str:
        return "[" + ",".join(f"\n    {msgspec.json.encode(value).decode()}" for value in values) + ("\n  ]" if values else "]")

    parts = {
        "seed": str(seed),
        "backend": msgspec.json.encode(backend).decode(),
        "violations": lines(violations),
        "faults": lines(faults),
    }
    return "{\n" + ",\n".join(f'  "{name}": {text}' for name, text in parts.items()) + "\n}\n"


def load_faults(path: str | Path) -> list[Fault]:
    """Return the faults of a file that `Report.save` wrote with a name ending in .json; `simulate` takes them.

    Args:
        path: of the file.

    Raises:
        SettingsError: it is no such file.
        OSError: it cannot be read.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=FaultFile).faults
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path} is no file of faults: {error}") from error
