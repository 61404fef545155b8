"""A guarded tool beside the bare one: every kind of tool, run in every way."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import operator
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any
from unittest import mock

import pytest
from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
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
from langchain_core.tracers import BaseTracer
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.types import Command
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, v1

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

PLACE = contextvars.ContextVar("PLACE", default="nowhere")
SEEN: list[dict[str, Any]] = []


def note(**args: Any) -> str:
    """What a body saw: its arguments, its config, its context, and the kind of its thread."""
    config = ensure_config()
    SEEN.append(
        {
            "args": args,
            "config": [config["tags"], config["metadata"], config.get("configurable")],
            "place": PLACE.get(),
            "thread": threading.current_thread().name.split("_")[0].split("-")[0],
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


def ping() -> str:
    """Ping."""
    return note()


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
    return note(x=x) + client + config["configurable"]["thread_id"]


class Args(BaseModel):
    x: int = Field(description="how much")
    customer: str = "ann"


class Amount(BaseModel):
    x: int


class ArgsV1(v1.BaseModel):
    x: int
    customer: str = v1.Field("ann", alias="customer_id")


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


class ArunToRunInAThread(Subclass):
    async def _arun(self, x: int, customer: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(None, self._run, x, customer)


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


class StatefulFunction(StructuredTool):
    calls: int = 0

    def _run(self, *args: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        self.calls += 1
        return str(super()._run(*args, config=config, **kwargs)) + str(self.calls)


class Composio(StructuredTool):
    """Wraps a way in, as the class of Composio's tools does."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().run(*args, **kwargs)
        except ValueError as error:
            return f"failed: {error}"


def made(func: Any, schema: Any, cls: Any = StructuredTool, **fields: Any) -> Any:
    return cls(name="made", description="d", args_schema=schema, func=func, **fields)


JSON_SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
FUNDS, FIVE, BOB = ToolException("no funds"), {"x": 5}, {"x": 5, "customer": "bob"}
WITH_ARTIFACT: Any = {"response_format": "content_and_artifact", "return_direct": True}
INVALID, SECRET = {"x": {"not": "a number"}}, {"x": 5, "secret": "s3cret"}
BOTH: Any = {"coroutine": arefund, "tags": ["t"], "metadata": {"m": 1}, "verbose": False}
KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "function": lambda: (tool(refund), {"x": "5"}),
    "async function": lambda: (tool("refund")(arefund), FIVE),
    "both functions": lambda: (StructuredTool.from_function(refund, **BOTH), FIVE),
    "single input": lambda: (Tool("search", lambda x: note(x=x), "Search."), "shoes"),
    "subclass": lambda: (Subclass(), {"x": "5", "customer": "bob"}),
    "without schema": lambda: (Schemaless(), FIVE),
    "async only": lambda: (AsyncOnly(), BOB),
    "arun to run in a thread": lambda: (ArunToRunInAThread(), BOB),
    "state": lambda: (Stateful(start=7, colour="red"), FIVE),
    "state and a function": lambda: (made(refund, Args, StatefulFunction), BOB),
    "v1 schema": lambda: (made(refund, ArgsV1), {"x": "5", "customer_id": "bob"}),
    "json schema": lambda: (made(anything, JSON_SCHEMA), {"x": "5", "unlisted": True}),
    "as MCP adapters make them": lambda: (
        made(None, JSON_SCHEMA, coroutine=call_tool, handle_tool_error=str, **WITH_ARTIFACT),
        {"x": "5"},
    ),
    "artifact": lambda: (giving(("a", {"points": [1]}), **WITH_ARTIFACT), FIVE),
    "body raises": lambda: (giving(ValueError("declined"), handle_tool_error=True), FIVE),
    "ToolException True": lambda: (giving(FUNDS, handle_tool_error=True), FIVE),
    "invalid": lambda: (giving(""), INVALID),
    "injected": lambda: (tool(hiding), SECRET),
    "command": lambda: (giving(Command(goto="end", update={"x": 1})), FIVE),
    "partial": lambda: (made(functools.partial(pay_with, "client"), Amount), FIVE),
    "wrapped ways": lambda: (Composio.from_function(refund), FIVE),
}


# --- ways of running them --------------------------------------------------------------------


class Tracer(BaseTracer):
    def _persist_run(self, run: Any) -> None:
        self.traced = [*getattr(self, "traced", []), traced(run)]


