"""Guarded tools in real agents: LangGraph's ToolNode and loops, with a model that is scripted."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config, get_stream_writer
from langgraph.errors import ParentCommand
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from scripted import Model, create_agent

from actionguard import (
    Action,
    ApprovalChannel,
    ApprovalPolicy,
    AuditLog,
    Decision,
    guard,
    guard_tools,
)
from actionguard.testing import AutoApproveChannel, AutoDenyChannel, ScriptedChannel

try:
    from langchain.agents.middleware import wrap_tool_call
    from langgraph.prebuilt import ToolRuntime
except ImportError:  # before 1.0
    wrap_tool_call = ToolRuntime = None  # type: ignore[assignment]

RAN: list[Any] = []
THREAD: Any = {"configurable": {"thread_id": "t-1"}}
CALLS = [[("refund", {"amount": 5})], [("refund", {"amount": 7}), ("refund", {"amount": "x"})]]


def saying(*turns: Any) -> Model:
    """A model that asks for each turn's calls (pairs of name and args), and then says "bye"."""
    messages, number = [], 0
    for turn in turns:
        calls = []
        for name, args in turn:
            calls.append({"name": name, "args": args, "id": f"call-{number}"})
            number += 1
        messages.append(AIMessage("", tool_calls=calls))
    return Model(turns=[*messages, AIMessage("bye")])


@tool
def refund(amount: int, customer: str = "ann") -> str:
    """Refund an amount."""
    RAN.append(amount)
    get_stream_writer()({"refunding": amount})
    return f"refunded {amount} in {get_config()['configurable'].get('thread_id')}"


@tool
async def arefund(amount: int) -> str:
    """Refund an amount."""
    RAN.append(amount)
    return f"refunded {amount}"


@pytest.fixture
def log(log_path: Any) -> AuditLog:
    RAN.clear()
    return AuditLog(log_path)


