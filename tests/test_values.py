"""Any value is one line of strict JSON in ASCII, and says what it was."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import pathlib
import uuid
import warnings
from typing import Any

import numpy as np
import pydantic
import pytest
from conftest import OddMeta, kept_busy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionguard._values import json_text

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pydantic import v1


def read(value: object) -> Any:
    """What a strict parser makes of the value's text."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no strict JSON")

    text = json_text(value)
    assert text.isascii()
    assert text.isprintable()
    return json.loads(text, parse_constant=refuse)


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


@dataclasses.dataclass
class Point:
    x: int
    y: object = dataclasses.field(repr=False, default=None)


class Model(pydantic.BaseModel):
    name: str
    inner: Any = None


class OldModel(v1.BaseModel):
    name: str


class Hostile:
    """Raises wherever it is touched."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError("hands off")

    __repr__ = __str__ = __iter__ = __len__ = __bool__ = __eq__ = __getattr__ = _raise
    __hash__ = object.__hash__
    keys = items = __getitem__ = __format__ = _raise
    __class__ = property(_raise)


class HostileDict(dict):  # type: ignore[type-arg]
    items = keys = __iter__ = __len__ = __repr__ = Hostile._raise


class HostileList(list):  # type: ignore[type-arg]
    __iter__ = __len__ = __repr__ = __getitem__ = Hostile._raise


@dataclasses.dataclass
class Both(dict):  # type: ignore[type-arg]
    """A dict with a field, which its items are not."""

    x: int = 0


class LiarStr(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "liar"

    __str__ = isascii = encode = __repr__


class LiarInt(int):
    def __repr__(self) -> str:
        return "NaN"

    __str__ = __repr__
    __lt__ = __gt__ = __int__ = __index__ = Hostile._raise


class Lazy:
    """Stands for another object, as the proxies of web frameworks do."""

    def __init__(self, target: object) -> None:
        self.__dict__["target"] = target

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return type(self.target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["target"], name)

    def __repr__(self) -> str:
        return repr(self.__dict__["target"])


class Endless:
    def __repr__(self) -> str:
        return repr([self])


class Nameless(metaclass=OddMeta):
    __repr__ = Hostile._raise


def filled(table: Any, **items: Any) -> Any:
    table.update(items)
    return table


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, 2.5, "x", None, True]}, {"a": [1, 2.5, "x", None, True]}),
        ("grüße 🎉 \x00\x7f\u202e", "grüße 🎉 \x00\x7f\u202e"),
        (10**400, 10**400),
        (-(10**5000), hex(-(10**5000))),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ("a\ud800b", "a\\ud800b"),
        (b"caf\xc3\xa9\xff", "café\\xff"),
        (bytearray(b"x"), "x"),
        ({1, 2}, [1, 2]),
        (collections.deque([1]), [1]),
        (collections.OrderedDict(a=1), {"a": 1}),
        ((1, (2,)), [1, [2]]),
        ({1: "a", "1": "b", (1, 2): "c", b"k": "d", None: "e"}, None),
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (Point(1, {"z": 2}), {"x": 1, "y": {"z": 2}}),
        (Model(name="n", inner=Point(1)), {"name": "n", "inner": {"x": 1, "y": None}}),
        (OldModel(name="n"), {"name": "n"}),
        (pydantic.SecretStr("hidden"), "<secret: 6 characters>"),
        (decimal.Decimal("1.10"), "1.10"),
        (fractions.Fraction(1, 3), "1/3"),
        (dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), "2026-01-02T00:00:00+00:00"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (np.float64("nan"), "nan"),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (LiarStr("truth"), "truth"),
        (LiarInt(7), 7),
        (HostileDict(a=1), {"a": 1}),
        (HostileList([1]), [1]),
        (filled(Both(), a=1), {"a": 1}),
        (Lazy({"a": 1}), "{'a': 1}"),
        (Hostile(), "<Hostile: its repr raised RuntimeError>"),
        (Nameless(), "<Nameless: its repr raised RuntimeError>"),
    ],
    ids=lambda value: None if value is None else json_text(value)[:30],
)
def test_says_what_the_value_is(value: object, expected: object) -> None:
    """JSON values stay as they are, others become their usual text or a readable stand-in."""
    said = read(value)

    if expected is not None:
        assert said == expected
        assert type(said) is type(expected)


def test_keys_that_look_alike_both_stay() -> None:
    """Two keys of a dict never become one."""
    assert read({1: "a", "1": "b", 1.5: "c", None: "d"}) == {
        "1": "a",
        "1 (2)": "b",
        "1.5": "c",
        "None": "d",
    }


def test_cycles() -> None:
    """What contains itself is cut there; what merely stands twice is written twice."""
    shared = {"a": 1}
    loop: list[Any] = [shared, shared]
    loop.append(loop)

    assert read(loop) == [{"a": 1}, {"a": 1}, "<list: contains itself>"]


def test_depth_10_000() -> None:
    """However deep a value is, any parser can read its text."""
    deep: Any = "core"
    for n in range(10_000):
        deep = [deep] if n % 2 else {"k": deep}

    assert "levels deep" in json_text(deep)
    assert read(deep)


def test_a_web_of_objects_ends() -> None:
    """Objects that all know each other, which have more paths than atoms, do not hold up a call."""

    @dataclasses.dataclass
    class Person:
        name: str
        friends: list[Person]

    people = [Person(f"p{n}", []) for n in range(20)]
    for person in people:
        person.friends = people.copy()

    text = json_text(people)

    assert json.loads(text)[0]["name"] == "p0" and all(f'"p{n}"' in text for n in range(20))
    assert len(text) < 10**8 and "repeated too often" in text


def test_near_the_recursion_limit() -> None:
    """Where the stack has hardly any room left, there is a stand-in and no exception."""

    def sink(value: object) -> str:
        try:
            return sink(value)
        except RecursionError:
            return json_text(value)

    deep: Any = 1
    for _ in range(60):
        deep = [deep]

    assert json.loads(sink(deep))
    assert read(Endless()) == "<Endless: its repr raised RecursionError>"


def test_changed_while_it_is_rendered() -> None:
    """Another thread that changes the value meanwhile does no harm."""
    shared: dict[str, Any] = {"list": [], "dict": {}, "set": set()}

    def change(n: int) -> None:
        shared[f"k{n % 7}"] = n
        shared.pop(f"k{(n + 3) % 7}", None)
        shared["dict"][n % 5] = shared["list"][:]
        shared["dict"].pop((n + 1) % 5, None)
        shared["set"].symmetric_difference_update({n % 11})
        shared["list"][n % 3 :] = [n] * (n % 4)

    with kept_busy(change):
        for _ in range(300):
            assert "unreadable" not in json_text(read(shared))


def test_a_megabyte() -> None:
    """Long strings are kept whole."""
    text = "x\n\u00fc" * 350_000

    assert read({"text": text}) == {"text": text}


odd_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**630, max_value=10**5000),
    st.floats(),
    st.text(st.characters()),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Lu"])),
    st.binary(),
    st.decimals(),
    st.fractions(),
    st.datetimes(),
    st.timedeltas(),
    st.uuids(),
    st.complex_numbers(),
    st.sampled_from([Colour.RED, Size.BIG, Ellipsis, int, len, LiarStr("s"), LiarInt(1)]),
    st.floats(width=32).map(np.float32),
    st.builds(Hostile),
    st.builds(Lazy, st.integers()),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary())
    keys = keys | st.tuples(keys, keys) | st.sampled_from([Colour.RED, LiarStr("k")])
    return st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(keys, inner),
        st.dictionaries(keys, inner).map(HostileDict),
        st.lists(inner).map(HostileList),
        st.lists(inner).map(collections.deque),
        st.builds(Point, st.integers(), inner),
        st.builds(Model, name=st.text(st.characters(exclude_categories=["Cs"])), inner=inner),
        st.lists(st.integers() | st.floats()).map(lambda items: np.array(items, dtype=object)),
    )


odd_values = st.recursive(odd_scalars, containers, max_leaves=15)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(odd_values)
def test_any_value(value: object) -> None:
    """Whatever the value is, there is one line of strict JSON, and no exception."""
    read(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    # U+D800 and its like are no characters: JSON has no way to say them
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=15,
)


@settings(deadline=None, max_examples=40)
@given(json_values)
def test_json_is_kept_verbatim(value: object) -> None:
    """What JSON can say, the log says exactly so: as `json.dumps` does."""
    assert json_text(value) == json.dumps(value)
