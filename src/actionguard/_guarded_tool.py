"""A LangChain tool at the gate: the guarded tool is the tool."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import functools
import inspect
import threading
import typing
from abc import ABCMeta
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForToolRun
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    patch_config,
    run_in_executor,
    var_child_runnable_config,
)
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.tools import BaseTool, StructuredTool, Tool

from actionguard._gate import NEVER_BEGAN, Bind, Gate, Refuse, Refused
from actionguard._options import Options
from actionguard._tool_arguments import (
    BODIES,
    RUNS_A_FIELD,
    ToolArguments,
    bare_class,
    is_seen_at_a_glance,
)
from actionguard.channels._waiting import ask_async, in_thread
from actionguard.channels.base import ApprovalChannel, ask
from actionguard.core import Action, Decision
from actionguard.policy import rule_names

if TYPE_CHECKING:
    _Base = BaseTool
else:
    # A model among the bases would bring its fields before those of the tool's own class.
    _Base = object

AnyTool = TypeVar("AnyTool", bound=BaseTool)

# Under this keyword a run hands its call's id to the gate. No parameter can have that name.
_CALL_ID = "actionguard:tool_call_id"
# What a gate knows of its tool: it looks again when one of these is set.
_KNOWN = frozenset({"name", "description", "args_schema", *BODIES})
# Where the gate stands, and the ways of a call to it.
_METHODS = ("_run", "_arun")
_ENTRIES = ("invoke", "ainvoke", "run", "arun")
_ON_THE_WAY = frozenset({*_ENTRIES, *_METHODS, "super", "NotImplementedError"})
# What a class looks like, to Python 3.13 also by its first line.
_LOOKS = ("__module__", "__doc__", "__firstlineno__")
_SLOTS = ("_actionguard_guards", "_actionguard_gates")
_STATE = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")


class ApprovalWrappedTool(_Base):
    """What every guarded tool is besides an instance of its own class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Hide the guarded class from a base that registers or checks its subclasses."""

    def _to_args_and_kwargs(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], Any]:
        # The last step that knows the call's id, between validation and the body.
        run_args, run_kwargs = super()._to_args_and_kwargs(*args, **kwargs)
        call_id = kwargs["tool_call_id"] if "tool_call_id" in kwargs else args[1]
        return run_args, {**run_kwargs, _CALL_ID: call_id}

    def __setattr__(self, name: str, value: Any) -> None:
        _check_methods(self, (name,))
        state = [getattr(self, part, None) for part in _STATE]
        super().__setattr__(name, value)
        for part, shared in zip(_STATE, state, strict=True):
            # pydantic replaces it where it validates assignments: the body's `self` has it, too.
            if shared is not None and getattr(self, part) is not shared:
                shared.update(getattr(self, part))
                object.__setattr__(self, part, shared)
        if name in _KNOWN:
            getattr(self, "_actionguard_gates", {}).clear()
            _guard_bodies(self)

    def __copy__(self) -> Any:
        return _with_guards(super().__copy__(), self)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        return _with_guards(super().__deepcopy__(memo), self)

    def model_copy(self, **kwargs: Any) -> Any:
        """A guarded copy, under whatever name and with whatever body it is given."""
        return _with_guards(super().model_copy(**kwargs), self)

    @classmethod
    def model_validate(cls, *args: Any, **kwargs: Any) -> Any:
        """A tool of this class, like one that is made by calling it: guard it, or it won't run."""
        made = super().model_validate(*args, **kwargs)  # by what pydantic built for the bare class
        return made if isinstance(made, cls) else _copy_as(cls, made)

    def configurable_fields(self, **fields: Any) -> Any:
        """The tool with these fields taken from each call's config, and as guarded as it is."""
        made: Any = super().configurable_fields(**fields)
        return _GuardedConfigurableFields(default=made.default, fields=made.fields)

    def __reduce__(self) -> Any:
        # The class is made at run time: what is pickled is the bare tool, and how to guard it.
        bare_tool = _copy_as(bare_class(self), self)
        for name in BODIES:
            if name in bare_tool.__dict__:
                bare_tool.__dict__[name] = _bare(bare_tool.__dict__[name])
        return guarded_with, (bare_tool, *(guarding.options for guarding in _guards_of(self)))


