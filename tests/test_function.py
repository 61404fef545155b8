"""Callables of every kind stay what they were."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import pydoc
import rlcompleter
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Any
from unittest.mock import AsyncMock, Mock

import cloudpickle
import pytest
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from pydantic import BaseModel, Field

from actionguard import ApprovalChannel, ApprovalDenied, ApprovalPolicy, AuditLog, Decision, guard
from actionguard.testing import AutoApproveChannel, AutoDenyChannel

OFF = AuditLog(enabled=False)
print_lock = threading.Lock()
RELEASED = {"policy": ApprovalPolicy(require_always=False), "audit": OFF}


def asked_for(**options: Any) -> tuple[Any, dict[str, Any]]:
    """A channel that approves and records, and the options to guard with it."""
    channel = AutoApproveChannel()
    return channel, {"channel": channel, "audit": OFF, **options}


@guard(audit=OFF, channel=AutoApproveChannel())
def module_level(amount: float, /, currency: str = "EUR", *parts: int, note: str = "") -> str:
    """Pay out."""
    return f"{amount} {currency} {parts} {note}"


class Refusing(ApprovalChannel):
    """Denies, and can be pickled."""

    def request_approval(self, action: Any) -> Decision:
        return Decision.deny()


class Account:
    """Guarded methods of every kind, some of them below other decorators."""

    channel, _options = asked_for()

    def __init__(self) -> None:
        self.log: list[Any] = []

    def __repr__(self) -> str:
        raise AssertionError("the instance is not to be shown")

    @guard(**_options)
    def close(self, reason: str) -> str:
        return f"closed: {reason}"

    @guard(**_options)
    async def aclose(this, reason: str) -> str:  # noqa: N805 - bound, whatever it is called
        return f"closed: {reason}"

    @staticmethod
    @guard(**_options)
    def static_below(self: str) -> str:
        return self

    @guard(**_options)
    @staticmethod
    def static_above(self: str) -> str:
        return self

    @classmethod
    @guard(**_options)
    def class_below(cls, name: str) -> str:
        return f"{cls.__name__} {name}"

    @guard(**_options)
    @classmethod
    def class_above(cls, name: str) -> str:
        return f"{cls.__name__} {name}"

    @property
    @guard(**_options)
    def balance(self) -> int:
        return 7


class SubAccount(Account):
    def close(self, reason: str) -> str:
        return super().close(reason + "!")


class Sender:
    """A callable object with state of its own."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __call__(self, to: str) -> str:
        """Send."""
        self.sent.append(to)
        return f"sent to {to}"

    def reset(self) -> None:
        self.sent.clear()


@dataclass
class Refund:
    amount: int
    note: str = ""


class AsyncSender:
    async def __call__(self, to: str) -> str:
        return f"sent to {to}"


def test_looks_the_same() -> None:
    """Name, docstring, signature, annotations, defaults and module stay."""
    bare = module_level.__wrapped__  # type: ignore[attr-defined]

    assert module_level.__name__ == "module_level"
    assert module_level.__qualname__ == bare.__qualname__
    assert module_level.__doc__ == "Pay out."
    assert module_level.__module__ == __name__
    assert inspect.signature(module_level) == inspect.signature(bare)
    assert inspect.signature(module_level, eval_str=True).return_annotation is str
    assert module_level.__annotations__ == bare.__annotations__
    assert (module_level.__defaults__, module_level.__kwdefaults__) == (("EUR",), {"note": ""})
    assert inspect.isfunction(module_level)


def test_named_as_the_signature_names_them() -> None:
    """Defaults are filled in, *args is a tuple under its own name, **kwargs lies flat."""
    channel, options = asked_for()

    @guard(**options)
    def call(a: int, /, b: int = 2, *rest: int, c: int = 3, **more: int) -> None: ...

    call(1)
    call(1, 5, 6, 7, c=8, d=9, a=10)

    assert [action.args for action in channel.requests] == [
        {"a": 1, "b": 2, "rest": (), "c": 3},
        {"a": 1, "b": 5, "rest": (6, 7), "c": 8, "d": 9, "**a": 10},
    ]


