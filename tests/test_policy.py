from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import functools
import pickle
import re
import threading
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, HttpUrl, RootModel, SecretStr

from actionguard._values import json_text
from actionguard.policy import ApprovalPolicy, Policy


def over(threshold: Any) -> Callable[[Any], bool]:
    """Whether an amount is held by a policy with this threshold."""
    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": threshold})
    return lambda amount: policy.needs_approval({"amount": amount})


def matches(pattern: str | re.Pattern[str]) -> Callable[[Any], bool]:
    """Whether a value is held by a policy with this pattern."""
    policy = ApprovalPolicy(match_args={"value": pattern})
    return lambda value: policy.needs_approval({"value": value})


class Reading(enum.Enum):
    SMALL = 50
    LARGE = 4000
    TEXT = "4000"
    NAME = "lots"


class Count(enum.IntEnum):
    SMALL = 50
    LARGE = 4000


class Stage(enum.Enum):
    PROD = "p"
    TEST = "prod-t"
    DEV = "d"


class Env(str, enum.Enum):
    LIVE = "prod-eu"
    DEV = "dev"


# --- how rules combine -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "held"),
    [
        ({}, True),
        ({"match_args": {}}, True),
        ({"require_always": True}, True),
        ({"require_always": False}, False),
        ({"require_always": False, "amount_over": {"arg": "n", "threshold": 1}}, True),
        ({"require_always": False, "amount_over": {"arg": "n", "threshold": 9}}, False),
        ({"require_always": True, "amount_over": {"arg": "n", "threshold": 9}}, True),
        ({"amount_over": {"arg": "n", "threshold": 9}, "match_args": {"c": "^x"}}, True),
        ({"amount_over": {"arg": "n", "threshold": 1}, "match_args": {"c": "^y"}}, True),
        ({"amount_over": {"arg": "n", "threshold": 9}, "match_args": {"c": "^y"}}, False),
        ({"amount_over": {"arg": "n", "threshold": 9}, "require_if": lambda a: a["n"] == 5}, True),
        ({"match_args": {"c": "^y", "d": "^z"}}, True),
        ({"require_if": lambda _: False}, False),
    ],
)
def test_rules_combine_with_or(rules: dict[str, Any], held: bool) -> None:
    """Any rule holds the call; no rule holds every call; require_always=False alone holds none."""
    answer = ApprovalPolicy(**rules).needs_approval({"n": 5, "c": "x1", "d": "z"})

    assert answer is held


def test_absent_arguments_are_passed_over() -> None:
    """A rule on an argument that a call does not have says nothing about the call."""
    policy = ApprovalPolicy(amount_over={"arg": "n", "threshold": 1}, match_args={"c": "."})

    assert policy.needs_approval({}) is False
    assert policy.needs_approval({"other": 5}) is False


def test_names_are_those_the_rules_look_at() -> None:
    """`names` holds the arguments of amount_over and match_args, and none of require_if."""
    policy = ApprovalPolicy(
        require_if=lambda args: args["x"],
        amount_over={"arg": "n", "threshold": 1},
        match_args={"a": ".", "b": "."},
    )

    assert policy.names == {"n", "a", "b"}
    assert ApprovalPolicy().names == frozenset()


def test_subclass_adds_a_rule() -> None:
    """A subclass may add to the answer of the rules it inherits."""

    class Weekend(ApprovalPolicy):
        def needs_approval(self, args: dict[str, Any]) -> bool:
            return super().needs_approval(args) or args["day"] in ("sat", "sun")

    policy = Weekend(amount_over={"arg": "n", "threshold": 1})

    assert policy.needs_approval({"n": 5, "day": "mon"}) is True
    assert policy.needs_approval({"n": 0, "day": "sat"}) is True
    assert policy.needs_approval({"n": 0, "day": "mon"}) is False


