"""What was approved is what runs: arguments copied for others, and compared before the body."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections import (
    ChainMap,
    Counter,
    OrderedDict,
    UserDict,
    UserList,
    defaultdict,
    deque,
    namedtuple,
)
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pydantic
import pydantic.v1
import pytest
from conftest import kept_busy

from actionguard import Action, ApprovalChannel, ApprovalDenied, AuditLog, Decision, guard
from actionguard._snapshot import Snapshot

Point = namedtuple("Point", "x y")


@dataclass
class Order:
    items: list[Any]
    note: str = field(default="n", repr=False)


@dataclass(eq=False)
class Identified:
    """Can be a key or the member of a set, and is changed all the same."""

    amount: int


@dataclass(frozen=True)
class Frozen:
    items: list[Any]


@dataclass(slots=True)
class Slotted:
    items: list[Any]


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    items: list[Any]


class ModelV1(pydantic.v1.BaseModel):
    items: list[Any]


class Attrs:
    """What attrs makes of a class, as far as we read it."""

    __attrs_attrs__ = (SimpleNamespace(name="items"),)

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attrs) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]


class Cart(list[Any]):
    """A list with a constructor of its own and attributes, and that keeps book."""

    def __init__(self, owner: str, *items: Any) -> None:
        super().__init__(items)
        self.owner = owner
        self.added: list[Any] = []

    def append(self, item: Any) -> None:
        super().append(item)
        self.added.append(item)


CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"a": inner},
    "tuple": lambda inner: (1, (inner,)),
    "namedtuple": lambda inner: Point(inner, 2),
    "deque": lambda inner: deque([inner], maxlen=3),
    "ordered dict": lambda inner: OrderedDict(b=1, a=inner),
    "default dict": lambda inner: defaultdict(list, a=inner),
    "list subclass": lambda inner: Cart("ann", inner),
    "user dict": lambda inner: UserDict(a=inner),
    "user list": lambda inner: UserList([inner]),
    "chain map": lambda inner: ChainMap({"a": inner}),
    "attrs": lambda inner: Attrs(inner),
    "dataclass": lambda inner: Order(inner),
    "frozen dataclass": lambda inner: Frozen(inner),
    "slotted dataclass": lambda inner: Slotted(inner),
    "pydantic": lambda inner: Model.model_construct(items=inner),
    "pydantic extra": lambda inner: Model.model_construct(items=[], more=inner),
    "pydantic v1": lambda inner: ModelV1.construct(items=inner),
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_copies_are_equal_and_apart(make: Callable[[list[Any]], Any]) -> None:
    """A copy is equal and of the same type, and changing it deep down changes nothing else."""
    inner: list[Any] = [1]
    value = make(inner)
    snapshot = Snapshot({"a": value})
    copied = snapshot.copy()["a"]

    assert copied == value
    assert type(copied) is type(value)
    found = _inner_list(copied)
    assert found == [1]
    assert found is not inner
    found.append(2)
    assert inner == [1]
    assert not snapshot.changed()
    inner.append(3)
    assert snapshot.changed()
    assert _inner_list(snapshot.copy()["a"]) == [1]


def _inner_list(value: Any) -> Any:
    """The list [1] somewhere within, by the public faces of each container."""
    if type(value) is list and value and value[0] == 1:
        return value
    if isinstance(value, (Mapping, pydantic.BaseModel)):
        parts = list(dict(value).values())
    elif isinstance(value, (list, tuple, deque, UserList)):
        parts = list(value)
    else:
        parts = [getattr(value, "items", None)]
    found = (_inner_list(part) for part in parts if part is not None and part != 1)
    return next((part for part in found if part is not None), None)


def test_ordered_dict_that_was_reordered() -> None:
    """An OrderedDict is seen in its own order, and to change that is a change."""
    ordered = OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    snapshot = Snapshot({"a": ordered})

    assert list(snapshot.copy()["a"]) == ["b", "a"]
    assert not snapshot.changed()
    ordered.move_to_end("b")
    assert snapshot.changed()

    dict.update(ordered, c=3)  # as code in C may do
    assert Snapshot({"a": ordered}).copy()["a"]["c"] == 3


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1, 2], lambda v: v.reverse()),
        ([1], lambda v: v.__setitem__(0, True)),
        ([1], lambda v: v.__setitem__(0, 1.0)),
        ({"a": 1}, lambda v: v.update(b=2)),
        ({"a": 1}, lambda v: v.clear()),
        ({1, 2}, lambda v: v.add(3)),
        (bytearray(b"ab"), lambda v: v.extend(b"c")),
        (deque([1]), lambda v: v.append(2)),
        (Order([1]), lambda v: setattr(v, "note", "other")),
        (Order([1]), lambda v: setattr(v, "items", [1])),
        (Slotted([1]), lambda v: v.items.clear()),
        (array("i", [1]), lambda v: v.append(2)),
        (np.array([1, 2]), lambda v: v.put(0, 9)),
        (np.array([[1, 2]]), lambda v: v.resize((2, 1), refcheck=False)),
        (Counter("aab"), lambda v: v.update("a")),
        (UserDict(a=1), lambda v: v.update(a=2)),
        (ChainMap({"a": 1}, {"b": 2}), lambda v: v.maps.pop()),
        ({Identified(1)}, lambda v: setattr(next(iter(v)), "amount", 2)),
        ({Identified(1): 0}, lambda v: setattr(next(iter(v)), "amount", 2)),
    ],
)
def test_changes_are_seen(value: Any, change: Callable[[Any], Any]) -> None:
    """Any change of any container is one, also to something that compares equal."""
    snapshot = Snapshot({"a": value})
    change(value)
    assert snapshot.changed()


@pytest.mark.parametrize(
    "view",
    [MappingProxyType, dict.keys, dict.values, dict.items, lambda d: OrderedDict.items(d)],
    ids=["proxy", "keys", "values", "items", "ordered items"],
)
def test_a_view_is_what_it_shows(view: Callable[[Any], Any]) -> None:
    """A window on a dict cannot be copied, and what changes behind it is a change of the window."""
    behind = OrderedDict(a=[1])
    shown = view(behind)
    snapshot = Snapshot({"a": shown})

    assert snapshot.copy()["a"] is shown
    assert not snapshot.changed()
    behind["a"].append(2)
    assert snapshot.changed()


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (np.array([1, 2]), lambda v: v.put(0, 9)),
        (array("i", [1]), lambda v: v.append(2)),
        (bytearray(b"a"), lambda v: v.append(2)),
    ],
)
def test_buffers_are_copied(value: Any, change: Callable[[Any], Any]) -> None:
    """What a policy does to the copy of an array reaches no other."""
    before = value.tolist() if hasattr(value, "tolist") else list(value)
    snapshot = Snapshot({"a": value})
    copied = snapshot.copy()["a"]

    assert list(copied) == before
    change(copied)
    assert list(value) == before
    assert not snapshot.changed()


def test_equal_scalars_are_no_change() -> None:
    """A value replaced by an equal one of the same type is the same value."""
    value = {"amount": 10**30, "name": "x" * 50}
    snapshot = Snapshot({"a": value})
    value["amount"], value["name"] = int("1" + "0" * 30), "".join(["x"] * 50)
    assert not snapshot.changed()


def test_shared_and_cyclic_structure_survives() -> None:
    """Aliases stay aliases and cycles stay cycles in a copy."""
    shared: list[Any] = []
    cycle: list[Any] = [shared]
    cycle.append((cycle,))
    copied = Snapshot({"a": shared, "b": shared, "c": cycle}).copy()

    assert copied["a"] is copied["b"] is copied["c"][0]
    assert copied["c"][1][0] is copied["c"]
    assert copied["c"] is not cycle


@pytest.mark.parametrize(
    "make",
    [
        lambda: Order([1], "before"),
        lambda: Slotted({"a": [1]}),  # type: ignore[arg-type]
        lambda: Model(items=[1], note="before"),
        lambda: ModelV1(items=[1]),
        lambda: UserDict(items=[1]),
    ],
    ids=["dataclass", "slots", "pydantic", "pydantic v1", "user dict"],
)
def test_copies_are_of_then(make: Callable[[], Any]) -> None:
    """What is copied after a change are the arguments as they were before it."""
    value = make()
    snapshot = Snapshot({"a": value, "again": value})
    if isinstance(value, UserDict):
        value.data = {"items": "after"}
    else:
        object.__setattr__(value, "items", "after")
        if hasattr(value, "note"):
            value.__dict__["note"] = "after"
        if getattr(value, "model_extra", None):
            value.model_extra["note"] = "after"

    assert snapshot.changed()
    assert snapshot.copy()["a"] == make()
    assert snapshot.copy()["again"] is not value


def test_depth_is_no_limit() -> None:
    """Nesting far beyond the recursion limit is copied and compared."""
    value: list[Any] = []
    for _ in range(20_000):
        value = [value]
    for _ in range(20_000):
        value = (value,)  # type: ignore[assignment]
    snapshot = Snapshot({"a": value})

    assert snapshot.copy()["a"] is not value
    assert not snapshot.changed()


@dataclass
class Coded:
    code: int


class Kind(Coded, Enum):
    """An Enum whose members are records."""

    REFUND = 1


class Pair(tuple[int, int], Enum):
    """An Enum whose members are tuples."""

    __slots__ = ()
    ONE = (1, 2)


@pytest.mark.parametrize(
    "value",
    [
        time.localtime(),
        os.stat("."),
        Kind.REFUND,
        Pair.ONE,
        Point(1, "a"),
        (1, (2,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_change_is_itself(value: Any) -> None:
    """What holds nothing that changes needs no copy, and a policy may compare it by identity."""
    snapshot = Snapshot({"a": [value]})

    assert snapshot.copy()["a"][0] is value
    assert not snapshot.changed()


def test_hostile_values_are_left_alone() -> None:
    """Objects are neither copied nor compared nor iterated, whatever they claim to be."""

    class Hostile:
        __class__ = dict  # type: ignore[assignment]

        def _fail(self, *args: Any) -> Any:
            raise AssertionError("not to be touched")

        __eq__ = __copy__ = __deepcopy__ = __iter__ = __reduce_ex__ = __len__ = _fail
        __hash__ = object.__hash__

    hostile = Hostile()
    copied = Snapshot({"a": [hostile]}).copy()

    assert copied["a"][0] is hostile


def test_what_cannot_be_copied_is_watched() -> None:
    """A record that is also something else is handed on itself, and its changes block."""

    @dataclass
    class Failure(Exception):
        items: list[Any]

    failure = Failure([1])
    snapshot = Snapshot({"a": failure})

    assert snapshot.copy()["a"] is failure
    failure.items.append(2)
    assert snapshot.changed()


def test_a_class_has_no_say_in_its_copies() -> None:
    """Copying runs none of a class's own code, which could show something else than what runs."""

    def fail(*args: Any) -> Any:
        raise AssertionError("not to be called")

    def lie(self: Any) -> Lying:
        return Lying(1, [])

    @dataclass
    class Lying:
        amount: int
        items: list[Any]
        __copy__ = __deepcopy__ = lie
        __reduce_ex__ = __getstate__ = fail

    class Loud(list[Any]):
        append = extend = insert = __iter__ = __len__ = __setitem__ = __reduce_ex__ = fail

    class LoudDict(OrderedDict[str, Any]):
        __setitem__ = update = __iter__ = items = keys = __reduce__ = fail

    loud, loud_dict = Loud((1, 2)), LoudDict.__new__(LoudDict)
    OrderedDict.__setitem__(loud_dict, "b", 1)
    OrderedDict.__setitem__(loud_dict, "a", 2)
    copied = Snapshot({"a": Lying(1000, []), "b": loud, "c": loud_dict}).copy()

    assert vars(copied["a"]) == {"amount": 1000, "items": []}
    assert list(list.__iter__(copied["b"])) == [1, 2]
    assert list(OrderedDict.__iter__(copied["c"])) == ["b", "a"]
    assert (type(copied["b"]), type(copied["c"])) == (Loud, LoudDict)


