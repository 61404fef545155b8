"""LangChain tools at the gate: a guarded tool is a face before a bare one."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import sys
from abc import ABCMeta
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from langchain_core.messages import ToolMessage
from langchain_core.runnables import run_in_executor
from langchain_core.runnables.config import patch_config, var_child_runnable_config
from langchain_core.tools import BaseTool, StructuredTool, Tool
from langchain_core.tools.base import FILTERED_ARGS, get_all_basemodel_annotations
from langchain_core.utils.pydantic import get_fields
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from actionguard._gate import AnyCallable, Refused
from actionguard._options import Options
from actionguard._signature import Signature, Unnamed, hints_of, is_injected
from actionguard.policy import rule_names

if TYPE_CHECKING:
    _Base = BaseTool
else:
    # A model among the bases would bring its fields before those of the tool's own class.
    _Base = object

# The fields that hold the body of a tool made from functions.
_BODIES = ("func", "coroutine")
# How LangChain calls a tool. Of these only `_run` and `_arun` come after validation.
_ENTRIES = ("invoke", "ainvoke", "run", "arun")
_ASYNC = ("_arun", "coroutine", "ainvoke", "arun")
_OPTIONS = frozenset({"input", *inspect.signature(BaseTool.run).parameters})
# Under this keyword a run hands its call's id to the gate. No parameter can have that name.
_CALL_ID = "actionguard:tool_call_id"


class ApprovalWrappedTool(_Base):
    """The base class that every guarded tool has in addition to its own.

    A guarded tool is a face: LangChain reads its fields, validates with it and reports its runs.
    The body belongs to a bare copy of the tool, and every way to it leads through the gate. Copying
    a face, or assigning to it, does the same to its bare tool.
    """

    _actionguard: _Behind

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse to make a tool of a guarded tool's class: it would have no guard."""
        raise TypeError(f"make the tool from the original {cls.__name__}, and guard it")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Hide faces from a tool's class that registers or checks its subclasses."""

    def _to_args_and_kwargs(self, tool_input: Any, tool_call_id: Any) -> Any:
        # The last step that knows the call's id, between validation and the body.
        args, kwargs = super()._to_args_and_kwargs(tool_input, tool_call_id)
        return args, {**kwargs, _CALL_ID: tool_call_id}

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._actionguard.bare, name, value)
        self._actionguard.renew()

    def __delattr__(self, name: str) -> None:
        delattr(self._actionguard.bare, name)
        self._actionguard.renew()

    def __copy__(self) -> Any:
        return guarded_with(self)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        return self._actionguard.guard(copy.deepcopy(self._actionguard.bare, memo))

    def model_copy(self, **kwargs: Any) -> Any:
        """A guarded copy, even if it gets another name or body."""
        return self._actionguard.guard(self._actionguard.bare.model_copy(**kwargs))

    def copy(self, **kwargs: Any) -> Any:
        """The same, as it was called before pydantic 2."""
        return self._actionguard.guard(self._actionguard.bare.copy(**kwargs))

    def __reduce__(self) -> Any:
        return guarded_with, (self._actionguard.bare, *self._actionguard.guards)


def guarded_with(tool: Any, *guards: Options) -> Any:
    """A copy of the tool with further guards, the last of which asks first."""
    if isinstance(tool, ApprovalWrappedTool):
        guards = (*tool._actionguard.guards, *guards)
        tool = tool._actionguard.bare
    return _Behind(copy.copy(tool), guards).face


def signatures_of(tools: Iterable[Any]) -> Iterator[Signature]:
    """How the arguments of guarded tools are named."""
    for tool in tools:
        yield _Arguments(tool._actionguard.bare, "_run", tool._actionguard.guards[-1])