def test_subclass_without_init_holds_everything() -> None:
    """A subclass that never calls `__init__` is a policy without rules, not a broken one."""

    class Bare(ApprovalPolicy):
        def __init__(self, limit: int) -> None:
            self.limit = limit

    policy = Bare(5)

    assert policy.needs_approval({}) is True
    assert policy.names == frozenset()


def test_any_object_with_needs_approval_is_a_policy() -> None:
    """The protocol asks for one method, whatever it calls its parameter."""

    class Mine:
        def needs_approval(self, call: dict[str, Any]) -> bool:
            return "x" in call

    policy: Policy = Mine()

    assert policy.needs_approval({"x": 1}) is True


# --- amount_over -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "amount",
    [
        101,
        100.00000000000001,
        10**400,
        float("inf"),
        float("nan"),
        Decimal("100.000000000000000001"),
        Decimal("1e999999999"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Fraction(201, 2),
        np.float64(100.5),
        np.float32(100.5),
        np.float16(101),
        np.float32("nan"),
        np.float32("inf"),
        np.longdouble(100.5),
        np.int8(101),
        np.uint64(2**64 - 1),
        np.array(101),
        np.array(100.5),
        np.array("4000"),
        "101",
        "4000",
        " 250.5 ",
        "\u2003250.5\n",
        "1e3",
        "+1E+3",
        "1_000",
        "٤٠٠٠",
        "４０００",
        "inf",
        "nan",
        "sNaN",
        "1e999999999",
        "1e9999999999999999999999",
        "9" * 10_000,
        Count.LARGE,
        Reading.LARGE,
        Reading.TEXT,
    ],
    ids=lambda amount: repr(amount)[:40],
)
def test_numbers_above_the_threshold_are_held(amount: object) -> None:
    """Everything Python reads as a number is compared, and NaN is above every threshold."""
    assert over(100)(amount) is True


@pytest.mark.parametrize(
    "amount",
    [
        100,
        100.0,
        -5,
        0,
        float("-inf"),
        Decimal(100),
        Decimal("99.999999999999999999999999999999"),
        Decimal("1e-999999999"),
        Fraction(100),
        np.float64(100),
        np.float32(99.5),
        np.longdouble(100),
        np.int8(100),
        np.array(100),
        np.array(5.0),
        "100",
        "100.000",
        "1e2",
        "-4000",
        "1e-999999999",
        "-1e999999999",
        Count.SMALL,
        Reading.SMALL,
    ],
    ids=lambda amount: repr(amount)[:40],
)
def test_numbers_up_to_the_threshold_are_released(amount: object) -> None:
    """The threshold itself and what lies below it, in any of these types, needs nobody."""
    assert over(100)(amount) is False


@pytest.mark.parametrize("amount", [True, False, np.bool_(True), np.array(True)])
def test_a_bool_is_no_amount(amount: object) -> None:
    """True is not the number 1."""
    assert over(0)(amount) is False
    assert over(-5)(amount) is False


class Unreadable:
    """Claims to be a number, and then fails."""

    def as_integer_ratio(self) -> tuple[int, int]:
        raise RuntimeError("no ratio")

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "amount",
    [
        None,
        "",
        "lots",
        "4,000",
        "$5",
        "0x10",
        "1e",
        "\ud800",
        "1\x00",
        "True",
        b"5",
        b"4000",
        [5],
        (5,),
        {"amount": 5},
        1 + 2j,
        np.complex64(5),
        np.array([5, 6]),
        np.array("lots"),
        SecretStr("5"),
        Reading.NAME,
        Unreadable(),
        object(),
        int,
    ],
    ids=lambda amount: repr(amount)[:40] if not isinstance(amount, Unreadable) else "Unreadable",
)
def test_what_is_no_number_is_held(amount: object) -> None:
    """What is there but cannot be judged needs a person."""
    assert over(100)(amount) is True