def traced(run: Any) -> Any:
    """A run as a tracer keeps it, without ids and times."""
    children = [traced(child) for child in run.child_runs]
    own = (run.name, run.run_type, run.inputs, run.outputs, bool(run.error), run.tags)
    return (*own, run.extra.get("metadata"), [event["name"] for event in run.events], children)


def call_of(args: Any) -> dict[str, Any]:
    given = dict(args) if isinstance(args, dict) else {"__arg1": args}
    return {"name": "any", "args": given, "id": "", "type": "tool_call"}


async def _events(made: BaseTool, args: Any, config: Any) -> list[Any]:
    found = [event async for event in made.astream_events(args, config, version="v2")]
    return [{k: v for k, v in e.items() if k not in ("run_id", "parent_ids")} for e in found]


ONE_BY_ONE: Any = {"max_concurrency": 1}
WAYS: dict[str, Callable[[BaseTool, Any, Any], Any]] = {
    "invoke": lambda t, a, c: t.invoke(a, c),
    "invoke a call": lambda t, a, c: t.invoke(call_of(a), c),
    "ainvoke": lambda t, a, c: t.ainvoke(a, c),
    "ainvoke a call": lambda t, a, c: t.ainvoke(call_of(a), c),
    "run": lambda t, a, c: t.run(a, callbacks=c["callbacks"], tool_call_id="c", config=c),
    "arun": lambda t, a, c: t.arun(a, callbacks=c["callbacks"], config=c),
    "batch": lambda t, a, c: t.batch([a, call_of(a)], {**c, **ONE_BY_ONE}, return_exceptions=True),
    "abatch": lambda t, a, c: t.abatch(
        [a, call_of(a)], {**c, **ONE_BY_ONE}, return_exceptions=True
    ),
    "pipe": lambda t, a, c: (RunnableLambda(lambda x: x) | t | str).invoke(call_of(a), c),
    "bind": lambda t, a, c: t.bind(colour="red").with_config(tags=["own"]).invoke(call_of(a), c),
    "astream_events": _events,
}


def finished(result: Any) -> Any:
    async def wait() -> Any:
        return await result

    return asyncio.run(wait()) if inspect.isawaitable(result) else result


def observe(way: Any, made: BaseTool, args: Any) -> dict[str, Any]:
    """Everything that can be seen of one run, from outside and from within the body."""
    SEEN.clear()
    tracer = Tracer()
    config = {
        "callbacks": [tracer],
        "tags": ["given"],
        "metadata": {"who": "ann"},
        "configurable": {"thread_id": "t-1"},
    }
    PLACE.set("test")
    result: Any
    try:
        result = finished(way(made, copy.deepcopy(args), config))
    except Exception as error:
        result = (type(error), str(error), type(error.__context__), type(error.__cause__))
    if isinstance(result, list):
        result = [repr(one) if isinstance(one, Exception) else one for one in result]
    return {
        "result": result,
        "type": type(result),
        "seen": list(SEEN),
        "runs": getattr(tracer, "traced", []),
    }


