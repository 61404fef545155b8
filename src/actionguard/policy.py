"""Which calls need a person: ApprovalPolicy, and what any policy has to offer."""

from __future__ import annotations

import functools
import inspect
import operator
import re
import sys
from collections import UserString
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, Protocol, TypedDict

from actionguard._signature import takes_one_argument
from actionguard._values import copied, parts, secret_text, show

#: How many digits a threshold may have.
_MAX_DIGITS = 10_000
#: How many containers are searched in one value: getters that make new ones have no end.
_MAX_CONTAINERS = 300_000


class Policy(Protocol):
    """Anything that says whether a call needs approval."""

    def needs_approval(self, args: dict[str, Any], /) -> bool:
        """Whether a call with these arguments needs approval."""


class AmountOver(TypedDict):
    """The rule on a number: calls whose argument `arg` is greater than `threshold` are held."""

    arg: str
    threshold: float | Decimal | Fraction


class ApprovalPolicy:
    """Says which calls need approval: those that any of its rules holds; without rules, every call.

    Args:
        require_if: Called with a copy of the arguments by name; any truthy answer holds the call.
            It is asked last, and only if no other rule holds the call.
        require_always: True holds every call. False, without other rules, releases every call;
            with other rules, these decide.
        amount_over: `{"arg": name, "threshold": number}` holds a call whose argument is greater,
            compared exactly: int, float, Decimal, Fraction, numpy scalars, and strings that
            Python reads as a number. A value that is not a number (None, "4,000", NaN) is held.
            Bools are ignored, and so are missing arguments that the signature names.
        match_args: Regular expressions by argument name. A call is held if `re.search` finds one in
            the text of its argument, or of anything inside it: elements, keys and values of
            containers, fields of dataclasses and models, rows of tables, an Enum's name and value.
            bytes count as UTF-8 text. None is ignored. A value whose text may be an excerpt is
            held.
        repeat_within: Seconds. Holds a call if an equal one (same tool, same arguments) waits or
            runs, or ran or failed within this time: in this process, in others, or before a
            restart. It is found in the audit log, so the guard needs one.

    Raises:
        TypeError: A rule has an unsupported type, or `require_if` is async.
        re.error: A pattern does not compile.
        ValueError: A rule has an unsupported value.
    """

    # What a subclass has that never calls __init__: the policy without rules.
    _held = True
    _require_if: Callable[[dict[str, Any]], object] | None = None
    _require_always: bool | None = None
    _amount: AmountOver | None = None
    _limit: float | Fraction = 0
    _repeat_within: float | None = None
    _patterns: tuple[tuple[str, re.Pattern[str]], ...] = ()

    def __init__(
        self,
        require_if: Callable[[dict[str, Any]], object] | None = None,
        require_always: bool | None = None,
        amount_over: AmountOver | None = None,
        match_args: Mapping[str, str | re.Pattern[str]] | None = None,
        *,
        repeat_within: float | None = None,
    ) -> None:
        self._require_if = _checked_predicate(require_if)
        if require_always is not None and not isinstance(require_always, bool):
            raise TypeError(f"require_always must be True, False or None, not {require_always!r}")
        self._require_always = require_always
        if amount_over is not None:
            self._amount, self._limit = _checked_amount(amount_over)
        if match_args is not None:
            self._patterns = _compiled(match_args)
        if repeat_within is not None:
            self._repeat_within = _checked_time(repeat_within)
        rules = (require_if, amount_over, match_args or None, repeat_within)
        without = all(rule is None for rule in rules)
        self._held = require_always is True or (require_always is None and without)

    # Read-only, so that a rule changed on a policy in use fails instead of doing nothing.

    @property
    def require_if(self) -> Callable[[dict[str, Any]], object] | None:
        """The predicate over the arguments."""
        return self._require_if

    @property
    def require_always(self) -> bool | None:
        """Whether every call is held."""
        return self._require_always

    @property
    def amount_over(self) -> AmountOver | None:
        """A copy of the rule on a number."""
        return None if self._amount is None else self._amount.copy()

    @property
    def match_args(self) -> dict[str, re.Pattern[str]]:
        """A copy of the patterns, compiled."""
        return dict(self._patterns)

    @property
    def repeat_within(self) -> float | None:
        """For how many seconds an equal call is held; the gate looks for it in the audit log."""
        return self._repeat_within

    @property
    def names(self) -> frozenset[str]:
        """The arguments that `amount_over` and `match_args` look at."""
        names = {name for name, _ in self._patterns}
        return frozenset(names if self._amount is None else {*names, self._amount["arg"]})

    def needs_approval(self, args: dict[str, Any]) -> bool:
        """Whether a call with these arguments needs approval, whatever ran before.

        Raises:
            Exception: What `require_if` raises; a guarded call is then blocked.
        """
        if self._held:
            return True
        if self._amount is not None:
            amount = args.get(self._amount["arg"], False)  # what is absent is ignored, as a bool is
            if _exceeds(amount, self._limit):
                return True
        for name, pattern in self._patterns:
            value = args.get(name)
            if value is not None and _finds(pattern, value):
                return True
        if self._require_if is None:
            return False
        # Last, and on a copy: what it changes must not reach another rule.
        answer = self._require_if(copied(args))
        return answer if type(answer) is bool else _truth(answer)

    def __repr__(self) -> str:
        rules = {
            "require_if": self.require_if,
            "require_always": self.require_always,
            "amount_over": self.amount_over,
            "match_args": {name: _written(pattern) for name, pattern in self._patterns} or None,
            "repeat_within": self.repeat_within,
        }
        shown = ", ".join(f"{name}={rule!r}" for name, rule in rules.items() if rule is not None)
        return f"{type(self).__name__}({shown})"