@pytest.mark.parametrize(
    ("threshold", "amount", "held"),
    [
        (2**53, 2**53 + 1, True),
        (float(2**53), 2**53 + 1, True),
        (2**53 + 1, float(2**53), False),
        (10**400, 10**400 + 1, True),
        (10**400, 1e308, False),
        (10**400, "1e400", False),
        (10**400, "1.0000001e400", True),
        (Decimal("100.5"), 100.5, False),
        (Decimal("100.1"), 100.1, False),
        (Decimal("100.1"), "100.10000000000000000001", True),
        (Fraction(1, 3), Decimal("0.333333333333333333333333333333"), False),
        (Fraction(1, 3), Decimal("0.333333333333333333333333333334"), True),
        (Fraction(1, 3), "0.3333333333333333333", False),
        (Fraction(1, 3), 1 / 3, False),
        (0.1, "0.1", False),
        (np.float32(0.5), 0.5, False),
        (np.float32(0.5), "0.51", True),
        (np.int64(7), 8, True),
        (-1, 0, True),
        (0, 5e-324, True),
        (1e308, "1e999999999", True),
    ],
)
def test_comparison_is_exact(threshold: Any, amount: Any, held: bool) -> None:
    """No rounding through float decides, whatever types meet."""
    assert over(threshold)(amount) is held


def test_subclasses_are_read_for_what_they_are() -> None:
    """A number's own idea of comparison cannot lower it."""

    class Low(int):
        def __le__(self, other: object) -> bool:
            return True

        __lt__ = __ge__ = __gt__ = __eq__ = __le__  # type: ignore[assignment]
        __hash__ = int.__hash__

    class LowDecimal(Decimal):
        def __le__(self, other: object) -> bool:
            return True

    class LowFloat(float):
        def __le__(self, other: object) -> bool:
            return True

        def as_integer_ratio(self) -> tuple[int, int]:
            return 0, 1

    class LowText(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "5"

    assert all(map(over(100), [Low(4000), LowDecimal(4000), LowFloat(4000), LowText("4000")]))


@pytest.mark.parametrize("trapped", [True, False])
def test_decimal_context_of_the_program_changes_nothing(trapped: bool) -> None:
    """A program's traps and precision neither raise from the policy nor change its answer."""
    signals = [decimal.InvalidOperation, decimal.FloatOperation, decimal.Inexact]
    with decimal.localcontext(decimal.Context(prec=1, traps=signals if trapped else [])) as context:
        answers = [
            over(Decimal("100.5"))(100.5),
            over(Decimal("100.5"))(100.50001),
            over(100.5)(Decimal("100.5000001")),
            over(100)("lots"),
            over(100)("nan"),
            over(Fraction(1, 3))("0.33"),
        ]
        flags = context.flags[decimal.FloatOperation]

    assert answers == [False, True, True, True, True, False]
    assert not flags


_numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.fractions(),
)


@given(_numbers, _numbers)
def test_every_pair_of_numbers_compares_as_fractions_do(threshold: Any, amount: Any) -> None:
    """Held if and only if the exact value is greater, for every pair of types."""
    assert over(threshold)(amount) is (Fraction(amount) > Fraction(threshold))


@given(st.floats(allow_nan=False, allow_infinity=False), _numbers)
def test_the_text_of_a_number_compares_as_the_number(threshold: float, amount: Any) -> None:
    """A number as a string is held just as the number written in it."""
    text = str(amount)
    if isinstance(amount, Fraction) and amount.denominator != 1:
        assert over(threshold)(text) is True  # "1/3" is no number to Python
    else:
        assert over(threshold)(text) is (Fraction(text) > Fraction(threshold))


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="0123456789٠٤९_+-.eE naif \t\n"),
        st.from_regex(r"\s*[+-]?(\d+(_\d+)*)?(\.\d*)?([eE][+-]?\d{1,4})?\s*", fullmatch=True),
    ),
    st.sampled_from([0, 100, -1, 0.1, 1e20]),
)
@example("1_0_0_1", 100)
@example("infinity", 100)
@example("+nAn", 100)
def test_no_text_that_a_tool_reads_as_more_is_released(text: str, threshold: float) -> None:
    """Whatever int(), float() or Decimal() would make of a string, it is no more than released."""
    if over(threshold)(text):
        return
    for read in (int, float, Decimal):
        try:
            number = read(text)
        except (ValueError, ArithmeticError):
            continue
        assert number <= threshold