@pytest.mark.parametrize("args", [(), (1, 2, 3, 4)])
def test_misfit_is_the_bare_error(args: tuple[int, ...]) -> None:
    """A call that does not fit says what the bare function would say, and asks nobody."""
    channel, options = asked_for()

    def call(a: int, b: int = 2) -> None: ...

    with pytest.raises(TypeError) as bare:
        call(*args)
    with pytest.raises(TypeError) as guarded:
        guard(call, **options)(*args)

    assert str(guarded.value) == str(bare.value)
    assert channel.requests == []


@pytest.mark.parametrize(
    ("call", "result", "args"),
    [
        (lambda: Account().close("fraud"), "closed: fraud", {"reason": "fraud"}),
        (lambda: Account.close(Account(), "fraud"), "closed: fraud", {"reason": "fraud"}),
        (lambda: SubAccount().close("fraud"), "closed: fraud!", {"reason": "fraud!"}),
        (lambda: asyncio.run(Account().aclose("x")), "closed: x", {"reason": "x"}),
        (lambda: Account.static_below("x"), "x", {"self": "x"}),
        (lambda: Account().static_above("x"), "x", {"self": "x"}),
        (lambda: SubAccount.class_below("x"), "SubAccount x", {"name": "x"}),
        (lambda: SubAccount().class_above("x"), "SubAccount x", {"name": "x"}),
        (lambda: Account().balance, 7, {}),
    ],
)
def test_methods(call: Callable[[], Any], result: Any, args: dict[str, Any]) -> None:
    """Methods bind as before, and what they are bound to is no argument."""
    Account.channel.requests.clear()

    assert call() == result
    assert [action.args for action in Account.channel.requests] == [args]


def test_assigned_to_a_class_later() -> None:
    """A function that becomes a method under another name is still a method."""
    channel, options = asked_for()

    class Later:
        pass

    Later.pay = guard(release, **options)  # type: ignore[attr-defined]

    assert Later().pay(3) == 3  # type: ignore[attr-defined]
    assert channel.requests[0].args == {"amount": 3}


def test_bound_to_star_args() -> None:
    """Where a method takes everything as `*args`, only what it is bound to is left out."""
    channel, options = asked_for(policy=ApprovalPolicy(match_args={"args": "."}))

    class Shop:
        @guard(**options)
        @unnamed
        def refund(self, amount: int, note: str = "") -> Any:
            return self, amount, note

        @guard(**options)
        @classmethod
        def close(*args: Any) -> Any:
            return args

    shop = Shop()

    assert shop.refund(4000, note="late") == (shop, 4000, "late")
    assert Shop.refund(shop, 4000) == (shop, 4000, "")
    assert Shop.close("now") == (Shop, "now")
    assert [request.args for request in channel.requests] == [
        {"args": (4000,), "note": "late"},
        {"args": (4000,)},
        {"args": ("now",)},
    ]


def test_keyword_called_like_what_is_bound() -> None:
    """What a method is bound to is left out, and not a keyword argument of the same name."""
    channel, options = asked_for()

    class Store:
        @guard(**options)
        def update(self, /, **values: Any) -> Any:
            return values

        @guard(**options)
        @classmethod
        def reset(cls, /, **values: Any) -> Any:
            return values

    assert Store().update(self=1) == {"self": 1}
    assert Store.reset(cls=2) == {"cls": 2}
    assert [request.args for request in channel.requests] == [{"self": 1}, {"cls": 2}]


def test_keyword_called_self() -> None:
    """A guarded object takes whatever keywords the object takes."""
    _, options = asked_for()
    store: dict[str, int] = {}

    class Sync:
        def call(this, **values: int) -> Any:  # noqa: N805
            return values

        async def acall(this, **values: int) -> Any:  # noqa: N805
            return values

    guard(store.update, **options)(self=1)

    assert store == {"self": 1}
    assert guard(Sync().call, **options)(self=2) == {"self": 2}
    assert asyncio.run(guard(Sync().acall, **options)(self=3)) == {"self": 3}