class _Behind:
    """What stands behind a face: the bare tool, its guards, and the guarded ways to its body."""

    __slots__ = ("_ways", "bare", "face", "guards")

    def __init__(self, bare: BaseTool, guards: tuple[Options, ...]) -> None:
        self.bare = bare
        #: The last one asks first.
        self.guards = guards
        self.face: Any = object.__new__(_face_class(type(bare), _own_entries(bare)))
        object.__setattr__(self.face, "_actionguard", self)
        self.renew()

    def guard(self, tool: BaseTool) -> Any:
        """Guard another tool as this one is guarded."""
        return _Behind(tool, self.guards).face

    def renew(self) -> None:
        """Forget what was made for the bare tool's earlier name, schema and body."""
        self._ways: dict[str, AnyCallable] = {}
        self.show()

    def show(self) -> None:
        """Show the bare tool's state, but functions in its fields behind their gates."""
        state = BaseModel.__getstate__(self.bare)
        fields = state["__dict__"]
        functions = {name: self.way(name) for name in _BODIES if callable(fields.get(name))}
        BaseModel.__setstate__(self.face, {**state, "__dict__": {**fields, **functions}})

    def way(self, name: str) -> AnyCallable:
        """The guarded form of the bare tool's method or function of this name."""
        ways = self._ways  # if the tool is changed meanwhile, it has others
        if name not in ways:
            ways[name] = self._new_way(name)
        return ways[name]

    def _new_way(self, name: str) -> AnyCallable:
        guarded: Any
        behind_gates = functools.cache(lambda: self._behind_gates(name))  # at the first call
        if name in _ASYNC:

            async def guarded(*args: Any, **kwargs: Any) -> Any:
                args, kwargs, call_id = _taken(name, args, kwargs)
                try:
                    return await behind_gates()(*args, **kwargs)
                except Refused as refused:
                    return self._answer(name, refused, call_id)
                finally:
                    self.show()

        else:

            def guarded(*args: Any, **kwargs: Any) -> Any:
                args, kwargs, call_id = _taken(name, args, kwargs)
                try:
                    return behind_gates()(*args, **kwargs)
                except Refused as refused:
                    return self._answer(name, refused, call_id)
                finally:
                    self.show()

        looks = getattr(self.bare, "_run" if name == "_arun" and _is_plain(self.bare) else name)
        functools.update_wrapper(guarded, looks, updated=())
        if name in ("_run", "_arun"):
            # langchain-core reads these at every call: it reads them faster if they are resolved.
            guarded.__doc__, guarded.__signature__ = inspect.getdoc(looks), inspect.signature(looks)
            hints = hints_of(looks).items()
            guarded.__annotations__ = {n: hint for n, hint in hints if hint is not inspect._empty}
        return guarded  # type: ignore[no-any-return]

    def _behind_gates(self, name: str) -> AnyCallable:
        """The bare tool's method or function behind a gate for each guard."""
        bare: Any = self.bare
        run = getattr(bare, name)
        in_executor = name == "_arun" and _is_plain(bare)
        if in_executor:
            run = functools.partial(_in_executor, bare)
        # That of a tool with a coroutine alone only says so: nobody is asked for that.
        nothing = name == "_run" and _is_core(bare, name) and not bare.func
        for options in () if nothing else self.guards:
            gate = options.gate(bare.name, bare.description)
            arguments = _Arguments(bare, name, options)
            bind = arguments.bind_input if name in _ENTRIES else arguments.bind_call
            run = (gate.coroutine if name in _ASYNC else gate.plain)(run, bind, _hand_on)
        if in_executor and sys.version_info < (3, 11):
            run = functools.partial(_with_config, run)
        return run  # type: ignore[no-any-return]

    def _answer(self, name: str, refused: Refused, call_id: str | None) -> Any:
        """What the caller gets in place of a result."""
        if isinstance(refused.error, asyncio.CancelledError):
            raise refused.error
        answer: Any = refused.message
        if call_id is not None:
            answer = ToolMessage(answer, name=self.bare.name, tool_call_id=call_id, status="error")
        with_artifact = self.bare.response_format == "content_and_artifact"
        return (answer, None) if with_artifact and name not in _ENTRIES else answer


def _hand_on(refused: Refused) -> Any:
    # If this gate is not the outermost, the call ends at the others, too.
    raise Refused(refused.message, refused.error, refused.logged or "refused by a second gate")


