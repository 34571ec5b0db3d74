"""What is written down of messages that are in no stream can be read back, and by people, too."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from redisaq.brokers.steps.retrying import read_retries
from redisaq.core.records import (
    FOREIGN,
    MOST_NUMBER,
    MOST_WORDS,
    NO_FAILURE,
    RAW,
    Body,
    Failure,
    Resolution,
    decode_dead,
    decode_delayed,
    decode_retry,
    encode_dead,
    encode_delayed,
    encode_retry,
    is_id,
    microseconds,
    next_life,
    read_dead,
    retry_prefix,
    time_of,
    whole,
)

counts = st.integers(0, 1 << 40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
failures = st.builds(Failure, texts, texts, texts, counts, counts, st.integers(1, 1 << 45), texts)
words = st.lists(st.binary(max_size=30), max_size=12).map(tuple)
entry_ids = st.builds(lambda a, b: b"%d-%d" % (a, b), counts, counts)
bodies = st.builds(Body, entry_ids, words, counts, counts, st.none() | failures)


@given(bodies)
def test_a_retry_comes_back(body: Body) -> None:
    assert decode_retry(body.entry_id, encode_retry(body)) == body


@given(bodies)
def test_a_dead_letter_comes_back(body: Body) -> None:
    if body.failure is not None:  # the two say the same
        body = msgspec.structs.replace(body, attempt=body.failure.attempts)
    if len(body.fields) % 2:  # only damage writes such a record: it is kept whole, as one field
        assert decode_dead(encode_dead(body)).fields == (RAW, encode_delayed(body.fields))
        return
    assert decode_dead(encode_dead(body)) == body


@given(words)
def test_a_delayed_message_comes_back(fields: tuple[bytes, ...]) -> None:
    assert tuple(decode_delayed(encode_delayed(fields))) == fields


@given(bodies, counts, counts)
def test_a_script_knows_a_life_and_an_attempt_by_how_the_body_begins(body: Body, life: int, attempt: int) -> None:
    """S1: and nothing else begins so."""
    assert encode_retry(body).startswith(retry_prefix(body.life, body.attempt))
    same = (life, attempt) == (body.life, body.attempt)
    assert encode_retry(body).startswith(retry_prefix(life, attempt)) == same


@pytest.mark.parametrize(("life", "attempt"), [(0, 1), (0, 11), (1, 1), (10, 1)])
def test_a_beginning_is_no_part_of_another(life: int, attempt: int) -> None:
    others = [(0, 1), (0, 11), (1, 1), (10, 1), (0, 10), (1, 11)]
    data = encode_retry(Body(b"1-1", (), life, attempt))
    assert [other for other in others if data.startswith(retry_prefix(*other))] == [(life, attempt)]


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (b"0-0", True),
        (b"1700000000000-12", True),
        (b"18446744073709551615-18446744073709551615", True),
        (b"18446744073709551616-0", False),
        (b"0-18446744073709551616", False),
        (b"0" * 40 + b"-1", False),
        (b"", False),
        (b"1", False),
        (b"-1", False),
        (b"1-", False),
        (b"1-1-1", False),
        (b"1-x", False),
    ],
)
def test_what_is_an_id_of_an_entry(data: bytes, known: bool) -> None:
    assert is_id(data) is known


@given(bodies)
def test_a_redriven_message_has_all_its_attempts_before_it(body: Body) -> None:
    assert next_life(body) == Body(body.entry_id, body.fields, body.life + 1, attempt=0, failure=None, unused=0)


def test_a_person_can_read_a_dead_letter() -> None:
    failure = Failure("ValueError", "no good", "Traceback …", 5, 1000, 2000, "worker-1")
    fields = (b"i", b"p-1", b"d", b'{"n": 1}', b"k", b"user-7")
    assert encode_dead(Body(b"17-0", fields, 2, 5, failure)) == [
        *fields,
        *(b"error", b"ValueError", b"text", b"no good", b"traceback", "Traceback …".encode(), b"attempts", b"5", b"first", b"1000"),
        *(b"last", b"2000", b"origin", b"17-0", b"member", b"worker-1", b"life", b"2"),
    ]


def test_a_letter_of_a_message_that_never_failed_says_how_often_it_was_begun() -> None:
    """It died with its processes: nobody knows when."""
    words = encode_dead(Body(b"1-1", (b"i", b"p"), 0, 5, unused=2))
    assert words[2:14] == [b"error", b"", b"text", b"", b"traceback", b"", b"attempts", b"3", b"first", b"0", b"last", b"0"]


def test_when_it_failed_in_between_is_kept_while_it_is_retried() -> None:
    """Older versions read such a record, and write none; a dead letter has the form that they know."""
    failure = Failure("ValueError", "no good", "", 4, 1000, 4000, "m", (2000, 3000))
    body = Body(b"1-1", (b"i", b"p"), 0, 4, failure)
    assert decode_retry(b"1-1", encode_retry(body)).failure == failure
    plain = Failure("ValueError", "no good", "", 4, 1000, 4000, "m")
    assert encode_dead(body) == encode_dead(Body(b"1-1", (b"i", b"p"), 0, 4, plain))
    assert b"between" not in encode_retry(Body(b"1-1", (b"i", b"p"), 0, 4, plain))


def test_what_is_no_text_is_escaped() -> None:
    odd = Failure("E\ud800", "\udcff", "ok", 1, 1, 1, "\udc00m")
    plain = Failure("E\\ud800", "\\udcff", "ok", 1, 1, 1, "\\udc00m")
    body = Body(b"1-1", (b"i",), 0, 1, odd)
    assert decode_retry(b"1-1", encode_retry(body)).failure == plain
    assert decode_dead(encode_dead(body)).failure == plain


@pytest.mark.parametrize("data", [b"", b"1:", b"x:1:\x92\x90\xc0", b"0:1:", b"0:1:\x90", b"0:1:\x92\x90"])
def test_what_nobody_wrote_is_no_retry(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- msgspec's are, too
        decode_retry(b"1-1", data)


@pytest.mark.parametrize("found", [[], [b"i", b"1"], [b"error", b"x"] * 9])
def test_what_nobody_wrote_is_no_dead_letter(found: list[bytes]) -> None:
    with pytest.raises(ValueError, match="dead letter"):
        decode_dead(found)


@pytest.mark.parametrize("data", [b"1", b"3:ab", b"x:a", b"1:a2", b"-2:", b"1:a-4:", b" 1:a", b"+1:a"])
def test_what_nobody_wrote_is_no_delayed_message(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- whichever it meets first
        decode_delayed(data)


def test_a_retry_that_cannot_be_read_is_to_die_as_it_is() -> None:
    """Nobody knows how often a handler began on it, or when."""
    fine = Body(b"8-1", (b"i", b"p"), attempt=2)
    retries, unreadable, reports = read_retries([(b"7-1", b"nonsense"), (b"8-1", encode_retry(fine))])
    assert retries == [fine]
    (report,) = reports
    assert report.reason.startswith("a retry that cannot be read: ")
    dead = Body(b"7-1", (RAW, b"nonsense"), failure=Failure("Unreadable", report.reason, "", 0, 0, 0, ""))
    assert unreadable == [Resolution("retry", "dead", dead, raw=b"nonsense")]
    assert report.entry_id == b"7-1"


@pytest.mark.parametrize("place", [7, 9, 11, 17])
def test_a_dead_letter_has_numbers_where_they_belong(place: int) -> None:
    words = encode_dead(Body(b"1-1", (), 1, 4, Failure("E", "", "", 4, 1000, 2000, "m")))
    assert decode_dead(words).failure is not None
    words[place] = b"many"
    with pytest.raises(ValueError, match="numbers"):
        decode_dead(words)


@pytest.mark.parametrize(("unused", "readable"), [(0, True), ((1 << 53) - 1, True), (1 << 53, False), (-1, False)])
def test_a_retry_has_counts_within_bounds(unused: int, readable: bool) -> None:
    body = Body(b"1-1", (), 0, 1, None, unused)
    if readable:
        assert decode_retry(b"1-1", encode_retry(body)) == body
    else:
        with pytest.raises(ValueError, match="out of bounds"):
            decode_retry(b"1-1", encode_retry(body))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"9007199254740991", MOST_NUMBER - 1),
        (b"9007199254740992", None),
        (b"00000000000000001", None),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_number_is_one_that_a_script_can_represent(text: bytes | None, number: int | None) -> None:
    """M6: all are below 2 to the power of 53."""
    assert whole(text) == number


@pytest.mark.parametrize(
    ("score", "time"),
    [
        (None, None),
        (b"-5", 0),
        (b"1700000000000000.5", 1_700_000_000_000_000),
        (b"9007199254740990976", (MOST_NUMBER - 1) * 1000 - 24),
        (b"9007199254740992000", None),
        (b"inf", None),
    ],
)
def test_a_score_beyond_all_times_is_none(score: bytes | None, time: int | None) -> None:
    assert time_of(score) == time


def test_times_are_whole_microseconds() -> None:
    assert [microseconds(seconds) for seconds in (0.0, 1.5, 0.0000019)] == [0, 1_500_000, 1]


def test_what_a_record_does_not_say_is_nothing() -> None:
    """Records of older versions say less; what no handler has begun on has had no attempt, in its first life."""
    assert Body(b"1-1", ()) == Body(b"1-1", (), life=0, attempt=0, failure=None, unused=0)
    older = b"2:3:" + msgspec.msgpack.encode([[b"i", b"p"], None])
    assert decode_retry(b"1-1", older) == Body(b"1-1", (b"i", b"p"), 2, 3, None, 0)
    body = Body(b"1-1", (), 0, 2, None, 1)
    assert Resolution("retry", "dead", body) == Resolution("retry", "dead", body, due=0, used=True, raw=None)
    assert Resolution("retry", "retry", body).kept.unused == 1
    assert Resolution("retry", "dead", body).beginning == b"0:2:"
    assert Resolution("retry", "dead", body, raw=b"nonsense").beginning == b"nonsense"
    assert Resolution("retry", "retry", body, due=5, used=False).kept.unused == 2
    assert Failure("", "", "", 0, 0, 0, "") == NO_FAILURE


def test_a_colon_in_a_message_ends_nothing() -> None:
    body = Body(b"1-1", (b"d", b"1:2:3"), 0, 1)
    assert decode_retry(b"1-1", encode_retry(body)) == body


@pytest.mark.parametrize(("words", "moved"), [(2, True), (4000, True), (4002, False), (3, False)])
def test_a_message_of_more_words_than_a_script_can_unpack_dies_whole(words: int, moved: bool) -> None:
    fields = (b"x",) * words
    assert MOST_WORDS == 4000
    assert decode_dead(encode_dead(Body(b"1-1", fields))).fields == (fields if moved else (RAW, encode_delayed(fields)))


def test_a_letter_that_redisaq_did_not_write_is_foreign_and_is_never_redriven() -> None:
    body = read_dead(b"7-0", (b"a", b"b"))
    assert (body, FOREIGN) == (Body(b"7-0", (b"a", b"b"), -1), -1)
    assert next_life(body) is None
    assert next_life(Body(b"no id", (), 0)) is None