def rule_names(policy: Policy) -> frozenset[str]:
    """The arguments that an ApprovalPolicy's rules look at: another's `names` may mean anything."""
    names = getattr(policy, "names", None) if isinstance(policy, ApprovalPolicy) else None
    return names if isinstance(names, frozenset) else frozenset()


# --- require_if ------------------------------------------------------------------------------


def _checked_predicate(predicate: Any) -> Any:
    if predicate is None:
        return None
    if not callable(predicate):
        raise TypeError(
            f"require_if must be a callable that takes the arguments, not {predicate!r}"
        )
    function = predicate
    while isinstance(function, functools.partial):
        function = function.func
    # Called, these return an object that is truthy, whatever it would have said.
    lazy = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction
    if any(is_lazy(function) or is_lazy(type(function).__call__) for is_lazy in lazy):
        raise TypeError(
            "require_if must be a plain function, neither async nor a generator: a policy "
            f"answers at once. Got {predicate!r}"
        )
    if not takes_one_argument(predicate):
        raise TypeError(
            f"require_if must take one argument, the call's arguments by name: {predicate!r} "
            f"has the signature {inspect.signature(predicate)}"
        )
    return predicate


def _truth(answer: object) -> bool:
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()  # else Python warns that it was never awaited
        raise TypeError(f"require_if must answer at once, not with an awaitable: {answer!r}")
    return bool(answer)


# --- amount_over, repeat_within --------------------------------------------------------------


def _checked_amount(rule: Any) -> tuple[AmountOver, float | Fraction]:
    """The rule in a dict of its own, and its threshold as it compares exactly, and fastest."""
    wish = "the keys 'arg' and 'threshold'"
    if not isinstance(rule, Mapping):
        raise TypeError(f"amount_over must be a dict with {wish}, not {rule!r}")
    if set(rule) != {"arg", "threshold"}:
        raise ValueError(f"amount_over must have exactly {wish}, not {dict(rule)!r}")
    arg, threshold = rule["arg"], rule["threshold"]
    if not isinstance(arg, str):
        raise TypeError(f"amount_over's arg must be an argument's name, not {arg!r}")
    exact = _finite(threshold, "amount_over's threshold must be a finite number")
    limit = threshold if type(threshold) is float else exact
    return {"arg": arg, "threshold": threshold}, limit


def _checked_time(seconds: Any) -> float:
    wish = "repeat_within must be a finite number of seconds above 0, such as 600"
    exact = _finite(seconds, wish)
    if not 0 < exact <= sys.float_info.max:
        raise ValueError(f"{wish}, not {seconds!r}")
    return float(exact)


def _finite(value: Any, wish: str) -> int | Fraction:
    # "100" is refused, although an argument "100" is read: a setting that was never converted is
    # a mistake worth hearing of.
    if isinstance(value, str) or is_bool(value):
        raise TypeError(f"{wish}, not {value!r}")
    try:
        number = _number(value)
        if isinstance(number, Decimal) and abs(number.adjusted()) > _MAX_DIGITS:
            number = Decimal("inf")  # as a fraction, it would fill the memory
        exact = Fraction(number)
    except (ValueError, OverflowError) as error:  # NaN and infinity
        raise ValueError(f"{wish}, not {value!r}") from error
    except Exception as error:
        raise TypeError(f"{wish}, not {value!r}") from error
    return exact.numerator if exact.denominator == 1 else exact


def _exceeds(value: Any, limit: float | Fraction) -> bool:
    """Whether the value is an amount above the limit, or no number at all."""
    # "Not at most" rather than "greater": a NaN is neither, and is held.
    if type(value) is float or type(value) is int:  # most are: 0.1 us instead of 0.6
        return not value <= limit
    try:
        value = _unwrapped(value)
        exact = Fraction(limit) if type(limit) is float else limit
        return not (is_bool(value) or _number(value) <= exact)
    except Exception:  # it is not a number; its methods can be any code
        return True