def test_bound_in_other_ways() -> None:
    """A metaclass's method, a dispatching one and one below a cache are bound as well."""
    channel, options = asked_for()

    class Meta(type):
        @guard(**options)
        def register(cls, name: str) -> Any:
            return cls, name

    class Thing(metaclass=Meta):
        @functools.singledispatchmethod
        @guard(**options)
        def send(self, what: Any) -> str:
            return "anything"

        @send.register
        @guard(**options)
        def _(self, what: int) -> str:
            return "a number"

        @functools.cache  # noqa: B019
        @guard(**options)
        def once(self, what: int) -> int:
            return what

    assert Thing.register("x") == (Thing, "x")
    assert Thing().send("x") == "anything"
    assert Thing().send(1) == "a number"
    assert Thing().once(2) == 2
    assert [request.args for request in channel.requests] == [
        {"name": "x"},
        {"what": "x"},
        {"what": 1},
        {"what": 2},
    ]


class Holder:
    """A descriptor that a library made."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return functools.partial(self.function, instance)


def wrapped(function: Any) -> Any:
    return functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))


def unnamed(function: Any) -> Any:
    return lambda *args, **kwargs: function(*args, **kwargs)


def release(me: Any, amount: int) -> int:
    return amount


@pytest.mark.parametrize(
    "below",
    [wrapped, lambda function: wrapped(wrapped(wrapped(function))), unnamed, Holder],
    ids=["functools.wraps", "three of them", "a plain closure", "an object with __get__"],
)
def test_bound_below_other_decorators(below: Any) -> None:
    """What a method is bound to is left out below whatever decorator, in whatever order it came."""
    channel, options = asked_for()

    class Shop:
        @below
        @guard(**options)
        def pay(self, amount: int) -> int:
            return amount

        @guard(**options)
        def refund(self, amount: int) -> int:
            return amount

    class Later(Shop):
        pass

    Shop.refund = below(Shop.refund)  # type: ignore[method-assign]
    shop: Any = Later()
    shop.release = MethodType(guard(release, **options), shop)

    assert (shop.pay(1), shop.refund(2), shop.release(3)) == (1, 2, 3)
    assert [request.args for request in channel.requests] == [{"amount": n} for n in (1, 2, 3)]


def test_a_lazy_proxy_is_not_resolved() -> None:
    """Naming the arguments does not ask a proxy what it stands for, which may be nothing yet."""

    class Unbound:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("working outside of request context")

    def body(value: Any) -> Any:
        return value

    proxy = Unbound()

    class View:
        user = proxy
        show = guard(lambda self: self.user, **RELEASED)

    assert guard(body, **RELEASED)(proxy) is proxy
    assert View().show() is proxy


def test_self_that_is_not_bound() -> None:
    """A plain function's first parameter is an argument, whatever it is called."""
    channel, options = asked_for()

    @guard(**options)
    def plain(self: Any, cls: Any) -> None: ...

    plain(Sender, 2)

    assert channel.requests[0].args == {"self": Sender, "cls": 2}


def test_partial_of_a_partial() -> None:
    """What an inner partial with attributes fills in, which Python keeps apart, is seen as well."""
    rule = ApprovalPolicy(match_args={"database": "prod"})
    channel, options = asked_for(policy=rule)

    def drop(database: str, table: str) -> str:
        return f"dropped {database}.{table}"

    inner = functools.update_wrapper(functools.partial(drop, "prod"), drop)
    guarded = guard(functools.partial(inner, "users"), **options)

    assert guarded() == guard(guarded, **options)() == "dropped prod.users"
    args = {"database": "prod", "table": "users"}
    assert [request.args for request in channel.requests] == [args] * 3


def test_partial_shows_what_is_filled_in() -> None:
    """The approver of a partial sees all that will run, and it stays a partial."""
    channel, options = asked_for()

    async def pay(amount: float, currency: str, *, note: str = "") -> str:
        return f"{amount} {currency} {note}"

    guarded = guard(functools.partial(pay, currency="USD", note="n"), **options)

    assert isinstance(guarded, functools.partial)
    assert inspect.iscoroutinefunction(guarded)
    assert asyncio.run(guarded(5)) == "5 USD n"
    assert channel.requests[0].args == {"amount": 5, "currency": "USD", "note": "n"}
    assert guard(functools.partial(Refund, 4000), **options)(note="late") == Refund(4000, "late")
    assert channel.requests[1].pretty() == "Refund(amount=4000, note='late')"