@pytest.fixture
def log(log_path: Any) -> AuditLog:
    return AuditLog(log_path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_approved_like_the_bare_tool(kind: str, way: str, log: AuditLog, lines: Any) -> None:
    """Results, errors, events, traces, and all that the body sees are those of the bare tool."""
    channel = AutoApproveChannel()
    bare, args = KINDS[kind]()
    guarded = guard(KINDS[kind]()[0], channel=channel, audit=log)

    wanted = observe(WAYS[way], bare, args)
    got = observe(WAYS[way], guarded, args)

    if sys.version_info < (3, 11) and way.startswith("a"):  # there some bare bodies know no config
        del wanted["runs"]
        for seen in [*wanted["seen"], *got["seen"]]:
            seen.pop("config")
    for aspect, value in wanted.items():
        assert got[aspect] == value, aspect
    shown = [request.args for request in channel.requests]
    if kind != "async only":  # run plainly, it is asked for, and says that it cannot
        assert len(shown) == len(wanted["seen"])
    for args_shown, seen in zip(shown, wanted["seen"], strict=False):
        assert args_shown.items() >= seen["args"].items()  # what was approved is what ran
    assert [line["executed"] for line in lines()] == [True] * len(shown)
    assert "s3cret" not in repr(shown) + str([line["args"] for line in lines()])


@pytest.mark.parametrize("kind", KINDS)
def test_looks_like_the_bare_tool(kind: str, log: AuditLog) -> None:
    """Class, fields, schemas and signatures are the bare tool's."""
    bare, _ = KINDS[kind]()
    guarded = guard(bare, audit=log)

    assert isinstance(guarded, type(bare)) and isinstance(guarded, ApprovalWrappedTool)
    for text in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(type(guarded), text) == getattr(type(bare), text)
    for name in type(bare).model_fields:
        if name not in ("func", "coroutine"):
            assert getattr(guarded, name) is getattr(bare, name)
    assert list(guarded.model_dump()) == list(bare.model_dump())
    assert list(dict(guarded)) == list(dict(bare))
    same = [
        convert_to_openai_tool,
        operator.attrgetter("args"),
        operator.attrgetter("is_single_input"),
        lambda t: t.get_input_jsonschema(),
        lambda t: t.get_output_jsonschema(),
        lambda t: str(t.tool_call_schema),
        lambda t: list(inspect.signature(t._run).parameters),
        lambda t: t.func and (inspect.signature(t.func), t.func.__doc__),
        lambda t: [inspect.iscoroutinefunction(f) for f in (t._run, t._arun, t.coroutine)],
        lambda t: t.get_name(),
    ]
    for number, look in enumerate(same):
        assert _outcome(look, guarded) == _outcome(look, bare), number


def _outcome(look: Any, made: Any) -> Any:
    try:
        return look(made)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "invoke a call", "ainvoke a call", "arun"])
@pytest.mark.parametrize("kind", KINDS)
def test_denied(kind: str, way: str, log: AuditLog, lines: Any) -> None:
    """A refusal is an error message with the call's id, or the text; nothing rewords it."""
    bare, args = KINDS[kind]()
    if kind.startswith("invalid"):
        pytest.skip("such calls do not reach the gate")
    guarded = guard(bare, channel=AutoDenyChannel("no"), audit=log)

    got = observe(WAYS[way], guarded, args)

    assert got["seen"] == []
    if not lines():  # it does not get there bare, either
        assert got["result"] == observe(WAYS[way], bare, args)["result"]
        return
    (line,) = lines()
    assert (line["approved"], line["executed"]) == (False, False)
    result = got["result"]
    if "call" in way:
        assert (result.tool_call_id, result.status, result.name) == ("", "error", bare.name)
        result = result.content
    assert result.startswith("DENIED: ") and f"{bare.name}(" in result
    if kind != "wrapped ways" or way == "arun":
        assert [run[4] for run in got["runs"]] == [False]  # one, and no error


# --- no way round ----------------------------------------------------------------------------


FIELD: Any = ConfigurableField(id="called")
CALLED: Any = {"configurable": {"called": "pay"}}
ROUND: dict[str, Callable[[Any], Any]] = {
    "func": lambda t: t.func(x=4),
    "coroutine": lambda t: t.coroutine(4),
    "_run": lambda t: t._run(x=4, config={}),
    "_arun": lambda t: t._arun(x=4, config={}),
    "run": lambda t: t.run({"x": 4}),
    "arun": lambda t: t.arun({"x": 4}),
    "stream": lambda t: next(iter(t.stream({"x": 4}))),
    "its class": lambda t: StructuredTool._run(t, x=4, config={}),
    "its class, awaited": lambda t: StructuredTool.ainvoke(t, {"x": 4}),
    "model_dump": lambda t: t.model_dump()["func"](4),
    "dict": lambda t: dict(t)["coroutine"](4),
    "vars": lambda t: vars(t)["func"](4),
    "copy": lambda t: copy.copy(t).func(4),
    "deepcopy": lambda t: copy.deepcopy(t).invoke({"x": 4}),
    "model_copy": lambda t: t.model_copy().coroutine(4),
    "another body": lambda t: t.model_copy(update={"func": refund}).func(4),
    "made of it": lambda t: StructuredTool(**dict(t)).invoke({"x": 4}),
    "configurable, left alone": lambda t: t.configurable_fields(name=FIELD).invoke({"x": 4}),
    "configurable": lambda t: t.configurable_fields(name=FIELD).func(4),
    "wrapped": lambda t: RunnableLambda(t.func).invoke(4),
}