@functools.lru_cache(maxsize=1000)
def _face_class(cls: Any, own_entries: frozenset[str]) -> Any:
    """The class of the faces of this class's tools."""
    names: dict[str, Any] = {n: getattr(cls, n) for n in ("__module__", "__qualname__", "__doc__")}
    # That of StructuredTool and Tool runs all of `invoke` in the executor if there is no coroutine,
    # and so would wait there for a person.
    names.update(__slots__=("_actionguard",), ainvoke=BaseTool.ainvoke)
    names.update({way: _way_of(way) for way in ("_run", "_arun", *own_entries)})
    # Past pydantic, which would build for the face (in 2 ms) what it has built for the class.
    return ABCMeta.__new__(type(cls), cls.__name__, (ApprovalWrappedTool, cls), names)


def _way_of(name: str) -> property:
    return property(lambda face: face._actionguard.way(name))


def _own_entries(tool: Any) -> frozenset[str]:
    """Which of `invoke` and the like are not langchain-core's, so that they may do the work there.

    Nobody can tell whether such a method leads to `_run`. So it has a gate of its own, and runs on
    the bare tool: nothing asks twice.
    """
    ways = (*_ENTRIES, "__call__")
    own = {way for way in ways if hasattr(tool, way) and not _is_core(tool, way)}
    # A plain StructuredTool or Tool leads to these two, awaited.
    return frozenset(own if own.isdisjoint(("invoke", "run")) else {*own, "ainvoke"})


def _is_core(tool: Any, way: str) -> bool:
    """Whether this method of the tool is langchain-core's, and not replaced."""
    # Looked up now: libraries that trace calls replace them for all classes.
    core = [getattr(cls, way, ...) for cls in (BaseTool, StructuredTool, Tool)]
    return getattr(getattr(tool, way), "__func__", None) in core


def _taken(name: str, args: Any, kwargs: Any) -> tuple[Any, Any, str | None]:
    """A call's arguments in dicts that its caller cannot change meanwhile, and its id."""
    if name not in _ENTRIES:
        return args, kwargs, kwargs.pop(_CALL_ID, None)
    args, kwargs = tuple(map(_detached, args)), {n: _detached(v) for n, v in kwargs.items()}
    return args, kwargs, _input_of(args, kwargs)[1]


def _detached(given: Any) -> Any:
    if type(given) is dict and isinstance(given.get("args"), dict):
        return {**given, "args": {**given["args"]}}
    return {**given} if type(given) is dict else given


def _input_of(args: Any, kwargs: Any) -> tuple[Any, str | None]:
    """What `invoke`, `run` and the like were given, and the id of the call."""
    given = args[0] if args else kwargs.get("input", kwargs.get("tool_input"))
    if isinstance(given, dict) and given.get("type") == "tool_call":
        return given.get("args"), given.get("id")
    return given, kwargs.get("tool_call_id")


# --- plain tools, awaited --------------------------------------------------------------------


def _is_plain(tool: Any) -> bool:
    """Whether an awaited call leads to `_run`, which langchain-core runs in the executor."""
    return _is_core(tool, "_arun") and not getattr(tool, "coroutine", None)


async def _with_config(run: AnyCallable, *args: Any, **kwargs: Any) -> Any:
    """Let channel and body know the config, as bare: with Python 3.10, `arun` does not set it."""
    manager = kwargs.get("run_manager")
    config = patch_config(kwargs.get("config"), callbacks=manager and manager.get_child())
    token = var_child_runnable_config.set(config)
    try:
        return await run(*args, **kwargs)
    finally:
        var_child_runnable_config.reset(token)