# --- match_args ------------------------------------------------------------------------------


@dataclass
class Customer:
    id: str
    note: object = None
    hidden: str = field(default="", repr=False)


class Address(BaseModel):
    city: str
    owner: Any = None


class Quiet(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "nothing"


class Cut(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Hosts:
    """Such as Django's QuerySet: its text is an excerpt, and its length asks a database."""

    def __len__(self) -> int:
        raise AssertionError("asked")


class Frame:
    """Such as Spark's DataFrame: its text is a plan."""

    columns = ("host",)


class Tensor:
    def __init__(self) -> None:
        self.shape = (3,)


class Connection:
    """Its text is an address in memory."""

    def __init__(self) -> None:
        self.host = "prod-1"


class Host:
    """Its text is all that a rule can look at."""

    def __str__(self) -> str:
        return "prod-1"


@dataclass
class Server:
    env: str
    name: str

    def __str__(self) -> str:
        return f"{self.env}-{self.name}"


@pytest.mark.parametrize(
    "value",
    [
        "prod-1",
        Quiet("prod-1"),
        b"prod-1",
        bytearray(b"prod-1"),
        memoryview(b"prod-1"),
        ["a", "prod-1"],
        ("a", ["b", {"c": ("prod-1",)}]),
        {"prod-1"},
        frozenset({b"prod-1"}),
        deque(["prod-1"]),
        UserList(["prod-1"]),
        {"a": "prod-1"}.values(),
        {"prod-1": "a"}.keys(),
        Cut(["prod-1"]),
        {"key": "prod-1"},
        {"prod-1": "key"},
        OrderedDict(key=["prod-1"]),
        UserDict(key="prod-1"),
        MappingProxyType({"key": "prod-1"}),
        Customer("prod-1"),
        Customer("a", hidden="prod-1"),
        [Customer("a", note=Customer("prod-1"))],
        Address(city="prod-1"),
        Address(city="a", owner=[Address(city="prod-1")]),
        RootModel[list[str]](["a", "prod-1"]),
        SecretStr("prod-1"),
        np.array(["a"] * 5_000 + ["prod-1"] + ["a"] * 5_000),
        np.array("prod-1"),
        np.str_("prod-1"),
        Host(),
        [Server("prod", "1")],
        Stage.TEST,
        Env.LIVE,
        [Env.LIVE],
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:30]}",
)
def test_pattern_finds_text_wherever_it_is(value: object) -> None:
    """`^prod-` finds a value, an element, a key, a field, bytes and an Enum's value."""
    assert matches("^prod-")(value) is True


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "preprod-1",
        b"\xff\xfe",
        ["a", None, ["preprod-1"]],
        {"key": "my prod-1"},
        Customer("preprod-1"),
        Stage.DEV,
        object(),
        5,
        True,
        [],
        ip_network("10.0.0.0/8"),
        HttpUrl("https://preprod-1/"),
        threading.Lock(),
        np.array([1, 2]),
    ],
    ids=repr,
)
def test_pattern_that_finds_nothing_releases(value: object) -> None:
    """Only a match holds a call; None is passed over, and so is an empty container."""
    assert matches("^prod-")(value) is False


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (r"^5$", 5),
        (r"^5\.0$", 5.0),
        (r"^True$", True),
        (r"^PROD$", Stage.PROD),
        (r"^p$", Stage.PROD),
        (r"'env': 'prod'", {"env": "prod"}),
        (re.compile("^PROD-", re.IGNORECASE), "prod-1"),
        (r"^/etc", __import__("pathlib").PurePosixPath("/etc/passwd")),
        (r"^é$", "é".encode()),
        ("", "anything"),
    ],
)
def test_pattern_searches_the_text_of_any_value(pattern: Any, value: object) -> None:
    """Numbers, paths and Enums count as the text they show, containers as their own text too."""
    assert matches(pattern)(value) is True