def guard_tool(tool: AnyTool, options: Options) -> AnyTool:
    """A copy of the tool with the gate between validation and body."""
    guarded: AnyTool = guarded_with(tool, options)
    owner = f"the tool {tool.name!r}"
    check_exclude(options, [guarded], owner)
    check_rules(options, [guarded], owner)
    return guarded


def check_exclude(options: Options, tools: list[Any], owner: str) -> None:
    if options.exclude and tools:
        options.check_exclude(owner, _parameters_of(_arguments_of(tools, options.exclude)))


def check_rules(options: Options, tools: list[Any], owner: str) -> None:
    unclear = [
        name
        for name in rule_names(options.policy)
        if name in options.exclude or not any(is_seen_at_a_glance(tool, name) for tool in tools)
    ]
    if unclear and tools:
        known = _arguments_of(tools, options.exclude)

        def sees(name: str) -> bool:
            if not known:
                return name not in options.exclude
            return any(arguments.sees(name) for arguments in known)

        options.check_rules(owner, _parameters_of(known), sees)


def _arguments_of(tools: list[Any], exclude: Collection[str]) -> list[ToolArguments]:
    """What is known of the arguments of each tool; nothing if a schema is not complete yet."""
    with suppress(Exception):
        return [ToolArguments(_enter(tool), "_run", exclude) for tool in tools]
    return []


def _parameters_of(known: list[ToolArguments]) -> list[str] | None:
    """The names of all parameters that some of the tools have; None if they cannot be known."""
    parameters = [arguments.parameters for arguments in known]
    if not known or None in parameters:
        return None
    return sorted({name for names in parameters for name in names or ()})


# --- the guarded class and its instances -----------------------------------------------------


def guarded_with(tool: Any, *all_options: Options) -> Any:
    """A copy of the tool with further gates, the last of which asks first."""
    _check_methods(tool, tool.__dict__)
    guarded = _copy_as(_guarded_class(bare_class(tool)), tool)
    return _with_guards(guarded, tool, [_Guarding(tool, options) for options in all_options])


def _check_methods(tool: BaseTool, names: Collection[str]) -> None:
    for name in _METHODS:
        if name in names:
            raise TypeError(
                f"no gate can stand before what was set as {name} of the tool {tool.name!r} alone: "
                "make it a method of its class"
            )


def _check_entries(cls: Any) -> None:
    """An `invoke` or the like that does the work itself, and leaves out `_run`, has no gate."""
    for name in _ENTRIES:
        is_own = getattr(cls, name) is not getattr(BaseTool, name)
        if is_own and not _may_lead_on(cls, name):
            raise TypeError(
                f"the gate stands before _run and _arun, which {cls.__name__}.{name} never leads "
                "to: put its work there"
            )


def _may_lead_on(cls: Any, entry: str) -> bool:
    """Whether a method mentions a step on the way to the gate, or another method that does."""
    methods = [getattr(cls, entry)]
    for method in methods:  # more of them come meanwhile
        code = getattr(inspect.unwrap(method), "__code__", None)
        if code is None or code.co_freevars not in ((), ("__class__",)):  # might call anything
            return True
        names = _names_in(code)
        if not names.isdisjoint(_ON_THE_WAY):
            return True
        mentioned = filter(inspect.isfunction, (getattr(cls, name, None) for name in names))
        methods.extend(method for method in mentioned if method not in methods)
    return False


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner)


def _guards_of(tool: Any) -> tuple[_Guarding, ...]:
    is_guarded = isinstance(tool, ApprovalWrappedTool)
    return getattr(tool, "_actionguard_guards", ()) if is_guarded else ()