async def _in_executor(bare: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a plain body as langchain-core's own `_arun` does, unless its caller has left by then."""
    manager: Any = kwargs.get("run_manager")
    if hasattr(manager, "get_sync"):
        kwargs["run_manager"] = manager.get_sync()
    start: Future[None] = Future()

    def run() -> Any:
        return bare._run(*args, **kwargs) if start.set_running_or_notify_cancel() else None

    try:
        return await run_in_executor(None, run)
    except asyncio.CancelledError as cancelled:
        if start.cancel():
            why = "CancelledError before the body began"
            raise Refused("", cancelled, why) from None  # type: ignore[arg-type]
        raise


# --- arguments -------------------------------------------------------------------------------


class _Arguments(Signature):
    """How a tool's arguments are named: as its schema and its body do.

    What the runtime fills in (injected values, configs, managers) is passed to the body only.

    Args:
        tool: The bare tool.
        way: The method or field that is called.
        options: What the tool is guarded with.
    """

    def __init__(self, tool: Any, way: str, options: Options) -> None:
        body = _body_of(tool, way)
        schema = None if way == "__call__" else tool.args_schema
        fields = {} if schema is None else _fields_of(schema)
        hints = hints_of(body)
        annotations = [*hints.items(), *((name, hint) for name, (hint, _) in fields.items())]
        hidden = options.exclude.union(name for name, hint in annotations if is_injected(hint))
        hidden |= hints.keys() & set(FILTERED_ARGS) - fields.keys()
        if way not in _BODIES and body in [getattr(tool, name, None) for name in _BODIES]:
            # The method that runs it takes these for itself.
            hidden |= {"config", "run_manager"}
        super().__init__(body, hidden, rule_names(options.policy))
        self._order = list(fields)
        self._defaults = {n: d for n, (_, d) in fields.items() if d is not PydanticUndefined}
        if schema is not None and self._parameters is not None:
            self.names = sorted({*fields, *self.names})
            self.is_open &= isinstance(schema, dict) and bool(schema.get("additionalProperties"))

    def bind_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call after validation."""
        given = {name: value for name, value in kwargs.items() if name not in self.hidden}
        for p in (self._parameters or [])[len(args) :]:
            if p.name in self.hidden and p.default is p.empty:
                given[p.name] = None  # the runtime fills it in behind the gate
        named = self.bind(args, given)
        for name, default in () if args else self._defaults.items():
            named.setdefault(name, default)
        if self._flat:  # an agent that repeats a call may order its arguments otherwise
            named = type(named)({n: named[n] for n in self._order if n in named} | named)
        return self._without_runtime(named)

    def bind_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name what `invoke` or the like was given, as it came: it validates that itself."""
        given, _ = _input_of(args, kwargs)
        named = {**self._defaults, **given} if isinstance(given, dict) else {"input": given}
        named.update((name, value) for name, value in kwargs.items() if name not in _OPTIONS)
        named = self._without_runtime(named)
        # Under another name, or by a default of the body, there may be what a rule looks at.
        looked_at = {name for name in self._rules if self.sees(name)}
        return named if looked_at <= named.keys() else Unnamed(named)

    def _without_runtime(self, named: dict[str, Any]) -> dict[str, Any]:
        shown = {n: v for n, v in named.items() if not (n in self.hidden or _is_runtime(type(v)))}
        return type(named)(shown)  # it may be Unnamed


_is_runtime: Any = functools.lru_cache(maxsize=1000)(is_injected)


def _body_of(tool: Any, way: str) -> Any:
    """The code that a call ends in, which names its arguments."""
    if way in (*_BODIES, "__call__"):
        return getattr(tool, way)
    method = "_arun" if way in _ASYNC and not _is_plain(tool) else "_run"
    if not _is_core(tool, method):
        return getattr(tool, method)
    return (method == "_arun" and tool.coroutine) or tool.func or tool.coroutine


def _fields_of(schema: Any) -> dict[str, tuple[Any, Any]]:
    """The fields of a tool's schema, each with its annotation and its default."""
    if isinstance(schema, dict):
        stated = (schema.get("properties") or {}).items()
        each = [(name, field if isinstance(field, dict) else {}) for name, field in stated]
        return {name: (None, field.get("default", PydanticUndefined)) for name, field in each}
    hints = get_all_basemodel_annotations(schema)
    fields: dict[str, Any] = get_fields(schema)
    return {name: (hints.get(name), field.default) for name, field in fields.items()}