def test_state_beside_the_contents_is_not_shared() -> None:
    """What an object keeps beside its items or fields is copied too."""

    class Private(pydantic.BaseModel):
        amount: int = 1
        _note: str = "mine"

    @dataclass
    class Memory:
        amount: int = 1

        def __post_init__(self) -> None:
            self.seen: list[int] = []

    model, record, cart = Private(), Memory(), Cart("ann", 1)
    copied = Snapshot({"model": model, "record": record, "cart": cart}).copy()
    copied["model"]._note, copied["model"].amount = "theirs", 2
    copied["record"].seen.append(1)
    copied["cart"].append(2)

    assert (model._note, model.amount, model.model_fields_set) == ("mine", 1, set())
    assert (record.seen, cart.added, copied["cart"].owner) == ([], [], "ann")


def test_what_a_container_does_with_its_items_stays() -> None:
    """A copy has the same bound, and makes the same defaults."""
    copied = Snapshot({"last": deque([1], 3), "groups": defaultdict(list)}).copy()

    assert copied["last"].maxlen == 3
    assert copied["groups"]["new"] == []


def test_a_record_that_cannot_be_read_is_no_container(log_path: Any, lines: Any) -> None:
    """A field that raises is shown as such; the call has its line, and the text stays inside."""

    @dataclass
    class Broken:
        amount: int

        def __getattribute__(self, name: str) -> Any:
            if name == "amount":
                raise RuntimeError("s3cret")
            return super().__getattribute__(name)

    asked: list[Action] = []
    guarded = guard(lambda order: "ran", channel=Meanwhile(asked.append), audit=log_path)

    assert guarded(Broken(1)) == "ran"
    assert "unreadable, RuntimeError" in asked[0].pretty()
    assert "unreadable, RuntimeError" in lines()[0]["args"]["order"]
    assert "s3cret" not in asked[0].pretty()