@pytest.mark.parametrize("way", ROUND)
def test_no_way_round(way: str, log: AuditLog, lines: Any) -> None:
    """Whatever of a tool is called, the gate stands before the body."""
    bare, _ = KINDS["both functions"]()
    guarded: Any = guard(bare, channel=AutoDenyChannel(), audit=log)
    SEEN.clear()

    result = finished(ROUND[way](guarded))

    assert result.startswith("DENIED: ") and "(x=4, customer='ann')" in result
    assert SEEN == [] and len(lines()) == 1


def test_made_of_the_class(log: AuditLog) -> None:
    """A guarded tool's class makes no tools, since they would have no guard."""
    for make in (
        lambda t: type(t)(),
        lambda t: type(t).model_construct(),
        lambda t: t.configurable_fields(name=FIELD).invoke(FIVE, CALLED),
    ):
        with pytest.raises(
            TypeError, match="make the tool from the original Subclass, and guard it"
        ):
            make(guard(Subclass(), channel=AutoApproveChannel(), audit=log))


def own(way: str) -> BaseTool:
    """A tool of a class that does the work in this method."""

    def work(self: Any, given: Any, config: Any = None, **kwargs: Any) -> str:
        return note(given=given)

    async def awork(self: Any, given: Any, config: Any = None, **kwargs: Any) -> str:
        return note(given=given)

    return type("Own", (Subclass,), {way: awork if way[0] == "a" else work})()  # type: ignore[no-any-return]


class OwnCall(Subclass):
    def __call__(self, amount: int, whom: str = "bob") -> str:
        return note(amount=amount, whom=whom)


def patched() -> Any:
    """A tool whose `invoke` was replaced for it alone, as instrumentation does."""
    made = Subclass()
    object.__setattr__(made, "invoke", lambda given, config=None: note(given=given))
    return made


SHOWN_5 = {"x": 5, "customer": "ann"}
X_7 = {"x": "7"}
CAME_7 = {"x": "7", "customer": "ann"}  # it is the tool's own method that validates it
SHOWN_7 = {"x": 7, "customer": "ann"}
OWN: list[tuple[Any, Any, Any]] = [
    (lambda: own("invoke"), lambda t: t.invoke(X_7), CAME_7),
    (lambda: own("invoke"), lambda t: t.invoke({"y": 1}), {"y": 1, "customer": "ann"}),
    (lambda: own("invoke"), lambda t: t.invoke("text"), {"input": "text"}),
    (lambda: own("invoke"), lambda t: t.invoke(X_7, n=3), {**CAME_7, "n": 3}),
    (lambda: own("invoke"), lambda t: t.ainvoke(X_7), CAME_7),
    (lambda: own("run"), lambda t: t.invoke(call_of(X_7)), CAME_7),
    (lambda: own("run"), lambda t: t.run({"x": 7, "more": 1}), {**SHOWN_7, "more": 1}),
    (lambda: own("run"), lambda t: t.arun(X_7), SHOWN_7),
    (lambda: own("ainvoke"), lambda t: t.ainvoke(X_7), CAME_7),
    (lambda: own("arun"), lambda t: t.ainvoke(X_7), CAME_7),
    (OwnCall, lambda t: t(7), {"amount": 7, "whom": "bob"}),
    (patched, lambda t: t.batch([X_7]), CAME_7),
    (lambda: Composio.from_function(refund), lambda t: t.ainvoke(X_7), CAME_7),
]


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("number", range(len(OWN)))
def test_ways_of_its_own(number: int, approved: bool, log: AuditLog, lines: Any) -> None:
    """A class that does the work before `_run` is asked for there, once, with all that it gets."""
    make, way, shown = OWN[number]
    channel = ScriptedChannel(approved)
    guarded = guard(make(), channel=channel, audit=log)
    SEEN.clear()

    result = finished(way(guarded))

    assert [request.args for request in channel.requests] == [shown]
    assert len(SEEN) == approved and [line["executed"] for line in lines()] == [approved]
    if approved:
        assert result == finished(way(make()))
    elif isinstance(result, ToolMessage):
        assert (result.status, result.tool_call_id) == ("error", "")
    else:
        assert "DENIED: " in str(result)


