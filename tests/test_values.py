"""Any value as text for people, as strict JSON, and as a copy."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import datetime as dt
import enum
import functools
import json
import math
import sys
import threading
import unicodedata
import uuid
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest
from conftest import OddMeta, kept_busy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionguard import Action, ApprovalChannel, ApprovalDenied, ApprovalPolicy, Decision, guard
from actionguard._values import copied, cut, escape, json_text, label, show, stand_in

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pydantic import v1


def read(value: object) -> Any:
    """What a strict parser makes of the value's JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no strict JSON")

    text = json_text(value)
    assert text.isascii()
    assert text.isprintable()
    return json.loads(text, parse_constant=refuse)


def fails(*_: object) -> Any:
    raise RuntimeError("s3cret")


class Colour(enum.Enum):
    RED = "#f00"


class Size(enum.IntEnum):
    BIG = 3


class Pair(tuple[int, int], enum.Enum):
    __slots__ = ()
    ONE = (1, 2)


class Point(NamedTuple):
    x: Any
    y: int = 0


@dataclasses.dataclass
class Order:
    items: Any
    note: str = dataclasses.field(repr=False, default="n")

    def __repr__(self) -> str:
        return "Order()"


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    items: Any


class Attrs:
    """What attrs makes of a class, as far as we read it."""

    __attrs_attrs__ = (SimpleNamespace(name="items"),)

    def __init__(self, items: Any) -> None:
        self.items = items


class Model(pydantic.BaseModel, extra="allow"):
    items: Any
    token: pydantic.SecretStr = pydantic.SecretStr("hunter2")


class Empty(pydantic.BaseModel, extra="allow"):
    pass


class ModelV1(v1.BaseModel):
    items: Any


class Hostile:
    """Raises wherever it is touched."""

    __repr__ = __str__ = __iter__ = __len__ = __bool__ = __eq__ = __getattr__ = fails
    __copy__ = __deepcopy__ = __reduce_ex__ = keys = items = __getitem__ = fails
    __hash__ = object.__hash__
    __class__ = property(fails)


class HostileDict(dict[str, Any]):
    items = keys = __iter__ = __len__ = __repr__ = __setitem__ = update = fails


class HostileList(list[Any]):
    __iter__ = __len__ = __repr__ = __getitem__ = append = extend = fails


