"""Callables at the gate: each stays what it was, and asks before its body runs."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

from actionguard._gate import AnyCallable, Refused
from actionguard._options import OnDenied, Options, what_was_meant
from actionguard._signature import Signature, Unnamed, injected_names, is_async
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import rule_names

# Most calls start with one of these; no class of them holds a guarded method.
_NEVER_BOUND = frozenset({bool, int, float, str, bytes, list, dict, tuple, set, type(None)})


def guard_callable(target: Any, options: Options, on_denied: OnDenied) -> Any:
    """The target with a gate before its body, and of the same kind.

    Raises:
        TypeError: The target cannot be guarded by decorating it.
    """
    if isinstance(target, staticmethod):
        return staticmethod(guard_callable(target.__func__, options, on_denied))
    if isinstance(target, classmethod):
        return classmethod(_Edge(target.__func__, options, on_denied, is_method=True).guarded())
    if isinstance(target, functools.partial):
        # Shown with the arguments that are filled in already. The function is guarded as an object,
        # since a guarded function would be pickled as its bare self.
        is_partial = isinstance(target.func, functools.partial)
        called = (guard_callable if is_partial else _object)(target.func, options, on_denied)
        guarded = functools.partial(called, *target.args, **target.keywords)
        guarded.__dict__.update(target.__dict__)
        return guarded
    if inspect.isfunction(target):
        return _Edge(target, options, on_denied).guarded()
    if isinstance(target, (property, functools.cached_property)):
        kind = type(target).__name__
        raise TypeError(f"guard() goes below @{kind}, directly above the function")
    if not callable(target):
        hint = what_was_meant(target)
        raise TypeError(f"guard() takes a LangChain tool or a callable, not {target!r}{hint}")
    if hasattr(type(target), "acall"):
        return _tool_of_llama_index(target, options, on_denied)
    return _object(target, options, on_denied)


def _object(target: Any, options: Options, on_denied: OnDenied) -> _Guarded:
    cls = _GuardedAsync if is_async(target) else _Guarded
    return cls(target, options, on_denied)


class _Edge:
    """Makes the guarded form of one function: named arguments going in, a refusal coming out."""

    def __init__(
        self,
        target: AnyCallable,
        options: Options,
        on_denied: OnDenied,
        *,
        is_method: bool = False,
        told: tuple[str, str | None] | None = None,
    ) -> None:
        self.target = target
        self.on_denied = on_denied
        name, description = told or (
            getattr(target, "__name__", None) or type(target).__name__,
            inspect.getdoc(target),
        )
        hidden = options.exclude | injected_names(target)
        signature = Signature(target, hidden, skip_first=is_method)
        options.check_names(f"{name}()", signature.parameters, signature.sees)
        if signature.flat in rule_names(options.policy):
            raise ValueError(
                f"the policy names {signature.flat!r}, which is not an argument of {name}(): name "
                f"the arguments that **{signature.flat} takes one by one"
            )
        self.gate = options.gate(name, description)
        self._signature = signature
        # What rules look at and no parameter is called: if it is not there, it may have been given
        # by position, or the rule has a typo.
        self._nameless = rule_names(options.policy).difference(signature.parameters or ())
        self._function: AnyCallable | None = None
        # Only a function can become a method, and then its first argument is the instance.
        self._may_be_method = inspect.isfunction(target) and not is_method
        self._bound_to: WeakKeyDictionary[type, bool] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        # cloudpickle sends functions by value, for joblib, Dask, Ray: all but the weak references.
        return {**self.__dict__, "_bound_to": {}}

    @functools.cached_property
    def _method(self) -> Signature:
        return Signature(self.target, self._signature.hidden, skip_first=True)

    def name_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        signature = self._signature
        if self._may_be_method and args and self._is_bound_to(args[0]):
            signature = self._method
        named = signature.bind(args, kwargs)
        return named if self._nameless <= named.keys() else Unnamed(named)

    # What a method's instance holds (an API key) must not be shown. It is known by being bound, not
    # by its name: we are what its class, or the instance itself, has as a method.

    def _is_bound_to(self, first: Any) -> bool:
        cls = type(first)  # isinstance would ask a lazy proxy what it stands for
        try:
            if cls in _NEVER_BOUND:
                return False
        except TypeError:  # a class without a hash
            return False
        if self._is_method_of(cls) or (issubclass(cls, type) and self._is_method_of(first)):
            return True
        own = object.__getattribute__(first, "__dict__") if cls.__dictoffset__ else None
        return type(own) is dict and any(
            type(value) is MethodType and self._leads_here(value.__func__) for value in own.values()
        )

    def _is_method_of(self, owner: type) -> bool:
        known = self._bound_to.get(owner)
        if known is None:
            known = any(self._is_from(cls) for cls in owner.__mro__) or any(
                self._leads_here(value)
                for cls in owner.__mro__
                for value in tuple(vars(cls).values())
                if hasattr(type(value), "__get__") and not isinstance(value, staticmethod)
            )
            self._bound_to[owner] = known
        return known

    def _is_from(self, cls: type) -> bool:
        """Whether we were defined in the body of that class, below whatever decorator."""
        place, _, name = getattr(self.target, "__qualname__", "").rpartition(".")
        return (
            place == cls.__qualname__
            and self.target.__module__ == cls.__module__
            and not isinstance(vars(cls).get(name), staticmethod)
        )

    def _leads_here(self, value: Any) -> bool:
        """Whether a method is us, perhaps below other decorators."""
        found = [value]
        for part in found:  # more of them come meanwhile
            if part is self._function:
                return True
            found += [inner for inner in _wrapped_by(part) if not any(inner is f for f in found)]
        return False

    def refuse(self, refused: Refused) -> Any:
        """A refusal in the caller's language."""
        if self.on_denied == "return":
            return refused.message
        if callable(self.on_denied) and isinstance(refused.error, ApprovalDenied):
            return self.on_denied(refused.error)
        try:
            raise refused.error
        finally:
            del refused  # or its error, which holds this frame, would wait for the collector

    def guarded(self) -> AnyCallable:
        """A function of the target's kind."""
        target, gate = self.target, self.gate
        form: Callable[..., AnyCallable]
        if inspect.isasyncgenfunction(target):
            form = gate.async_generator
        elif inspect.isgeneratorfunction(target):
            form = gate.generator
        elif is_async(target):
            form = gate.coroutine
        else:
            form = gate.plain
        function = functools.wraps(target)(form(target, self.name_arguments, self.refuse))
        if inspect.isfunction(target) and inspect.isfunction(function):
            # For introspection only: what takes `*args, **kwargs` uses no defaults of its own.
            function.__defaults__ = target.__defaults__
            function.__kwdefaults__ = target.__kwdefaults__
        self._function = function
        return function