def _with_guards(copied: Any, tool: Any, more: Iterable[_Guarding] = ()) -> Any:
    """Guard a copy as the tool is guarded, and by what comes on top of it."""
    object.__setattr__(copied, "_actionguard_guards", (*_guards_of(tool), *more))
    object.__setattr__(copied, "_actionguard_gates", {})
    _guard_bodies(copied)
    return copied


def _guard_bodies(tool: Any) -> None:
    """The functions in the tool's fields have gates, too; new ones get them here."""
    state = tool.__dict__
    for name in BODIES:
        body = state.get(name)
        if callable(body) and name in type(tool).model_fields:
            if type(body) is _GuardedBody and set(_guards_of(body._tool)) <= set(_guards_of(tool)):
                body = body._body  # behind the same gates in the tool that it is taken from
            state[name] = _GuardedBody(body, tool, name)


def _copy_as(cls: type[Any], tool: BaseTool) -> Any:
    copied = object.__new__(cls)
    for name in _STATE:
        part = getattr(tool, name)
        object.__setattr__(copied, name, None if part is None else part.copy())
    return copied


def _bare(body: Any) -> Any:
    return body._body if type(body) is _GuardedBody else body


def _of_the_body(name: str) -> Any:
    return property(lambda guarded: getattr(guarded._body, name))


class _NoParts(AttributeError, TypeError):
    """What `inspect` expects of what is no function after all, too."""


class _GuardedBody:
    """The function in a tool's field, which anybody may call past the tool: with its gate.

    Apart from that it is the function (or partial, bound method, object) that it stands for.
    """

    __slots__ = ("__weakref__", "_body", "_field", "_tool")

    def __init__(self, body: Callable[..., Any], tool: BaseTool, field: str) -> None:
        self._body = body
        self._tool = tool
        self._field = field

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _behind_gates(self._tool, self._field, self._body, kwargs)(*args, **kwargs)

    __class__ = _of_the_body("__class__")
    __module__ = _of_the_body("__module__")
    __doc__ = _of_the_body("__doc__")

    def __getattr__(self, name: str) -> Any:
        body = object.__getattribute__(self, "_body")
        if name == "__get__":  # it would make a method of the body
            raise AttributeError(name)
        if name == "__closure__":  # cloudpickle takes all functions apart, and would send the body
            raise _NoParts("a guarded tool's function has no parts: send the tool")
        if not inspect.isroutine(self):  # of an object, `__call__` is looked at, which is ours
            if name == "__signature__":
                return inspect.signature(body)
            if name == "__globals__":
                body = body.__call__
        return getattr(body, name)

    def __repr__(self) -> str:
        return repr(self._body)

    def __eq__(self, other: object) -> bool:
        return type(other) is _GuardedBody and bool(self._body == other._body)

    def __hash__(self) -> int:
        return hash(self._body)

    def __deepcopy__(self, memo: dict[int, Any]) -> _GuardedBody:
        return _GuardedBody(copy.deepcopy(self._body, memo), self._tool, self._field)

    def __reduce__(self) -> Any:
        return getattr, (self._tool, self._field)


def _look_like(gate: Any, cls: Any, name: str) -> None:
    """Let a gate look like the method behind it.

    langchain-core reads from signature and annotations what to pass, at every call; known here,
    they are not worked out each time.
    """
    method = getattr(cls, name)
    functools.update_wrapper(gate, method)
    with suppress(Exception):  # they name what does not exist at run time
        gate.__annotations__ = typing.get_type_hints(method, include_extras=True)
    if method in RUNS_A_FIELD:  # of others it looks for names in the method's own module
        gate.__signature__ = inspect.signature(method)
    elif isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod)):
        takes = inspect.signature(method)  # no `self`, as the gate does
        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        gate.__signature__ = takes.replace(parameters=[itself, *takes.parameters.values()])


