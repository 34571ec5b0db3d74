"""Shows options given as `**options: Unpack[SomeOptions]` one by one in the reference, with what they mean and their defaults.

griffe's own extension for this reads neither the base classes of a TypedDict nor its docstring, and knows no defaults. Here the names and
types come from the TypedDict and its bases, the meaning from the "Attributes" of their docstrings, and the defaults from where the options
end up. mkdocs.yml names this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import griffe

OPTIONS = {
    "redisaq.settings.ConsumerOptions": "redisaq.settings.ConsumerSettings",
    "redisaq.settings.HandlingOptions": "redisaq.settings.ConsumerSettings",
    "redisaq.app.ProducerOptions": "redisaq.producer.Producer",
}
"""The class that has the defaults of each TypedDict: as attributes, or as parameters of its constructor."""


@dataclass(frozen=True)
class Option:
    """One option, as the reference shows it."""

    name: str
    annotation: str | griffe.Expr | None
    meaning: str
    default: str

    def as_parameter(self) -> griffe.Parameter:
        """Return the option for a signature."""
        return griffe.Parameter(self.name, annotation=self.annotation, kind=griffe.ParameterKind.keyword_only, default=self.default)

    def as_row(self) -> griffe.DocstringParameter:
        """Return the option for the table of parameters."""
        return griffe.DocstringParameter(name=self.name, description=self.meaning, annotation=self.annotation, value=self.default)


def meanings(documented: griffe.Object) -> dict[str, str]:
    """Return what the docstring says of each attribute or parameter."""
    if documented.docstring is None:
        return {}
    kinds = {griffe.DocstringSectionKind.attributes, griffe.DocstringSectionKind.parameters}
    sections = documented.docstring.parse(griffe.Parser.google, warnings=False)
    return {one.name: one.description for section in sections if section.kind in kinds for one in section.value}


def constructor_of(cls: griffe.Class) -> griffe.Function | None:
    """Return its constructor, if it has one of its own."""
    found = cls.members.get("__init__")
    return found if isinstance(found, griffe.Function) else None


def defaults_of(cls: griffe.Class) -> dict[str, str]:
    """Return the defaults of a class's attributes, or of its constructor's parameters."""
    if (constructor := constructor_of(cls)) is not None:
        return {one.name: str(one.default) for one in constructor.parameters if one.default is not None}
    return {name: str(one.value) for name, one in cls.attributes.items() if one.value is not None}


def options_of(options: griffe.Class, package: griffe.Module) -> list[Option]:
    """Return the options of a TypedDict, its own first.

    Raises:
        KeyError: an option has no default, or nobody says what it means.
    """
    home = package[OPTIONS[options.canonical_path].removeprefix("redisaq.")]
    defaults = defaults_of(home)
    texts = meanings(constructor_of(home) or home)
    found: list[Option] = []
    for cls in (options, *(base for base in options.resolved_bases if isinstance(base, griffe.Class))):
        texts = texts | meanings(cls)
        found += [
            Option(name, one.annotation, texts[name], defaults[name])
            for name, one in cls.members.items()
            if isinstance(one, griffe.Attribute)
        ]
    return found


def unpacked(function: griffe.Function) -> tuple[griffe.Parameter, griffe.Class] | None:
    """Return the `**options` of a function and the TypedDict that it names, if it is one of ours."""
    for parameter in function.parameters:
        annotation = parameter.annotation
        if isinstance(annotation, griffe.ExprSubscript) and annotation.canonical_path == "typing.Unpack":
            assert isinstance(annotation.slice, griffe.Expr)
            found = function.modules_collection[annotation.slice.canonical_path]
            assert isinstance(found, griffe.Class)
            return parameter, found
    return None


def functions_below(place: griffe.Module | griffe.Class) -> Iterator[griffe.Function]:
    """Return all functions of a module or a class, and of those in it."""
    for member in place.members.values():
        if isinstance(member, griffe.Function):
            yield member
        elif isinstance(member, griffe.Module | griffe.Class):
            yield from functions_below(member)


def show_options(function: griffe.Function, package: griffe.Module) -> None:
    """Replace `**options` by the options, in the signature and in the docstring."""
    if (found := unpacked(function)) is None:
        return
    parameter, options = found
    shown = options_of(options, package)
    place = function.parent if function.name == "__init__" and isinstance(function.parent, griffe.Class) else function
    for documented in (function, place):
        if documented is not None and documented.docstring is not None:
            replace_row(documented.docstring, parameter.name, [one.as_row() for one in shown])
    del function.parameters[parameter.name]
    for one in shown:
        function.parameters.add(one.as_parameter())


def replace_row(docstring: griffe.Docstring, name: str, rows: list[griffe.DocstringParameter]) -> None:
    """Replace the row of `**options` in the table of parameters by those of the options."""
    docstring.parser = griffe.Parser.google
    docstring.parser_options = {"warnings": False}
    for section in docstring.parsed:
        if section.kind is griffe.DocstringSectionKind.parameters:
            assert isinstance(section, griffe.DocstringSectionParameters)
            if [one for one in section.value if one.name.lstrip("*") == name]:
                section.value = [one for one in section.value if one.name.lstrip("*") != name] + rows


class Options(griffe.Extension):
    """griffe calls it when it has read the package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Show the options of every function."""
        for function in functions_below(pkg):
            show_options(function, pkg)
