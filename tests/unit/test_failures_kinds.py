"""What failures have in common: the text without what differs, and the line of one's own code."""

from __future__ import annotations

import time

import pytest

from redisaq.core.failures import is_own, kind_of, own_frame, template, where


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("bank did not answer within 5.0 s", ("bank did not answer within ", "number", " s")),
        ("410 Gone for https://hooks.example/a?b=1", ("", "number", " Gone for ", "url", "")),
        ("user unknown: jo.doe+x@mail.example", ("user unknown: ", "address", "")),
        ("expected `int`, got 'a str'", ("expected `int`, got ", "text", "")),
        ("no row 3f2504e0-4f89-11d3-9a0c-0305e82c3301 in 17", ("no row ", "uuid", " in ", "number", "")),
        ("at 0x7f3a2b, digest deadbeef01", ("at ", "hex", ", digest ", "hex", "")),
        ("cannot open /srv/data/17.bin\nsecond line 3", ("cannot open ", "path", "")),
        ("message 4r8zq1mt6x0vckd3 is late", ("message ", "id", " is late")),
        ("utf8 and either/or stay", ("utf8 and either/or stay",)),
        ("", ("",)),
    ],
)
def test_what_differs_each_time_is_a_hole(text: str, pieces: tuple[str, ...]) -> None:
    assert template(text) == pieces


def test_failures_of_one_kind() -> None:
    first, second = template("no row 17"), template("no row 4,711")
    assert kind_of("KeyError", first, "bank.py:41 in charge") == kind_of("KeyError", second, "bank.py:41 in charge")
    others = {kind_of("KeyError", first, "bank.py:42 in charge"), kind_of("ValueError", first, "bank.py:41 in charge")}
    assert len(others | {kind_of("KeyError", first, "bank.py:41 in charge")}) == 3
    assert {len(one) for one in others} == {12}


def test_the_last_line_that_is_ones_own() -> None:
    traceback = (
        'File "/srv/a.py", line 1, in one\nFile "C:\\\\shop\\\\bank.py", line 41, in charge\nFile "/x/site-packages/y.py", line 2, in z'
    )
    assert where(*own_frame(traceback)) == "bank.py:41 in charge"
    assert own_frame("no traceback") == ("", "", "")
    assert where(*own_frame("")) == ""


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/srv/shop/bank.py", True),
        ("<frozen runpy>", False),
        ("/usr/lib/python3.13/asyncio/tasks.py", False),
        ("C:\\Python\\Lib\\json.py", False),
    ],
)
def test_whose_code_it_is(path: str, own: bool) -> None:
    assert is_own(path) is own


def test_a_long_text_takes_no_time() -> None:
    """An error's text is anybody's: a pattern that tries every way to divide it would take minutes."""
    began = time.process_time()
    for text in ("1" * 1000, "a1" * 500, "/" * 1000, "'" * 999, "a@" * 500, "0x" * 500, "-." * 500, "a.b@c" * 200, "/a" * 500):
        template(text)
    assert time.process_time() - began < 5.0
