"""Values as text for people."""

from __future__ import annotations

import ast
import math
import re
import sys
import unicodedata
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, Flag
from typing import Any, ClassVar
from unittest.mock import MagicMock

import numpy as np
import pydantic
import pydantic.v1
import pytest
from conftest import OddMeta
from hypothesis import given
from hypothesis import strategies as st

from actionguard._values import cut, escape, show
from actionguard.core import Action

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


class Colour(Enum):
    RED = "#f00"


class Right(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Card:
    number: str
    holder: str = field(repr=False, default="Eve")


class Customer(pydantic.BaseModel, extra="allow"):
    name: str
    token: pydantic.SecretStr = pydantic.SecretStr("hunter2")


@given(PLAIN)
def test_plain_values(value: Any) -> None:
    """Plain values read as Python writes them, and can be read back."""
    text = show(value)

    assert eval(text, {"inf": math.inf}) == value
    assert text.isprintable()


@given(st.text(alphabet=st.characters()))
def test_escape(text: str) -> None:
    """What is left of any text can be printed and takes one line."""
    safe = escape(text)

    assert len(safe.splitlines()) <= 1
    for char in safe:
        assert char == " " or unicodedata.category(char)[0] not in "CZ"


@given(st.text())
def test_strings_are_unmistakable(text: str) -> None:
    """Two strings that differ look different."""
    assert ast.literal_eval(show(text)) == text


@pytest.mark.parametrize(
    ("char", "escaped"),
    [
        ("\x1b", r"\x1b"),
        ("\n", r"\n"),
        ("\r", r"\r"),
        ("\t", r"\t"),
        ("\x7f", r"\x7f"),
        ("\x9b", r"\x9b"),
        ("\u00a0", r"\xa0"),
        ("\u200b", r"\u200b"),
        ("\u202e", r"\u202e"),
        ("\u2028", r"\u2028"),
        ("\u3164", r"\u3164"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("é中🛑 \\", "é中🛑 \\"),
    ],
    ids=ascii,
)
def test_escapes(char: str, escaped: str) -> None:
    """Unsafe characters become Python's escapes; others stay."""
    assert escape(char) == escaped


class Text(str):  # noqa: SLOT000 - anybody's
    def __repr__(self) -> str:
        return "'harmless'"

    __str__ = __format__ = __repr__  # type: ignore[assignment]


class Number(int):
    def __repr__(self) -> str:
        return "1"


class Real(float):
    def __repr__(self) -> str:
        return "1.0"


class Amount(Decimal):
    def __repr__(self) -> str:
        return "Amount('1')"


class Items(list):  # type: ignore[type-arg]
    def __repr__(self) -> str:
        return "[]"

    def __iter__(self) -> Any:
        return iter([])


class Table(dict):  # type: ignore[type-arg]
    def __repr__(self) -> str:
        return "{}"

    def items(self) -> Any:
        return {}.items()


class Fields(dict):  # type: ignore[type-arg]
    __dataclass_fields__: ClassVar[dict[str, Any]] = {}


class Level(Enum):
    ALL = "everything"

    def __repr__(self) -> str:
        return "<Level.NONE>"


@dataclass(repr=False)
class Hidden:
    amount: int

    def __repr__(self) -> str:
        return "Hidden(amount=1)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Text("rm -rf"), "Text('rm -rf')"),
        (Number(4000), "Number(4000)"),
        (Real(4000), "Real(4000.0)"),
        (Amount(4000), "Amount(Decimal('4000'))"),
        (Items(["a"]), "Items(['a'])"),
        (Table(a=1), "Table({'a': 1})"),
        (Fields(a=1), "Fields({'a': 1})"),
        (Level.ALL, "<Level.ALL: 'everything'>"),
        (Hidden(4000), "Hidden(amount=4000)"),
    ],
    ids=repr,
)
def test_lying_repr(value: object, text: str) -> None:
    """A `__repr__` that tells something else is not asked."""
    assert show(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Colour.RED, "<Colour.RED: '#f00'>"),
        (Right.WRITE, "<Right.WRITE: 2>"),
        (Card("4111"), "Card(number='4111', holder='Eve')"),
        (Customer(name="Bo"), "Customer(name='Bo', token=<secret: 7 characters>)"),
        (
            Customer(name="Bo", **{"a=1, b": 2}),
            "Customer(name='Bo', token=<secret: 7 characters>, 'a=1, b'=2)",
        ),
        (np.arange(3), "ndarray([0, 1, 2])"),
        (np.float64(1.5), "float64(1.5)"),
        (OrderedDict(a=1), "OrderedDict({'a': 1})"),
        (defaultdict(int, a=1), "defaultdict({'a': 1})"),
        (deque([1]), "deque([1])"),
        (frozenset({1}), "frozenset({1})"),
        (frozenset(), "frozenset()"),
        (set(), "set()"),
        ((1,), "(1,)"),
        ((), "()"),
        (bytearray(b"a\x00"), r"bytearray(b'a\x00')"),
        (float("nan"), "nan"),
        (10**5000, hex(10**5000)),
        (Card, f"<class '{__name__}.Card'>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values(value: object, text: str) -> None:
    """Everyday types read as one expects, with every field."""
    assert show(value) == text


def test_pydantic_v1() -> None:
    """Models of pydantic's old interface show their fields."""
    if sys.version_info >= (3, 14):
        pytest.skip("pydantic.v1 ends with Python 3.13")

    class Old(pydantic.v1.BaseModel):
        name: str

    assert show(Old(name="Bo")) == "Old(name='Bo')"


def test_arrays_are_complete() -> None:
    """An array is shown whole: numpy's own text would leave the middle out."""
    assert "500, 501, 502" in show(np.arange(2000))


class Raises:
    def __repr__(self) -> str:
        raise ValueError("secret")


class Nonsense:
    def __repr__(self) -> str:
        return 1  # type: ignore[return-value]


class Recursive:
    def __repr__(self) -> str:
        return repr(self)


class Escapes:
    def __repr__(self) -> str:
        return "\x1b[2J\nTool: harmless\u202e"


class Pretends:
    __class__ = dict  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<a dict, it says>"


class Nameless(metaclass=OddMeta):
    __repr__ = Raises.__repr__


class Broken:
    __dataclass_fields__ = None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Raises(), "<Raises: its repr raised ValueError>"),
        (Nonsense(), "<Nonsense: its repr raised TypeError>"),
        (Recursive(), "<Recursive: its repr raised RecursionError>"),
        (Escapes(), r"\x1b[2J\nTool: harmless\u202e"),
        (Pretends(), "<a dict, it says>"),
        (Nameless(), "<Nameless: its repr raised ValueError>"),
        (Broken(), "<Broken: unreadable, AttributeError>"),
        ([1, Raises()], "[1, <Raises: its repr raised ValueError>]"),
    ],
)
def test_broken_repr(value: object, text: str) -> None:
    """A `__repr__` that fails or misbehaves is shown as such, beside what is readable."""
    assert show(value) == text


