"""What was approved is what runs: arguments copied for others, and compared before the body."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pydantic
import pydantic.v1
import pytest

from actionguard import Action, ApprovalChannel, ApprovalDenied, AuditLog, Decision, guard
from actionguard._snapshot import Snapshot

Point = namedtuple("Point", "x y")


@dataclass
class Order:
    items: list[Any]
    note: str = field(default="n", repr=False)


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


class Cart(list[Any]):
    """A list with a constructor of its own and an attribute."""

    def __init__(self, owner: str, *items: Any) -> None:
        super().__init__(items)
        self.owner = owner


CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"a": inner},
    "tuple": lambda inner: (1, (inner,)),
    "namedtuple": lambda inner: Point(inner, 2),
    "deque": lambda inner: deque([inner], maxlen=3),
    "ordered dict": lambda inner: OrderedDict(b=1, a=inner),
    "default dict": lambda inner: defaultdict(list, a=inner),
    "list subclass": lambda inner: Cart("ann", inner),
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
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (list, tuple, deque)):
        parts = list(value)
    elif isinstance(value, Model):
        parts = [value.items, *(value.model_extra or {}).values()]
    else:
        parts = [getattr(value, "items", None)]
    return (
        next((found for part in parts if (found := _inner_list(part)) is not None), None)
        if any(
            isinstance(p, (list, dict, tuple, deque, Order, Frozen, Slotted, Model)) for p in parts
        )
        else None
    )


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
    ],
)
def test_changes_are_seen(value: Any, change: Callable[[Any], Any]) -> None:
    """Any change of any container is one, also to something that compares equal."""
    snapshot = Snapshot({"a": value})
    change(value)
    assert snapshot.changed()


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


def test_hostile_values_are_left_alone() -> None:
    """Objects are neither copied nor compared nor iterated, whatever they claim to be."""

    class Hostile:
        __class__ = dict  # type: ignore[assignment]

        def _fail(self, *args: Any) -> Any:
            raise AssertionError("not to be touched")

        __eq__ = __copy__ = __deepcopy__ = __iter__ = __reduce_ex__ = __len__ = _fail
        __hash__ = object.__hash__

    class Uncopyable(dict[str, Any]):
        def __copy__(self) -> Any:
            raise RuntimeError

    hostile, uncopyable = Hostile(), Uncopyable(a=[1])
    snapshot = Snapshot({"a": [hostile], "b": uncopyable})
    copied = snapshot.copy()

    assert copied["a"][0] is hostile
    assert copied["b"] is uncopyable
    uncopyable["a"].append(2)
    assert snapshot.changed()


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