def _wrapped_by(value: Any) -> Iterator[Any]:
    """What a decorator's object may wrap: functions, and objects with `__get__`."""
    kind = type(value)  # not isinstance, as above
    if issubclass(kind, FunctionType):
        yield from filter(None, [vars(value).get("__wrapped__")])
    elif hasattr(kind, "__get__") and not issubclass(kind, type):
        for name in ("__wrapped__", "__func__", "fget", "fset", "fdel"):
            with suppress(Exception):
                yield getattr(value, name)
        with suppress(TypeError):  # it has slots only
            yield from (part for part in tuple(vars(value).values()) if callable(part))


# Of the attributes that `inspect` and frameworks read, those that name the code that runs.
_CODE_ATTRIBUTES = frozenset(
    {"__code__", "__defaults__", "__kwdefaults__", "__closure__", "__globals__", "__self__"}
)


class _Guarded:
    """A guarded callable that is not a function: a bound method, a builtin, a class, an object.

    Not a function, since a function would become a method where it stands in a class, and would
    be pickled as its name, under which the unguarded callable is found.
    """

    __wrapped__: Any

    def __init__(self, target: Any, options: Options, on_denied: OnDenied) -> None:
        functools.update_wrapper(self, target, updated=())
        self._options = options
        self._on_denied = on_denied
        self._function = _Edge(target, options, on_denied).guarded()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        target = self.__wrapped__
        bind = getattr(type(target), "__get__", None)
        bound = target if bind is None else bind(target, instance, owner)
        return self if bound is target else type(self)(bound, self._options, self._on_denied)

    def __getattr__(self, name: str) -> Any:
        # Everything else is the target's, except the protocols by which it would be copied
        # or pickled instead of us.
        if name.startswith("__") and name not in _CODE_ATTRIBUTES:
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.__wrapped__)})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.__wrapped__, self._options, self._on_denied)

    def __repr__(self) -> str:
        return f"<guarded {self.__wrapped__!r}>"


class _GuardedAsync(_Guarded):
    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return await self._function(*args, **kwargs)


def _tool_of_llama_index(target: Any, options: Options, on_denied: OnDenied) -> Any:
    """A copy of the tool, of a class of its own, whose ways to call it lead to the bare tool.

    Its agents look for its class, and run its `acall`.
    """
    about = getattr(target, "metadata", None)  # where it keeps its name and description
    name = getattr(about, "name", None) or type(target).__name__
    told = name, getattr(about, "description", None) or inspect.getdoc(target)
    ways = {
        way: staticmethod(_Edge(getattr(target, way), options, on_denied, told=told).guarded())
        for way in ("__call__", "call", "acall")
        if hasattr(target, way)
    }
    guarded = copy.copy(target)
    guarded.__class__ = type(type(target).__name__, (type(target),), ways)
    return guarded
