"""Which calls need a person: ApprovalPolicy, and what any policy has to offer."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, Protocol, TypedDict

from actionguard._signature import is_async, takes_one_argument
from actionguard._values import CIRCULAR, Walk, copied, secret_text


class Policy(Protocol):
    """Anything that says whether a call needs approval."""

    def needs_approval(self, args: dict[str, Any], /) -> bool:
        """Whether a call with these arguments needs approval."""


class AmountOver(TypedDict):
    """A rule for numbers: calls whose argument `arg` is greater than `threshold` are held."""

    arg: str
    threshold: float | Decimal | Fraction


@dataclass(eq=False)
class ApprovalPolicy:
    """Says which calls need approval: those held by any of its rules; without rules, every call.

    Args:
        require_if: Called with a copy of the arguments, as a dict; any truthy answer holds the
            call. It is called last, and only if no other rule holds the call. Compare values and
            not identities, since what it gets is a copy.
        require_always: True holds every call. False releases every call if there are no other
            rules; otherwise they decide.
        amount_over: `{"arg": name, "threshold": number}` holds a call whose argument is greater
            than the threshold. The comparison is exact for int, float, Decimal, Fraction, numpy
            scalars, and strings that Python reads as a number. A value that is not a number (None,
            "4,000", NaN) is held. Bools are ignored, and so are missing arguments that the
            signature names.
        match_args: Regular expressions by argument name. A call is held if `re.search` finds one in
            the text of its argument, or of anything inside it: elements, keys and values of
            containers, fields of dataclasses and models, rows of tables, an Enum's name and value.
            bytes count as UTF-8 text. None is ignored. A call is also held if the text of a value
            may be an excerpt, or if an object has no text of its own.
        repeat_within: Seconds. Holds a call if an equal one is waiting or running, or ran or failed
            within this time: in this process, in another, or before a restart. Equal means the
            same tool and the same arguments as the log writes them (20 is not 20.0). Earlier calls
            are found in the audit log, so the guard needs one, and in the uncompressed files that
            logrotate left beside it.

    Raises:
        TypeError: A rule has an unsupported type, or `require_if` is async.
        re.error: A pattern does not compile.
        ValueError: A rule has an unsupported value.
    """

    require_if: Callable[[dict[str, Any]], object] | None = None
    require_always: bool | None = None
    amount_over: AmountOver | None = None
    match_args: Mapping[str, str | re.Pattern[str]] | None = None
    repeat_within: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.require_if is not None:
            _check_predicate(self.require_if)
        if not isinstance(self.require_always, bool | None):
            given = repr(self.require_always)
            raise TypeError(f"require_always must be True, False or None, not {given}")
        if self.amount_over is not None:
            self.amount_over = _checked_amount(self.amount_over)
        self.match_args = _compiled({} if self.match_args is None else self.match_args)
        if self.repeat_within is not None:
            _check_time(self.repeat_within)

    @property
    def names(self) -> frozenset[str]:
        """The arguments that `amount_over` and `match_args` look at."""
        amount = () if self.amount_over is None else (self.amount_over["arg"],)
        return frozenset((*(self.match_args or ()), *amount))

    def needs_approval(self, args: dict[str, Any]) -> bool:
        """Whether a call with these arguments needs approval, leaving `repeat_within` aside.

        Raises:
            Exception: What `require_if` raises; a guarded call is then blocked.
        """
        if self.require_always:
            return True
        if rule := self.amount_over:
            amount = args.get(rule["arg"], False)  # what is absent is ignored, as a bool is
            if _exceeds(amount, rule["threshold"]):
                return True
        for name, pattern in self.match_args.items() if self.match_args else ():
            value = args.get(name)
            if value is not None and _finds(pattern, value):
                return True
        if self.require_if is not None:
            # Last, and on a copy: what it changes must not reach another rule.
            return bool(self.require_if(copied(args)))
        rules = self.amount_over or self.match_args or self.repeat_within
        return self.require_always is None and not rules


def rule_names(policy: Policy) -> frozenset[str]:
    """The arguments that an ApprovalPolicy's rules look at: another's `names` may mean anything."""
    return policy.names if isinstance(policy, ApprovalPolicy) else frozenset()


def _check_predicate(predicate: Any) -> None:
    if not callable(predicate) or is_async(predicate) or not takes_one_argument(predicate):
        raise TypeError(
            "require_if must be a plain function (not async) that takes one argument, a dict of "
            f"the call's arguments, not {predicate!r}"
        )


# --- amount_over, repeat_within --------------------------------------------------------------


def _checked_amount(rule: Any) -> AmountOver:
    wish = "amount_over must be a dict like {'arg': 'amount', 'threshold': 100}"
    if not isinstance(rule, Mapping):
        raise TypeError(f"{wish}, not {rule!r}")
    if set(rule) != {"arg", "threshold"} or not isinstance(rule["arg"], str):
        raise ValueError(f"{wish}, not {dict(rule)!r}")
    threshold = rule["threshold"]
    try:
        number: Any = _number(threshold)
        is_finite = not number - number  # those of infinity and NaN are NaN
    except Exception:  # it is no number
        is_finite = False
    # "100" is refused, although an argument "100" is read: a setting that was never converted is
    # a mistake worth hearing of.
    if not is_finite or is_bool(threshold) or isinstance(threshold, str):
        raise ValueError(f"amount_over's threshold must be a finite number, not {threshold!r}")
    return {"arg": rule["arg"], "threshold": threshold}


def _check_time(seconds: Any) -> None:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds < math.inf:
        wish = "repeat_within must be a finite number of seconds above 0, such as 600"
        raise ValueError(f"{wish}, not {seconds!r}")


def _exceeds(value: Any, threshold: Any) -> bool:
    """Whether the value is an amount above the threshold, or no number at all."""
    # "Not at most" rather than "greater": a NaN is neither, and is held.
    if type(value) in (int, float) and type(threshold) in (int, float):  # most are: it is fast
        return not value <= threshold
    try:
        value = _unwrapped(value)
        return not (is_bool(value) or _number(value) <= _number(threshold))
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
        return operator.index(value)
    numerator, denominator = value.as_integer_ratio()
    return Fraction(int(numerator), int(denominator))


# --- match_args ------------------------------------------------------------------------------


def _compiled(rules: Any) -> dict[str, re.Pattern[str]]:
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"match_args must be a dict from argument names to regular expressions, not {rules!r}"
        )
    patterns = {}
    for name, rule in rules.items():
        wish = f"match_args[{name!r}] must be a regular expression"
        if not isinstance(rule.pattern if isinstance(rule, re.Pattern) else rule, str):
            raise TypeError(f"{wish}, as a str or compiled from one, not {rule!r}")
        try:
            patterns[name] = re.compile(rule)
        except (re.error, RecursionError, OverflowError) as error:
            raise re.error(f"{wish}, not {rule!r}: {error}") from error
    return patterns


def _finds(pattern: Any, value: object) -> bool:
    """Whether the pattern finds something in the value or inside it, or cannot be tried."""
    if type(value) is str:
        return pattern.search(value) is not None

    def in_piece(value: object) -> bool:
        return value is not None and pattern.search(_piece(value)) is not None

    def in_group(value: object, inside: Any, found: list[bool]) -> bool:
        keys = inside if isinstance(inside, dict) else ()
        return any((*found, pattern.search(str(value)), *(_finds(pattern, key) for key in keys)))

    return bool(Walk(in_piece, in_group, lambda _, why: why != CIRCULAR).of(value))


def _piece(value: Any) -> str:
    cls = type(value)
    if issubclass(cls, str):
        return str.__str__(value)
    if issubclass(cls, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    secret = secret_text(value)
    if secret is not None:
        return secret
    if _may_be_excerpt(value):
        raise ValueError("its text may be an excerpt")
    return str(value)


def _may_be_excerpt(value: object) -> bool:
    """Whether the text of a value that is one piece may leave out some of what it stands for."""
    cls = type(value)
    if cls.__module__ in ("ipaddress", "pydantic.networks"):  # networks and URLs
        return False
    if cls.__str__ is object.__str__ and cls.__repr__ is object.__repr__:  # only an address
        return cls is not object  # which holds nothing
    if any(getattr(cls, name, None) is not None for name in ("__len__", "__iter__", "__aiter__")):
        return True
    # Of a table that is elsewhere (a LazyFrame, a Spark DataFrame) the text is only a plan.
    elsewhere = hasattr(cls, "columns") or hasattr(cls, "schema")
    return elsewhere or getattr(value, "shape", ()) != ()