def is_bool(value: object) -> bool:
    """Whether the value is a bool, Python's own or numpy's."""
    cls = type(value)
    return cls is bool or (cls.__module__ == "numpy" and cls.__name__ in ("bool", "bool_"))


def _unwrapped(value: Any) -> Any:
    """What an Enum or an array without dimensions holds."""
    if isinstance(value, Enum) and not isinstance(value, int):
        return value.value
    return value.item() if getattr(value, "shape", None) == () else value


def _number(value: Any) -> int | Fraction | Decimal:
    """The value as an exact number, read past what a subclass makes of itself.

    Raises:
        Exception: It is not a number.
    """
    if isinstance(value, (str, Decimal)):
        # Decimal reads all that float() and int() read, without rounding, and "1e999999999" too.
        return Decimal(value)
    if isinstance(value, float):
        return Decimal.from_float(value)  # noqa: FURB164 - Decimal(value) obeys a program's trap
    if hasattr(value, "__index__"):
        return int.__pos__(operator.index(value))
    numerator, denominator = value.as_integer_ratio()
    return Fraction(int(numerator), int(denominator))


# --- match_args ------------------------------------------------------------------------------


def _compiled(rules: Any) -> tuple[tuple[str, re.Pattern[str]], ...]:
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"match_args must be a dict from argument names to regular expressions, not {rules!r}"
        )
    patterns = []
    for name, rule in rules.items():
        if not isinstance(name, str):
            raise TypeError(f"match_args must have the names of arguments as keys, not {name!r}")
        wish = f"match_args[{name!r}] must be a regular expression"
        if not isinstance(rule.pattern if isinstance(rule, re.Pattern) else rule, str):
            raise TypeError(f"{wish}, as a str or compiled from one, not {rule!r}")
        try:
            patterns.append((name, re.compile(rule)))
        except (re.error, RecursionError, OverflowError) as error:
            raise re.error(f"{wish}, not {rule!r}: {error}") from error
    return tuple(patterns)


def _written(pattern: re.Pattern[str]) -> str | re.Pattern[str]:
    return pattern.pattern if pattern.flags == re.UNICODE else pattern


def _finds(pattern: re.Pattern[str], value: object) -> bool:
    """Whether the pattern finds something in the value or inside it, or cannot be tried."""
    if type(value) is str:
        return pattern.search(value) is not None
    try:
        return any(map(pattern.search, _texts(value)))
    except Exception:  # a value's str() can be any code; what cannot be read needs approval
        return True


def _texts(value: object) -> Iterator[str]:
    """The value's text, and that of everything inside it, however deep it goes.

    Raises:
        Exception: Something cannot be read, or not as a whole.
    """
    todo = [value]
    seen: dict[int, object] = {}  # holds what it names, so that no id is ever used twice
    while todo:
        item = todo.pop()
        inside = parts(item)
        if inside is None:
            if item is not None:
                yield from _piece(item)
            continue
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if len(seen) > _MAX_CONTAINERS:
            raise ValueError("it has no end")
        if item is value:
            yield show(item)
        if type(item).__str__ is not object.__str__:
            yield str(item)
        todo += inside
        if isinstance(inside, dict):
            todo += inside.values()


#: How numbers are read past what a subclass makes of itself.
_NUMBERS: dict[type, Callable[[Any], str]] = {
    int: int.__repr__,
    float: float.__repr__,
    Decimal: Decimal.__str__,
}


def _piece(value: Any) -> list[str]:
    cls = type(value)
    if issubclass(cls, str):
        return [str.__str__(value)]
    if issubclass(cls, (bytes, bytearray, memoryview)):
        return [memoryview(value).tobytes().decode("utf-8", "backslashreplace")]
    secret = secret_text(value)
    if secret is not None:
        return [secret]
    if _may_be_excerpt(value):
        raise ValueError("its text may be an excerpt")
    bases = [] if cls is bool else [base for base in _NUMBERS if issubclass(cls, base)]
    return [str(value), *(_NUMBERS[base](value) for base in bases)]


def _may_be_excerpt(value: object) -> bool:
    """Whether the text of a value that is one piece may leave out some of what it stands for."""
    cls = type(value)
    known = cls.__module__ in ("ipaddress", "pydantic.networks")  # networks and URLs
    if known or issubclass(cls, (UserString, range)):
        return False
    if any(getattr(cls, name, None) is not None for name in ("__len__", "__iter__", "__aiter__")):
        return True
    # Of a table that is elsewhere (a LazyFrame, a Spark DataFrame) the text is only a plan.
    elsewhere = hasattr(cls, "columns") or hasattr(cls, "schema")
    return elsewhere or getattr(value, "shape", ()) != ()
