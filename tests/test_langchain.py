"""A guarded tool beside the bare one: every kind of tool, run in every way."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import operator
import pickle
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Optional, TypeVar, cast
from uuid import UUID

import cloudpickle
import langchain_core
import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    AsyncCallbackManagerForToolRun,
    BaseCallbackHandler,
    CallbackManagerForToolRun,
    Callbacks,
)
from langchain_core.documents import Document
from langchain_core.messages import ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    RunnableConfig,
    RunnableLambda,
    ensure_config,
)
from langchain_core.tools import (
    BaseTool,
    BaseToolkit,
    InjectedToolArg,
    InjectedToolCallId,
    StructuredTool,
    Tool,
    ToolException,
    create_retriever_tool,
    tool,
)
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.types import Command
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, v1

from actionguard import (
    Action,
    ApprovalChannel,
    ApprovalPolicy,
    ApprovalWrappedTool,
    AuditLog,
    Decision,
    guard,
    guard_tools,
)
from actionguard.testing import AutoApproveChannel, AutoDenyChannel, ScriptedChannel

OLD = langchain_core.__version__.startswith("0.")
PLACE = contextvars.ContextVar("PLACE", default="nowhere")
SEEN: list[dict[str, Any]] = []
T = TypeVar("T")


def note(**args: Any) -> str:
    """What a body saw: its arguments, its config, its context, and the kind of its thread."""
    config = ensure_config()
    here = threading.current_thread()
    SEEN.append(
        {
            "args": args,
            "tags": config["tags"],
            "metadata": config["metadata"],
            "configurable": config.get("configurable"),
            "callbacks": type(config["callbacks"]).__name__,
            "place": PLACE.get(),
            "thread": here.name.split("_")[0].split("-")[0],
        }
    )
    return f"done {args.get('x')}"


# --- kinds of tools --------------------------------------------------------------------------


def refund(x: int, customer: str = "ann") -> str:
    """Refund x."""
    return note(x=x, customer=customer)


async def arefund(x: int, customer: str = "ann") -> str:
    """Refund x."""
    await asyncio.sleep(0)
    return note(x=x, customer=customer)


async def asearch(x: str, callbacks: Callbacks = None) -> str:
    return note(x=x)


def ping() -> str:
    """Ping."""
    return note()


def odd(tool: int, entry: int = 1, body: int = 2, cls: int = 3) -> str:
    """Take names that a wrapper might use itself."""
    return note(tool=tool, entry=entry, body=body, cls=cls)


def anything(**arguments: Any) -> str:
    return note(**arguments)


async def call_tool(
    runtime: Annotated[object | None, InjectedToolArg()] = None, **arguments: dict[str, Any]
) -> Any:
    return [{"type": "text", "text": note(**arguments)}], {"structured": arguments}


def hiding(
    x: int,
    secret: Annotated[str, InjectedToolArg],
    call_id: Annotated[str, InjectedToolCallId],
    config: RunnableConfig,
    callbacks: Callbacks = None,
) -> str:
    """Refund x."""
    assert config["configurable"]["thread_id"] == "t-1" and callbacks is not None
    return note(x=x) + secret + call_id


def giving(result: Any, **fields: Any) -> StructuredTool:
    def give(x: int) -> Any:
        """Give."""
        note(x=x)
        if isinstance(result, Exception):
            raise result
        return result

    return StructuredTool.from_function(give, **fields)


def pay_with(client: str, x: int, config: RunnableConfig) -> str:
    done = note(x=x) + client
    assert config["configurable"]["thread_id"] == "t-1"
    return done


class Bank:
    def __init__(self) -> None:
        self.payments: list[int] = []

    def refund(self, x: int, config: RunnableConfig) -> str:
        """Refund x."""
        return self(x) + str(config["configurable"])

    async def arefund(self, x: int) -> str:
        return self(x)

    def __call__(self, x: int) -> str:
        self.payments.append(x)
        return note(x=x) + str(len(self.payments))


class Keyed:
    def __call__(self, x: int, secret: Annotated[str, InjectedToolArg] = "") -> str:
        return note(x=x) + secret


class Documents(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        note(query=query)
        return [Document("one"), Document("two")]


class Args(BaseModel):
    x: int = Field(description="how much")
    customer: str = "ann"


class Amount(BaseModel):
    x: int


class ArgsV1(v1.BaseModel):
    x: int
    customer: str = v1.Field("ann", alias="customer_id")


class Fancy(BaseModel):
    x: int = Field(alias="amount")
    customer: str = Field(default="today")
    tags: list[str] = Field(default_factory=lambda: ["new"])


class Taxed(BaseModel):
    x: float

    @field_validator("x")
    @classmethod
    def add_tax(cls, value: float) -> float:
        return value * 2


class Hidden(BaseModel):
    x: int
    secret: Annotated[Any, InjectedToolArg]
    call_id: Annotated[str, InjectedToolCallId]


class Subclass(BaseTool):
    name: str = "refund"
    description: str = "Refund x."
    args_schema: type[BaseModel] = Args

    # A default of its own: langchain-core 0.3 does not hand on the schema's.
    def _run(
        self, x: int, customer: str = "ann", run_manager: CallbackManagerForToolRun | None = None
    ) -> str:
        return self.helper(x, customer)

    def helper(self, x: int, customer: str) -> str:
        return note(x=x, customer=customer)


class Schemaless(BaseTool):
    name: str = "refund"
    description: str = "Refund x."

    def _run(self, x: int, customer: str = "ann", *, config: RunnableConfig) -> str:
        done = note(x=x, customer=customer)
        assert config["tags"]
        return done


class AsyncOnly(Subclass):
    def _run(self, x: int, customer: str, run_manager: Any = None) -> str:
        raise NotImplementedError("only async")

    async def _arun(
        self, x: int, customer: str, run_manager: AsyncCallbackManagerForToolRun | None = None
    ) -> str:
        assert run_manager is not None
        return note(x=x, customer=customer)


class ArunToRun(Subclass):
    async def _arun(self, x: int, customer: str) -> str:
        return self._run(x, customer)


class ArunToRunInAThread(Subclass):
    async def _arun(self, x: int, customer: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(None, self._run, x, customer)


class RunToArun(AsyncOnly):
    def _run(self, x: int, customer: str) -> str:
        return asyncio.run(self._arun(x, customer))

    async def _arun(self, x: int, customer: str) -> str:
        return note(x=x, customer=customer)


class RunToArunInAThread(RunToArun):
    def _run(self, x: int, customer: str) -> str:
        with ThreadPoolExecutor(1, "pool") as pool:
            return pool.submit(asyncio.run, self._arun(x, customer)).result()


class Countdown(Subclass):
    def _run(self, x: int, customer: str) -> str:
        note(x=x, customer=customer)
        return self._run(x - 1, customer) if x else "zero"


class Stateful(BaseTool):
    model_config = ConfigDict(extra="allow")
    name: str = "count"
    description: str = "Count."
    calls: int = 0
    _secret: list[int] = PrivateAttr(default_factory=list)

    def __init__(self, start: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls = start

    @functools.cached_property
    def expensive(self) -> str:
        return f"made at {self.calls}"

    def _run(self, x: int) -> str:
        self.calls += 1
        self._secret.append(x)
        self.anything = note(x=x)
        return f"{self.calls} {self._secret} {self.expensive} {self.anything}"


class OwnNames(Subclass):
    """Has private names and attributes of its own."""

    _guards: list[str] = PrivateAttr(default_factory=lambda: ["mine"])
    _began: float = PrivateAttr(default=1.5)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("any_"):
            return name
        return super().__getattr__(name)  # type: ignore[misc]

    @functools.cached_property
    def func(self) -> Any:
        return lambda x: x

    def _run(self, x: int, customer: str = "ann") -> str:
        note(x=x, customer=customer)
        self._guards.append(self.any_name)
        return str(self.func(x)) + str(self._guards) + str(self._began)


class Static(BaseTool):
    name: str = "refund"
    description: str = "Refund x."

    @staticmethod
    def _run(x: int, customer: str = "ann", *, config: RunnableConfig) -> str:  # type: ignore[override]
        return note(x=x, customer=customer) + config["configurable"]["thread_id"]


class OfTheClass(Static):
    @classmethod
    def _run(cls, x: int, customer: str = "ann") -> str:  # type: ignore[override]
        return note(x=x, customer=customer) + cls.__name__


class Typed(BaseTool, Generic[T]):
    name: str = "typed"
    description: str = "Typed."
    value: T | None = None

    def _run(self, x: int) -> str:
        return note(x=x)


class Injected(BaseTool):
    name: str = "refund"
    description: str = "Refund x."
    args_schema: type[BaseModel] = Hidden

    def _run(self, x: int, secret: Any, call_id: str, config: RunnableConfig) -> str:
        return note(x=x) + str(secret) + call_id + config["configurable"]["thread_id"]


class InjectedByRun(BaseTool):
    name: str = "refund"
    description: str = "Refund x."

    def _run(self, x: int, secret: Annotated[str, InjectedToolArg] = "") -> str:
        return note(x=x) + secret


class Validating(BaseTool):
    model_config = ConfigDict(validate_assignment=True, extra="allow")
    name: str = "count"
    description: str = "Count."
    calls: int = 0

    def _run(self, x: int) -> str:
        self.calls += 1
        self.seen = [*getattr(self, "seen", []), x]
        return note(x=x) + f" {self.calls} {self.seen}"


class Shouting(StructuredTool):
    """Has ways of its own at every step."""

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        result = super().invoke(input, config, **kwargs)
        return result.upper() if isinstance(result, str) else result

    def run(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        return super().run({**tool_input, "x": tool_input["x"] + 1}, *args, **kwargs)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        result = await super().ainvoke(input, config, **kwargs)
        return result + "?" if isinstance(result, str) else result


def runnable_as_tool() -> BaseTool:
    work = RunnableLambda(lambda value: note(x=value["x"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work.as_tool(Amount, name="work", description="Work.")


def calling_another() -> BaseTool:
    inner = RunnableLambda(lambda x: note(x=x)).with_config(run_name="inner", tags=["inner"])

    def outer(x: int) -> str:
        """Call another one."""
        return inner.invoke(x)

    return tool(outer)


def _with_func(made: Any) -> BaseTool:
    assert made.func  # a cached property is there from now on
    return cast(BaseTool, made)


def made(func: Any, schema: Any, **fields: Any) -> StructuredTool:
    return StructuredTool(name="made", description="d", args_schema=schema, func=func, **fields)


JSON_SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
FUNDS, FIVE = ToolException("no funds"), {"x": 5}
WITH_ARTIFACT: Any = {"response_format": "content_and_artifact", "return_direct": True}
BLOCKS = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "u"}]
INVALID = {"x": {"not": "a number"}}
BOTH: Any = {"coroutine": arefund, "tags": ["t"], "metadata": {"m": 1}, "verbose": False}
KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "function": lambda: (tool(refund), {"x": "5"}),
    "async function": lambda: (tool("refund")(arefund), FIVE),
    "both functions": lambda: (StructuredTool.from_function(refund, **BOTH), FIVE),
    "no arguments": lambda: (tool(ping), {}),
    "odd names": lambda: (tool(odd), {"tool": 5}),
    "single input": lambda: (Tool("search", lambda x: note(x=x), "Search."), "shoes"),
    "single input async": lambda: (
        Tool("search", None, "Search.", coroutine=asearch),
        {"x": "shoes"},
    ),
    "subclass": lambda: (Subclass(), {"x": "5", "customer": "bob"}),
    "without schema": lambda: (Schemaless(), FIVE),
    "async only": lambda: (AsyncOnly(), {"x": 5, "customer": "bob"}),
    "arun to run": lambda: (ArunToRun(), {"x": 5, "customer": "bob"}),
    "arun to run in a thread": lambda: (ArunToRunInAThread(), {"x": 5, "customer": "bob"}),
    "run to arun": lambda: (RunToArun(), {"x": 5, "customer": "bob"}),
    "run to arun in a thread": lambda: (RunToArunInAThread(), {"x": 5, "customer": "bob"}),
    "recursion": lambda: (Countdown(), {"x": 3, "customer": "bob"}),
    "state": lambda: (Stateful(start=7, colour="red"), FIVE),
    "validated state": lambda: (Validating(), FIVE),
    "names of its own": lambda: (_with_func(OwnNames()), FIVE),
    "static run": lambda: (Static(), FIVE),
    "class's run": lambda: (OfTheClass(), FIVE),
    "generic": lambda: (Typed[int](value=3), FIVE),
    "v1 schema": lambda: (made(refund, ArgsV1), {"x": "5", "customer_id": "bob"}),
    "defaults": lambda: (made(lambda x=0, customer="", tags=(): note(x=x), Fancy), {"amount": 5}),
    "validator that adds": lambda: (made(lambda x: note(x=x), Taxed), {"x": 10}),
    "json schema": lambda: (made(anything, JSON_SCHEMA), {"x": "5", "unlisted": True}),
    "as MCP adapters make them": lambda: (
        made(None, JSON_SCHEMA, coroutine=call_tool, handle_tool_error=str, **WITH_ARTIFACT),
        {"x": "5"},
    ),
    "artifact": lambda: (giving(("a", {"points": [1]}), **WITH_ARTIFACT), FIVE),
    "no artifact": lambda: (giving("a", **WITH_ARTIFACT), FIVE),
    "body raises": lambda: (giving(ValueError("declined"), handle_tool_error=True), FIVE),
    "ToolException": lambda: (giving(FUNDS), FIVE),
    "ToolException True": lambda: (giving(FUNDS, handle_tool_error=True), FIVE),
    "ToolException text": lambda: (giving(FUNDS, handle_tool_error="sorry"), FIVE),
    "ToolException callable": lambda: (giving(FUNDS, handle_tool_error=repr), FIVE),
    "invalid": lambda: (giving(""), INVALID),
    "invalid True": lambda: (giving("", handle_validation_error=True), INVALID),
    "invalid text": lambda: (giving("", handle_validation_error="wrong"), INVALID),
    "invalid callable": lambda: (giving("", handle_validation_error=str), INVALID),
    "injected": lambda: (tool(hiding), {"x": 5, "secret": "s3cret"}),
    "injected in a subclass": lambda: (Injected(), {"x": 5, "secret": ["s3cret"]}),
    "injected into an object": lambda: (made(Keyed(), Amount), {"x": 5, "secret": "s3cret"}),
    "injected by _run": lambda: (InjectedByRun(), {"x": 5, "secret": "s3cret"}),
    "retriever": lambda: (create_retriever_tool(Documents(), "d", "Find."), {"query": "shoes"}),
    "runnable": lambda: (runnable_as_tool(), FIVE),
    "calling another": lambda: (calling_another(), FIVE),
    "command": lambda: (giving(Command(goto="end", update={"x": 1})), FIVE),
    "message": lambda: (giving(ToolMessage("own", tool_call_id="other")), FIVE),
    "blocks": lambda: (giving(BLOCKS), FIVE),
    "partial": lambda: (made(functools.partial(pay_with, "client"), Amount), FIVE),
    "bound methods": lambda: (made(Bank().refund, Amount, coroutine=Bank().arefund), FIVE),
    "callable object": lambda: (made(Bank(), Amount), FIVE),
    "ways of its own": lambda: (Shouting.from_function(refund), FIVE),
}


# --- ways of running them --------------------------------------------------------------------


class Trace:
    """All events of a run, in order, with runs numbered instead of their ids."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._runs: dict[Any, int] = {None: -1}

    def add(self, event: str, data: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept = {k: v for k, v in kwargs.items() if k not in ("run_id", "parent_run_id")}
        run = self._runs.setdefault(kwargs["run_id"], len(self._runs))
        parent = self._runs.get(kwargs.get("parent_run_id"), "unknown")
        data = tuple(repr(d) if isinstance(d, BaseException) else d for d in data)
        self.events.append((event, run, parent, data, kept))


def _handler(base: Any, is_async: bool) -> Any:
    names = ["chain", "tool", "retriever"]
    methods: dict[str, Any] = {}
    for event in [f"on_{n}_{when}" for n in names for when in ("start", "end", "error")]:

        def on(self: Any, *data: Any, _event: str = event, **kwargs: Any) -> None:
            self.trace.add(_event, data, kwargs)

        async def aon(self: Any, *data: Any, _event: str = event, **kwargs: Any) -> None:
            self.trace.add(_event, data, kwargs)

        methods[event] = aon if is_async else on
    handler = type("Recorder", (base,), methods)()
    handler.trace = Trace()
    return handler


def call_of(args: Any) -> dict[str, Any]:
    given = dict(args) if isinstance(args, dict) else {"__arg1": args}
    return {"name": "any", "args": given, "id": "call-1", "type": "tool_call"}


async def _events(made: BaseTool, args: Any, config: Any) -> list[Any]:
    found = [event async for event in made.astream_events(args, config, version="v2")]
    return [{k: v for k, v in e.items() if k not in ("run_id", "parent_ids")} for e in found]


def _deprecated_call(made: Any, args: Any, config: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made(args, config["callbacks"])


RUNNERS: dict[str, Callable[[BaseTool, Any, Any], Any]] = {
    "invoke": lambda t, a, c: t.invoke(a, c),
    "invoke a call": lambda t, a, c: t.invoke(call_of(a), c),
    "ainvoke": lambda t, a, c: t.ainvoke(a, c),
    "ainvoke a call": lambda t, a, c: t.ainvoke(call_of(a), c),
    "run": lambda t, a, c: t.run(a, callbacks=c["callbacks"], tool_call_id="c", config=c),
    "arun": lambda t, a, c: t.arun(a, callbacks=c["callbacks"], config=c),
    "call": _deprecated_call,
    "batch": lambda t, a, c: t.batch(
        [a, call_of(a)], {**c, "max_concurrency": 1}, return_exceptions=True
    ),
    "abatch": lambda t, a, c: t.abatch(
        [a, call_of(a)], {**c, "max_concurrency": 1}, return_exceptions=True
    ),
    "pipe": lambda t, a, c: (RunnableLambda(lambda x: x) | t | str).invoke(call_of(a), c),
    "with_config": lambda t, a, c: t.with_config(run_name="n", tags=["own"]).invoke(a, c),
    "with_retry": lambda t, a, c: t.with_retry(
        stop_after_attempt=2, wait_exponential_jitter=False
    ).invoke(call_of(a), c),
    "bind": lambda t, a, c: t.bind(colour="red").invoke(call_of(a), c),
    "astream_events": _events,
}


def observe(run: Any, made: BaseTool, args: Any) -> dict[str, Any]:
    """Everything that can be seen of one run, from outside and from within the body."""
    SEEN.clear()
    plain, awaited = _handler(BaseCallbackHandler, False), _handler(AsyncCallbackHandler, True)
    config = {
        "callbacks": [plain, awaited],
        "tags": ["given"],
        "metadata": {"who": "ann"},
        "configurable": {"thread_id": "t-1"},
    }

    async def wait(awaitable: Any) -> Any:
        return await awaitable

    PLACE.set("test")
    result: Any
    try:
        result = run(made, copy.deepcopy(args), config)
        if inspect.isawaitable(result):
            result = asyncio.run(wait(result))
    except Exception as error:
        context = error.__context__
        result = (type(error), str(error), type(context), type(error.__cause__))
    if isinstance(result, list):
        result = [repr(one) if isinstance(one, Exception) else one for one in result]
    return {
        "result": result,
        "type": type(result),
        "seen": list(SEEN),
        "events": plain.trace.events,
        "async events": awaited.trace.events,
    }


class Asked(ApprovalChannel):
    """Answers the same always, and keeps what it was asked."""

    name = "asked"

    def __init__(self, approved: bool = True) -> None:
        self.actions: list[Action] = []
        self.approved = approved

    def request_approval(self, action: Action) -> Decision:
        self.actions.append(action)
        return Decision(self.approved)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl")


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_approved_like_the_bare_tool(kind: str, runner: str, log: AuditLog, lines: Any) -> None:
    """Results, errors, events, traces, and all that the body sees are those of the bare tool."""
    if kind == "ways of its own" and runner in ("call", "arun"):
        pytest.skip("its bare form fails there")
    asked = Asked()
    bare, args = KINDS[kind]()
    guarded = guard(KINDS[kind]()[0], channel=asked, audit=log)

    wanted = observe(RUNNERS[runner], bare, args)
    got = observe(RUNNERS[runner], guarded, args)

    if kind == "ways of its own":  # one who replaces `invoke` gets a thread for it
        for seen in [*wanted["seen"], *got["seen"]]:
            seen.pop("thread")
    for aspect, value in wanted.items():
        assert got[aspect] == value, aspect
    shown = [action.args for action in asked.actions]
    if kind not in ("recursion", "async only"):  # asked once, and then steps of its own
        assert len(shown) == len(wanted["seen"])
    if kind != "recursion":  # in a batch, the steps of its threads mingle
        for args_shown, seen in zip(shown, wanted["seen"], strict=False):
            assert args_shown.items() >= seen["args"].items()  # what was approved is what ran
    assert [line["executed"] for line in lines()] == [True] * len(shown)
    assert "s3cret" not in repr(shown) + str([line["args"] for line in lines()])


@pytest.mark.parametrize("kind", KINDS)
def test_looks_like_the_bare_tool(kind: str, log: AuditLog) -> None:
    """Class, fields, schemas, signatures and repr are the bare tool's."""
    bare, _ = KINDS[kind]()
    guarded = guard(bare, audit=log)

    assert isinstance(guarded, type(bare)) and isinstance(guarded, ApprovalWrappedTool)
    assert repr(guarded) == repr(bare) and str(guarded) == str(bare)
    assert repr(guarded.model_dump()) == repr(bare.model_dump())
    for text in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(type(guarded), text) == getattr(type(bare), text)
    for name in type(bare).model_fields:
        if name not in ("func", "coroutine"):
            assert getattr(guarded, name) is getattr(bare, name)
    assert list(type(guarded).model_fields) == list(type(bare).model_fields)
    same = [
        convert_to_openai_tool,
        operator.attrgetter("args"),
        operator.attrgetter("is_single_input"),
        lambda t: t.get_input_jsonschema(),
        lambda t: t.get_output_jsonschema(),
        lambda t: str(t.tool_call_schema),
        lambda t: inspect.signature(t._run),
        # An `_arun` that is inherited shows what `_run` takes: langchain-core asks it for that.
        lambda t: type(bare)._arun is BaseTool._arun or inspect.signature(t._arun),
        lambda t: inspect.iscoroutinefunction(t._arun),
        lambda t: t.to_json(),
        lambda t: t.func and (inspect.signature(t.func), t.func.__doc__),
        lambda t: inspect.iscoroutinefunction(t.coroutine),
        lambda t: t.get_name(),
        lambda t: inspect.getsource(type(t)),
    ]
    for number, look in enumerate(same):
        assert _outcome(look, guarded) == _outcome(look, bare), number


def _outcome(look: Any, made: Any) -> Any:
    try:
        return look(made)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("runner", ["invoke", "ainvoke", "invoke a call", "ainvoke a call", "arun"])
@pytest.mark.parametrize("kind", KINDS)
def test_denied(kind: str, runner: str, log: AuditLog, lines: Any) -> None:
    """A refusal is an error message with the call's id, or the text; nothing rewords it."""
    bare, args = KINDS[kind]()
    if kind.startswith("invalid") or (kind == "ways of its own" and runner == "arun"):
        pytest.skip("such calls do not reach the gate")
    guarded = guard(bare, channel=AutoDenyChannel("no"), audit=log)

    got = observe(RUNNERS[runner], guarded, args)

    assert got["seen"] == []
    if not lines():  # it does not get there bare, either
        assert got["result"] == observe(RUNNERS[runner], bare, args)["result"]
        return
    (line,) = lines()
    assert (line["approved"], line["executed"]) == (False, False)
    result = got["result"]
    if "call" in runner or (isinstance(result, ToolMessage)):
        assert (result.tool_call_id, result.status, result.name) == ("call-1", "error", bare.name)
        result = result.content
    assert result.upper().startswith("DENIED: A PERSON REFUSED ")
    assert [event[0] for event in got["events"]] == ["on_tool_start", "on_tool_end"]


@pytest.mark.parametrize("kind", ["state", "validated state"])
def test_state(kind: str, log: AuditLog, lines: Any) -> None:
    """What a body leaves in its tool is there afterwards, and what is set from outside is seen."""
    bare, args = KINDS[kind]()
    guarded = guard(KINDS[kind]()[0], channel=Asked(), audit=log)

    for made in (bare, guarded):
        made.invoke(args)
        made.calls += 10  # type: ignore[attr-defined]

    assert guarded.invoke(args) == bare.invoke(args)
    assert guarded.model_dump() == bare.model_dump() and guarded.model_extra == bare.model_extra
    assert len(lines()) == 2


@pytest.mark.parametrize("call_id", ["", 5, UUID(int=5)])
def test_denied_under_any_id(call_id: Any, log: AuditLog) -> None:
    """Whatever a model's id for its call is, the refusal is an error message with that id."""
    guarded = guard(KINDS["function"]()[0], channel=AutoDenyChannel(), audit=log)

    message = guarded.invoke({**call_of(FIVE), "id": call_id})

    assert (message.status, message.tool_call_id) == ("error", str(call_id))


class Counting(Subclass):
    count: ClassVar[int] = 0

    @classmethod
    def add(cls) -> None:
        cls.count += 1

    def _run(self, x: int, customer: str = "ann") -> str:
        self.add()
        type(self).count += 1
        return note(x=x)


def test_state_of_the_class(log: AuditLog) -> None:
    """What a body counts on the class of its `self` is counted on the tool's own class."""
    guarded = guard(Counting(), channel=Asked(), audit=log)

    guarded.invoke(FIVE)

    assert Counting.count == Counting().count == guarded.count == 2


def test_a_patched_class(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test patches in a guarded tool's class is used by the body, and then as it was."""
    guarded = guard(Subclass(), channel=Asked(), audit=log)

    with monkeypatch.context() as patch:
        patch.setattr(type(guarded), "helper", lambda self, x, customer: "patched")
        assert guarded.invoke(FIVE) == "patched"

    assert guarded.invoke(FIVE) == guarded.helper(5, "ann") == Subclass().invoke(FIVE)


# --- no way round ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["func", "_run", "run", "coroutine", "_arun", "arun"])
def test_no_way_round(way: str, log: AuditLog, lines: Any) -> None:
    """Whatever of a tool is called, the gate stands before the body."""
    bare, _ = KINDS["both functions"]()
    guarded: Any = guard(bare, channel=AutoDenyChannel(), audit=log)
    SEEN.clear()

    if way in ("func", "_run"):
        result = getattr(guarded, way)(x=4)
    elif way == "run":
        result = guarded.run({"x": 4})
    else:
        result = asyncio.run(
            getattr(guarded, way)(**({"tool_input": {"x": 4}} if way == "arun" else {"x": 4}))
        )

    assert result.startswith("DENIED: ") and "refund(x=4, " in result
    assert SEEN == [] and len(lines()) == 1


@pytest.mark.parametrize("form", ["function", "partial", "bound methods", "callable object"])
def test_func_stays_what_it_is(form: str, log: AuditLog) -> None:
    """A func that is no function keeps its attributes, and a direct call of it is asked for."""
    bare, _ = KINDS[form]()
    asked = Asked()
    guarded: Any = guard(bare, channel=asked, audit=log)

    assert repr(guarded.func) == repr(bare.func)
    assert getattr(guarded.func, "__module__", 0) == getattr(bare.func, "__module__", 0)
    assert isinstance(guarded.func, type(bare.func)) and not hasattr(guarded.func, "nonsense")
    assert inspect.signature(guarded.func) == inspect.signature(bare.func)
    config = {"configurable": {"thread_id": "t-1"}}
    takes_config = "config" in inspect.signature(bare.func).parameters
    guarded.func(x=5, **({"config": config} if takes_config else {}))
    assert [action.args["x"] for action in asked.actions] == [5]
    assert "t-1" not in str(asked.actions)


def test_function_by_value(log: AuditLog) -> None:
    """What joblib, Dask or Ray send by value is the guarded tool, and never its bare function."""
    guarded = guard(A_TOOL, channel=AutoDenyChannel(), audit=log)

    with pytest.raises(AttributeError, match="send the tool"):
        cloudpickle.dumps(guarded.func)
    assert pickle.loads(cloudpickle.dumps(guarded)).invoke(FIVE).startswith("DENIED: ")
    assert RunnableLambda(guarded.func).config_specs == []


def test_func_moved_elsewhere(log: AuditLog) -> None:
    """A guarded tool's function keeps its gate where it is pickled, copied or made a method."""
    guarded: Any = guard(made(refund, Amount), channel=Asked(False), audit=log)
    SEEN.clear()

    for move in (copy.copy, copy.deepcopy, lambda func: pickle.loads(pickle.dumps(func))):
        assert "refused made(x=3" in move(guarded.func)(3)
    assert not hasattr(guarded.func, "__get__")
    assert SEEN == []


@pytest.mark.parametrize("form", ["function", "partial", "bound methods", "callable object"])
def test_func_guarded_once_more(form: str, log: AuditLog) -> None:
    """A guarded tool's function that is guarded as any callable is keeps the tool's gate."""
    bare, _ = KINDS[form]()
    tool: Any = guard(bare, channel=AutoDenyChannel(), audit=log)
    asked = Asked()
    config = {"config": {}} if "config" in inspect.signature(tool.func).parameters else {}
    SEEN.clear()

    assert guard(tool.func, channel=asked, audit=log)(x=3, **config).startswith("DENIED: ")
    assert len(asked.actions) == 1 and SEEN == []


class Paying(BaseTool):
    """Keeps a function of its own in a field, and calls it in a way of its own."""

    name: str = "pay"
    description: str = "Pay."
    func: Any = None

    def _run(self, x: int, run_manager: CallbackManagerForToolRun | None = None) -> str:
        self.func = self.func  # as it may: what the body has is what was given
        return str(self.func(x, "ann"))


def test_func_of_a_subclass(log: AuditLog) -> None:
    """A function in a field is asked for by its own parameters, and not again within the body."""
    asked = Asked()
    pay = Paying(func=lambda amount, whom: note(x=amount, customer=whom))
    guarded = guard(pay, channel=asked, audit=log)

    assert guarded.invoke({"x": 1}) == guarded.func(2, whom="bob").replace("2", "1") == "done 1"
    assert [action.args for action in asked.actions] == [{"x": 1}, {"amount": 2, "whom": "bob"}]
    guarded.func(3, "eve")
    assert asked.actions[-1].args == {"amount": 3, "whom": "eve"}


class Own(StructuredTool):
    def _run(self, x: int) -> str:  # type: ignore[override]
        return note(x=x)


class OwnWithConfig(StructuredTool):
    def _run(self, *args: Any, config, run_manager=None, **kwargs: Any) -> str:  # type: ignore[no-untyped-def]
        return note(**kwargs) + config["configurable"]["thread_id"]


@pytest.mark.parametrize(("cls", "runner"), [(Own, "ainvoke"), (OwnWithConfig, "arun")])
def test_a_run_of_its_own(cls: Any, runner: str, log: AuditLog) -> None:
    """A StructuredTool that replaces `_run` is given what it is given bare, awaited too."""
    asked = Asked()
    bare = cls.from_function(refund, args_schema=Amount)

    wanted = observe(RUNNERS[runner], bare, FIVE)["result"]
    got = observe(RUNNERS[runner], guard(bare, channel=asked, audit=log), FIVE)["result"]

    assert got == wanted and isinstance(got, str)
    assert [action.args["x"] for action in asked.actions] == [5]


def test_back_on_the_loop(log: AuditLog) -> None:
    """A plain body, awaited, may have its loop do what asks for another guarded tool."""
    inner = guard(Subclass(), channel=Asked(), audit=log)

    class Back(Own):
        def _run(self, x: int) -> str:  # type: ignore[override]
            async def work() -> Any:
                return inner.invoke({"x": x})

            return str(asyncio.run_coroutine_threadsafe(work(), loop).result(120))

    async def main() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        back = Back.from_function(refund, args_schema=Amount)
        results.append(await guard(back, channel=Asked(), audit=log).ainvoke(FIVE))

    loop: Any = None
    results: list[Any] = []
    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    thread.join(120)

    assert results == ["done 5"]


def test_inner_steps_end_with_the_call(log: AuditLog) -> None:
    """`self` leads on without a gate only in its call; invoke is a call of its own even there."""
    kept: list[Any] = []

    class Nested(Subclass):
        def _run(self, x: int, customer: str = "ann") -> str:
            kept.append(self)
            return str(self.invoke({"x": x - 1})) if x else "zero"

    asked = Asked()
    guarded = guard(Nested(), channel=asked, audit=log)

    assert guarded.invoke({"x": 2}) == "zero"
    assert [action.args["x"] for action in asked.actions] == [2, 1, 0]
    kept[0]._run(0, "late")
    assert asked.actions[-1].args == {"x": 0, "customer": "late"}


def test_other_guarded_tool_in_the_body(log: AuditLog, lines: Any) -> None:
    """A released body that calls another guarded tool is not released for that one."""
    inner = guard(KINDS["function"]()[0], channel=AutoDenyChannel(), audit=log)

    @guard(channel=AutoApproveChannel(), audit=log)
    @tool
    def outer(x: int) -> str:
        """Call another one."""
        return str(inner.func(x)) + str(inner.invoke({"x": x}))  # type: ignore[attr-defined]

    assert outer.invoke({"x": 1}).count("DENIED: ") == 2
    assert [line["executed"] for line in lines()] == [False, False, True]


@pytest.mark.parametrize("runner", ["invoke a call", "ainvoke a call"])
@pytest.mark.parametrize("answers", [(True, True), (True, False), (False,)])
def test_guarded_twice(runner: str, answers: Any, log: AuditLog, lines: Any) -> None:
    """Both gates ask, the outer one first; each has its line, and neither tells of a body unrun."""
    bare, args = KINDS["function"]()
    order = []

    class Ordered(ScriptedChannel):
        def request_approval(self, action: Action) -> Decision:
            order.append(self)
            return super().request_approval(action)

    outer, inner = Ordered(answers[0]), Ordered(*answers[1:])
    guarded = guard(guard(bare, channel=inner, audit=log), channel=outer, audit=log)

    got = observe(RUNNERS[runner], guarded, args)

    assert order == [outer, inner][: len(answers)]
    assert [line["executed"] for line in lines()] == [all(answers)] * len(answers)
    assert len(got["seen"]) == all(answers)
    if not all(answers):
        assert (got["result"].status, got["result"].tool_call_id) == ("error", "call-1")
        assert got["result"].content.startswith("DENIED: a person refused refund(")
    if answers == (True, False):
        assert lines()[1]["error"] == "refused by a second gate"


@pytest.mark.parametrize("how", ["made of it", "model_copy", "assigned"])
def test_body_of_another_guarded_tool(how: str, log: AuditLog) -> None:
    """A tool that is given a guarded tool's function asks for both, also when it is guarded."""
    inner: Any = guard(made(refund, Amount), channel=AutoDenyChannel(), audit=log)
    asked = Asked()
    outer: Any = guard(made(inner.func, Amount), channel=asked, audit=log)
    if how != "made of it":
        outer = guard(made(refund, Amount), channel=asked, audit=log)
    if how == "assigned":
        outer.func = inner.func
    outer = outer.model_copy(update={"func": inner.func} if how == "model_copy" else {})
    SEEN.clear()

    assert "refused made(x=5" in outer.invoke(FIVE) and "refused made(x=6" in outer.func(6)
    assert [action.args["x"] for action in asked.actions] == [5, 6] and SEEN == []


def test_arguments_that_no_schema_names(log: AuditLog) -> None:
    """They are shown when a call brings them, since the body gets them; a default is not shown."""

    def refund(x: int, dry_run: bool = True, key: str = "s3cret") -> str:
        return note(x=x, dry_run=dry_run)

    asked = Asked()
    guarded = guard(made(refund, JSON_SCHEMA), channel=asked, audit=log)

    guarded.invoke({"x": 1})
    guarded.invoke({"x": 1, "dry_run": False})

    assert [action.args for action in asked.actions] == [{"x": 1}, {"x": 1, "dry_run": False}]


class Named(BaseModel):
    x: int
    callbacks: list[str] = []
    run_manager: str = ""


class TakesCallbacks(BaseTool):
    name: str = "notify"
    description: str = "Notify."
    args_schema: type[BaseModel] = Named

    def _run(self, x: int, callbacks: list[str], run_manager: Any) -> str:
        return note(x=x, callbacks=callbacks) + type(run_manager).__name__


@pytest.mark.parametrize("runner", ["invoke", "ainvoke"])
@pytest.mark.parametrize(
    "make", [TakesCallbacks, lambda: made(anything, Named), lambda: made(anything, JSON_SCHEMA)]
)
def test_arguments_named_as_managers_are(make: Any, runner: str, log: AuditLog) -> None:
    """What the agent fills in is shown, though other tools get a manager under its name."""
    asked = Asked()
    args = {"x": 1, "callbacks": ["http://evil.example"]}

    got = observe(RUNNERS[runner], guard(make(), channel=asked, audit=log), args)

    assert got["seen"][0]["args"] == asked.actions[0].args == args


class TakesAnything(TakesCallbacks):
    def _run(self, **given: Any) -> str:  # type: ignore[override]
        return note(**given)


def test_a_run_manager_that_the_agent_fills_in(log: AuditLog) -> None:
    """Awaited, a body that takes no manager is given what the agent calls by that name."""
    args = {"x": 1, "callbacks": [], "run_manager": "Ann"}

    got = observe(RUNNERS["ainvoke"], guard(TakesAnything(), channel=Asked(), audit=log), args)

    assert (
        got["seen"][0]["args"]
        == observe(RUNNERS["ainvoke"], TakesAnything(), args)["seen"][0]["args"]
        == args
    )


def test_arguments_that_do_not_fit(log: AuditLog, lines: Any) -> None:
    """Where nothing validates, the body's own complaint comes, and nobody is asked."""
    asked = Asked()
    bare = made(lambda x, *, y: None, JSON_SCHEMA)
    guarded = guard(bare, channel=asked, audit=log)

    wanted = observe(RUNNERS["invoke"], bare, {"x": 1})

    assert observe(RUNNERS["invoke"], guarded, {"x": 1})["result"] == wanted["result"]
    assert wanted["result"][0] is TypeError
    assert asked.actions == [] and lines() == []


# --- copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["function", "both functions", "state", "callable object"])
@pytest.mark.parametrize(
    "make",
    [copy.copy, copy.deepcopy, lambda t: t.model_copy(), lambda t: t.model_copy(deep=True)],
    ids=["copy", "deepcopy", "model_copy", "deep model_copy"],
)
def test_copies(kind: str, make: Any, log: AuditLog, lines: Any) -> None:
    """Copies are equal where the bare tool's are, share what its copies share, and are guarded."""
    bare, args = KINDS[kind]()
    asked = Asked()
    guarded = guard(KINDS[kind]()[0] if kind == "state" else bare, channel=asked, audit=log)

    copied, bare_copy = make(guarded), make(bare)

    assert (copied == guarded) == (bare_copy == bare)
    assert type(copied) is type(guarded) and repr(copied).startswith(repr(bare)[:20])
    results = [t.invoke(args) for t in (bare, bare, bare_copy)]
    got = [t.invoke(args) for t in (guarded, guarded, copied)]
    assert len(asked.actions) == len(lines()) == 3
    if kind != "callable object":
        assert got == results
    else:  # guarding is copying, too: both count on
        shared = copied.func.payments is guarded.func.payments
        assert shared == (bare_copy.func.payments is bare.func.payments)


def test_renamed_copy(log: AuditLog, lines: Any) -> None:
    """A copy under another name asks, answers and logs under that name."""
    guarded = guard(KINDS["function"]()[0], channel=AutoDenyChannel(), audit=log)

    renamed = guarded.model_copy(update={"name": "pay", "description": "Pay."})

    message = renamed.invoke(call_of({"x": 1}))
    assert message.name == "pay" and "refused pay(x=1" in message.content
    assert lines()[0]["tool"] == "pay"
    assert renamed.func(x=1).startswith("DENIED: a person refused pay(")  # type: ignore[attr-defined]


class Total(BaseModel):
    total: int


def pay_total(total: int) -> str:
    return note(x=total)


@pytest.mark.parametrize("how", ["assigned", "model_copy"])
def test_another_body(how: str, log: AuditLog) -> None:
    """A guarded tool that is given another body and schema is guarded with these."""
    asked = Asked()
    guarded: Any = guard(KINDS["both functions"]()[0], channel=asked, audit=log)
    guarded.invoke({"x": 1})
    change: Any = {"func": pay_total, "coroutine": None, "args_schema": Total}
    if how == "assigned":
        for name, value in change.items():
            setattr(guarded, name, value)
    else:
        guarded = guarded.model_copy(update=change)

    assert guarded.invoke({"total": "2"}) == guarded.func(2) == "done 2"
    assert asyncio.run(guarded.ainvoke({"total": 2})) == "done 2"
    assert [action.args for action in asked.actions[1:]] == [{"total": 2}] * 3


@pytest.mark.parametrize("kind", ["function", "subclass", "single input"])
def test_configurable_fields(kind: str, log: AuditLog) -> None:
    """A tool configured at the time of a call is guarded, under the name that it then has."""
    bare, args = KINDS[kind]()
    field: Any = ConfigurableField(id="called")
    asked = Asked()
    guarded = guard(bare, channel=asked, audit=log)
    config: Any = {"configurable": {"called": "pay"}}

    got = guarded.configurable_fields(name=field).invoke(call_of(args), config)

    assert got == bare.configurable_fields(name=field).invoke(call_of(args), config)
    assert got.name == asked.actions[0].tool_name == "pay"
    assert guarded.configurable_fields(name=field).invoke(args) == bare.invoke(args)
    assert asked.actions[1].tool_name == bare.name

    one_of_two = guarded.configurable_fields(name=field).configurable_alternatives(
        ConfigurableField(id="which"), other=RunnableLambda(str)
    )
    assert one_of_two.invoke(call_of(args), config) == got
    assert asked.actions[2].tool_name == "pay"


@pytest.mark.parametrize(
    "make",
    [
        lambda t: type(t)(),
        lambda t: type(t).model_validate(t.model_dump()),
        lambda t: type(t).model_construct(**t.model_dump()),
    ],
    ids=["call", "model_validate", "model_construct"],
)
def test_made_of_the_class(make: Any, log: AuditLog) -> None:
    """A tool made of a guarded tool's class has no guard, and so it does not run."""
    made = make(guard(Subclass(), channel=Asked(), audit=log))
    SEEN.clear()

    for run in (lambda t: t.invoke({"x": 1}), lambda t: t._run(1)):
        with pytest.raises(TypeError, match="'refund' was made of a guarded tool's class: guard"):
            run(made)
    assert guard(made, channel=Asked(False), audit=log).invoke({"x": 1}).startswith("DENIED: ")

    assert SEEN == []


def test_made_in_the_body(log: AuditLog) -> None:
    """What a released body makes of its own class is part of the body."""

    class Splitting(Subclass):
        def _run(self, x: int, customer: str = "ann") -> str:
            return str(type(self)().invoke({"x": x - 1}) if x else "zero")

    asked = Asked()

    assert guard(Splitting(), channel=asked, audit=log).invoke({"x": 2}) == "zero"
    assert [action.args["x"] for action in asked.actions] == [2]


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("kind", ["subclass", "function", "guarded twice"])
def test_pickled(kind: str, protocol: int, log: AuditLog, lines: Any) -> None:
    """A tool that can be pickled can be when guarded, and is guarded when it is back."""
    bare: Any = made(refund, Amount) if kind == "function" else Subclass(tags=["t"])
    guarded = guard(bare, channel=Asked(False), audit=log)
    if kind == "guarded twice":
        guarded = guard(guarded, channel=Asked(), audit=log)

    loaded = pickle.loads(pickle.dumps(guarded, protocol))

    assert repr(loaded) == repr(pickle.loads(pickle.dumps(bare, protocol)))
    assert type(loaded) is type(guarded)
    assert loaded.invoke({"x": 1}).startswith("DENIED: ")
    assert len(lines()) == len(loaded._actionguard_guards)


def test_the_original_is_left_alone(log: AuditLog) -> None:
    """Guarding changes nothing in the original, and shares no container with it by accident."""
    bare, args = KINDS["state"]()
    before = repr(bare), bare.model_dump()

    guard(bare, channel=Asked(), audit=log).invoke(args)

    assert (repr(bare), bare.model_dump()) == before
    assert (
        not isinstance(bare, ApprovalWrappedTool)
        and "_actionguard_guards" not in bare.__private_attributes__
    )


def test_the_class_is_left_alone(log: AuditLog) -> None:
    """Guarding changes nothing in the tool's class."""

    class Fresh(Subclass):
        pass

    before = {name: id(value) for name, value in vars(Fresh).items()}

    guard(Fresh(), channel=Asked(), audit=log).invoke(FIVE)

    assert {name: id(value) for name, value in vars(Fresh).items()} == before


def test_what_a_tool_holds_is_closed_once(log: AuditLog) -> None:
    """A tool that closes a session when it goes does so when nobody needs it any more."""
    closed = []

    class Session(Subclass):
        def __del__(self) -> None:
            closed.append(type(self))

    guarded = guard(Session(), channel=Asked(), audit=log)
    guarded.invoke({"x": 1})
    copied = copy.copy(guarded)
    del guarded
    assert closed == []
    copied.invoke({"x": 1})
    del copied
    assert closed == [Session]


def test_a_base_that_watches_its_subclasses(log: AuditLog) -> None:
    """The class that guarding makes is not announced to hooks of the tool's class."""
    known = []

    class Registry(Subclass):
        def __init_subclass__(cls, *, label: str, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            known.append(label)

    class Entry(Registry, label="entry"):
        pass

    assert guard(Entry(), channel=Asked(), audit=log).invoke({"x": 1}) == "done 1"
    assert known == ["entry"]
    one, other = (guard(Entry(), channel=Asked(), audit=log) for _ in range(2))
    assert type(one) is type(other)


def test_injected_into_a_guarded_function(log: AuditLog, lines: Any) -> None:
    """With @tool above @guard, too, nobody but the body sees what LangChain fills in."""
    channel = AutoApproveChannel()
    seen: list[Any] = []

    @tool
    @guard(channel=channel, audit=log)
    def pay(
        x: int,
        secret: Annotated[str, InjectedToolArg],
        call_id: Annotated[str, InjectedToolCallId],
        config: RunnableConfig,
        run_manager: Optional[CallbackManagerForToolRun] = None,  # noqa: UP045 - as in docs
        callbacks: Callbacks = None,
    ) -> str:
        """Pay."""
        seen.extend([secret, call_id, config["tags"], run_manager])
        return "paid"

    call = {"type": "tool_call", "id": "c1", "name": "pay", "args": {"x": 1, "secret": "k"}}
    result = pay.invoke(call, {"tags": ["t"]})

    assert result.content == "paid"
    assert seen[:3] == ["k", "c1", ["t"]]
    assert [request.args for request in channel.requests] == [{"x": 1}]
    assert [line["args"] for line in lines()] == [{"x": 1}]
    with pytest.raises(ValueError, match="'secret', which is left out of what a policy sees"):
        guard(pay.func.__wrapped__, policy=ApprovalPolicy(match_args={"secret": "k"}), audit=log)


# --- waiting ---------------------------------------------------------------------------------


class Waiting(ApprovalChannel):
    """Holds all requests until there are so many, and approves them then."""

    name = "waiting"

    def __init__(self, count: int) -> None:
        self.count = count
        self.ids: list[str] = []
        self.all_there = asyncio.Event()

    async def request_approval(self, action: Action) -> Decision:
        self.ids.append(action.id)
        if len(self.ids) == self.count:
            self.all_there.set()
        await self.all_there.wait()
        return Decision(True)


@pytest.mark.parametrize("kind", ["function", "async function", "subclass", "single input"])
def test_many_waiting(kind: str, log: AuditLog, lines: Any) -> None:
    """A hundred awaited calls wait at once without a thread, and the executor stays free."""
    bare, args = KINDS[kind]()

    async def main() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        channel = Waiting(100)
        guarded = guard(bare, channel=channel, audit=log)
        tasks = [asyncio.ensure_future(guarded.ainvoke(args)) for _ in range(99)]
        while len(channel.ids) < 99:
            assert await asyncio.to_thread(operator.add, 1, 1) == 2
        before = threading.active_count()
        tasks.append(asyncio.ensure_future(guarded.ainvoke(args)))
        results = await asyncio.gather(*tasks)
        assert threading.active_count() <= before and len(set(channel.ids)) == 100
        return results

    assert len(set(asyncio.run(main()))) == 1
    assert len(lines()) == 100


@pytest.mark.parametrize("kind", ["function", "async function", "subclass", "ways of its own"])
def test_cancelled_wait(kind: str, log: AuditLog, lines: Any) -> None:
    """A cancelled wait is over at once, with its line; a later yes runs nothing."""
    bare, args = KINDS[kind]()
    SEEN.clear()
    answer = threading.Event()
    written = threading.Event()

    class Slow(ApprovalChannel):
        name = "slow"

        def request_approval(self, action: Action) -> Decision:
            loop.call_soon_threadsafe(asked.set)
            answer.wait(120)
            written.set()
            return Decision(True)

    async def main() -> None:
        nonlocal loop, asked
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.ensure_future(guard(bare, channel=Slow(), audit=log).ainvoke(args))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not (
            log.path.exists() and log.path.read_bytes()
        ):  # a thread that ran `invoke` hears of it a moment later
            await asyncio.sleep(0)
        answer.set()
        written.wait(120)

    loop: Any = None
    asked: Any = None
    asyncio.run(main())

    (line,) = lines()
    assert (line["approved"], line["executed"]) == (None, False)
    assert "CancelledError" in line["error"] and SEEN == []


@pytest.mark.parametrize("base", [Subclass, ArunToRunInAThread])
def test_cancelled_in_the_body(base: Any, log: AuditLog, lines: Any) -> None:
    """What the executor has begun goes on as bare, inner steps too, though its caller has left."""
    started, go, done = threading.Event(), threading.Event(), threading.Event()
    said = []

    class Slow(base):  # type: ignore[misc]
        def _run(self, x: int, customer: str = "ann") -> str:
            if x:
                started.set()
                go.wait(120)
                said.append(self._run(x - 1, customer))
                done.set()
            return f"done {x}"

    async def main() -> None:
        task = asyncio.ensure_future(guarded.ainvoke({"x": 1, "customer": "bob"}))
        await asyncio.to_thread(started.wait, 120)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await asyncio.to_thread(done.wait, 120)

    channel = ScriptedChannel(True)
    guarded = guard(Slow(), channel=channel, audit=log)
    asyncio.run(main())

    assert said == ["done 0"]
    assert [line["error"] for line in lines()] == ["CancelledError"]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", ["function", "subclass", "single input"])
def test_cancelled_before_the_body(
    kind: str, held: bool, twice: bool, log: AuditLog, lines: Any
) -> None:
    """Released, but cancelled while the executor is busy: it does not run, and the log says so."""
    bare, args = KINDS[kind]()
    SEEN.clear()
    channel = AutoApproveChannel()
    policy = ApprovalPolicy(require_always=held)
    tools = [guard(bare, policy=policy, channel=channel, audit=log)]
    if twice:
        off = AuditLog(enabled=False)
        tools.append(guard(tools[0], policy=policy, channel=channel, audit=off))

    @guard(policy=ApprovalPolicy(require_always=False), audit=log)
    async def caller() -> None:
        await tools[-1].ainvoke(args)

    async def main() -> None:
        loop, began, busy = asyncio.get_running_loop(), threading.Event(), threading.Event()
        executor = ThreadPoolExecutor(1)
        loop.set_default_executor(executor)
        before = loop.run_in_executor(None, lambda: began.set() or busy.wait())
        while not began.is_set():
            await asyncio.sleep(0)
        task = asyncio.ensure_future(caller())
        while not executor._work_queue.qsize():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        busy.set()
        await before
        await asyncio.to_thread(operator.add, 1, 1)  # behind the body, had that stayed

    asyncio.run(main())

    inner, outer = lines()
    assert (inner["approved"], inner["executed"]) == (True if held else None, False)
    assert inner["error"] == "CancelledError before the body began"
    assert (outer["executed"], outer["error"]) == (True, "CancelledError")
    assert SEEN == [] and len(channel.requests) == held * len(tools)


# --- guard_tools, and what cannot be guarded -------------------------------------------------


class Kit(BaseToolkit):
    def get_tools(self) -> list[BaseTool]:
        return [KINDS["function"]()[0], tool("plot")(ping)]


def test_guard_tools(log: AuditLog) -> None:
    """Tools of a toolkit and functions are guarded in order, each by the policy of its name."""

    def delete(path: str) -> str:
        """Delete a file."""
        return path

    free = ApprovalPolicy(require_always=False)
    channel = ScriptedChannel(False, False)
    tools = guard_tools(
        [*Kit().get_tools(), delete], policy={"plot": free}, channel=channel, audit=log
    )

    assert [t.name for t in tools] == ["refund", "plot", "delete"]
    assert all(isinstance(t, ApprovalWrappedTool) for t in tools)
    assert tools[0].invoke({"x": 1}).startswith("DENIED: ")
    assert tools[1].invoke({}) == "done None"
    assert tools[2].invoke({"path": "/"}).startswith("DENIED: ")
    assert guard_tools([], audit=log) == guard_tools((), audit=log) == []


def test_one_policy_for_all(log: AuditLog) -> None:
    """Names in a shared policy or in exclude must be some tool's, but need not be every tool's."""

    @tool
    def free(path: str, client: str = "") -> str:
        """Do it."""
        return path

    policy = ApprovalPolicy(amount_over={"arg": "x", "threshold": 3})
    channel = ScriptedChannel(False)
    tools = guard_tools(
        [free, *Kit().get_tools()], policy=policy, channel=channel, audit=log, exclude=["client"]
    )

    assert tools[0].invoke({"path": "a"}) == "a"
    assert tools[1].invoke({"x": 4}).startswith("DENIED: ")
    assert tools[1].invoke({"x": 3}) == "done 3"


A_TOOL = KINDS["function"]()[0]
HIDING = KINDS["injected"]()[0]


@pytest.mark.parametrize(
    ("tools", "options", "error", "text"),
    [
        ([{"type": "web_search"}], {}, TypeError, r"provider-side tool \(a dict\).*web_search"),
        (Kit(), {}, TypeError, "takes a list of tools.*pass its get_tools"),
        ([Kit()], {}, TypeError, "LangChain tools and functions.*pass its get_tools"),
        ([Subclass], {}, TypeError, "takes LangChain tools and functions, not <class"),
        ([3], {}, TypeError, "takes LangChain tools and functions, not 3"),
        (A_TOOL, {}, TypeError, "takes a list of tools"),
        ("refund", {}, TypeError, "takes a list of tools, not 'refund'"),
        (None, {}, TypeError, "takes a list of tools, not None"),
        ([A_TOOL], {"policy": {"refnd": ApprovalPolicy()}}, ValueError, "'refnd'.*'refund'"),
        ([A_TOOL], {"policy": {"refund": 3}}, TypeError, "takes an ApprovalPolicy"),
        ([A_TOOL], {"exclude": ["clent"]}, ValueError, "exclude names 'clent'"),
        (
            [A_TOOL, HIDING],
            {"policy": ApprovalPolicy(match_args={"amount": "1"})},
            ValueError,
            "'amount', which is no argument of any of the tools",
        ),
        (
            [A_TOOL, HIDING],
            {"policy": {"refund": ApprovalPolicy(match_args={"secret": "1"})}},
            ValueError,
            "'secret', which is no argument of the tool 'refund'",
        ),
        (
            [A_TOOL],
            {"policy": ApprovalPolicy(match_args={"x": "1"}), "exclude": ["x"]},
            ValueError,
            "left out of what a policy sees",
        ),
        (
            [A_TOOL],
            {"policy": {"refund": ApprovalPolicy(match_args={"x": "1"})}, "exclude": ["x"]},
            ValueError,
            "left out of what a policy sees",
        ),
    ],
)
def test_wrong_use(tools: Any, options: Any, error: Any, text: str, log: AuditLog) -> None:
    """Wrong use is an error at once that names the thing."""
    with pytest.raises(error, match=text):
        guard_tools(tools, channel=Asked(), audit=log, **options)


def test_wrong_use_of_guard(log: AuditLog) -> None:
    """`guard` checks names as `guard_tools` does, and a tool answers its agent by itself."""
    with pytest.raises(ValueError, match="'amount', which is no argument of the tool 'refund'"):
        guard(A_TOOL, policy=ApprovalPolicy(match_args={"amount": "1"}), audit=log)
    with pytest.raises(TypeError, match="a tool answers its agent"):
        guard(A_TOOL, on_denied=str, audit=log)


def test_rule_on_what_a_schema_leaves_open(log: AuditLog) -> None:
    """A JSON schema that allows further arguments may get what a policy names."""
    schema = {"type": "object", "properties": {}, "additionalProperties": True}
    bare = StructuredTool(name="pay", description="Pay.", func=note, args_schema=schema)
    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})
    guarded = guard(bare, policy=policy, channel=AutoDenyChannel(), audit=log)

    assert guarded.invoke({"amount": 50}) == bare.invoke({"amount": 50})
    assert guarded.invoke({"amount": 4000}).startswith("DENIED: ")


def test_rules_on_what_an_open_schema_hides(log: AuditLog) -> None:
    """Beside what may come, there is still what never reaches a policy: an error as elsewhere."""

    def pay(secret: Annotated[Any, InjectedToolArg] = "", **more: Any) -> str:
        return note(**more)

    bare = made(pay, {"type": "object", "properties": {}, "additionalProperties": True})
    no_secret, no_more = (ApprovalPolicy(match_args={name: "k"}) for name in ("secret", "more"))

    with pytest.raises(ValueError, match="'secret', which is left out of what a policy sees"):
        guard(bare, policy=no_secret, audit=log)
    with pytest.raises(ValueError, match="'more', which is left out of what a policy sees"):
        guard_tools([bare], policy=no_more, exclude=["more"], audit=log)


class Given(BaseModel):
    x: Any = None
    callbacks: str = ""


def own_init(self: Any, x: Any) -> None:
    BaseModel.__init__(self, x=x)


own_init.__annotations__["x"] = Annotated[str, InjectedToolArg]
OwnInit = type("OwnInit", (Amount,), {"__init__": own_init, "__module__": __name__})


def takes(hint: Any) -> Any:
    def pay(x: Any, callbacks: str = "") -> str:
        return note(x=x)

    pay.__annotations__["x"] = hint
    return pay


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: HIDING, "secret"),
        (lambda: HIDING, "call_id"),
        (lambda: HIDING, "config"),
        (lambda: HIDING, "callbacks"),
        (lambda: Injected(), "secret"),
        (lambda: made(takes(Any), Hidden), "secret"),
        (lambda: made(takes(Any), OwnInit), "x"),
        (lambda: made(takes(Any), Given), "callbacks"),
        (lambda: made(takes(RunnableConfig), Given), "x"),
        (lambda: made(takes(RunnableConfig | None), JSON_SCHEMA), "x"),
        (lambda: made(takes("RunnableConfig"), Given), "x"),
        (lambda: made(takes("Optional[RunnableConfig]"), JSON_SCHEMA), "x"),
        (lambda: made(functools.wraps(takes(RunnableConfig))(lambda **_: ""), Given), "x"),
    ],
)
def test_rules_on_what_the_runtime_fills_in(make: Any, name: str, log: AuditLog) -> None:
    """A policy cannot look at what it does not see: naming it is an error at once."""
    with pytest.raises(ValueError, match=f"'{name}', which is left out of what a policy sees"):
        guard(make(), policy=ApprovalPolicy(match_args={name: "a"}), audit=log)