def test_changed_while_it_is_read() -> None:
    """However often another thread changes a container, it is one: copied, and compared."""
    value: dict[str, Any] = {"set": set(), "deque": deque(), "dict": {}, "user": UserDict()}

    def change(n: int) -> None:
        for part in (value["set"], value["deque"]):
            (part.add if part is value["set"] else part.append)(n)
            part.remove(n)
        for part in (value["dict"], value["user"], vars(value["user"])):
            part[str(n)] = n
            del part[str(n)]

    with kept_busy(change):
        for _ in range(300):
            copied = Snapshot(value).copy()
            assert not any(copied[name] is part for name, part in value.items())


class Meanwhile(ApprovalChannel):
    """Approves, after somebody did something."""

    name = "meanwhile"

    def __init__(self, happens: Callable[[Action], object]) -> None:
        self.happens = happens

    def request_approval(self, action: Action) -> Decision:
        self.happens(action)
        return Decision(True)


def test_an_alias_changed_while_waiting_blocks(log_path: Any, lines: Any) -> None:
    """A container changed by another thread during the wait: the call runs with neither value."""
    cart = {"items": [{"price": 5}]}
    ran: list[Any] = []

    def change(action: Action) -> None:
        thread = threading.Thread(target=lambda: cart["items"][0].update(price=5000))
        thread.start()
        thread.join()

    guarded = guard(ran.append, channel=Meanwhile(change), audit=AuditLog(log_path))
    with pytest.raises(ApprovalDenied, match="arguments changed") as caught:
        guarded(cart)

    assert ran == []
    assert str(caught.value).startswith("BLOCKED: ")
    assert caught.value.action.args["object"] == {"items": [{"price": 5}]}
    (line,) = lines()
    assert (line["approved"], line["executed"]) == (True, False)
    assert line["args"]["object"] == {"items": [{"price": 5}]}
    assert "changed" in line["error"]