def test_callable_object() -> None:
    """A callable object keeps its attributes and methods, and does not become a method."""
    channel, options = asked_for()
    sender = Sender()
    guarded = guard(sender, **options)

    class Mailer:
        send = guarded

    assert Mailer().send("ann") == "sent to ann"
    assert guarded.sent == ["ann"]
    guarded.reset()
    assert sender.sent == []
    assert channel.requests[0].tool_name == "Sender"
    assert channel.requests[0].args == {"to": "ann"}
    assert inspect.signature(guarded) == inspect.signature(sender)
    assert guarded.__doc__ == sender.__doc__


def test_mocks() -> None:
    """A mock, which has whatever attribute it is asked for, is guarded as any object."""
    channel, options = asked_for()
    mock, amock = Mock(return_value="sent"), AsyncMock(return_value="sent")

    assert guard(mock, **options)("ann") == "sent"
    assert asyncio.run(guard(amock, **options)("ann")) == "sent"
    assert len(channel.requests) == 2


def test_at_a_prompt() -> None:
    """help() and completion show what they show of the bare callable."""
    sender = Sender()
    names = {"sender": guard(sender, audit=OFF), "pay": module_level}
    complete = rlcompleter.Completer(names).complete

    assert complete("sender.re", 0).startswith("sender.reset(")
    assert complete("pay", 0).startswith("pay(")
    shown = pydoc.render_doc(module_level, renderer=pydoc.plaintext)
    assert shown == pydoc.render_doc(module_level.__wrapped__, renderer=pydoc.plaintext)


def test_async_callables_that_are_no_functions() -> None:
    """Async-ness stays: of an object's __call__, of a bound method, of a partial."""
    _, options = asked_for()
    account, sender = Account(), AsyncSender()

    guarded_method = guard(account.aclose.__wrapped__.__get__(account), **options)
    guarded_sender = guard(sender, **options)

    assert inspect.iscoroutinefunction(guarded_method)
    assert not inspect.iscoroutinefunction(guarded_sender)
    assert inspect.iscoroutinefunction(guarded_sender.__call__)
    assert asyncio.run(guarded_sender("ann")) == "sent to ann"
    assert asyncio.run(guarded_method("x")) == "closed: x"


@pytest.mark.parametrize("builtin", [len, sorted, max, dict.fromkeys, "a,b".split])
def test_builtins(builtin: Any) -> None:
    """Builtins work, with and without a readable signature."""
    channel, options = asked_for()

    result = guard(builtin, **options)("bca")

    assert result == builtin("bca")
    assert len(channel.requests) == 1


def test_unreadable_signature_is_held() -> None:
    """Where arguments cannot be named, rules on names hold the call instead of missing it."""
    channel, options = asked_for(policy=ApprovalPolicy(amount_over={"arg": "a", "threshold": 5}))
    guarded = guard(max, **options)

    assert guarded(1, 2) == 2
    assert len(channel.requests) == 1
    assert channel.requests[0].args == {"args": (1, 2)}