class LiarStr(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "liar"

    __str__ = __format__ = isascii = encode = __repr__  # type: ignore[assignment]


class LiarInt(int):
    __repr__ = __str__ = lambda self: "NaN"
    __lt__ = __gt__ = __int__ = __index__ = fails


class LiarDecimal(Decimal):
    __repr__ = __str__ = lambda self: "1"


class Pretends:
    __class__ = dict  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "\x1b[2J\nTool: harmless\u202e"


class Nonsense:
    def __repr__(self) -> str:
        return 1  # type: ignore[return-value]


class Endless:
    def __repr__(self) -> str:
        return repr([self])


class Nameless(metaclass=OddMeta):
    __repr__ = fails


class Broken:
    __dataclass_fields__ = None


class Asks:
    """A client with a method that is named like that of a secret."""

    def get_secret_value(self, name: str) -> str:
        return fails(name)

    def __repr__(self) -> str:
        return "Asks()"


RAISED = "unreadable, RuntimeError>"


@pytest.mark.parametrize(
    ("value", "text", "in_json"),
    [
        ({"a": [1, 2.5, "x", None, True]}, "{'a': [1, 2.5, 'x', None, True]}", None),
        ("grüße 🎉\x00\u202e", r"'grüße 🎉\x00\u202e'", "grüße 🎉\x00\u202e"),
        ("a\ud800b", r"'a\ud800b'", r"a\ud800b"),
        ({"\ud800": 1}, r"{'\ud800': 1}", {r"\ud800": 1}),
        (10**639, f"1{'0' * 639}", 10**639),
        (-(10**5000), hex(-(10**5000)), hex(-(10**5000))),
        (math.nan, "nan", "nan"),
        ([-math.inf], "[-inf]", ["-inf"]),
        (b"caf\xc3\xa9\xff", r"b'caf\xc3\xa9\xff'", r"café\xff"),
        (bytearray(b"a\x00"), r"bytearray(b'a\x00')", "a\x00"),
        ((1, (2,)), "(1, (2,))", [1, [2]]),
        (({1}, set(), frozenset()), "({1}, set(), frozenset())", [[1], [], []]),
        (deque([1]), "deque([1])", [1]),
        (OrderedDict(a=1), "OrderedDict({'a': 1})", {"a": 1}),
        (defaultdict(int, a=1), "defaultdict({'a': 1})", {"a": 1}),
        (
            {1: "a", "1": "b", None: "c"},
            "{1: 'a', '1': 'b', None: 'c'}",
            {"1": "a", "1 (another)": "b"},
        ),
        ({(1, b"k"): 1}, r"{(1, b'k'): 1}", {r"(1, b'k')": 1}),
        (Colour.RED, "<Colour.RED: '#f00'>", "#f00"),
        (Size.BIG, "<Size.BIG: 3>", 3),
        (Pair.ONE, "<Pair.ONE: (1, 2)>", [1, 2]),
        (Order([1]), "Order(items=[1], note='n')", {"items": [1], "note": "n"}),
        (Slotted(1), "Slotted(items=1)", {"items": 1}),
        (Attrs(1), "Attrs(items=1)", {"items": 1}),
        (ModelV1(items=1), "ModelV1(items=1)", {"items": 1}),
        (Empty(**{"b=1, c": 2}), "Empty('b=1, c'=2)", {"b=1, c": 2}),
        (
            Model(items=1),
            "Model(items=1, token=<secret: 7 characters>)",
            {"items": 1, "token": "<secret: 7 characters>"},
        ),
        (Asks(), "Asks()", "Asks()"),
        (Decimal("1.10"), "Decimal('1.10')", "1.10"),
        (Fraction(1, 3), "Fraction(1, 3)", "1/3"),
        (dt.date(2026, 1, 2), "datetime.date(2026, 1, 2)", "2026-01-02"),
        (dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), None, "2026-01-02T00:00:00+00:00"),
        (uuid.UUID(int=1), None, "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a"), "PurePosixPath('/a')", "/a"),
        (np.float64(1.5), "float64(1.5)", 1.5),
        (np.float32("nan"), None, "nan"),
        (np.int64(7), None, 7),
        (np.bool_(True), None, True),
        (np.array([[1, 2]]), "ndarray([[1, 2]])", [[1, 2]]),
        (LiarStr("rm -rf"), "LiarStr('rm -rf')", "rm -rf"),
        (LiarInt(7), "LiarInt(7)", 7),
        (LiarDecimal(7), "LiarDecimal(Decimal('7'))", "7"),
        (HostileDict(a=1), "HostileDict({'a': 1})", {"a": 1}),
        (HostileList([1]), "HostileList([1])", [1]),
        (Pretends(), r"\x1b[2J\nTool: harmless\u202e", None),
        ([1, Hostile()], f"[1, <Hostile: {RAISED}]", [1, f"<Hostile: {RAISED}"]),
        (Nameless(), f"<Nameless: {RAISED}", f"<Nameless: {RAISED}"),
        (Nonsense(), "<Nonsense: unreadable, TypeError>", None),
        (Endless(), "<Endless: unreadable, RecursionError>", None),
        (Broken(), "<Broken: unreadable, AttributeError>", None),
    ],
    ids=lambda value: show(value)[:30],
)
def test_what_a_value_becomes(value: object, text: str | None, in_json: Any) -> None:
    """Everyday values read as one expects; no class can tell something else than there is."""
    said = read(value)
    shown = show(value)

    assert shown.isprintable()
    assert text is None or shown == text
    if in_json is not None:
        assert (said.items() >= in_json.items()) if type(in_json) is dict else said == in_json
        assert type(said) is type(in_json)


def test_secrets_never_leak() -> None:
    """What is secret by its type has the same stand-in wherever it stands."""
    secret = pydantic.SecretStr("hunter2")
    inside = {
        "a": [Model(items=(secret,))],
        "b": {secret: {secret}},
        "c": pydantic.SecretBytes(b""),
    }
    copy = copied(inside, secrets=True)

    assert stand_in(secret) == stand_in("hunter2") == stand_in(1234567) == "<secret: 7 characters>"
    assert stand_in(Hostile()) == f"<secret: {len(show(Hostile()))} characters>"
    assert copy["b"] == {stand_in(secret): {stand_in(secret)}}
    assert copy["a"][0].items == (stand_in(secret),)
    assert copy["c"] == "<secret: 0 characters>"
    assert copied(inside)["a"][0].token is inside["a"][0].token  # type: ignore[index]
    for text in (show(inside), json_text(inside), repr(copy)):
        assert "hunter2" not in text


