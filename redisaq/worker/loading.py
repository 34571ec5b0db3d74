"""Finds the App that MODULE:NAME names, by importing the module."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from redisaq.app import App
from redisaq.describing import shown
from redisaq.errors import SettingsError


def load(place: str) -> App[Any]:
    """Import the module and return the App in it. Modules are also looked for in the current directory.

    Args:
        place: the module and the name in it, such as "shop.jobs:app".

    Raises:
        SettingsError: there is no such module, it has no such name, or that is not an App.
        Exception: whatever importing the module raises.
    """
    name, _, path = place.partition(":")
    if not name or not path or not all(part.isidentifier() for part in (*name.split("."), *path.split("."))):
        raise SettingsError(f"the App is named as MODULE:NAME, such as shop.jobs:app, not {place!r}")
    here = os.getcwd()  # noqa: PTH109 -- as text, for sys.path
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(name, here)
    found: object = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise SettingsError(f"module {name} has no {path!r}{_others(module)}") from None
    if not isinstance(found, App):
        raise SettingsError(f"{place} is not an App: it is {shown(found, 100)}{_others(module)}")
    return found  # pyright: ignore[reportUnknownVariableType] -- of whatever state


def _import(name: str, here: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name and not name.startswith(f"{missing}."):
            raise  # the module is there: something that it imports is not
        reason = f"there is no module {missing!r}, neither in {here} nor among the installed packages"
    raise SettingsError(reason)


def _others(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, App)]
    return f"; its Apps are: {', '.join(sorted(names))}" if names else ""