def test_what_only_kwargs_can_bring_is_held_if_it_is_not_there() -> None:
    """It may have been given by position, or the rule has a typo."""
    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 5})
    channel, options = asked_for(policy=policy)

    def unnamed(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    guarded = guard(unnamed, **options)

    assert guarded(amount=1) == ((), {"amount": 1})
    assert guarded("c1", amount=1) == (("c1",), {"amount": 1})
    assert channel.requests == []
    assert guarded(4000, note="") == ((4000,), {"note": ""})
    assert channel.requests[0].args == {"args": (4000,), "note": ""}

    class Shop:
        @guard(**options)
        def pay(self, *args: Any, **kwargs: Any) -> None: ...

        @guard(**options)
        def tell(self, what: str, **kwargs: Any) -> None: ...

    Shop().pay(4000)
    Shop().tell("news", amuont=4000)
    assert len(channel.requests) == 3
    Shop().tell("news", amount=1)
    assert len(channel.requests) == 3


def test_what_a_dataclass_makes_itself_is_held() -> None:
    """A rule cannot look at what a class makes only while its body runs."""

    @dataclass
    class Order:
        customer: str
        items: list[str] = field(default_factory=lambda: ["gold"])

    class Model(BaseModel):
        customer: str
        items: list[str] = Field(default_factory=lambda: ["gold"])

    for cls in (Order, Model):
        channel, options = asked_for(policy=ApprovalPolicy(match_args={"items": "gold"}))
        make: Any = guard(cls, **options)

        make(customer="c", items=["tin"])
        assert channel.requests == []
        assert make(customer="c").items == ["gold"]
        assert len(channel.requests) == 1


def test_a_store_of_langgraph_is_the_runtimes() -> None:
    """A node's store is passed by LangGraph, and nobody is shown it."""
    channel, options = asked_for()

    @guard(**options)
    def remember(note: str, *, store: BaseStore) -> object:
        return store

    store = InMemoryStore()
    assert remember("a", store=store) is store
    assert channel.requests[0].args == {"note": "a"}


def test_colliding_names_are_held() -> None:
    """Two arguments of one name are both shown, and a rule on that name holds the call."""
    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 5})
    channel, options = asked_for(policy=policy)

    def pay(amount: int, /, **more: int) -> Any:
        return amount, more

    guarded = guard(pay, **options)

    assert guarded(1, tip=9) == (1, {"tip": 9})
    assert channel.requests == []
    assert guarded(1, **{"**amount": 2, "amount": 4000}) == (1, {"**amount": 2, "amount": 4000})
    assert list(channel.requests[0].args.values()) == [1, 2, 4000]


def test_below_a_decorator_that_fills_in_arguments() -> None:
    """Above the gate such a decorator is no part of the call: each argument has its own name."""
    channel, options = asked_for(
        policy=ApprovalPolicy(amount_over={"arg": "amount", "threshold": 5})
    )

    def with_session(function: Any) -> Any:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return function("session", *args, **kwargs)

        return wrapped

    @with_session
    @guard(**options)
    def pay(session: str, customer: str, amount: int = 0) -> tuple[str, str, int]:
        return session, customer, amount

    assert pay("c1", 4000) == ("session", "c1", 4000)
    args = {"session": "session", "customer": "c1", "amount": 4000}
    assert [request.args for request in channel.requests] == [args]


def test_wider_than_its_signature() -> None:
    """A decorated function may take more than it shows: then the call is held, not refused."""
    channel, options = asked_for(policy=ApprovalPolicy(amount_over={"arg": "a", "threshold": 5}))

    def shown(a: int = 4000) -> int:
        return a

    @functools.wraps(shown)
    def wide(*args: Any, retries: int = 0, **kwargs: Any) -> Any:
        return shown(*args, **kwargs), retries

    guarded = guard(wide, **options)

    assert guarded(1) == (1, 0)
    assert channel.requests == []
    assert guarded(1, retries=3) == (1, 3)
    assert guarded(retries=3) == (4000, 3)
    assert [request.args for request in channel.requests] == [
        {"args": (1,), "retries": 3},
        {"retries": 3},
    ]

    class Later:
        do = guarded

    with pytest.raises(TypeError):
        Later().do(1, retries=3)
    assert channel.requests[2].args == {"args": (1,), "retries": 3}


def test_generator_protocol() -> None:
    """send, throw, close and the return value of a generator go through."""
    _, options = asked_for()
    seen: list[Any] = []

    @guard(**options)
    def steps(n: int) -> Generator[int, str, str]:
        try:
            seen.append((yield n))
            try:
                yield n + 1
            except KeyError:
                yield -1
        finally:
            seen.append("closed")
        return "end"

    assert inspect.isgeneratorfunction(steps)
    running = steps(1)
    assert next(running) == 1
    assert running.send("sent") == 2
    assert running.throw(KeyError()) == -1
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "end"
    closed = steps(1)
    next(closed)
    closed.close()
    assert seen == ["sent", "closed", "closed"]


