"""What a public module offers in `__all__` exists, explains itself, and says truly where it comes from."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import redisaq
from tests.unit.source import PACKAGE, module_of, python_files, tree_of


def has_exports(file: Path) -> bool:
    """Return True if the module has an `__all__`; a file that is no Python fails elsewhere, and not the whole run."""
    return re.search("^__all__ =", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


MODULES = [module_of(file) for file in python_files("redisaq") if has_exports(file)]


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_there_are_some() -> None:
    assert {"redisaq.cli", "redisaq.embedded"} <= set(MODULES)


def test_names_exist_and_stand_once(module: ModuleType) -> None:
    names: list[str] = module.__all__
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


def test_classes_and_functions_have_docstrings(module: ModuleType) -> None:
    exported = {name: getattr(module, name) for name in module.__all__}
    silent = [name for name, thing in exported.items() if (inspect.isclass(thing) or inspect.isroutine(thing)) and not thing.__doc__]
    assert silent == []


def test_they_come_from_a_public_module_of_ours(module: ModuleType) -> None:
    for name in module.__all__:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        home = thing.__module__
        assert home.split(".")[0] == "redisaq", f"{name} is not ours: {home}"
        assert not any(part.startswith("_") for part in home.split(".")), f"{name} says it lives in a private module: {home}"
        assert getattr(importlib.import_module(home), thing.__qualname__) is thing


def test_the_package_itself_only_gathers_names() -> None:
    """It imports some at once, and the others, which it names once for checkers and once for the program, when they are used."""
    body = tree_of(PACKAGE / "__init__.py").body
    others = [
        ast.unparse(node)
        for node in body[1:]
        if not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__all__", "_HOMES"))
    ]
    (checking,) = (node for node in body if isinstance(node, ast.If))
    assert others == [ast.unparse(checking)]
    named = {alias.name: node.module for node in checking.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named == redisaq._HOMES
    assert [node.name for node in checking.orelse if isinstance(node, ast.FunctionDef)] == ["__getattr__", "__dir__"]
    assert set(redisaq.__all__) <= set(dir(redisaq))
    with pytest.raises(AttributeError, match="module 'redisaq' has no attribute 'Foo'"):
        _ = redisaq.Foo  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue] -- so that checkers say it, too
