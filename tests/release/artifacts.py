"""What a wheel and an sdist must hold."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

IN_SDIST = ("CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md", "mkdocs.yml", "pyproject.toml", "docs/index.md", "tests/conftest.py")
BESIDE = ("redisaq_command.py", "redisaq_pytest.py")


def problems(made: Sequence[Path], version: str, root: Path) -> list[str]:
    """Return what is wrong with the built files, in sentences; `root` is the tree that they were built from."""
    names = [file.name for file in made]
    wanted = [f"redisaq-{version}-py3-none-any.whl", f"redisaq-{version}.tar.gz"]
    if sorted(names) != sorted(wanted):
        return [f"built are {', '.join(names) or 'no files'}, not {' and '.join(wanted)}"]
    wheel, sdist = (next(file for file in made if file.name == name) for name in wanted)
    return in_wheel(wheel, version, root) + in_sdist(sdist, version, root)


def of_package(root: Path) -> set[str]:
    """Return the files that users need to run redisaq."""
    files = {str(file.relative_to(root)) for file in (root / "redisaq").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    return files | set(BESIDE)


def in_wheel(wheel: Path, version: str, root: Path) -> list[str]:
    """Return what a wheel lacks or has too much."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        information = f"redisaq-{version}.dist-info"
        metadata = archive.read(f"{information}/METADATA").decode()
    package = {name for name in names if not name.startswith(information)}
    found = [f"the wheel: {name} is only in one of wheel and tree" for name in sorted(package ^ of_package(root))]
    if f"\nVersion: {version}\n" not in metadata:
        found.append("the wheel: its metadata has another version")
    if f"{information}/licenses/LICENSE" not in names:
        found.append("the wheel: no licence")
    return found


def in_sdist(sdist: Path, version: str, root: Path) -> list[str]:
    """Return what an sdist lacks."""
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(f"redisaq-{version}/") for name in archive.getnames()}
    return [f"the sdist: no {name}" for name in sorted((of_package(root) | set(IN_SDIST)) - names)]