def test_cycles_depth_and_webs_end() -> None:
    """What contains itself, goes on for ever or has endless paths is cut, with a word on it."""
    twice = {"a": 1}
    loop: list[Any] = [twice, twice]
    loop.append(loop)
    deep: Any = "core"
    for n in range(10_000):
        deep = [deep] if n % 2 else {"k": deep}
    web: list[Any] = []
    for _ in range(60):
        web = [web, web]

    class Chain(pydantic.BaseModel):
        next: Any = None

        def __getattribute__(self, name: str) -> Any:
            return Chain() if name == "next" else super().__getattribute__(name)

    assert show(loop) == "[{'a': 1}, {'a': 1}, <list: contains itself>]"
    assert read(loop) == [{"a": 1}, {"a": 1}, "<list: contains itself>"]
    for value, why in (
        (deep, "64 levels deep"),
        (Chain(), "64 levels deep"),
        (web, "there is too much"),
    ):
        assert why in show(value)
        assert why in json_text(value)
        assert read(value)
    copy = copied({"a": loop})["a"]
    assert copy[2] is copy is not loop
    assert copy[0] is copy[1] is not twice


def test_near_the_recursion_limit() -> None:
    """Where the stack has hardly any room left, there is a stand-in and no exception."""
    nested: Any = 1
    for _ in range(60):
        nested = [nested]

    def sink(levels: int) -> tuple[str, str]:
        return sink(levels - 1) if levels else (json_text(nested), show(nested))

    text, shown = sink(sys.getrecursionlimit() - 200)
    assert json.loads(text)
    assert shown


def test_changed_meanwhile() -> None:
    """Another thread that changes the value while it is read or copied does no harm."""
    shared: dict[str, Any] = {"list": [], "dict": {}, "set": set()}

    def change(n: int) -> None:
        for part in (shared, shared["dict"]):
            part[f"k{n % 7}"] = n
            part.pop(f"k{(n + 3) % 7}", None)
        shared["set"].symmetric_difference_update({n % 11})
        shared["list"][n % 3 :] = [n] * (n % 4)

    with kept_busy(change):
        for _ in range(200):
            assert "unreadable" not in json_text(read(shared)) + show(shared)
            assert copied({"a": shared}).keys() == {"a"}


def test_labels_and_cuts() -> None:
    """A name that could be read as more than one is quoted; a cut says how much is missing."""
    assert (label("amount"), label("a=1, b"), label("é")) == ("amount", "'a=1, b'", "'é'")
    assert cut("short", 5) == "short"
    assert cut("x" * 2000, 5) == "xxxxx... (1,995 more characters)"


@given(st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Lo"])))
def test_escape(text: str) -> None:
    """What is left of any text can be printed and takes one line; a string reads back."""
    safe = escape(text + "\u3164\ufe0f\u2800")

    assert len(safe.splitlines()) <= 1
    assert all(char == " " or unicodedata.category(char)[0] not in "CZ" for char in safe)
    assert safe.endswith(r"\u3164\ufe0f\u2800")
    assert ast.literal_eval(show(text)) == text


odd_scalars = st.one_of(
    st.none() | st.booleans() | st.integers() | st.integers(10**630, 10**5000),
    st.floats() | st.decimals() | st.fractions() | st.complex_numbers(),
    st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Lu"])),
    st.binary() | st.datetimes() | st.timedeltas() | st.uuids(),
    st.sampled_from([Colour.RED, Size.BIG, Ellipsis, int, len, LiarStr("s"), LiarInt(1)]),
    st.floats(width=32).map(np.float32),
    st.builds(Hostile) | st.builds(Nonsense),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary())
    keys = keys | st.tuples(keys, keys) | st.sampled_from([Colour.RED, LiarStr("k")])
    lists = st.lists(inner)
    return st.one_of(
        *(lists.map(cls) for cls in (list, tuple, HostileList, deque, Slotted, Attrs)),
        *(st.dictionaries(keys, inner).map(cls) for cls in (dict, HostileDict, OrderedDict)),
        st.builds(Model, items=inner),
    )


odd_values = st.recursive(odd_scalars, containers, max_leaves=15)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(odd_values)
def test_any_value(value: object) -> None:
    """Whatever the value is, there is one line, strict JSON and an equal copy; no exception."""
    read(value)
    assert show(value).isprintable()
    assert json_text(copied({"a": value})) == json_text({"a": value})


clean_text = st.text(st.characters(exclude_categories=["Cs"]))  # JSON has no way to say the others


@settings(deadline=None, max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | clean_text,
        lambda inner: st.lists(inner) | st.dictionaries(clean_text, inner),
        max_leaves=15,
    ).filter(lambda value: "Infinity" not in json.dumps(value))
)
def test_plain_values_are_kept_verbatim(value: Any) -> None:
    """What JSON can say is said exactly so; what Python writes can be read back."""
    assert json_text(value) == json_text({"a": value})[6:-1] == json.dumps(value)
    assert ast.literal_eval(show(value)) == value


