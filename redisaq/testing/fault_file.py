"""Store the faults of a run in a file, so that another process can reproduce the run later.

Input: seed, backend, violations and faults of a report, or a file. Output: the file's text, or its faults. The file is JSON with one line
for each fault, so that people can read, shorten and compare it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from redisaq.errors import SettingsError
from redisaq.testing.faults import Fault


class FaultFile(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a file. Seed and backend are there for people: the faults reproduce the run only with these two."""

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
    """Return the faults of a file that `Report.save` wrote with the suffix .json; pass them to `simulate`.

    Args:
        path: the file to read.

    Raises:
        SettingsError: it is not a file of faults.
        OSError: it cannot be read.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=FaultFile).faults
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path} is not a file of faults: {error}") from error