@pytest.mark.parametrize("make", [lambda: own("invoke"), lambda: made(anything, JSON_SCHEMA)])
def test_changed_while_an_approval_is_pending(make: Any, log: AuditLog) -> None:
    """What the caller does to its input meanwhile reaches no body; a change within is noticed."""
    given: dict[str, Any] = {"x": 1, "items": [1]}

    def answer(action: Action) -> bool:
        given["x"] = 1_000
        if action.args["items"] == [1, 2]:
            given["items"].append(3)
        return True

    guarded = guard(make(), channel=ScriptedChannel(answer), audit=log)
    SEEN.clear()

    guarded.invoke(given)

    assert "1000" not in str(SEEN) and len(SEEN) == 1
    given["items"].append(2)
    assert guarded.invoke(given).startswith("BLOCKED: ") and len(SEEN) == 1


@pytest.mark.parametrize("way", ["invoke a call", "ainvoke a call"])
@pytest.mark.parametrize("answers", [(True, True), (True, False), (False,)])
def test_guarded_twice(way: str, answers: Any, log: AuditLog, lines: Any) -> None:
    """Both gates ask, the outer one first; each has its line, and neither tells of a body unrun."""
    bare, args = KINDS["function"]()
    order = []

    class Ordered(ScriptedChannel):
        def request_approval(self, action: Action) -> Decision:
            order.append(self)
            return super().request_approval(action)

    outer, inner = Ordered(answers[0]), Ordered(*answers[1:])
    guarded = guard(guard(bare, channel=inner, audit=log), channel=outer, audit=log)

    got = observe(WAYS[way], guarded, args)

    assert order == [outer, inner][: len(answers)]
    assert [line["executed"] for line in lines()] == [all(answers)] * len(answers)
    assert len(got["seen"]) == all(answers)
    if not all(answers):
        assert (got["result"].status, got["result"].tool_call_id) == ("error", "")
        assert got["result"].content.startswith("DENIED: ")
    if answers == (True, False):
        assert lines()[1]["error"] == "refused by a second gate"


# --- what is shown ---------------------------------------------------------------------------


class Named(BaseModel):
    x: int
    callbacks: list[str] = []


class WithDefault(BaseModel):
    x: int
    amount: float = 5000
    secret: Annotated[str, InjectedToolArg] = "s3cret"
    tags: list[str] = Field(default_factory=lambda: ["new"])


def _schema(**amount: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": {"type": "integer"}, "amount": amount}}


def search(text: str, size: int = 3) -> str:
    return note(text=text, size=size)


WITH_5000 = {"x": 1, "amount": 5000}
ODD = {"properties": {"x": True, "amount": {"default": 5000}}}
SHOWN: list[tuple[Callable[[], Any], Any, Any]] = [
    # Defaults that stand only in a schema, and those of the body.
    (lambda: made(anything, _schema(default=5000)), {"x": 1}, WITH_5000),
    (lambda: made(anything, _schema(default=5000)), {"x": 1, "amount": 7}, {"x": 1, "amount": 7}),
    (lambda: made(anything, _schema()), {"x": 1}, {"x": 1}),
    (lambda: made(lambda x, amount=7: note(), _schema(default=1)), {"x": 1}, {"x": 1, "amount": 7}),
    (lambda: made(anything, ODD), {"x": 1}, WITH_5000),
    (lambda: Tool("search", search, "d"), "a", {"text": "a", "size": 3}),
    (lambda: made(refund, JSON_SCHEMA), {"x": 1}, {"x": 1, "customer": "ann"}),
    # Names that others than LangChain's runtime use, too.
    (lambda: made(anything, Named), {"x": 1, "callbacks": ["b"]}, {"x": 1, "callbacks": ["b"]}),
    (lambda: made(lambda x, callbacks=None: note(x=x), Amount), {"x": 1}, {"x": 1}),
]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_what_is_shown(number: int, way: str, log: AuditLog) -> None:
    """Policy and approver see what the body gets, and what the schema says it falls back to."""
    make, args, shown = SHOWN[number]
    channel = AutoApproveChannel()

    got = observe(WAYS[way], guard(make(), channel=channel, audit=log), args)

    assert [request.args for request in channel.requests] == [shown]
    wanted = observe(WAYS[way], make(), args)
    assert got["result"] == wanted["result"]
    assert [seen["args"] for seen in got["seen"]] == [seen["args"] for seen in wanted["seen"]]


@pytest.mark.parametrize("schema", [_schema(default=5), WithDefault])
def test_a_rule_on_a_schema_default(schema: Any, log: AuditLog) -> None:
    """A rule judges the default, also where langchain-core does not hand it to the body."""
    bare = made(anything, schema)
    guarded = guard(bare, policy=rule("amount"), channel=AutoDenyChannel(), audit=log)

    answer = guarded.invoke({"x": 1})

    assert answer.startswith("DENIED: ") and "s3cret" not in answer
    assert guarded.invoke({"x": 1, "amount": 3}) == "done 1"


def test_what_only_kwargs_can_bring_is_held_if_it_is_not_there(log: AuditLog) -> None:
    """In an open schema nobody can tell a rule's argument from a typo."""
    bare = made(anything, {**JSON_SCHEMA, "additionalProperties": True})
    guarded = guard(bare, policy=rule("amount"), channel=AutoDenyChannel(), audit=log)

    assert guarded.invoke({"x": 1}).startswith("DENIED: ")
    assert guarded.invoke({"x": 1, "amount": 3}) == "done 1"


def test_arguments_that_do_not_fit(log: AuditLog, lines: Any) -> None:
    """Where nothing validates, the body's own complaint comes, and nobody is asked."""
    bare = made(lambda x, *, y: None, JSON_SCHEMA)

    wanted = observe(WAYS["invoke"], bare, {"x": 1})["result"]

    assert observe(WAYS["invoke"], guard(bare, audit=log), {"x": 1})["result"] == wanted
    assert wanted[0] is TypeError and lines() == []


def test_injected_into_a_guarded_function(log: AuditLog) -> None:
    """With @tool above @guard, too, nobody but the body sees what LangChain fills in."""
    channel = AutoApproveChannel()
    made = tool("pay")(guard(channel=channel, audit=log)(hiding))

    got = observe(WAYS["invoke a call"], made, SECRET)

    assert got == observe(WAYS["invoke a call"], tool("pay")(hiding), SECRET)
    assert [request.args for request in channel.requests] == [{"x": 5}]
    with pytest.raises(ValueError, match="'secret'"):
        guard(hiding, policy=rule("secret"), audit=log)


class Shelf(BaseRetriever):
    books: list[str]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(query)]


