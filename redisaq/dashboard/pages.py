"""Renders pages, and tells what of a page has changed.

Input: a template and its values. Output: a `Page`: its HTML without the values that move (the skeleton), and those values. Two pages with
the same skeleton differ in values alone, so a browser that shows one of them needs only the values that have changed.

Invariant: a text reaches the page escaped, and without control characters and characters that turn the direction of writing, whatever a
topic, a key or an error contains.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from redisaq.watching import ServerView

_MARK = re.compile("\x00(\\w+)\x00")


def visible(text: str) -> str:
    """Return a text with what cannot be seen as escapes: control characters, marks of direction, odd spaces. Tabs and line ends stay."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in text)


def _finalize(value: object) -> object:
    """Make what a template prints visible. Markup is made here alone, of parts that are."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


TEMPLATES = Environment(
    loader=PackageLoader("redisaq.dashboard"),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def compile_all() -> None:
    """Compile the templates, which takes a tenth of a second, so that nobody waits for it who looks at a page first."""
    for name in TEMPLATES.list_templates(extensions=["html"]):
        TEMPLATES.get_template(name)


_SIGNS = {
    "bad": ("Broken", "M6 .8 11.6 11H.4z"),
    "warn": ("Attention", "M6 .5 11.5 6 6 11.5.5 6z"),
    "calm": ("Paused", "M3.5 2v8M8.5 2v8"),
    "good": ("Fine", "M1.5 6.5 4.5 9.5 10.5 2.5"),
}


def _sign(severity: str) -> Markup:
    word, path = _SIGNS[severity]
    return Markup('<svg class="sign {}" viewBox="0 0 12 12" role="img" aria-label="{}"><path d="{}"/></svg>').format(severity, word, path)


def _holes(pieces: tuple[str, ...]) -> Markup:
    """Return the text of an error, with what differs from one to the next marked."""
    marked = Markup('<span class="hole">{}</span>')
    return Markup("").join(marked.format(visible(one)) if place % 2 else visible(one) for place, one in enumerate(pieces))


def _share(hundredths: float) -> str:
    return f"{round(hundredths, 2):g}%"


def command_of(server: ServerView, *names: object) -> str:
    """Return a command that somebody may paste into a shell, whatever is in the names. It says which server, without its password."""
    place = ["--url", server.url] if server.url else []
    if server.namespace not in ("", "redisaq"):  # the command's own default
        place += ["--namespace", server.namespace]
    return shlex.join(["redisaq", *map(str, names), *place])


_OURS: dict[str, Any] = {"sign": _sign, "share": _share, "holes": _holes}
TEMPLATES.globals.update(_OURS)


class Page(msgspec.Struct, frozen=True):
    """A page.

    Attributes:
        skeleton: its HTML, with marks where values belong.
        values: the values, by the names in the marks.
        shape: identifies the skeleton.
        fixed: HTML of the view itself, if that does not move with every snapshot.
    """

    skeleton: str
    values: Mapping[str, str]
    shape: str
    fixed: str = ""

    @property
    def html(self) -> str:
        """The HTML with its values."""
        parts = {name: str(escape(value)) for name, value in self.values.items()}
        parts |= {"shape": self.shape, "fixed": self.fixed}
        return _MARK.sub(lambda mark: parts[mark[1]], self.skeleton)

    def changes(self, before: Page) -> dict[str, str]:
        """Return the values that another page with the same skeleton had not."""
        return {name: value for name, value in self.values.items() if before.values.get(name) != value}


class Recorder:
    """Gives templates `live` and `attrs`, and keeps the values that they print with them."""

    def __init__(self) -> None:
        """Begin without values."""
        self.values: dict[str, str] = {}

    def live(self, text: object, kind: str = "", tag: str = "span") -> Markup:
        """Return an element whose text moves."""
        name = self._keep(text)
        return Markup('<{2} data-v="{0}"{1}>\x00{0}\x00</{2}>').format(name, _class(kind), tag)

    def attrs(self, **values: object) -> Markup:
        """Return attributes that move."""
        names = {name.replace("_", "-"): self._keep(value) for name, value in values.items()}
        listed = " ".join(f"{name}:{key}" for name, key in names.items())
        each = Markup(" ").join(Markup('{}="\x00{}\x00"').format(name, key) for name, key in names.items())
        return Markup('data-a="{}" {}').format(listed, each)

    def _keep(self, value: object) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = visible(str(value))
        return name


def _still(text: object, kind: str = "", tag: str = "span") -> Markup:
    return Markup("<{2}{0}>{1}</{2}>").format(_class(kind), visible(str(text)), tag)


def _still_attrs(**values: object) -> Markup:
    return Markup(" ").join(Markup('{}="{}"').format(name.replace("_", "-"), visible(str(value))) for name, value in values.items())


def _class(kind: str) -> Markup:
    return Markup(' class="{}"').format(kind) if kind else Markup("")


def render(template: str, values: Mapping[str, Any], *, moves: bool) -> Page:
    """Render a page.

    Args:
        template: the name of the view's template.
        values: what it and the template of what is around it use.
        moves: whether the view itself changes with every snapshot. Otherwise only what is around it does.
    """
    recorder = Recorder()
    live, attrs = (recorder.live, recorder.attrs) if moves else (_still, _still_attrs)
    main = TEMPLATES.get_template(template).render(values, live=live, attrs=attrs)
    inside = Markup(main if moves else "\x00fixed\x00")  # noqa: S704 -- made by a template that escapes
    skeleton = TEMPLATES.get_template("around.html").render(
        values, live=recorder.live, attrs=recorder.attrs, shape=Markup("\x00shape\x00"), main=inside
    )
    shape = hashlib.blake2b(skeleton.encode(), digest_size=8).hexdigest()
    return Page(skeleton, recorder.values, shape, "" if moves else main)
