"""Nothing of a payload is lost without a word, on its way into JSON or out of it."""

from __future__ import annotations

import enum
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple, NewType, TypedDict

import anyio
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from redisaq import Consumer, Message, Producer
from redisaq.core.codec import EntryDecoder, key_of, serialize
from redisaq.core.partitioner import partition_for
from redisaq.core.payloads import check_all, encode
from redisaq.core.records import Unreadable
from redisaq.errors import PartitionKeyError, PayloadTooLarge, SerializationError, SettingsError
from redisaq.testing import HandlerKit
from tests.actors.group import fresh_url

NAN = float("nan")


class Colour(enum.Enum):
    RED = "red"
    NONE = float("inf")


class Struct(msgspec.Struct):
    id: Any
    more: Any = None


class Model(pydantic.BaseModel):
    id: int
    at: datetime | None = None
    name: str = pydantic.Field(default="", alias="theName")
    price: float = 0.0

    @pydantic.computed_field
    def twice(self) -> int:
        return 2 * self.id


@dataclass
class Plain:
    id: Any


@dataclass
class Numbered:
    id: int


@dataclass
class Holder:
    model: Model
    some: list[Model]


@pydantic.dataclasses.dataclass
class Checked:
    count: Annotated[int, pydantic.Field(gt=0)]


class StructOfModel(msgspec.Struct):
    model: Model


class Record(NamedTuple):
    a: int
    b: int


class Typed(TypedDict):
    model: Model


LOST: list[tuple[Any, str]] = [
    ({"a": [1.0, {"b": NAN}]}, "payload['a'][1]['b'] is nan"),
    ({"a": float("-inf"), "null": None}, "payload['a'] is -inf"),
    (NAN, "payload is nan"),
    ((1, NAN), r"payload[1] is nan"),
    (Struct(1, more=NAN), "payload.more is nan"),
    (Plain(NAN), "payload.id is nan"),
    ({"a": Colour.NONE}, "payload['a'] is inf"),
    (Model(id=1, price=NAN), "payload['price'] is nan"),
    ({"models": [Model(id=1, price=NAN)]}, "payload['models'][0]['price'] is nan"),
    ({1: "a", "1": "b"}, "payload has two keys that are written alike: 1 and '1'"),
    ({"a": [{"1.5": "a", 1.5: "b"}]}, "payload['a'][0] has two keys"),
    ({"m": {date(2026, 1, 2): 1, "2026-01-02": 2}}, "payload['m'] has two keys"),
    ({"m": {uuid.UUID(int=0xF): 1, str(uuid.UUID(int=0xF)): 2}}, "payload['m'] has two keys"),
    ({"m": {datetime(2026, 1, 2, tzinfo=UTC): 1, "2026-01-02T00:00:00Z": 2}}, "payload['m'] has two keys"),
    ({"m": {b"a": 1, "YQ==": 2}}, "payload['m'] has two keys"),
    ({b"abc": 1, "YWJj": 2}, "payload has two keys"),
    ({Colour.RED: 1, "red": 2}, "payload has two keys"),
    ({1: {"x": None}, "y": {2: None, "2": None}}, "payload['y'] has two keys"),
]


@pytest.mark.parametrize(("payload", "said"), LOST, ids=range(len(LOST)))
def test_what_json_would_lose_is_refused(payload: Any, said: str) -> None:
    with pytest.raises(SerializationError) as raised:
        serialize(payload, None)
    assert said in str(raised.value)
    producer = Producer("t", fresh_url())
    for send in (lambda: producer.enqueue(payload, key="k"), lambda: producer.batch_enqueue([payload, {"n": 1}])):
        with pytest.raises(SerializationError):
            anyio.run(send)
    assert producer.statistics().sent == 0