# --- copies ----------------------------------------------------------------------------------


class Cart(list[Any]):
    """A list with a constructor of its own and attributes, and that keeps book."""

    def __init__(self, owner: str, *items: Any) -> None:
        super().__init__(items)
        self.owner = owner
        self.added: list[Any] = []
        self.lock: Any = None


class Tagged(tuple[Any, ...]):  # noqa: SLOT001 - it has more than its items
    tags: list[Any]


@pytest.mark.parametrize(
    ("make", "find"),
    [
        (lambda inner: [inner], lambda v: v[0]),
        (lambda inner: {"a": inner}, lambda v: v["a"]),
        (lambda inner: (1, (inner,)), lambda v: v[1][0]),
        (Point, lambda v: v.x),
        (lambda inner: deque([inner], 3), lambda v: v[0] if v.maxlen == 3 else None),
        (lambda inner: OrderedDict(b=1, a=inner), lambda v: v[list(v)[1]]),
        (lambda inner: defaultdict(list, a=inner), lambda v: v["a"] if v["new"] == [] else None),
        (lambda inner: Cart("ann", inner), lambda v: v[0] if v.owner == "ann" else None),
        *((make, lambda v: v.items) for make in (Attrs, Order, Slotted)),
        (lambda inner: Model(items=inner), lambda v: v.items),
        (lambda inner: Model(items=0, more=inner), lambda v: v.more),
        (lambda inner: ModelV1.construct(items=inner), lambda v: v.items),
        (lambda inner: bytearray(b"\x01"), lambda v: v),
        (lambda inner: np.array(inner), lambda v: v),
        (lambda inner: Counter({1: 1}), lambda v: v),
    ],
)
def test_copies_are_equal_and_apart(make: Any, find: Any) -> None:
    """A copy is of the same type and reads the same, and what is inside is its own."""
    inner = [1]
    value = make(inner)
    copy = copied({"a": value})["a"]

    assert type(copy) is type(value)
    assert show(copy) == show(value)
    assert list(find(copy)) == [1]
    assert find(copy) is not find(value)


def test_what_is_beside_the_items_is_copied() -> None:
    """Attributes that are no items or fields are not shared, but connections and locks are."""

    class Private(pydantic.BaseModel):
        amount: int = 1
        _note: str = "mine"

    tagged = Tagged(([],))
    tagged.tags = []
    model, cart = Private(), Cart("ann", 1)
    cart.lock = lock = threading.Lock()
    copy = copied({"model": model, "cart": cart, "tagged": tagged})
    copy["model"]._note, copy["model"].amount = "theirs", 2
    copy["cart"].added.append(2)
    copy["tagged"].tags.append(3)

    assert (model._note, model.amount, model.model_fields_set) == ("mine", 1, set())
    assert (cart.added, tagged.tags) == ([], [])
    assert copy["cart"].lock is lock


@dataclasses.dataclass
class Closes:
    items: list[Any]

    def __del__(self) -> None:
        self.items.clear()