@pytest.fixture(params=["invoke", "ainvoke"])
def go(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a graph in plain or in async code."""
    if request.param == "invoke":
        return lambda graph, *args, **kwargs: graph.invoke(*args, **kwargs)
    return lambda graph, *args, **kwargs: asyncio.run(graph.ainvoke(*args, **kwargs))


def start(**state: Any) -> dict[str, Any]:
    return {"messages": [HumanMessage("hi", id="h")], **state}


def test_agent_like_with_bare_tools(go: Any, log: AuditLog) -> None:
    """The conversation with guarded tools is that with the bare ones, wrong arguments included."""
    guarded = guard_tools([refund], channel=AutoApproveChannel(), audit=log)

    bare, state = (
        go(create_agent(saying(*CALLS), t), start(), THREAD) for t in ([refund], guarded)
    )

    assert [shape(m) for m in state["messages"]] == [shape(m) for m in bare["messages"]]
    assert RAN == [5, 7, 5, 7]


def test_denied_in_the_middle(go: Any, log: AuditLog, lines: Any) -> None:
    """The loop goes on after a denial, and each call of a message gets its own answer."""
    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 5})
    tools = guard_tools([refund], policy=policy, channel=AutoDenyChannel("too much"), audit=log)
    turns = [[("refund", {"amount": a}) for a in (1, 9, 2)], [("refund", {"amount": 3})]]

    messages = go(create_agent(saying(*turns), tools), start(), THREAD)["messages"]

    found = [m for m in messages if m.type == "tool"]
    assert [m.tool_call_id for m in found] == ["call-0", "call-1", "call-2", "call-3"]
    assert [m.status for m in found] == ["success", "error", "success", "success"]
    assert found[1].content.startswith("DENIED: ") and "too much" in found[1].content
    assert messages[-1].content == "bye"
    assert sorted(RAN) == [1, 2, 3] and len(lines()) == 4


def test_a_denial_of_return_direct_is_the_last_word(go: Any, log: AuditLog) -> None:
    """The agent of a `return_direct` tool ends with the denial, as it ends with every answer."""
    direct = refund.model_copy(update={"return_direct": True})
    tools = guard_tools([direct], channel=AutoDenyChannel(), audit=log)

    state = go(create_agent(saying(CALLS[0]), tools), start(), THREAD)

    assert state["messages"][-1].content.startswith("DENIED: ")


MODES = ["values", "updates", "messages", "custom", "tasks", "debug"]


@pytest.mark.parametrize("mode", MODES if ToolRuntime is None else [*MODES, "tools"])
@pytest.mark.parametrize("is_async", [False, True])
def test_streams_like_bare_tools(mode: Any, is_async: bool, log: AuditLog) -> None:
    """Every stream mode brings what it brings with the bare tool, the body's own writes too."""

    def stream(tools: Any) -> list[Any]:
        agent = create_agent(saying(CALLS[0]), tools)
        if not is_async:
            return list(agent.stream(start(), THREAD, stream_mode=mode))

        async def collect() -> list[Any]:
            return [part async for part in agent.astream(start(), THREAD, stream_mode=mode)]

        return asyncio.run(collect())

    wanted = stream([refund])
    got = stream(guard_tools([refund], channel=AutoApproveChannel(), audit=log))

    assert [shape(part) for part in got] == [shape(part) for part in wanted]
    assert mode != "custom" or got == [{"refunding": 5}]


def shape(value: Any) -> Any:
    """A value without the ids and times that differ from run to run."""
    if isinstance(value, BaseModel):
        value = (type(value).__name__, value.model_dump())
    if isinstance(value, dict):
        skip = ("id", "timestamp", "run_id", "checkpoint_ns", "langgraph_checkpoint_ns", "ls_")
        return {k: shape(v) for k, v in value.items() if not str(k).startswith(skip)}
    if isinstance(value, (list, tuple)):
        return [shape(item) for item in value]
    return value if isinstance(value, (str, int, float, type(None))) else type(value)


@pytest.mark.parametrize("held", [False, True])
def test_body_that_interrupts(held: bool, go: Any, log: AuditLog, lines: Any) -> None:
    """An interrupt in the body pauses the call: it is asked for again, and has one line."""

    @tool
    def ask_body(amount: int) -> str:
        """Ask from within the body."""
        answer = interrupt({"sure about": amount})
        RAN.append(amount)
        return f"answered {answer}"

    policy = ApprovalPolicy(require_always=held)
    channel = AutoApproveChannel()
    tools = guard_tools([ask_body], policy=policy, channel=channel, audit=log)
    agent = create_agent(saying([("ask_body", {"amount": 5})]), tools, checkpointer=InMemorySaver())

    paused = go(agent, start(), THREAD)
    assert paused["__interrupt__"][0].value == {"sure about": 5}
    assert lines() == [] and log.in_flight() == []
    state = go(agent, Command(resume="sure"), THREAD)

    assert state["messages"][2].content == "answered sure" and RAN == [5]
    assert len(lines()) == 1 and len(channel.requests) == 2 * held


class Seen(TypedDict):
    messages: Annotated[list[Any], operator.add]
    seen: Annotated[list[int], operator.add]


def test_parent_command(go: Any, log: AuditLog, lines: Any) -> None:
    """A handoff raised by the body passes untouched, and that call is over: it has its line."""

    @tool
    def hand_off() -> Command[Any]:
        """Hand off."""
        raise ParentCommand(Command(graph=Command.PARENT, goto="other", update={"seen": [1]}))

    def run(made: BaseTool) -> Any:
        outer = StateGraph(Seen)
        outer.add_node("agent", create_agent(saying([("hand_off", {})]), [made]))
        outer.add_node("other", lambda state: {"seen": [2]})
        outer.add_edge(START, "agent")
        return go(outer.compile(), start(seen=[]))["seen"]

    assert run(guard(hand_off, channel=AutoApproveChannel(), audit=log)) == run(hand_off) == [1, 2]
    assert [line["executed"] for line in lines()] == [True]


# --- what LangGraph fills in -----------------------------------------------------------------


def paid(amount: int, state: Any, store: Any, config: Any) -> str:
    assert config["configurable"]["key"] == "s3cret-config"
    RAN.append((amount, state["user"], store.get(("keys",), "k").value["v"]))
    return "paid"


class HiddenArgs(BaseModel):
    amount: int
    state: Annotated[Any, InjectedState]
    user: Annotated[str, InjectedState("user")]
    store: Annotated[Any, InjectedStore()]


class Subclass(BaseTool):
    name: str = "pay"
    description: str = "Pay."
    args_schema: type[BaseModel] = HiddenArgs

    def _run(self, amount: int, state: Any, user: str, store: Any, config: RunnableConfig) -> str:
        return paid(amount, state, store, config)


def pay(
    amount: int,
    config: RunnableConfig,
    user: Annotated[str, InjectedState("user")],
    store: Annotated[Any, InjectedStore()] = None,
    state: Annotated[dict[str, Any], InjectedState] | None = None,
) -> str:
    """Pay."""
    return paid(amount, state, store, config)


def with_runtime(amount: int, runtime: ToolRuntime) -> str:  # type: ignore[valid-type]
    """Pay."""
    return paid(amount, runtime.state, runtime.store, runtime.config)  # type: ignore[attr-defined]


def merely_named(amount: int, runtime: Any = None) -> str:
    return paid(amount, runtime.state, runtime.store, runtime.config)


SCHEMA = {"type": "object", "properties": {"amount": {"type": "integer"}}}
HIDING: dict[str, Any] = {
    "subclass": Subclass,
    "function": lambda: tool(pay),
    "runtime": lambda: tool("pay")(with_runtime),
    "runtime by name": lambda: StructuredTool(
        name="pay", description="Pay.", args_schema=SCHEMA, func=merely_named
    ),
}


@pytest.mark.parametrize("kind", HIDING)
@pytest.mark.parametrize("approved", [True, False])
def test_runtime_values_stay_hidden(kind: str, approved: bool, go: Any, log: AuditLog) -> None:
    """State, store, config and runtime reach the body, and no policy, person, log or message."""
    if ToolRuntime is None and "runtime" in kind:
        pytest.skip("ToolRuntime came with 1.0")
    store = InMemoryStore()
    store.put(("keys",), "k", {"v": "s3cret-store"})
    config: Any = {"configurable": {"key": "s3cret-config"}}
    message = AIMessage("", tool_calls=[{"name": "pay", "args": {"amount": 5}, "id": "c"}])

    class State(TypedDict):
        messages: Annotated[list[Any], operator.add]
        user: str

    def run(made: BaseTool) -> Any:
        graph = StateGraph(State)
        graph.add_node("tools", ToolNode([made]))
        graph.add_edge(START, "tools")
        state = {"messages": [message], "user": "s3cret-user"}
        return go(graph.compile(store=store), state, config)["messages"][1]

    channel = ScriptedChannel(approved)
    result = run(guard(HIDING[kind](), channel=channel, audit=log))

    assert [request.args for request in channel.requests] == [{"amount": 5}]
    assert "s3cret" not in log.path.read_text() + str(result.content)
    assert [(5, "s3cret-user", "s3cret-store")] * approved == RAN
    if approved:
        assert shape(result) == shape(run(HIDING[kind]()))
    else:
        assert result.content.startswith("DENIED: ") and "pay(amount=5)" in result.content


# --- several at once -------------------------------------------------------------------------


@pytest.mark.parametrize("made", [refund, arefund], ids=["plain", "async"])
def test_released_calls_finish_meanwhile(made: Any, log: AuditLog, lines: Any) -> None:
    """Of parallel calls, those that need nobody run while others wait, each under its own id."""
    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 5})
    requests: list[str] = []

    async def main() -> Any:
        both, answer = asyncio.Event(), asyncio.Event()

        class Slow(ApprovalChannel):
            async def request_approval(self, action: Action) -> Decision:
                requests.append(action.id)
                if len(requests) == 2:
                    both.set()
                await answer.wait()
                return Decision(True)

        tools = guard_tools([made], policy=policy, channel=Slow(), audit=log)
        turn = [(made.name, {"amount": a}) for a in (9, 9, 1)]
        agent = asyncio.ensure_future(create_agent(saying(turn), tools).ainvoke(start(), THREAD))
        await both.wait()
        while not lines():
            await asyncio.sleep(0)
        assert RAN == [1]
        answer.set()
        return await agent

    state = asyncio.run(main())

    assert [m.status for m in state["messages"] if m.type == "tool"] == ["success"] * 3
    assert len(set(requests)) == 2 and sorted(RAN) == [1, 9, 9]


@pytest.mark.skipif(wrap_tool_call is None, reason="middleware came with langchain 1.0")
def test_middleware(log: AuditLog, lines: Any) -> None:
    """A middleware sees the tool that it sees bare, and what it changes is asked for."""

    @wrap_tool_call
    def doubled(request: Any, handler: Any) -> Any:
        assert isinstance(request.tool, StructuredTool) and request.tool.name == "refund"
        call = request.tool_call
        args = {**call["args"], "amount": call["args"]["amount"] * 2}
        return handler(request.override(tool_call={**call, "args": args}))

    channel = AutoApproveChannel()
    tools = guard_tools([refund], channel=channel, audit=log)
    agent = create_agent(saying(CALLS[0]), tools, middleware=[doubled])
    agent.invoke(start(), THREAD)

    assert [action.args["amount"] for action in channel.requests] == RAN == [10]
