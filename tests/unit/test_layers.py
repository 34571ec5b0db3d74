"""The layers hold: import-linter's contract, and no event loop but anyio's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.unit.source import ROOT, imported, name_of, python_files

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
LOOP_FILES = {"redisaq/testing/_trio.py", "redisaq/testing/_asyncio.py"}
LAYERS_TOP_DOWN = ("cli", "consuming", "producing", "actors", "brokers", "link", "embedded", "core", "environment", "errors")


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter in a project's directory."""
    return subprocess.run([sys.executable, "-c", LINT], check=False, cwd=directory, capture_output=True, text=True)


def project(directory: Path, **imports: str) -> Path:
    """Make a project with this one's contract, a module of each layer, and these imports in them."""
    shutil.copy(ROOT / "pyproject.toml", directory)
    (directory / "redisaq").mkdir()
    (directory / "redisaq" / "__init__.py").touch()
    for layer in LAYERS_TOP_DOWN:
        (directory / "redisaq" / f"{layer}.py").write_text(imports.pop(layer, ""))
    for other, text in imports.items():
        (directory / "redisaq" / f"{other}.py").write_text(text)
    return directory


def test_each_layer_imports_only_from_those_below() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contract_lets_layers_look_down(tmp_path: Path) -> None:
    result = lint(project(tmp_path, actors="import redisaq.core", brokers="import redisaq.embedded", core="import redisaq.errors"))
    assert result.returncode == 0, result.stdout + result.stderr


UPWARDS = {
    "core": ["link", "actors"],
    "link": ["brokers", "embedded"],
    "brokers": ["actors", "consuming"],
    "actors": ["brokers", "consuming"],
    "producing": ["consuming"],
    "environment": ["core"],
}


def test_the_contract_forbids_looking_up(tmp_path: Path) -> None:
    looking_up = {
        module: "".join(f"def later_{one}():\n    import redisaq.{one}\n" for one in wanted) for module, wanted in UPWARDS.items()
    }
    result = lint(project(tmp_path, **looking_up))
    assert result.returncode != 0
    for module, wanted in UPWARDS.items():
        for one in wanted:
            assert f"redisaq.{module} is not allowed to import redisaq.{one}:" in result.stdout


def test_the_contract_knows_neighbours_that_must_not_meet(tmp_path: Path) -> None:
    result = lint(project(tmp_path, consumer="", producer="import redisaq.consumer"))
    assert "redisaq.producer is not allowed to import redisaq.consumer" in result.stdout


def test_the_contract_wants_every_module_in_a_layer(tmp_path: Path) -> None:
    result = lint(project(tmp_path, utils=""))
    assert result.returncode != 0
    assert "redisaq.utils" in result.stdout


def test_the_contract_forbids_rings(tmp_path: Path) -> None:
    result = lint(project(tmp_path, errors="import redisaq.environment", environment="def later():\n    import redisaq.errors\n"))
    assert result.returncode != 0
    assert "No cycles are allowed in redisaq" in result.stdout


def test_only_anyio_is_imported() -> None:
    for file in python_files("redisaq"):
        loops = {name.split(".")[0] for name in imported(file)} & {"asyncio", "trio", "uvloop", "curio"}
        assert not loops or name_of(file) in LOOP_FILES, f"{name_of(file)} imports {loops}: use anyio"
