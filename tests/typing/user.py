"""A user's file: a guard on everything that can have one. For mypy and pyright, never imported.

Each call shows that the guarded callable's own signature is left, names and defaults included, and
that no `Any` leaks from it: an assert_type of `Any` fails.
"""

from __future__ import annotations

import asyncio
import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import (
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from langchain_core.tools import BaseTool, tool
from typing_extensions import Self, assert_type

from actionguard import ApprovalDenied, ApprovalPolicy, guard, guard_tools

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Refusal:
    why: str


def refuse(denied: ApprovalDenied) -> Refusal:
    return Refusal(denied.action.pretty())


def fail(denied: ApprovalDenied) -> NoReturn:
    raise PermissionError(str(denied))


# --- functions -------------------------------------------------------------------------------


@guard
def refund(amount: float, *tags: str, customer: str = "c", **more: int) -> bool:
    return True


@guard()
def positional(amount: float, /, customer: str) -> bool:
    return True


@guard(on_denied="raise", policy=ApprovalPolicy(match_args={"customer": "^prod-"}))
def raising(customer: str) -> bool:
    return True


@guard(on_denied="return")
def returning(amount: float, customer: str = "c") -> bool:
    return True


@guard(on_denied="return")
def returning_nothing(path: str) -> None: ...


@guard(on_denied=refuse, exclude=["session"])
def refusing(amount: float, session: object) -> list[int]:
    return []


@guard(on_denied=lambda denied: None)
def silent(amount: float) -> int:
    return 1


@guard(on_denied=fail)
def failing(amount: float) -> int:
    return 1


@guard
def generic(item: T) -> list[T]:
    return [item]


@guard(on_denied="return")
def generic_returning(item: T) -> list[T]:
    return [item]


@overload
def overloaded(x: int) -> int: ...
@overload
def overloaded(x: str) -> str: ...
@guard
def overloaded(x: int | str) -> int | str:
    return x


assert_type(refund(1.0, "x", customer="d", more=1), bool)
assert_type(refund.__name__, str)
assert_type(positional(1.0, customer="d"), bool)
assert_type(raising(customer="d"), bool)
assert_type(returning(1.0), bool | str)
assert_type(returning(amount=1.0, customer="d"), bool | str)
assert_type(returning.__name__, str)
assert_type(returning_nothing("x"), str | None)
assert_type(refusing(1.0, session=None), list[int] | Refusal)
assert_type(silent(1.0), int | None)
assert_type(failing(1.0), int)
assert_type(generic(1), list[int])
assert_type(generic_returning(1), list[int] | str)
assert_type(overloaded(1), int)
assert_type(overloaded("x"), str)
refund(1.0, more="x")  # type: ignore[arg-type]
positional(amount=1.0, customer="d")  # type: ignore[call-arg]
returning(1.0, client="d")  # type: ignore[call-arg]
refusing(1.0)  # type: ignore[call-arg]
generic_returning()  # type: ignore[call-arg]

plain: Callable[[float], int] = guard(failing)


def either(mode: Literal["raise", "return"]) -> None:
    assert_type(guard(failing, on_denied=mode)(1.0), int | str)


# --- async functions -------------------------------------------------------------------------


@guard
async def arefund(amount: float, customer: str = "c") -> int:
    return 1


@guard(on_denied="return")
async def areturning(amount: float, customer: str = "c") -> int:
    return 1


@guard(on_denied=refuse)
async def arefusing(amount: float) -> int:
    return 1


async def use_functions() -> None:
    assert_type(await arefund(1.0, customer="d"), int)
    assert_type(await areturning(1.0, customer="d"), int | str)
    assert_type(await arefusing(1.0), int | Refusal)
    assert_type(await asyncio.create_task(arefusing(1.0)), int | Refusal)
    both = await asyncio.gather(arefund(1.0), areturning(1.0))
    assert_type(both, tuple[int, int | str])
    await arefund(1.0, client="d")  # type: ignore[call-arg]
    await areturning("x")  # type: ignore[arg-type]


# --- methods ---------------------------------------------------------------------------------


class Bank:
    @guard
    def refund(self, amount: float) -> int:
        return 1

    @guard(on_denied="return")
    def returning(self, amount: float) -> int:
        return 1

    @guard(on_denied=refuse)
    async def arefusing(self, amount: float) -> int:
        return 1

    @guard
    @classmethod
    def guard_above(cls, name: str) -> Bank:
        return cls()

    @guard()
    @classmethod
    def options_above(cls, name: str) -> Bank:
        return cls()

    @classmethod
    @guard
    def guard_below(cls, name: str) -> Bank:
        return cls()

    @guard(on_denied="return")
    @classmethod
    def returning_above(cls, name: str) -> Bank:
        return cls()

    @classmethod
    @guard(on_denied="return")
    def returning_below(cls, name: str) -> Bank:
        return cls()

    @guard
    @staticmethod
    def static_above(name: str) -> int:
        return 1

    @staticmethod
    @guard
    def static_below(name: str) -> int:
        return 1

    @guard(on_denied="return")
    @staticmethod
    def static_returning_above(name: str) -> int:
        return 1

    @staticmethod
    @guard(on_denied="return")
    def static_returning_below(name: str) -> int:
        return 1

    @property
    @guard
    def balance(self) -> int:
        return 1

    @guard(on_denied="return")
    def steps(self, count: int) -> Iterator[int]:
        yield count

    def __call__(self, amount: float) -> int:
        return 1


class Savings(Bank):
    @guard
    def refund(self, amount: float) -> int:
        return super().refund(amount)

    def returning(self, amount: float) -> int | str:
        return super().returning(amount)


class Box(Generic[T]):
    @guard
    def put(self, item: T) -> T:
        return item

    @guard(on_denied="return")
    def returning(self, item: T) -> T:
        return item


bank = Bank()
assert_type(bank.refund(amount=1.0), int)
assert_type(Bank.refund(bank, 1.0), int)
assert_type(bank.returning(amount=1.0), int | str)
assert_type(Bank.guard_above(name="x"), Bank)
assert_type(bank.guard_above("x"), Bank)
assert_type(Bank.options_above("x"), Bank)
assert_type(Bank.guard_below(name="x"), Bank)
assert_type(Bank.returning_above("x"), Bank | str)
assert_type(bank.returning_above("x"), Bank | str)
assert_type(Bank.returning_below(name="x"), Bank | str)
assert_type(Bank.static_above(name="x"), int)
assert_type(bank.static_above("x"), int)
assert_type(Bank.static_below(name="x"), int)
assert_type(Bank.static_returning_above("x"), int | str)
assert_type(bank.static_returning_above("x"), int | str)
assert_type(Bank.static_returning_below(name="x"), int | str)
assert_type(bank.balance, int)
assert_type(bank.steps(count=1), Iterator[int | str])
assert_type(Box[int]().put(1), int)
assert_type(Box[int]().returning(1), int | str)
assert_type(guard(bank)(amount=1.0), int)
assert_type(guard(bank, on_denied="return")(amount=1.0), int | str)
assert_type(guard(bank.refund)(amount=1.0), int)
assert_type(guard(bank.refund, on_denied="return")(amount=1.0), int | str)
bank.refund(1.0, client="d")  # type: ignore[call-arg]
Bank.guard_above(1)  # type: ignore[arg-type]
bank.returning("x")  # type: ignore[arg-type]


async def use_methods() -> None:
    assert_type(await bank.arefusing(amount=1.0), int | Refusal)


# --- methods that say what they return by who they are called on -----------------------------


class Base(ABC):
    @guard
    def renamed(self, name: str) -> Self:
        return self

    @guard(on_denied="return")
    def renamed_or_told(self, name: str) -> Self:
        return self

    @classmethod
    @guard
    def opened(cls, name: str) -> Self:
        return cls()

    @functools.cached_property
    @guard
    def balance(self) -> int:
        return 1

    @guard
    @abstractmethod
    def run(self, x: int) -> str: ...

    @overload
    def either(self, x: int) -> int: ...
    @overload
    def either(self, x: str) -> str: ...
    @guard
    def either(self, x: int | str) -> int | str:
        return x


class Own(Base):
    @guard
    def run(self, x: int) -> str:
        return super().renamed("x").__class__.__name__


class Runs(Protocol):
    def run(self, x: int) -> str: ...


own = Own()
runs: Runs = own
assert_type(own.renamed("x"), Own)
assert_type(own.renamed_or_told("x"), Own | str)
assert_type(Own.opened("x"), Own)
assert_type(own.balance, int)
assert_type(own.run(1), str)
assert_type(own.either(1), int)
assert_type(own.either("x"), str)

# --- generators ------------------------------------------------------------------------------


@guard
def steps(count: int) -> Generator[int, str, bytes]:
    yield 1
    return b""


@guard(on_denied="return")
def steps_returning(count: int) -> Generator[int, str, bytes]:
    yield 1
    return b""


@guard
async def asteps(count: int) -> AsyncGenerator[int, str]:
    yield 1


@guard(on_denied=refuse)
async def asteps_refusing(count: int) -> AsyncGenerator[int, str]:
    yield 1


assert_type(steps(count=1), Generator[int, str, bytes])
assert_type(steps_returning(count=1), Iterator[int | str])
assert_type(asteps(count=1), AsyncGenerator[int, str])
assert_type(asteps_refusing(count=1), AsyncIterator[int | Refusal])

# --- other callables -------------------------------------------------------------------------

partial = functools.partial(raising, customer="d")
assert_type(guard(partial)(), bool)
assert_type(guard(partial, on_denied="return")(), bool | str)
assert_type(guard(len)([1]), int)
assert_type(guard(len, on_denied="return")([1]), int | str)


class Asks(Protocol):
    def __call__(self, amount: float, customer: str = ...) -> object: ...


asks: Asks = returning
several: list[Callable[[float], int]] = [guard(function) for function in (failing, bank.refund)]


def with_session(function: Callable[Concatenate[object, P], T]) -> Callable[P, T]:
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(None, *args, **kwargs)

    return inner


@with_session
@guard(exclude=["session"])
def with_one(session: object, amount: float) -> int:
    return 1


@guard
@with_session
def below(session: object, amount: float) -> int:
    return 1


@guard
@functools.lru_cache
def cached(amount: int) -> int:
    return 1


@guard
@contextmanager
def opened(path: str) -> Generator[int]:
    yield 1


assert_type(with_one(amount=1.0), int)
assert_type(below(amount=1.0), int)
assert_type(cached(1), int)
cached.cache_clear()
with opened("x") as number:
    assert_type(number, int)

options = guard(policy=ApprovalPolicy())
assert_type(options(bank)(1.0), int)
options_returning = guard(on_denied="return")
assert_type(options_returning(bank)(1.0), int | str)

# --- tools -----------------------------------------------------------------------------------


@guard
@tool
def guard_above_tool(amount: float) -> str:
    """Refund a customer."""
    return "ok"


@tool
@guard(on_denied="return")
async def guard_below_tool(amount: float) -> str:
    """Refund a customer."""
    return "ok"


assert_type(guard_above_tool, BaseTool)
assert_type(guard_below_tool, BaseTool)
assert_type(guard_tools([guard_above_tool, refund, arefund, bank.refund]), list[BaseTool])


@guard(on_denied="return")
async def aiterator_returning(count: int) -> AsyncIterator[int]:
    yield 1


@guard(on_denied=refuse)
async def aiterator_refusing(count: int) -> AsyncIterator[int]:
    yield 1


assert_type(aiterator_returning(count=1), AsyncIterator[int | str])
assert_type(aiterator_refusing(count=1), AsyncIterator[int | Refusal])
assert_type(guard(asteps, on_denied="return")(count=1), AsyncIterator[int | str])