def test_policy_and_channel_cannot_change_the_call(log_path: Any, lines: Any) -> None:
    """What a policy or channel does to its arguments reaches nobody else."""
    seen: list[Any] = []

    class Meddling:
        def needs_approval(self, args: dict[str, Any]) -> bool:
            args["cart"].append("policy")
            args["extra"] = 1
            return True

    def meddle(action: Action) -> None:
        seen.append(list(action.args["cart"]))
        action.args["cart"].append("channel")
        action.args["amount"] = 0
        action.tool_name = "harmless"

    def pay(cart: list[str], amount: int = 5) -> Any:
        return cart, amount

    cart = ["book"]
    guarded = guard(pay, policy=Meddling(), channel=Meanwhile(meddle), audit=AuditLog(log_path))

    assert guarded(cart) == (["book"], 5)
    assert guarded(cart)[0] is cart
    assert seen == [["book"], ["book"]]
    assert [line["args"] for line in lines()] == [{"cart": ["book"], "amount": 5}] * 2
    assert {line["tool"] for line in lines()} == {"pay"}


def test_a_body_that_changes_its_arguments_changes_no_history(log_path: Any, lines: Any) -> None:
    """The line holds the arguments as they were, and the caller sees the body's changes."""
    cart = ["book"]
    guard(list.clear, channel=Meanwhile(lambda action: None), audit=AuditLog(log_path))(cart)

    assert cart == []
    assert next(iter(lines()[0]["args"].values())) in (["book"], [["book"]])