def test_mocks_and_proxies() -> None:
    """An object that claims to be of another class is not taken at its word."""
    assert "MagicMock" in show(MagicMock(spec=dict))


def test_cycles() -> None:
    """A container in itself is pointed out, one that stands in two places is shown twice."""
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    twice = [1]

    assert show(cycle) == "[1, {'again': <list: contains itself>}]"
    assert show([twice, twice]) == "[[1], [1]]"


def test_depth() -> None:
    """Ten thousand levels are no RecursionError, from wherever they are shown."""
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]

    def down(levels: int) -> str:
        return down(levels - 1) if levels else show(deep)

    assert "nested more than 64 levels deep" in show(deep)
    assert "<list: " in down(sys.getrecursionlimit() - 200)


def test_a_web_has_an_end() -> None:
    """Containers that share their parts over and over are not followed along every path."""
    web: list[Any] = []
    for _ in range(60):
        web = [web, web]

    assert "repeated too often" in show(web)


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, "é" * 10**6, "\u0301" * 10**6, "\x1b" * 10**6, [[1] * 10] * 10_000],
    ids=["ascii", "letters", "marks", "control", "list"],
)
def test_size(value: Any) -> None:
    """A megabyte of anything is shown whole, within the time that a test has."""
    assert len(show(value)) >= 10**5


def test_cut() -> None:
    """A cut says how much is missing."""
    assert cut("short", 5) == "short"
    assert cut("x" * 2000, 5) == "xxxxx... (1,995 more characters)"


def test_pretty() -> None:
    """A call reads as one line, with nothing unsafe in it."""
    action = Action("re\nfund", {"amount": 50, "id": "c1", "x\x1b": Raises()})

    assert action.pretty() == (
        r"re\nfund(amount=50, id='c1', 'x\x1b'=<Raises: its repr raised ValueError>)"
    )
    assert re.fullmatch(r"[\x20-\x7e]*", action.pretty())
