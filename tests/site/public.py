"""What redisaq promises to its users: every public name, with what the reference must say of it.

The modules are those that users import from. Their `__all__` counts where there is one, otherwise every class that they define. Of a class,
the constructor and the methods that it defines itself count; `forked` is called by redisaq alone.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

MODULES = (
    "redisaq",
    "redisaq.actors",
    "redisaq.admin",
    "redisaq.dashboard",
    "redisaq.errors",
    "redisaq.events",
    "redisaq.integrations.opentelemetry",
    "redisaq.integrations.prometheus",
    "redisaq.testing",
)
NOT_FOR_USERS = {"forked"}


@dataclass(frozen=True)
class Name:
    """One name: as users import it, and what belongs to it.

    Attributes:
        path: such as "redisaq.Consumer.process".
        homes: other paths of the same thing, under one of which the reference may have it.
        parameters: each with its default as Python writes it, "" for none.
        raises: the errors that its docstring names.
    """

    path: str
    homes: frozenset[str]
    parameters: tuple[tuple[str, str], ...] = ()
    raises: tuple[str, ...] = ()


def names() -> Iterator[Name]:
    """Return every public name."""
    offered = {f"{module}.{name}": getattr(importlib.import_module(module), name) for module in MODULES for name in exported(module)}
    for path, thing in offered.items():
        yield from names_of(path, thing, {other for other, same in offered.items() if same is thing})


def exported(module_name: str) -> list[str]:
    """Return the names that a module offers."""
    module = importlib.import_module(module_name)
    given: list[str] | None = getattr(module, "__all__", None)
    if given is not None:
        return given
    return [
        name for name, thing in vars(module).items() if inspect.isclass(thing) and thing.__module__ == module.__name__ and name[0] != "_"
    ]


def names_of(path: str, thing: object, paths: set[str]) -> Iterator[Name]:
    """Return a name, and those of its methods if it is a class; `paths` are all under which users can import it."""
    home = f"{thing.__module__}.{thing.__qualname__}" if inspect.isclass(thing) or inspect.isfunction(thing) else path
    homes = frozenset({home, *paths})
    if not inspect.isclass(thing):
        yield Name(path, homes, *said_of(thing if inspect.isfunction(thing) else None))
        return
    yield Name(path, homes, *said_of(constructor_of(thing), thing.__doc__ or ""))
    for name, member in vars(thing).items():
        if name.startswith("_") or name in NOT_FOR_USERS:
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.isfunction(function):
            yield Name(f"{path}.{name}", frozenset(f"{one}.{name}" for one in homes), *said_of(function))


def constructor_of(cls: type) -> Callable[..., Any] | None:
    """Return the constructor that a class defines itself, if it takes anything."""
    if issubclass(cls, enum.Enum | msgspec.Struct):
        return None
    found = vars(cls).get("__init__")
    own = inspect.isfunction(found) and found.__module__ == cls.__module__  # a Protocol has one of typing's
    return found if own and not hasattr(cls, "__dataclass_fields__") else None


def said_of(function: Callable[..., Any] | None, more: str = "") -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the parameters of a function with their defaults, and the errors that its docstring names."""
    if function is None:
        return (), ()
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name not in {"self", "cls", "options"}]
    text = (inspect.getdoc(function) or "") + "\n\n" + inspect.cleandoc(more)
    raised = re.search(r"^Raises:\n((?:[ ]+.*\n?)+)", text, re.MULTILINE)
    errors = re.findall(r"^    (\w+): ", raised[1], re.MULTILINE) if raised else []
    return tuple((one.name, default_of(one)) for one in parameters), tuple(errors)


def default_of(parameter: inspect.Parameter) -> str:
    """Return the default if the reference can be expected to write it in the same way."""
    plain = isinstance(parameter.default, bool | int | float | str | None)
    return repr(parameter.default) if parameter.default is not parameter.empty and plain else ""