def test_retriever_tool(log: AuditLog, lines: Any) -> None:
    """What a retriever tool of langchain-core 0.3 hands to its own body is not shown."""
    bare = create_retriever_tool(Shelf(books=["s3cret"]), "search", "Search.")
    guarded = guard(bare, channel=AutoApproveChannel(), audit=log)

    assert guarded.invoke({"query": "shoes"}) == "shoes"

    assert lines()[0]["args"].keys() <= {"query", "document_separator", "response_format"}


# --- state and copies ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["state", "state and a function"])
def test_state(kind: str, log: AuditLog, lines: Any) -> None:
    """What a body leaves in its tool is there afterwards, and what is set from outside is seen."""
    bare, args = KINDS[kind]()
    original = KINDS[kind]()[0]
    before = repr(original)
    guarded = guard(original, channel=AutoApproveChannel(), audit=log)

    for made in (bare, guarded):
        made.invoke(args)
        assert made.calls == KINDS[kind]()[0].calls + 1
        made.calls += 10

    assert guarded.invoke(args) == bare.invoke(args)
    assert guarded.calls == bare.calls
    assert getattr(guarded, "anything", "") == getattr(bare, "anything", "")
    assert len(lines()) == 2
    assert repr(original) == before and not isinstance(original, ApprovalWrappedTool)