def test_async_generator_protocol() -> None:
    """asend, athrow and aclose of an async generator go through."""
    _, options = asked_for()
    seen: list[Any] = []

    @guard(**options)
    async def steps(n: int) -> AsyncGenerator[int, str]:
        try:
            seen.append((yield n))
            try:
                yield n + 1
            except KeyError:
                yield -1
        finally:
            seen.append("closed")

    async def main() -> None:
        running = steps(1)
        assert await running.__anext__() == 1
        assert await running.asend("sent") == 2
        assert await running.athrow(KeyError()) == -1
        with pytest.raises(StopAsyncIteration):
            await running.__anext__()
        closed = steps(1)
        await closed.__anext__()
        await closed.aclose()

    assert inspect.isasyncgenfunction(steps)
    asyncio.run(main())
    assert seen == ["sent", "closed", "closed"]


@pytest.mark.parametrize("kept", ["by the program", "in a cycle"])
def test_async_generator_closed_by_its_loop(
    kept: str, log_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is left open is closed once by the loop, in peace, and its finally is awaited."""
    closed: list[int] = []

    @guard(policy=RELEASED["policy"], audit=log_path)
    async def stream(holder: list[Any]) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(len(holder))

    holders = []

    async def run() -> None:
        holder: list[Any] = []
        holder.append(stream(holder))
        assert await anext(holder[0]) == 1
        if kept == "by the program":
            holders.append(holder)
        else:
            del holder
            while not closed:
                gc.collect()  # the log's thread may hold the call for a moment longer
                await asyncio.sleep(0.001)

    asyncio.run(run())

    assert closed == [1]
    assert [line["error"] for line in AuditLog(log_path).records()] == ["GeneratorExit"]
    assert caplog.text == ""


class Metadata:
    name = "refund"
    description = "Refund an amount."


class CalledTool:
    """Its agents run `acall`, as LlamaIndex's do."""

    metadata = Metadata()

    def __call__(self, amount: float) -> str:
        return self.call(amount)

    def call(self, amount: float) -> str:
        return f"refunded {amount}"

    async def acall(self, amount: float) -> str:
        return self(amount)


def test_tool_with_other_ways_to_call_it() -> None:
    """Each way into it asks once, under the tool's name, and what looks for its class finds it."""
    channel, options = asked_for()
    guarded = guard(CalledTool(), **options)

    assert guarded(1) == guarded.call(1) == asyncio.run(guarded.acall(1)) == "refunded 1"
    assert isinstance(guarded, CalledTool) and guarded.metadata.name == "refund"
    assert [action.pretty() for action in channel.requests] == ["refund(amount=1)"] * 3
    assert {action.tool_description for action in channel.requests} == {"Refund an amount."}
    with pytest.raises(ValueError, match="the policy names 'amuont'"):
        guard(CalledTool(), policy=ApprovalPolicy(match_args={"amuont": "."}))


def test_tool_guarded_twice() -> None:
    """Both gates stand before each way into it."""
    inner, outer = asked_for(), asked_for()
    guarded = guard(guard(CalledTool(), **inner[1]), **outer[1])

    assert guarded(1) == guarded.call(1) == asyncio.run(guarded.acall(1)) == "refunded 1"
    assert [action.pretty() for action in inner[0].requests] == ["refund(amount=1)"] * 3
    assert [action.pretty() for action in outer[0].requests] == ["refund(amount=1)"] * 3


def test_tool_without_a_name() -> None:
    """It is shown as what it is, and not as the way that was taken into it."""
    channel, options = asked_for()

    class Unnamed(CalledTool):
        metadata = None  # type: ignore[assignment]

    asyncio.run(guard(Unnamed(), **options).acall(1))

    assert [action.pretty() for action in channel.requests] == ["Unnamed(amount=1)"]


def test_a_generator_not_started_is_no_call() -> None:
    """Nobody is asked before the first step."""
    channel, options = asked_for()

    @guard(**options)
    def steps() -> Any:
        yield 1

    steps().close()
    assert channel.requests == []


def test_a_denied_generator_yields_the_message_once() -> None:
    """With on_denied="return" a generator yields the refusal, and nothing else."""

    @guard(channel=AutoDenyChannel(), audit=OFF, on_denied="return")
    def steps() -> Any:
        yield 1

    (message,) = steps()
    assert message.startswith("DENIED: ")


def test_on_denied_callable() -> None:
    """A callable on_denied gets the ApprovalDenied; its answer is returned, its error raised."""

    def structured(denied: ApprovalDenied) -> dict[str, Any]:
        return {"denied": denied.action.tool_name, "why": denied.decision}

    def pay(amount: int) -> int:
        return amount

    def fail(denied: ApprovalDenied) -> Any:
        raise LookupError(denied.action.tool_name)

    options = {"channel": AutoDenyChannel(), "audit": OFF}
    answer: Any = guard(pay, on_denied=structured, **options)(5)

    assert answer["denied"] == "pay"
    assert answer["why"].approved is False
    with pytest.raises(LookupError, match="pay"):
        guard(pay, on_denied=fail, **options)(5)


def test_denied_is_picklable() -> None:
    """ApprovalDenied crosses a process boundary with its action and decision."""
    with pytest.raises(ApprovalDenied) as caught:
        guard(Sender(), channel=AutoDenyChannel(), audit=OFF)("ann")

    denied = pickle.loads(pickle.dumps(caught.value))

    assert str(denied) == str(caught.value)
    assert denied.action == caught.value.action
    assert denied.action.id == caught.value.action.id
    assert denied.decision == caught.value.decision
    assert copy.copy(denied).action == denied.action


def test_denied_is_picklable_whatever_it_was_called_with() -> None:
    """An argument that cannot leave the process goes as its text, and the others as they are."""
    with pytest.raises(ApprovalDenied) as caught:
        guard(lambda *_, **__: None, channel=AutoDenyChannel(), audit=OFF)(amount=5, by=print_lock)

    denied = pickle.loads(pickle.dumps(caught.value))

    assert denied.action.args == {"_": (), "amount": 5, "by": repr(print_lock)}
    assert denied.action.id == caught.value.action.id


def test_picklable_as_before() -> None:
    """A guarded module-level function is pickled by name; an object comes back guarded."""
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    guarded = pickle.loads(pickle.dumps(guard(Sender(), channel=Refusing(), audit=OFF)))
    with pytest.raises(ApprovalDenied):
        guarded("ann")
    method = pickle.loads(pickle.dumps(guard(Sender().reset, channel=Refusing(), audit=OFF)))
    with pytest.raises(ApprovalDenied):
        method()
    partial = pickle.loads(
        pickle.dumps(guard(functools.partial(inspect.cleandoc, "x"), channel=Refusing(), audit=OFF))
    )
    with pytest.raises(ApprovalDenied):
        partial()
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(guard(test_picklable_as_before, **RELEASED))


def test_sent_by_value() -> None:
    """What joblib, Dask or Ray send to other processes by value stays guarded."""

    @guard(channel=Refusing(), audit=OFF)
    def pay(amount: int) -> int:
        return amount

    again = pickle.loads(cloudpickle.dumps(pay))

    with pytest.raises(ApprovalDenied, match=r"pay\(amount=5\)"):
        again(5)


def test_copies_stay_guarded() -> None:
    """Copy and deepcopy of a guarded object are guarded."""
    guarded = guard(Sender(), channel=Refusing(), audit=OFF)

    for clone in (copy.copy(guarded), copy.deepcopy(guarded)):
        with pytest.raises(ApprovalDenied):
            clone("ann")


def test_exclude() -> None:
    """Excluded parameters reach the body, and neither the policy nor the approver."""
    seen: list[Any] = []
    channel, options = asked_for(exclude=("context", "session"))

    @guard(**options, policy=ApprovalPolicy(require_if=lambda args: seen.append(args) or True))
    def pay(context: Any, amount: int, *, session: Any = "secret") -> Any:
        return context, amount, session

    assert pay("secret", 5) == ("secret", 5, "secret")
    assert seen == [{"amount": 5}]
    assert channel.requests[0].args == {"amount": 5}


def test_frames_are_few() -> None:
    """One frame of the guard stands between the caller and the body that raises."""

    def fail() -> None:
        raise ValueError("declined")

    with pytest.raises(ValueError, match="declined") as caught:
        guard(fail, **RELEASED)()

    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_frames_are_few", "guarded", "fail"]


def test_stop_iteration_of_the_body() -> None:
    """StopIteration from a plain body arrives as the same object."""
    stop = StopIteration(3)

    def fail() -> None:
        raise stop

    with pytest.raises(StopIteration) as caught:
        guard(fail, **RELEASED)()
    assert caught.value is stop


def test_nested_denial_is_the_bodys() -> None:
    """A denial inside a body passes through the outer guard as the body's own exception."""
    inner = guard(Sender(), channel=AutoDenyChannel(), audit=OFF)
    outer = guard(lambda: inner("ann"), on_denied="return", **RELEASED)

    with pytest.raises(ApprovalDenied, match="ann"):
        outer()


def test_decision_is_taken_as_it_was_answered() -> None:
    """A Decision that is changed afterwards releases nothing, and is not changed by us."""
    decision = Decision.deny()

    class Shared(AutoApproveChannel):
        name = "shared"

        def request_approval(self, action: Any) -> Decision:
            return decision

    with pytest.raises(ApprovalDenied) as caught:
        guard(Sender(), channel=Shared(), audit=OFF)("ann")

    assert caught.value.decision is not decision
    assert caught.value.decision.source == "shared"
    assert decision.source is None


def test_ids_are_unique_and_shared_with_the_denial() -> None:
    """Equal calls have ids of their own, and the denial carries the id that was asked."""
    channel = AutoDenyChannel()
    guarded = guard(Sender(), channel=channel, audit=OFF)
    ids = []
    for _ in range(2):
        with pytest.raises(ApprovalDenied) as caught:
            guarded("ann")
        ids.append(caught.value.action.id)

    assert ids == [request.id for request in channel.requests]
    assert len(set(ids)) == 2
    assert channel.requests[0] == channel.requests[1]


def test_a_lock_is_not_copied() -> None:
    """Opaque arguments reach the body by reference, and generators are not consumed."""
    _, options = asked_for()
    lock = threading.Lock()
    numbers = iter([1, 2])

    @guard(**options)
    def use(a: Any, b: Any) -> Any:
        return a, list(b)

    assert use(lock, numbers) == (lock, [1, 2])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with Python 3.12")
def test_type_parameters() -> None:
    """A generic function keeps its type parameters."""
    scope: dict[str, Any] = {}
    exec("def first[T](items: list[T]) -> T: return items[0]", scope)

    assert guard(scope["first"], **RELEASED).__type_params__ == scope["first"].__type_params__


def test_above_a_cache(log_path: Any) -> None:
    """A cached function keeps its cache, and what only the cache can do."""
    log = AuditLog(log_path)

    @guard(channel=AutoApproveChannel(), audit=log)
    @functools.lru_cache
    def price(item: str) -> float:
        return 9.5

    assert (price("a"), price(item="a"), price("a")) == (9.5, 9.5, 9.5)
    assert price.cache_info().hits == 1
    assert [record["args"] for record in log.records()] == [{"item": "a"}] * 3


def test_excluded_keywords() -> None:
    """What comes in by an excluded **kwargs, or *args, reaches the body only."""
    channel, options = asked_for()

    def pay(amount: int, *rest: int, **session: str) -> Any:
        return amount, rest, session

    guarded = guard(pay, exclude=["session", "rest"], **options)

    assert guarded(1, 2, token="k") == (1, (2,), {"token": "k"})
    assert channel.requests[-1].args == {"amount": 1}


def test_with_a_testing_channel_it_is_pickled() -> None:
    """What can be pickled can be pickled with a channel for tests, too."""
    guarded = guard(functools.partial(divmod, 7), channel=AutoApproveChannel(), audit=OFF)

    assert pickle.loads(pickle.dumps(guarded))(2) == (3, 1)