@pytest.mark.parametrize(
    "payload",
    [{"a": None}, {"line1": "null", "line2": None}, {1: 2, "2": 1}, [None, 1.5], {"nan": "nan"}, Struct(None), {"a": 2**70, "b": None}],
    ids=range(7),
)
def test_what_json_keeps_is_sent(payload: Any) -> None:
    assert msgspec.json.decode(serialize(payload, None)) == msgspec.json.decode(msgspec.json.encode(payload))


def test_a_payload_in_which_nothing_can_be_lost_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searching costs several times what encoding does."""

    def never(*_arguments: object) -> str:
        raise AssertionError("searched")

    monkeypatch.setattr("redisaq.core.payloads._lost", never)
    plain = [{"a": [1, 2.5]}, {"a": {"b": "c"}}, {}, [1], "x", 0, {"a": "b"}]
    for payload in plain:
        serialize(payload, None)
    check_all(plain, [encode(one) for one in plain])
    check_all([{"a": None}] * 2, [b'{"a":null}'] * 2)
    check_all([], [])
    with pytest.raises(AssertionError, match="searched"):
        serialize({"a": [{"x-00000000000f": 1}]}, None)


class Paint(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    "some", [[NAN], [{"n": 1}, NAN], [{Colour.RED: 1, Paint.RED: 2}], [{Colour.RED: 1, Paint.RED: 2}, {"a": 1}]], ids=range(4)
)
def test_of_a_batch_nothing_is_lost(some: list[Any]) -> None:
    with pytest.raises(SerializationError):
        check_all(some, [encode(one) for one in some])


def test_what_is_long_is_named_shortly() -> None:
    """80 characters of a key."""
    key = b"k" * 300
    alike = b64encode(key).decode()
    short = f"{key!r}"[:80] + "…"
    for payload, said in [
        ({key: NAN}, f"payload[{short}] is nan, which JSON cannot write"),
        ({key: 1, alike: 2}, f"payload has two keys that are written alike: {short} and {f'{alike!r}'[:80]}…"),
    ]:
        with pytest.raises(SerializationError) as raised:
            serialize(payload, None)
        assert str(raised.value) == said


def test_a_serializer_of_ones_own_says_itself_what_it_writes() -> None:
    assert serialize({"a": NAN}, repr) == b"{'a': nan}"


def test_all_of_a_batch_is_looked_at() -> None:
    for payload in ({"a": NAN}, {1: "a", "1": "b"}):
        with pytest.raises(SerializationError):
            anyio.run(Producer("t", fresh_url()).batch_enqueue, [{"n": 1}, payload])


# -- keys --------------------------------------------------------------------------------------------------------------------------

SAME: list[tuple[Any, str]] = [
    (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (date(2026, 1, 2), "2026-01-02"),
    (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00Z"),
    (Decimal("1.50"), "1.50"),
    (b"abc", "YWJj"),
    (Colour.RED, "red"),
    (7, "7"),
    (True, "true"),
    (1.5, "1.5"),
    ("ä\n", "ä\n"),
    (["a", 1], '["a",1]'),
]


@pytest.mark.parametrize(("value", "text"), SAME, ids=[text for _, text in SAME])
@pytest.mark.parametrize("make", [lambda value: {"id": value}, Struct, Plain], ids=["dict", "struct", "dataclass"])
def test_a_key_is_the_text_of_the_field(make: Callable[[Any], Any], value: Any, text: str) -> None:
    assert key_of(make(value), "id") == text
    assert partition_for(key_of(make(value), "id"), 64) == partition_for(key_of({"id": text}, "id"), 64)


def test_a_key_out_of_a_model_and_of_a_message() -> None:
    assert key_of(Model(id=3, at=datetime(2026, 1, 2, tzinfo=UTC)), "at") == "2026-01-02T00:00:00Z"
    kit = HandlerKit(lambda _: None)
    message = kit.deliver(Message("test", {"id": uuid.UUID(int=7)}, partition_key="id")).message
    assert message is not None
    assert message.key == str(uuid.UUID(int=7))


@pytest.mark.parametrize("make", [lambda **fields: fields, SimpleNamespace], ids=["dict", "object"])
def test_a_payload_without_the_key_says_whether_it_has_the_field(make: Callable[..., Any]) -> None:
    with pytest.raises(PartitionKeyError, match="the payload's field 'id' is None"):
        key_of(make(id=None), "id")
    with pytest.raises(PartitionKeyError, match="the payload has no field 'id'"):
        key_of(make(name="x"), "id")


def test_a_key_that_json_cannot_write_is_refused() -> None:
    with pytest.raises(SerializationError, match="the payload's field 'id' is nan"):
        key_of({"id": NAN}, "id")
    with pytest.raises(SerializationError, match="the payload's field 'id' cannot be a key"):
        key_of({"id": object()}, "id")


# -- types -------------------------------------------------------------------------------------------------------------------------


def through(payload: Any, payload_type: Any, **more: Any) -> Any:
    return decoded(EntryDecoder("t", payload_type=payload_type, **more), [b"i", b"x", b"d", serialize(payload, None)])


def decoded(decoder: EntryDecoder[Any], fields: list[bytes]) -> Any:
    flights, unreadable = decoder.decode([(b"1-1", fields)], 0, 1)
    assert len(flights) + len(unreadable) == 1
    return (flights or unreadable)[0]


@pytest.mark.parametrize("names", [b"id", b"idk", b"ikd", b"dik"])
def test_an_entry_is_read_by_the_names_of_its_fields_and_not_by_their_values(names: bytes) -> None:
    decoder: EntryDecoder[Any] = EntryDecoder("t")
    values = {b"i": b"7", b"d": b"1", b"k": b"2"}
    words = [word for name in (names[at : at + 1] for at in range(len(names))) for word in (name, values[name])]
    message = decoded(decoder, words)
    assert (message.msg_id, message.payload, message.key) == ("7", 1, "2" if b"k" in names else None)
    for at in range(0, len(words), 2):  # another name, and the right one is a value
        assert isinstance(decoded(decoder, [*words[:at], b"z", words[at], *words[at + 2 :]]), Unreadable)


@dataclass
class Limited:
    count: Annotated[int, pydantic.Field(gt=0)]


@pydantic.dataclasses.dataclass
class Renamed:
    count: int = pydantic.Field(alias="theCount")


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


Order = NewType("Order", Model)


def test_a_model_is_written_as_it_is_read() -> None:
    """By its aliases, without what it computes; a dataclass of pydantic, too."""
    assert msgspec.json.decode(serialize(Model(id=3, theName="n"), None)) == {"id": 3, "at": None, "theName": "n", "price": 0.0}
    assert serialize(Renamed(theCount=3), None) == b'{"theCount":3}'
    assert msgspec.json.decode(serialize([Model(id=3)], None)) == [{"id": 3, "at": None, "theName": "", "price": 0.0}]


def test_a_type_without_pydantic_is_read_strictly() -> None:
    """A model would take the text for a number."""
    assert isinstance(decoded(EntryDecoder("t", payload_type=Numbered), [b"i", b"x", b"d", b'{"id":"3"}']), Unreadable)


MODEL = Model(id=3, at=datetime(2026, 1, 2, tzinfo=UTC), theName="n")


@pytest.mark.parametrize(
    ("payload", "payload_type"),
    [
        (MODEL, Model),
        (MODEL, Model | None),
        ([MODEL], list[Model]),
        ({"a": MODEL}, dict[str, Model]),
        (Holder(MODEL, [MODEL]), Holder),
        ({"model": MODEL}, Typed),
        (StructOfModel(MODEL), StructOfModel),
        (Checked(3), Checked),
        (3, Annotated[int, pydantic.Field(gt=0)]),
        (MODEL, Order),
        (Limited(3), Limited),
        (Tree("a", [Tree("b")]), Tree),
    ],
    ids=range(12),
)
def test_a_model_comes_out_as_it_went_in(payload: Any, payload_type: Any) -> None:
    message = through(payload, payload_type)
    assert isinstance(message, Message), message
    assert message.payload == payload


@pytest.mark.parametrize(
    ("payload", "payload_type"),
    [
        ({"id": "x"}, Model),
        ({"count": 0}, Checked),
        (0, Annotated[int, pydantic.Field(gt=0)]),
        ({"model": {}}, StructOfModel),
        ({"id": "x"}, Order),
        ({"count": 0}, Limited),
    ],
)
def test_what_pydantic_refuses_cannot_be_read(payload: Any, payload_type: Any) -> None:
    assert isinstance(through(payload, payload_type), Unreadable)


def test_a_model_from_a_deserializer() -> None:
    message = through(MODEL, Model, deserializer=msgspec.json.decode)
    assert isinstance(message, Message)
    assert message.payload == MODEL


@pytest.mark.parametrize(
    "payload_type", [object(), "Order", type("Mine", (), {}), list[range], Struct | StructOfModel, 5, Callable[[], int]]
)
def test_a_type_that_nothing_can_be_read_as_is_refused(payload_type: Any) -> None:
    with pytest.raises(SettingsError, match="payload_type"):
        Consumer("t", "memory://", payload_type=payload_type)


def test_a_type_that_a_deserializer_makes_is_taken() -> None:
    kind = type("Mine", (), {})
    message = through(1, kind, deserializer=lambda _: kind())
    assert isinstance(message, Message)
    assert isinstance(message.payload, kind)


# -- batches and limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payloads",
    ["abc", b"abc", bytearray(b"a"), memoryview(b"a"), {"a": 1}, {}, Message("t", 1), MODEL, Plain(1), Struct(1), Record(1, 2), 5, None],
    ids=range(13),
)
def test_one_payload_is_no_batch(payloads: Any) -> None:
    producer = Producer("t", fresh_url())
    with pytest.raises(SettingsError, match="payloads must be several"):
        anyio.run(producer.batch_enqueue, payloads)
    with pytest.raises(SettingsError, match="payloads must be several"):
        HandlerKit(lambda _: None).run(payloads)


def test_what_yields_payloads_is_a_batch() -> None:
    def yields() -> Iterator[int]:
        yield from (1, 2)

    async def main() -> list[int]:
        async with Producer("t", fresh_url()) as producer:
            return [len(await producer.batch_enqueue(some)) for some in ([1, 2], (1, 2), yields(), {1, 2}, {1: 1, 2: 2}.keys(), range(2))]

    assert anyio.run(main) == [2] * 6


@pytest.mark.parametrize("more", [{"key": "k" * 100}, {"headers": {"a": "b" * 100}}, {"headers": {"a" * 100: "b"}}])
def test_the_limit_counts_headers_and_key(more: dict[str, Any]) -> None:
    async def main() -> None:
        async with Producer("t", fresh_url(), max_payload=100) as producer:
            await producer.enqueue("x" * 98)
            for send in (lambda: producer.enqueue({}, **more), lambda: producer.batch_enqueue([{}], **more)):
                with pytest.raises(PayloadTooLarge, match="key and headers"):
                    await send()
            with pytest.raises(PayloadTooLarge):
                await producer.enqueue(Message("t", {}, **more))
            assert producer.statistics().sent == 1

    anyio.run(main)


@pytest.mark.parametrize("data", ["ä", "ä".encode(), bytearray("ä".encode()), memoryview("ä".encode())])
def test_a_serializer_returns_text_or_bytes(data: Any) -> None:
    found = serialize(7, lambda _: data)
    assert (found, type(found)) == ("ä".encode(), bytes)


def test_a_text_that_no_bytes_stand_for_is_refused() -> None:
    with pytest.raises(SerializationError, match="cannot be written as UTF-8"):
        serialize(7, lambda _: "\ud800")