def copied_as_in_pydantic_1(tool: Any) -> Any:
    with pytest.warns(DeprecationWarning, match="copy"):
        return tool.copy()


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "copy of pydantic 1": copied_as_in_pydantic_1,
    "deepcopy": copy.deepcopy,
    "deep model_copy": lambda t: t.model_copy(deep=True),
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "guarded again": lambda t: guard(t, policy=ApprovalPolicy(require_always=False)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", ["subclass", "state", "named function", "guarded twice"])
def test_copies(kind: str, way: str, log: AuditLog, lines: Any) -> None:
    """A copy is of the same class, guarded as the tool is, and shares no state with it."""
    bare, args = KINDS[kind]() if kind in KINDS else (made(refund, Amount), FIVE)
    guarded = guard(bare, channel=AutoDenyChannel(), audit=log)
    if kind == "guarded twice":
        guarded = guard(guarded, channel=AutoApproveChannel(), audit=log)
    if (kind, way) == ("state", "pickle"):
        pytest.skip("its class takes no state")

    copied = COPIES[way](guarded)
    copied.description = "Another one."

    assert type(copied) is type(guarded) and guarded.description == bare.description
    assert copied.invoke(args).startswith("DENIED: ")
    assert len([line for line in lines() if line["needed_approval"]]) == 1 + ("twice" in kind)


class Total(BaseModel):
    total: int


@pytest.mark.parametrize("how", ["assigned", "model_copy"])
def test_changed_tool(how: str, log: AuditLog, lines: Any) -> None:
    """A guarded tool that is given another name, body and schema is guarded with these."""
    channel = ScriptedChannel(True, True, True, False)
    guarded: Any = guard(KINDS["both functions"]()[0], channel=channel, audit=log)
    guarded.invoke({"x": 1})
    change: Any = {"func": lambda total: note(x=total), "coroutine": None, "args_schema": Total}
    change["name"] = "pay"
    if how == "assigned":
        for name, value in change.items():
            setattr(guarded, name, value)
    else:
        guarded = guarded.model_copy(update=change)

    assert guarded.invoke({"total": "2"}) == guarded.func(2) == "done 2"
    denied = asyncio.run(guarded.ainvoke(call_of({"total": 2})))
    assert denied.name == "pay" and "pay(total=2)" in denied.content
    assert [request.args for request in channel.requests[1:]] == [{"total": 2}] * 3
    assert [line["tool"] for line in lines()] == ["refund", "pay", "pay", "pay"]


def test_patched(log: AuditLog) -> None:
    """What tests patch in a tool, and tracers in all classes, is behind the gate."""
    channel = ScriptedChannel(True, False, True, False)
    guarded = guard(Subclass(), channel=channel, audit=log)
    with mock.patch.object(guarded, "_run", return_value="patched"):
        assert guarded.invoke(FIVE) == "patched"
        assert guarded.invoke(FIVE).startswith("DENIED: ")
    assert guarded.invoke(FIVE) == "done 5"

    with mock.patch.object(BaseTool, "invoke", functools.partialmethod(BaseTool.invoke)):
        assert guard(Subclass(), channel=channel, audit=log).invoke(FIVE).startswith("DENIED: ")
    assert channel.requests[-1].args == SHOWN_5


# --- waiting ---------------------------------------------------------------------------------

WAITING = ["function", "async function", "subclass", "single input", "wrapped ways"]


@pytest.mark.parametrize("kind", WAITING)
def test_many_waiting(kind: str, log: AuditLog, lines: Any) -> None:
    """A hundred awaited calls wait at once without a thread, and the executor stays free."""
    bare, args = KINDS[kind]()

    async def main() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        all_there = asyncio.Event()
        ids: set[str] = set()

        class Waiting(ApprovalChannel):
            async def request_approval(self, action: Action) -> Decision:
                ids.add(action.id)
                if len(ids) == 100:
                    all_there.set()
                await all_there.wait()
                return Decision(True)

        guarded = guard(bare, channel=Waiting(), audit=log)
        tasks = [asyncio.ensure_future(guarded.ainvoke(args)) for _ in range(99)]
        while len(ids) < 99:
            assert await asyncio.to_thread(operator.add, 1, 1) == 2
        before = threading.active_count()
        tasks.append(asyncio.ensure_future(guarded.ainvoke(args)))
        results = await asyncio.gather(*tasks)
        assert threading.active_count() <= before and len(ids) == 100
        return results

    assert len(set(asyncio.run(main()))) == 1
    assert len(lines()) == 100


@pytest.mark.parametrize("kind", ["function", "subclass", "single input"])
def test_cancelled_before_the_body(kind: str, log: AuditLog, lines: Any) -> None:
    """Approved, but cancelled while the executor is busy: it does not run, and the log says so."""
    bare, args = KINDS[kind]()
    SEEN.clear()
    guarded = bare
    for _ in range(2):
        guarded = guard(guarded, channel=AutoApproveChannel(), audit=log)

    async def main() -> None:
        executor, busy = ThreadPoolExecutor(1), threading.Event()
        asyncio.get_running_loop().set_default_executor(executor)
        executor.submit(busy.wait)
        executor.submit(int)
        task = asyncio.ensure_future(guarded.ainvoke(args))
        while executor._work_queue.qsize() < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        busy.set()
        await asyncio.to_thread(int)  # behind the body, had that stayed

    asyncio.run(main())

    assert SEEN == []
    for line in lines():
        assert (line["approved"], line["executed"]) == (True, False)
        assert line["error"] == "CancelledError before the body began"
    assert len(lines()) == 2


# --- guard_tools, and what cannot be guarded -------------------------------------------------


def rule(name: str) -> ApprovalPolicy:
    return ApprovalPolicy(amount_over={"arg": name, "threshold": 3})


FREE = ApprovalPolicy(require_always=False)


@pytest.mark.parametrize("policy", [rule("x"), {"refund": rule("x"), "ping": FREE, "move": FREE}])
def test_guard_tools(policy: Any, log: AuditLog) -> None:
    """Tools and functions are guarded in order; a name need not be an argument of every tool."""

    def move(path: str, client: str = "") -> str:
        """Move a file."""
        return path

    given = [A_TOOL, ping, move]
    channel = AutoDenyChannel()
    tools = guard_tools(given, policy=policy, channel=channel, audit=log, exclude=["client"])

    assert [t.name for t in tools] == ["refund", "ping", "move"]
    assert all(isinstance(t, ApprovalWrappedTool) for t in tools)
    assert tools[0].invoke({"x": 4}).startswith("DENIED: ")
    assert [tools[0].invoke({"x": 3}), tools[1].invoke({})] == ["done 3", "done None"]
    assert tools[2].invoke({"path": "/", "client": "c"}) == "/"
    unlisted = guard_tools(given, policy={"ping": FREE}, channel=channel, audit=log)
    assert unlisted[0].invoke({"x": 1}).startswith("DENIED: ")
    assert unlisted[1].invoke({}) == "done None" and guard_tools([], audit=log) == []


class Kit(BaseToolkit):
    def get_tools(self) -> list[BaseTool]:
        return []


A_TOOL = KINDS["function"]()[0]
HIDING = KINDS["injected"]()[0]


@pytest.mark.parametrize(
    ("tools", "options", "error", "text"),
    [
        (Kit(), {}, TypeError, "takes a list of tools"),
        ([Kit()], {}, TypeError, "LangChain tools and functions"),
        ("refund", {}, TypeError, "takes a list of tools, not 'refund'"),
        (None, {}, TypeError, "takes a list of tools, not None"),
        ([A_TOOL], {"exclude": ["clent"]}, ValueError, "exclude names 'clent'"),
        ([A_TOOL, HIDING], {"policy": rule("amount")}, ValueError, "'amount'.*any of the tools"),
        ([A_TOOL, HIDING], {"policy": {"refund": rule("secret")}}, ValueError, "the tool 'refund'"),
        ([A_TOOL], {"policy": rule("x"), "exclude": ["x"]}, ValueError, "excluded"),
        ([A_TOOL], {"policy": {"refund": rule("x")}, "exclude": ["x"]}, ValueError, "excluded"),
    ],
)
def test_wrong_use(tools: Any, options: Any, error: Any, text: str, log: AuditLog) -> None:
    """Wrong use is an error at once that names the thing."""
    with pytest.raises(error, match=text):
        guard_tools(tools, audit=log, **options)


def pay(secret: Annotated[Any, InjectedToolArg] = "", **more: Any) -> str:
    return note(**more)


def test_rules_on_open_schemas(log: AuditLog) -> None:
    """A JSON schema that allows further arguments may get what a policy names; no other does."""
    bare = made(pay, {"type": "object", "properties": {}, "additionalProperties": True})
    guarded = guard(bare, policy=rule("amount"), channel=AutoDenyChannel(), audit=log)

    assert guarded.invoke({"amount": 3}) == bare.invoke({"amount": 3})
    assert guarded.invoke({"amount": 4}).startswith("DENIED: ")
    with pytest.raises(ValueError, match="'amount'"):
        guard(made(anything, JSON_SCHEMA), policy=rule("amount"), audit=log)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((lambda: HIDING, name) for name in ("secret", "call_id", "config", "callbacks")),
        (lambda: made(anything, Hidden), "secret"),
        (lambda: made(pay, JSON_SCHEMA), "secret"),
        (lambda: made(functools.wraps(hiding)(lambda **_: ""), Amount), "config"),
    ],
)
def test_rules_on_what_the_runtime_fills_in(make: Any, name: str, log: AuditLog) -> None:
    """A policy cannot look at what it does not see: naming it is an error at once."""
    with pytest.raises(ValueError, match=f"'{name}'.*the runtime fills it in"):
        guard(make(), policy=rule(name), audit=log)