@pytest.mark.parametrize(
    "value",
    [
        Pair.ONE,
        {}.keys(),
        pytest.param(Hostile()),
        Closes([1]),
        iter([1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_copied(value: Any) -> None:
    """Enums, what would close what it shares, and opaque things are handed on."""
    before = show(value)

    assert copied({"a": [value]})["a"][0] is value
    assert show(value) == before


# --- tables ----------------------------------------------------------------------------------


MAKES: dict[str, Any] = {
    "pandas table": lambda p, items: p.DataFrame({"a": items}),
    "pandas same names": lambda p, items: p.DataFrame([[i, ""] for i in items], columns=[*"aa"]),
    "pandas index": lambda p, items: p.Series(range(len(items)), index=items),
    "pandas subclass": lambda p, items: type("Mine", (p.Series,), {"tolist": fails})(items),
    "polars table": lambda p, items: p.DataFrame({"a": items}),
    "polars column": lambda p, items: p.Series(items),
    "pyarrow same names": lambda p, items: p.Table.from_arrays([p.array(items)] * 2, [*"aa"]),
    "pyarrow column": lambda p, items: p.chunked_array([items]),
    "numpy subclass": lambda p, items: p.array(items).view(type("Mine", (p.ndarray,), {})),
}


@pytest.mark.parametrize("kind", MAKES)
def test_tables_are_read_whole(kind: str) -> None:
    """What stands in the middle of a long table, column or array is shown and logged."""
    module = pytest.importorskip(kind.split(maxsplit=1)[0], reason="it is no dependency")
    items = [f"row-{n}" for n in range(300)]
    value = MAKES[kind](module, items)

    assert all(item in show(value) and item in json_text(value) for item in items)
    # A copy of a subclass is of pandas's own class.
    assert show(copied({"a": value})["a"]).partition("(")[2] == show(value).partition("(")[2]


# --- what was approved is what runs ----------------------------------------------------------


class Meanwhile(ApprovalChannel):
    """Approves, after somebody did something."""

    name = "meanwhile"

    def __init__(self, happens: Callable[[Action], object]) -> None:
        self.happens = happens

    def request_approval(self, action: Action) -> Decision:
        self.happens(action)
        return Decision(True)


class Cached(pydantic.BaseModel):
    cents: list[int]
    _private: int = 1

    @functools.cached_property
    def total(self) -> int:
        return sum(self.cents)


@dataclasses.dataclass
class Money:
    amount: Decimal

    @property  # type: ignore[no-redef]
    def amount(self) -> Decimal:
        return Decimal(self._cents) / 100

    @amount.setter
    def amount(self, value: Decimal) -> None:
        self._cents = int(value * 100)


@pytest.mark.parametrize(
    ("value", "change", "blocked"),
    [
        ([1, 2], lambda v: v.reverse(), True),
        ([1], lambda v: v.__setitem__(0, True), True),
        ({"a": {"b": 1}}, lambda v: v["a"].update(b=2), True),
        ({1}, lambda v: v.add(2), True),
        (Order([1]), lambda v: setattr(v, "note", "other"), True),
        (Cached(cents=[1]), lambda v: v.cents.append(2), True),
        (np.array([1, 2]), lambda v: v.put(0, 9), True),
        (bytearray(b"a"), lambda v: v.append(2), True),
        ({1}, lambda v: (v.add(2), v.discard(2)), False),
        (Order([1]), lambda v: setattr(v, "items", [1]), False),
        (Cached(cents=[1]), lambda v: v.total, False),
        (Cached(cents=[1]), lambda v: setattr(v, "_private", 2), False),
        (Money(Decimal("12.50")), lambda v: v.amount, False),
    ],
    ids=lambda value: show(value)[:20],
)
def test_changes_while_waiting(
    value: Any, change: Any, blocked: bool, log_path: Path, lines: Any
) -> None:
    """Only a change of what is shown or logged blocks the call."""
    ran: list[Any] = []
    guarded = guard(ran.append, channel=Meanwhile(lambda _: change(value)), audit=log_path)
    before = read({"object": value})
    with pytest.raises(ApprovalDenied, match=r"^BLOCKED: .* changed") if blocked else nullcontext():
        guarded(value)

    (line,) = lines()
    assert (line["approved"], line["executed"], line["args"]) == (True, not blocked, before)
    assert ran == ([] if blocked else [value])


def test_changes_while_the_log_is_written(log_path: Path, lines: Any) -> None:
    """Async calls that nobody is asked about run, judged and logged with the arguments of now."""

    @guard(policy=ApprovalPolicy(match_args={"results": "prod"}), audit=log_path)
    async def work(job: str, results: list[str]) -> list[str]:
        results.append(job)
        return results

    async def several(*jobs: str) -> list[Any]:
        results: list[str] = []
        calls = [work(job, results) for job in jobs]
        return await asyncio.gather(*calls, return_exceptions=True)

    assert asyncio.run(several("a", "b", "c"))[0] == ["a", "b", "c"]
    first, then = asyncio.run(several("prod", "d"))
    assert first == ["prod"]
    assert str(then).startswith("BLOCKED: ")
    assert [
        (line["needed_approval"], line["executed"], line["args"]["results"]) for line in lines()
    ] == [
        (False, True, []),
        (False, True, ["a"]),
        (False, True, ["a", "b"]),
        (False, True, []),
        (True, False, ["prod"]),
    ]


def test_policy_and_channel_cannot_change_the_call(log_path: Path, lines: Any) -> None:
    """What a policy or channel does to its arguments reaches nobody else."""

    class Meddling:
        def needs_approval(self, args: dict[str, Any]) -> bool:
            args["cart"].append("policy")
            return True

    def meddle(action: Action) -> None:
        action.args["cart"].append("channel")
        action.args["amount"] = 0

    cart = ["book"]
    guarded = guard(
        lambda cart, amount=5: (cart, amount),
        policy=Meddling(),
        channel=Meanwhile(meddle),
        audit=log_path,
    )

    assert guarded(cart) == (["book"], 5)
    assert guarded(cart)[0] is cart
    assert [line["args"] for line in lines()] == [{"cart": ["book"], "amount": 5}] * 2