@pytest.mark.parametrize(
    "value", [Hosts(), Frame(), Tensor(), Connection(), object.__new__(Unreadable)]
)
def test_what_cannot_be_read_whole_is_held(value: Any) -> None:
    """A value whose text is an excerpt, or that has none, needs a person, wherever it is."""
    assert matches("^prod-")(value) is True
    assert matches("^prod-")(["a", {"b": value}]) is True
    assert matches("^prod-")(10**5_000) is True


@pytest.mark.parametrize("value", [iter(["a"]), map(str, ["a"]), (n for n in "a")], ids=repr)
def test_iterators_are_held_and_not_consumed(value: Iterator[str]) -> None:
    """What an iterator will give cannot be known without taking it."""
    assert matches("^prod-")(value) is True
    assert list(value) == ["a"]


@pytest.mark.parametrize("end", ["prod-1", "test-1"])
def test_circular_values_are_searched_through(end: str) -> None:
    """Values that contain themselves are searched to the end."""
    circle: list[Any] = [{"inside": ()}, end]
    circle[0]["circle"] = circle

    assert matches("^prod-")(circle) is (end == "prod-1")


def test_values_without_end_are_held() -> None:
    """A field that is a new object each time leads on for ever, so nobody can say what it holds."""

    @dataclass
    class Node:
        child: Any

    class Endless(Node):
        child = property(lambda self: object.__new__(Endless))  # type: ignore[assignment]

    assert matches("^prod-")(object.__new__(Endless)) is True
    assert matches("^prod-")(["test-1"] * 400_000 + list(map(str, range(400_000)))) is False


def test_values_made_while_searching_are_all_searched() -> None:
    """Fields read one after another are told apart, though Python may reuse their memory."""

    class Fresh(BaseModel):
        number: int

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            return [f"item-{value}"] if name == "number" else value

    assert matches("^item-99$")([Fresh(number=n) for n in range(100)]) is True


# --- require_if ------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [True, 1, "yes", [0], object()])
def test_any_truthy_answer_holds(answer: object) -> None:
    """A predicate need not answer with a bool; the policy does."""
    assert ApprovalPolicy(require_if=lambda _: answer).needs_approval({}) is True


@pytest.mark.parametrize("answer", [False, None, 0, "", [], np.bool_(False)])
def test_any_falsy_answer_releases(answer: object) -> None:
    """Nothing, in whatever form, is a no."""
    assert ApprovalPolicy(require_if=lambda _: answer).needs_approval({}) is False


@dataclass
class Backed:
    """A field that a property keeps elsewhere."""

    inside: Any

    @property  # type: ignore[no-redef]
    def inside(self) -> Any:
        return self._kept

    @inside.setter
    def inside(self, value: Any) -> None:
        self._kept = value