@pytest.mark.parametrize("method", ["_run", "_arun"])
def test_a_method_of_one_instance(method: str, log: AuditLog) -> None:
    """A method that was set on one tool alone would come before the gate: that is an error."""
    bare = Subclass()
    guarded = guard(bare, audit=log)
    setattr(bare, method, note)
    for way in (lambda: guard(bare, audit=log), lambda: setattr(guarded, method, note)):
        with pytest.raises(TypeError, match=f"set as {method} of the tool 'refund' alone"):
            way()
    assert method not in vars(guarded)


class ByItself(Subclass):
    log: ClassVar[list[Any]] = []

    def run(self, tool_input: Any, *args: Any, **kwargs: Any) -> str:
        self.log.append(tool_input)
        return self.helper(tool_input, "ann")


class Roundabout(Subclass):
    def run(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        return self.look_up(tool_input, **kwargs)

    def look_up(self, tool_input: Any, **kwargs: Any) -> Any:
        return super().run(tool_input, **kwargs)

    async def ainvoke(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("not async")


def test_a_run_that_leads_nowhere(log: AuditLog) -> None:
    """A class whose `run` does the work without `_run` cannot be guarded there: it is an error."""
    with pytest.raises(TypeError, match=r"ByItself\.run never leads to: put its work there"):
        guard(ByItself(), audit=log)
    assert guard(Roundabout(), channel=Asked(), audit=log).invoke({"x": 1}) == "done 1"


def test_a_schema_completed_later(log: AuditLog) -> None:
    """A tool whose schema names what is defined further down can be guarded before that."""

    class Late(BaseModel):
        x: int
        item: Item | None = None  # noqa: F821
        secret: Annotated[str, InjectedToolArg] = "s3cret"

    def refund(x: int, item: Any = None, secret: str = "") -> str:
        return note(x=x, item=item)

    asked = Asked()
    guarded = guard(made(refund, Late), channel=asked, audit=log)
    Late.model_rebuild(_types_namespace={"Item": int, "Optional": Optional})

    assert guarded.invoke({"x": 1, "item": 2, "secret": "s3cret"}) == "done 1"
    assert asked.actions[0].args == {"x": 1, "item": 2}