def _guarded_class(cls: Any) -> Any:
    """The class with the gate before `_run` and `_arun`; the same by name, fields and methods."""
    awaited = [own for plain, own in _AWAITED.items() if issubclass(cls, plain)]
    bases = (ApprovalWrappedTool, *(awaited if cls in _AWAITED else (cls, *awaited)))
    for known in type.__subclasses__(bases[1]):  # kept by the class itself, and gone with it
        if vars(known).get("_actionguard_bare") is cls:
            return known
    _check_entries(cls)

    def _run(self: Any, *args: Any, **kwargs: Any) -> Any:
        is_empty = cls._run in RUNS_A_FIELD and self.func is None  # it only says so
        if _is_inner_step(self, kwargs) or is_empty:
            kwargs.pop(_CALL_ID, None)
            return super(guarded, self)._run(*args, **kwargs)
        run = functools.partial(_body, self)
        return _behind_gates(self, "_run", run, kwargs)(*args, **kwargs)

    async def _arun(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_inner_step(self, kwargs):
            kwargs.pop(_CALL_ID, None)
            return await super(guarded, self)._arun(*args, **kwargs)
        run = functools.partial(_abody, self)
        if _invoked.get() is self:
            _set_plain_config(kwargs)
        try:
            return await _behind_gates(self, "_arun", run, kwargs)(*args, **kwargs)
        except asyncio.CancelledError as cancelled:
            vars(cancelled).pop(NEVER_BEGAN, None)  # what called the tool has begun
            raise

    _look_like(_run, cls, "_run")
    # langchain-core reads from the signature what to pass: for an inherited `_arun`, from `_run`.
    _look_like(_arun, cls, "_run" if cls._arun is BaseTool._arun else "_arun")
    names: dict[str, Any] = {"_actionguard_bare": cls}
    if hasattr(cls, "__del__"):  # the original is kept, and closes what it shares with its copies
        names["__del__"] = lambda self: None
    gates = {"_run": _run, "_arun": _arun, "__slots__": _SLOTS}
    guarded = _subclass(cls, bases, {**names, **gates})
    fields = {name: _BareField(name) for name in BODIES if name in cls.model_fields}
    inner_class = _subclass(cls, (guarded,), {**names, **fields})
    metaclass: Any = type(cls)
    inner_class.__class__ = _inner_metaclass(metaclass)  # now that the class is made
    guarded._actionguard_inner = inner_class
    return guarded


def _subclass(cls: Any, bases: tuple[Any, ...], names: dict[str, Any]) -> Any:
    """A class that looks like this one.

    Made past pydantic, which would build what it has built for the class itself (in 2 ms).
    """
    looks = {"__qualname__": cls.__qualname__}
    looks.update((name, value) for name, value in vars(cls).items() if name in _LOOKS)
    return ABCMeta.__new__(type(cls), cls.__name__, bases, {**looks, **names})


@functools.cache
def _inner_metaclass(metaclass: Any) -> Any:
    """What a body sets on the class of its `self` is set on the class that was guarded."""

    class Inner(metaclass):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            setattr(self._actionguard_bare, name, value)

    return Inner


class _GuardedConfigurableFields(RunnableConfigurableFields):  # type: ignore[type-arg]
    """langchain-core makes the configured tool by calling the class, which knows of no guard."""

    def _prepare(self, config: RunnableConfig | None = None) -> Any:
        tool, config = super()._prepare(config)
        if tool is not self.default:
            _with_guards(tool, self.default)
        return tool, config


class _BareField:
    """On a tool as its body gets it, the function in a field has no gate."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, tool: Any, owner: type) -> Any:
        return self if tool is None else _bare(tool.__dict__[self._name])

    def __set__(self, tool: Any, body: Any) -> None:
        tool.__dict__[self._name] = body


def _enter(tool: Any) -> Any:
    """The tool as its body gets it: with the same state, and no gate before the inner steps.

    So an `_arun` that leads to `_run` asks once, whatever threads and loops are on the way. Its
    `invoke` and the like are calls of their own all the same, and so is everything afterwards.
    """
    inner = object.__new__(tool._actionguard_inner)
    for name in (*_STATE, *_SLOTS):
        object.__setattr__(inner, name, getattr(tool, name))
    return inner


def _leave(inner: Any) -> None:
    object.__setattr__(inner, "__class__", type(inner).__base__)


def _is_inner_step(tool: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a released body calls itself, or a tool that it made of its own class."""
    return type(tool) is tool._actionguard_inner and not (_CALL_ID in kwargs and _guards_of(tool))


# --- a call ----------------------------------------------------------------------------------


def _body(tool: Any, /, *args: Any, **kwargs: Any) -> Any:
    """What a gate of `_run` stands before."""
    inner = _enter(tool)
    try:
        return super(ApprovalWrappedTool, inner)._run(*args, **kwargs)
    finally:
        _leave(inner)


async def _abody(tool: Any, /, *args: Any, **kwargs: Any) -> Any:
    """What a gate of `_arun` stands before."""
    method = bare_class(tool)._arun
    if method is BaseTool._arun or (method in RUNS_A_FIELD and not tool.coroutine):
        return await _in_executor(tool, args, kwargs)
    inner, is_over = _enter(tool), True
    try:
        return await super(ApprovalWrappedTool, inner)._arun(*args, **kwargs)
    except asyncio.CancelledError:
        is_over = False  # what it began in a thread goes on
        raise
    finally:
        if is_over:
            _leave(inner)


@dataclass(eq=False, slots=True)
class _Guarding:
    """One guarding of a tool."""

    #: Before it was guarded. Kept for what it shares with its copies, and may close when it goes.
    original: BaseTool
    options: Options


def _gates_of(tool: Any, entry: str) -> list[tuple[Gate, Bind]]:
    """The gates of the tool's method or function, and how each of them names its arguments."""
    # Not before they are needed: a schema may name what is defined further down.
    gates: list[tuple[Gate, Bind]] | None = tool._actionguard_gates.get(entry)
    if gates is None:
        gates = []
        for guarding in _guards_of(tool):
            arguments = ToolArguments(_enter(tool), entry, guarding.options.exclude)
            gate = guarding.options.gate(tool.name, tool.description)
            gates.append((gate, arguments.bind))
        tool._actionguard_gates[entry] = gates
    return gates


def _behind_gates(tool: Any, entry: str, run: Any, kwargs: dict[str, Any]) -> Any:
    """A body behind all gates of its tool, the last of which asks first, and answers the agent.

    Args:
        tool: The guarded tool.
        entry: The method or field that was called.
        run: The body.
        kwargs: What it was called with; the call's id is taken from there.
    """
    call_id = kwargs.pop(_CALL_ID, None)
    if not _guards_of(tool):
        raise TypeError(f"the tool {tool.name!r} was made of a guarded tool's class: guard it, too")
    gates = _gates_of(tool, entry)
    for gate, bind in gates:
        refuse = _refusal(tool, call_id) if gate is gates[-1][0] else _reraise
        if entry in ("_arun", "coroutine"):
            run = gate.coroutine(run, bind, refuse)
        else:
            caller = _caller.get()
            run = gate.plain(run, bind, refuse, ask if caller is None else caller.ask)
    return run


def _reraise(refused: Refused) -> Any:
    raise refused  # by an inner gate: the outer one ends with it, too


def _refusal(tool: BaseTool, call_id: Any) -> Refuse:
    """Says a refusal to the agent, past everything that rewords a tool's errors."""

    def refuse(refused: Refused) -> Any:
        answer: Any = refused.message
        if call_id is not None:
            answer = ToolMessage(answer, name=tool.name, tool_call_id=call_id, status="error")
        return (answer, None) if tool.response_format == "content_and_artifact" else answer

    return refuse


# --- plain tools, awaited --------------------------------------------------------------------


async def _ainvoke(
    self: Any, input: Any, config: RunnableConfig | None = None, **kwargs: Any
) -> Any:
    """Await a tool that may have a plain body only.

    langchain-core then runs all of `invoke` in the executor, and so would the wait for a person.
    """
    if self.coroutine:
        return await BaseTool.ainvoke(self, input, config, **kwargs)
    if _runs_as_usual(bare_class(self)):
        # The way of all other tools: only the body goes to the executor. What `_arun` sets in the
        # context is set back here, since in Python 3.10 it has none of its own.
        seen = var_child_runnable_config.set(var_child_runnable_config.get())
        token = _invoked.set(self)
        try:
            return await BaseTool.ainvoke(self, input, config, **kwargs)
        finally:
            _invoked.reset(token)
            var_child_runnable_config.reset(seen)
    # The class has an `invoke`, a `_run` or the like of its own: it runs as it is, in a thread.
    caller = _Caller()

    def invoke() -> Any:
        _caller.set(caller)
        return self.invoke(input, config, **kwargs)

    try:
        return await in_thread(invoke)
    except asyncio.CancelledError:
        caller.leave()
        raise
    finally:
        caller.waits = caller.left  # one who left is still asked, and cancels it


def _runs_as_usual(cls: Any) -> bool:
    return (
        cls._run in RUNS_A_FIELD
        and cls._arun in RUNS_A_FIELD
        and all(getattr(cls, name) is getattr(BaseTool, name) for name in ("invoke", "run", "arun"))
    )


# Bases between these and a tool's class, whose own `ainvoke` comes before.
_AWAITED = {
    plain: _subclass(plain, (plain,), {"ainvoke": _ainvoke}) for plain in (StructuredTool, Tool)
}


class _Caller:
    """The task that waits for a tool's thread: its loop waits for the person, too."""

    def __init__(self) -> None:
        self.waits = True
        self.left = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._asked: list[concurrent.futures.Future[Decision]] = []

    def ask(self, channel: ApprovalChannel, action: Action) -> Decision:
        """Called in the tool's thread; cancelled with the task, after which nothing runs."""
        if not self.waits or threading.get_ident() == self._thread:
            return ask(channel, action)  # it went on; or this is its loop, which has to be free
        answer = asyncio.run_coroutine_threadsafe(ask_async(channel, action), self._loop)
        self._asked.append(answer)
        if self.left:
            answer.cancel()
        try:
            return answer.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None

    def leave(self) -> None:
        self.left = True
        for answer in self._asked:
            answer.cancel()


_caller: ContextVar[_Caller | None] = ContextVar("actionguard_caller", default=None)


async def _in_executor(tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a plain body as langchain-core's own `_arun` does, and tell whether it began."""
    manager = kwargs.get("run_manager")
    if isinstance(manager, AsyncCallbackManagerForToolRun):
        kwargs["run_manager"] = manager.get_sync()
    first: list[str] = []  # of what happened: that the body began, or that its caller left

    def run() -> Any:
        first.append("began")
        if first[0] == "left":
            raise asyncio.CancelledError
        return _body(tool, *args, **kwargs)

    try:
        return await run_in_executor(None, run)
    except asyncio.CancelledError as cancelled:
        first.append("left")
        if first[0] == "left":
            vars(cancelled)[NEVER_BEGAN] = True
        raise


# The plain tool that `ainvoke` was called for, until it runs.
_invoked: ContextVar[BaseTool | None] = ContextVar("actionguard_invoked", default=None)


def _set_plain_config(kwargs: dict[str, Any]) -> None:
    """Let a plain function see the config that it sees when all of `invoke` is in the executor."""
    _invoked.set(None)
    callbacks = kwargs["run_manager"].get_sync().get_child()
    var_child_runnable_config.set(patch_config(kwargs["config"], callbacks=callbacks))