@pytest.mark.parametrize(
    ("value", "emptying"),
    [
        ({"tags": ["prod"]}, lambda value: value.clear()),
        ([["prod"]], lambda value: value[0].clear()),
        (Backed(["prod"]), lambda value: value.inside.clear()),
        (Backed(deque(["prod"])), lambda value: value.inside.clear()),
        (Backed(Customer("prod")), lambda value: setattr(value.inside, "id", "")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_predicate_gets_a_copy(value: Any, emptying: Callable[[Any], Any]) -> None:
    """A predicate that takes its arguments apart leaves those of the caller as they were."""
    before = json_text(value)
    args = {"a": value}

    def emptied(args: dict[str, Any]) -> bool:
        emptying(args.pop("a"))
        return False

    assert ApprovalPolicy(require_if=emptied).needs_approval(args) is False
    assert args == {"a": value}
    assert json_text(value) == before


def test_predicate_cannot_change_what_other_rules_see() -> None:
    """Rules on names have judged before a predicate gets hold of the values."""

    def hiding(args: dict[str, Any]) -> bool:
        args["tags"].clear()
        return False

    policy = ApprovalPolicy(require_if=hiding, match_args={"tags": "^prod$"})

    assert policy.needs_approval({"tags": ["prod"]}) is True


def test_errors_of_the_predicate_pass() -> None:
    """What a predicate raises, or the truth of its answer, is the gate's to handle."""
    with pytest.raises(KeyError, match="missing"):
        ApprovalPolicy(require_if=lambda args: args["missing"]).needs_approval({})
    with pytest.raises(ValueError, match="ambiguous"):
        ApprovalPolicy(require_if=lambda _: np.array([1, 2])).needs_approval({})


async def _later(args: dict[str, Any]) -> bool:
    return bool(args)


async def _later(args: dict[str, Any]) -> bool:
    return bool(args)


# --- misconfiguration ------------------------------------------------------------------------


class Later:
    async def __call__(self, args: dict[str, Any]) -> bool:
        return bool(args)

    async def method(self, args: dict[str, Any]) -> bool:
        return bool(args)


@pytest.mark.parametrize(
    "predicate",
    [
        _later,
        Later(),
        Later().method,
        functools.partial(_later),
        functools.partial(functools.partial(Later().method)),
    ],
)
def test_async_predicates_are_refused_early(predicate: Any) -> None:
    """A coroutine is truthy, whatever it would have said: such a predicate is no policy."""
    with pytest.raises(
        TypeError,
        match=r"^require_if must be a plain function \(not async\) that takes one argument",
    ):
        ApprovalPolicy(require_if=predicate)


@pytest.mark.parametrize(
    "predicate",
    [len, bool, functools.partial(max, 1), lambda *_: 1, lambda a, b=1: a, str.format],
)
def test_any_callable_of_one_argument_is_a_predicate(predicate: Any) -> None:
    """Builtins, classes and partials are as good as functions, if they can take the arguments."""
    policy = ApprovalPolicy(require_if=predicate)

    assert policy.require_if is predicate


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ({"require_if": 5}, TypeError, "require_if must be a plain function .*, not 5"),
        ({"require_if": lambda: True}, TypeError, "require_if must be .*takes one argument"),
        ({"require_if": lambda a, b: a}, TypeError, "require_if must be .*takes one argument"),
        ({"require_always": 1}, TypeError, "require_always must be True, False or None, not 1"),
        ({"require_always": "no"}, TypeError, "require_always must be .*, not 'no'"),
        (
            {"amount_over": 100},
            TypeError,
            "amount_over must be a dict like .*, not 100",
        ),
        ({"amount_over": {}}, ValueError, "amount_over must be a dict like .*, not {}"),
        ({"amount_over": {"arg": "n"}}, ValueError, "amount_over must be .*, not {'arg': 'n'}"),
        (
            {"amount_over": {"arg": "n", "treshold": 1}},
            ValueError,
            "like {'arg': 'amount', 'threshold': 100}, not {'arg': 'n', 'treshold': 1}",
        ),
        (
            {"amount_over": {"arg": "n", "threshold": 1, "currency": "USD"}},
            ValueError,
            "amount_over must be .*'currency'",
        ),
        (
            {"amount_over": {"arg": 5, "threshold": 1}},
            ValueError,
            "amount_over must be .*, not {'arg': 5",
        ),
        ({"match_args": "prod"}, TypeError, "match_args must be a dict .*, not 'prod'"),
        ({"match_args": [("a", "b")]}, TypeError, "match_args must be a dict .*, not \\[\\('a'"),
        ({"match_args": {"c": 5}}, TypeError, r"match_args\['c'\] must be a regular .*, not 5"),
        ({"match_args": {"c": None}}, TypeError, r"match_args\['c'\] must be .*, not None"),
        ({"match_args": {"c": b"x"}}, TypeError, r"match_args\['c'\] must be .*, not b'x'"),
        ({"match_args": {"c": re.compile(b"x")}}, TypeError, r"not re\.compile\(b'x'\)"),
        (
            {"match_args": {"ok": "x", "c": "ab("}},
            re.error,
            r"match_args\['c'\] must be a regular .*, not 'ab\(': missing \).* at position 2",
        ),
        ({"match_args": {"c": "a{99999999999}"}}, re.error, r"match_args\['c'\] must be"),
    ],
)
def test_misconfiguration_names_the_thing_the_wish_and_the_value(
    rules: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A policy that cannot work is refused when it is made, and the message says why."""
    with pytest.raises(error, match=message):
        ApprovalPolicy(**rules)


@pytest.mark.parametrize(
    "threshold",
    [
        True,
        np.bool_(True),
        None,
        "100",
        b"100",
        [100],
        1 + 2j,
        object(),
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        np.float32("nan"),
        np.float32("-inf"),
    ],
    ids=repr,
)
def test_threshold_must_be_a_finite_number(threshold: Any) -> None:
    """Text that spells a number is refused too: it is a setting that was never converted."""
    with pytest.raises(ValueError, match=r"^amount_over's threshold must be a finite number, not "):
        over(threshold)


@pytest.mark.parametrize(
    "seconds", [True, "60", dt.timedelta(1), 0, -1, float("nan"), float("inf")], ids=repr
)
def test_repeat_within_must_be_a_time(seconds: Any) -> None:
    """A time that is no finite number above 0 is refused, saying what would be one."""
    with pytest.raises(ValueError, match=r"^repeat_within must be a finite number of seconds"):
        ApprovalPolicy(repeat_within=seconds)


@pytest.mark.parametrize("seconds", [600, 0.5])
def test_repeat_within_alone_releases(seconds: Any) -> None:
    """Whether a call is a repeat is for the gate to find out; other rules are not touched."""
    policy = ApprovalPolicy(repeat_within=seconds)

    assert policy.repeat_within == seconds
    assert policy.needs_approval({"a": 1}) is False
    assert ApprovalPolicy(require_always=True, repeat_within=seconds).needs_approval({}) is True


def test_rules_given_by_position_are_checked_too() -> None:
    """A threshold, or another policy, in the place of require_if is no predicate."""
    with pytest.raises(TypeError, match="require_if must be a plain function"):
        ApprovalPolicy({"arg": "n", "threshold": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="require_if must be a plain function"):
        ApprovalPolicy(ApprovalPolicy())  # type: ignore[arg-type]


# --- the policy as an object -----------------------------------------------------------------


def _always(_: dict[str, Any]) -> bool:
    return True


def test_repr_shows_the_rules() -> None:
    """A policy shows what it was made with."""
    rule = {"arg": "n", "threshold": 0.5}

    assert f"amount_over={rule}" in repr(ApprovalPolicy(amount_over=rule))
    assert "_always" in repr(ApprovalPolicy(require_if=_always))


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_copies_judge_alike(again: Callable[[ApprovalPolicy], ApprovalPolicy]) -> None:
    """A policy can be copied, and pickled where its predicate can."""
    policy = ApprovalPolicy(
        amount_over={"arg": "n", "threshold": Decimal("0.5")}, match_args={"a": re.compile("^x")}
    )
    twin = again(policy)

    assert repr(twin) == repr(policy)
    assert twin.needs_approval({"n": 1}) is True
    assert twin.needs_approval({"n": 0, "a": "y"}) is False
    assert again(ApprovalPolicy(require_if=_always)).needs_approval({}) is True


def test_predicate_keeps_its_hands_off() -> None:
    """What require_if does to its arguments, however deep, changes nobody else's."""
    args = {"to": ["ann", "bob"]}

    class Many(ApprovalPolicy):
        def needs_approval(self, args: dict[str, Any]) -> bool:
            return super().needs_approval(args) or len(args["to"]) > 1

    assert Many(require_if=lambda args: args["to"].clear()).needs_approval(args)
    assert args == {"to": ["ann", "bob"]}
