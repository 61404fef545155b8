"""InterruptChannel in real graphs: paused, resumed, and refused where answers would be mixed up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict
from unittest import mock

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, RetryPolicy, Send, interrupt
from scripted import Model, create_agent

from actionguard import ApprovalDenied, ApprovalPolicy, guard
from actionguard.langgraph import InterruptChannel

THREAD: Any = {"configurable": {"thread_id": "1"}}
APPROVE = {"type": "approve"}
REJECT = {"type": "reject"}
START_OF_TALK = {"messages": [("user", "refund")]}
ran: list[Any] = []


class Amount(TypedDict):
    amount: Any


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


def paying(log_path: Path, policy: Any = None, then: Any = None) -> Any:
    """A guarded function; `then` is what its body does last."""

    @guard(policy=policy, channel=InterruptChannel(), audit=log_path)
    def pay(amount: Any) -> str:
        ran.append(amount)
        return then() if then else f"paid {amount}"

    return pay


@pytest.fixture
def pay(log_path: Path) -> Any:
    return paying(log_path)


def refunding(log_path: Path, policy: Any = None) -> BaseTool:
    @guard(policy=policy, channel=InterruptChannel(), audit=log_path)
    @tool
    def refund(amount: float) -> str:
        """Issue a refund."""
        ran.append(amount)
        return f"refunded {amount}"

    return refund


@pytest.fixture
def refund(log_path: Path) -> BaseTool:
    return refunding(log_path)


def calls(*amounts: float) -> AIMessage:
    """A model's turn that calls `refund`."""
    made = [{"name": "refund", "args": {"amount": n}, "id": f"c{n}"} for n in amounts]
    return AIMessage("", tool_calls=made)


def agent(tools: list[BaseTool], *turns: AIMessage, saver: Any = None) -> Any:
    return create_agent(Model(turns=[*turns, AIMessage("done")]), tools, checkpointer=saver)


def graph(node: Any, state: Any = Amount, saver: Any = None, **kwargs: Any) -> Any:
    """A graph of one node."""
    built = StateGraph(state).add_node("node", node, **kwargs).add_edge(START, "node")
    return built.compile(checkpointer=saver or InMemorySaver())


def questions(result: dict[str, Any]) -> dict[Any, str]:
    """The amounts that a paused graph asks about, with the id of each question."""
    found = result.get("__interrupt__", ())
    return {one.value["action_requests"][0]["args"]["amount"]: one.id for one in found}


def said(result: dict[str, Any]) -> list[Any]:
    return [m.content for m in result["messages"] if m.type == "tool"]


def invoke(built: Any, given: Any, config: Any = THREAD) -> Any:
    return built.invoke(given, config)


def ainvoke(built: Any, given: Any, config: Any = THREAD) -> Any:
    return asyncio.run(built.ainvoke(given, config))


Run = Callable[..., Any]


@pytest.fixture(params=[invoke, ainvoke])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


def test_a_call_waits_in_the_checkpoint(run: Run, refund: BaseTool, lines: Any) -> None:
    """An agent pauses with LangChain's request, and goes on with the answer: one body, one line."""
    built = agent([refund], calls(4000), saver=InMemorySaver())

    (question,) = run(built, START_OF_TALK)["__interrupt__"]

    assert question.value.pop("id")
    args = {"amount": 4000.0}
    about = {"name": "refund", "args": args, "arguments": args, "description": "Issue a refund."}
    assert question.value == {
        "action_requests": [about],
        "review_configs": [{"action_name": "refund", "allowed_decisions": ["approve", "reject"]}],
        "message": "Approve refund(amount=4000.0)?",
    }
    assert (ran, lines()) == ([], [])

    result = run(built, Command(resume=APPROVE))

    assert said(result) == ["refunded 4000.0"]
    assert result["messages"][-1].content == "done"
    assert ran == [4000]
    (line,) = lines()
    how = (line["approved"], line["decision_source"], line["executed"])
    assert how == (True, "interrupt", True)


ACCEPT = {"type": "accept", "args": None}
AGUI_CANCEL = {"__agui_cancelled__": True, "interrupt_id": "1"}
#: What interfaces send, whether that approves, and the comment.
ANSWERS: list[tuple[Any, bool, str | None]] = [
    (APPROVE, True, None),
    ({"decisions": [APPROVE]}, True, None),
    (REJECT, False, None),
    ({"type": "reject", "message": "wrong customer"}, False, "wrong customer"),
    ({"decisions": [{"type": "reject", "message": "no"}]}, False, "no"),
    ([ACCEPT], True, None),
    ([{"type": "accept"}], True, None),
    ([{"type": "accept", "args": {"action": "pay", "args": {"amount": 5}}}], True, None),
    ([{"type": "ignore", "args": None}], False, None),
    ([{"type": "response", "args": "ask Ada"}], False, "ask Ada"),
    ({"approved": True}, True, None),
    ({"approved": True, "reason": "fine"}, True, "fine"),
    ({"approved": False, "reason": "no"}, False, "no"),
    (AGUI_CANCEL, False, "the request was cancelled"),
]


@pytest.mark.parametrize(("answer", "approved", "comment"), ANSWERS)
def test_answers_of_known_interfaces(
    pay: Any, lines: Any, answer: Any, approved: bool, comment: str | None
) -> None:
    """What LangChain's interfaces, Agent Inbox and AG-UI send is an answer."""
    built = graph(lambda state: pay(5) and None)
    built.invoke({"amount": 5}, THREAD)
    with contextlib.nullcontext() if approved else pytest.raises(ApprovalDenied) as caught:
        built.invoke(Command(resume=answer), THREAD)

    assert ran == [5] * approved
    assert approved or caught.value.decision.unanswered is (answer == AGUI_CANCEL)
    assert [(li["approved"], li["decision_comment"]) for li in lines()] == [(approved, comment)]


MALFORMED: list[Any] = [
    True, 1, "yes", "approve", [], [True], ["accept"], [APPROVE], [[ACCEPT]], [ACCEPT, ACCEPT],
    [{"type": "accept", "args": {"action": "pay", "args": {"amount": 4}}}],
    [{"type": "accept", "more": 1}],
    [{"type": "edit", "args": {"action": "pay", "args": {"amount": 4}}}],
    {"type": "accept"}, {"type": "Approve"}, {"type": True},
    {"type": "approve", "args": {"amount": 4}},
    {"type": "approve", "message": "but only 4"},
    {"type": "edit", "edited_action": {"name": "pay", "args": {"amount": 4}}},
    {"type": "respond", "message": "approve"}, {"type": "reject", "message": 5},
    {"decisions": []}, {"decisions": APPROVE}, {"decisions": [APPROVE, APPROVE]},
    {"decisions": [APPROVE, REJECT]}, {"decisions": [{"approved": True}]},
    {"decisions": [{"type": "edit", "edited_action": {"name": "pay", "args": {}}}]},
    {"decisions": [APPROVE], "approved": False},
    {"approved": "true"}, {"approved": 1}, {"approved": None}, {"approved": True, "reason": 5},
    {"approved": True, "editedArgs": {"amount": 4}}, {"__agui_cancelled__": False},
]  # fmt: skip


@pytest.mark.parametrize("answer", MALFORMED, ids=repr)
def test_anything_else_blocks(refund: BaseTool, lines: Any, answer: Any) -> None:
    """What is no clear answer runs nothing, and is nobody's denial."""
    built = graph(ToolNode([refund]), MessagesState)
    built.invoke({"messages": [calls(5)]}, THREAD)
    result = built.invoke(Command(resume=answer), THREAD)

    assert said(result)[0].startswith("BLOCKED: ")
    assert not ran
    assert [(line["executed"], line["approved"]) for line in lines()] == [(False, None)]


def test_parallel_calls_have_a_question_each(run: Run, refund: BaseTool) -> None:
    """The calls of one turn are answered by id, also crosswise and one after the other."""
    built = agent([refund], calls(10, 9999), saver=InMemorySaver())
    ids = questions(run(built, START_OF_TALK))
    assert set(ids) == {10, 9999}
    with pytest.raises(RuntimeError, match="multiple pending interrupts"):
        run(built, Command(resume=APPROVE))

    reject = {"type": "reject", "message": "wrong customer"}
    paused = run(built, Command(resume={ids[9999]: reject}))
    assert (set(questions(paused)), ran) == ({10}, [])
    result = run(built, Command(resume={ids[10]: APPROVE}))

    assert ran == [10]
    assert [answer[:6] for answer in said(result)] == ["refund", "DENIED"]
    assert "wrong customer" in said(result)[1]


def several(refund: BaseTool) -> dict[str, tuple[Any, Any]]:
    """Graphs that make two calls in one task, and what they are run with."""
    twice = {"messages": [calls(10, 9999)]}

    def send(made: Callable[[Any], Any]) -> Any:
        built = StateGraph(MessagesState).add_node("tools", ToolNode([refund]))
        go = lambda state: [Send("tools", made(state["messages"]))]  # noqa: E731
        return built.add_conditional_edges(START, go, ["tools"]).compile(InMemorySaver())

    class Log(TypedDict):
        log: list[Any]

    renamed = ToolNode([refund], messages_key="log")
    return {
        "state": (graph(ToolNode([refund]), MessagesState), twice),
        "renamed": (graph(renamed, Log), {"log": [calls(10, 9999)]}),
        "sent calls": (send(lambda messages: messages[-1].tool_calls), twice),
        "sent state": (send(lambda messages: {"messages": messages}), twice),
    }


OVER_100 = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})


@pytest.mark.parametrize("policy", [None, OVER_100], ids=["both held", "one held"])
@pytest.mark.parametrize("kind", ["state", "renamed", "sent calls", "sent state"])
def test_two_calls_in_one_task_are_blocked(
    run: Run, log_path: Path, kind: str, policy: ApprovalPolicy | None
) -> None:
    """A ToolNode with two calls pauses for neither: bodies would run twice, answers be mixed up."""
    built, given = several(refunding(log_path, policy))[kind]

    result = run(built, given)

    assert "__interrupt__" not in result
    messages = result.get("messages") or result["log"]
    answers = [message.content for message in messages if message.type == "tool"]
    assert [answer.startswith("BLOCKED: ") for answer in answers] == [policy is None, True]
    assert ran == ([10] if policy else [])


def test_a_node_holds_one_call(log_path: Path) -> None:
    """The second guarded call of a node is blocked before anybody is asked about it.

    Also if the first needed nobody: what ran would run again behind the pause.
    """
    pay = paying(log_path, OVER_100)
    built = graph(lambda state: [pay(n) for n in state["amount"]])

    with pytest.raises(RuntimeError, match="can hold one call"):
        built.invoke({"amount": [10, 20, 9999]}, {"configurable": {"thread_id": "2"}})
    assert ran == [10, 20]

    ran.clear()
    built.invoke({"amount": [200, 9999]}, THREAD)
    with pytest.raises(RuntimeError, match="can hold one call"):
        built.invoke(Command(resume=APPROVE), THREAD)
    assert ran == [200]
    # The answer was used: run again, the graph asks again.
    assert set(questions(built.invoke(None, THREAD))) == {200}
    assert ran == [200]


def test_threads_of_a_node_hold_one_call(pay: Any) -> None:
    """Of two calls at once in one task, one is put to a person and gets the answer."""

    def attempt(amount: int) -> None:
        with contextlib.suppress(RuntimeError):
            pay(amount)

    def node(state: Any) -> None:
        with ThreadPoolExecutor(2) as pool:
            for one in [pool.submit(copy_context().run, attempt, n) for n in (10, 9999)]:
                one.result()

    built = graph(node)
    for _ in range(20):
        (asked,) = questions(built.invoke({"amount": 0}, THREAD))
        built.invoke(Command(resume=APPROVE), THREAD)
        assert ran in ([], [asked])
        ran.clear()


@pytest.mark.parametrize("where", ["no graph", "no checkpointer"])
def test_what_nothing_could_resume_is_blocked(
    run: Run, refund: BaseTool, lines: Any, where: str
) -> None:
    """Outside of a graph, and without a checkpointer, a call cannot wait."""
    if where == "no graph":
        call = {"name": "refund", "args": {"amount": 5}, "id": "1", "type": "tool_call"}
        answer = run(refund, call, None).content
    else:
        (answer,) = said(run(agent([refund], calls(5)), START_OF_TALK, None))

    assert answer.startswith("BLOCKED: ")
    assert (ran, len(lines())) == ([], 1)


@pytest.mark.parametrize("by_id", [False, True])
def test_what_was_shown_is_what_runs(pay: Any, by_id: bool) -> None:
    """A node that comes to other arguments when it is run again does not get the answer."""
    amounts = iter([10, 9999, 10, 10])
    built = graph(lambda state: pay(next(amounts)) and None)
    (one,) = questions(built.invoke({"amount": 0}, THREAD)).values()
    with pytest.raises(RuntimeError, match="other arguments"):
        built.invoke(Command(resume={one: APPROVE} if by_id else APPROVE), THREAD)
    assert not ran

    assert set(questions(built.invoke(None, THREAD))) == {10}
    built.invoke(Command(resume=APPROVE), THREAD)
    assert ran == [10]


def test_an_answer_is_never_taken_by_another_task(refund: BaseTool) -> None:
    """A call that was never shown does not get the answer to the one beside it."""
    fails = [True]

    @tool
    def flaky(amount: float) -> str:
        """Fails before it asks, the first time."""
        if fails.pop() if fails else False:
            raise ValueError
        return refund.invoke({"amount": amount})

    made = calls(10, 9999)
    made.tool_calls[1]["name"] = "flaky"
    node = ToolNode([refund, flaky], handle_tool_errors=False)
    built = StateGraph(MessagesState).add_node("tools", node)
    built.add_conditional_edges(
        START, lambda state: [Send("tools", [c]) for c in state["messages"][-1].tool_calls]
    )
    flow = built.compile(InMemorySaver())
    with pytest.raises(ValueError):
        flow.invoke({"messages": [made]}, THREAD)
    flow.invoke(Command(resume=APPROVE), THREAD)

    assert 9999 not in ran


def nested(refund: BaseTool, *turns: AIMessage) -> Any:
    return graph(agent([refund], *turns), MessagesState)


def test_calls_of_a_subgraph(run: Run, refund: BaseTool, lines: Any) -> None:
    """The calls of an agent within a graph are asked one after the other, each answered once.

    LangGraph keeps the last plain answer: run again without one, it would give it to the next call.
    """
    built = nested(refund, calls(10), calls(9999))
    run(built, START_OF_TALK)
    for again in (Command(resume=APPROVE), None):
        assert set(questions(run(built, again))) == {9999}
        assert ran == [10]

    result = run(built, Command(resume=REJECT))
    assert [answer[:6] for answer in said(result)] == ["refund", "DENIED"]
    assert ran == [10]
    assert [line["approved"] for line in lines()] == [True, False]


def test_parallel_calls_of_a_subgraph(run: Run, refund: BaseTool) -> None:
    """They are answered by id; one plain answer for two releases neither."""
    built = nested(refund, calls(10, 9999))
    ids = questions(run(built, START_OF_TALK))
    try:
        run(built, Command(resume=APPROVE))
    except RuntimeError:  # LangGraph itself refuses, from 1.2 on
        result = run(built, Command(resume={ids[10]: APPROVE, ids[9999]: REJECT}))
        assert [answer[:6] for answer in said(result)] == ["refund", "DENIED"]
        assert ran == [10]
    else:
        assert not ran


@pytest.mark.parametrize("by_id", [False, True])
def test_an_approval_releases_one_run(run: Run, log_path: Path, lines: Any, by_id: bool) -> None:
    """If the body failed, and may have gone through, neither a retry nor a new run repeats it."""
    if run is ainvoke and sys.version_info < (3, 11):
        pytest.skip("async nodes do not know their config before Python 3.11")
    pay = paying(log_path, then=mock.Mock(side_effect=ConnectionError))
    retry = RetryPolicy(initial_interval=0.001, jitter=False)
    built = graph(lambda state: pay(5), retry_policy=retry)
    (one,) = questions(run(built, {"amount": 5})).values()
    with pytest.raises(RuntimeError, match="can hold one call"):
        run(built, Command(resume={one: APPROVE} if by_id else APPROVE))
    assert ran == [5]

    assert set(questions(run(built, None))) == {5}
    assert ran == [5]
    assert [line["executed"] for line in lines()] == [True, False]


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("saver", ["memory", "sqlite"])
def test_two_runs_cannot_use_one_answer(
    log_path: Path, lines: Any, saver: str, by_id: bool
) -> None:
    """Of two runs that somebody started by pressing a button twice, one gets the answer."""
    started, finish = threading.Event(), threading.Event()
    pay = paying(log_path, then=lambda: (started.set(), finish.wait(10)))

    with contextlib.ExitStack() as stack:
        kept: Any = InMemorySaver()
        if saver == "sqlite":
            sqlite = pytest.importorskip("langgraph.checkpoint.sqlite")
            kept = stack.enter_context(sqlite.SqliteSaver.from_conn_string(":memory:"))
        built = graph(lambda state: pay(5) and None, saver=kept)
        (one,) = questions(built.invoke({"amount": 5}, THREAD)).values()
        answer = Command(resume={one: APPROVE} if by_id else APPROVE)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(built.invoke, answer, THREAD)
            started.wait(10)
            with pytest.raises(RuntimeError, match="used by another run"):
                built.invoke(answer, THREAD)
            finish.set()
            first.result()

    assert ran == [5]
    assert [line["executed"] for line in lines()] == [False, True]


def test_other_interrupts_of_the_node(pay: Any) -> None:
    """One before the call is no trouble; after one behind it, the body does not run again."""

    def node(state: Any) -> None:
        if state["amount"] == 10:
            interrupt("before?")
        pay(state["amount"])
        if state["amount"] == 20:
            interrupt("after?")

    built = graph(node)
    built.invoke({"amount": 10}, THREAD)
    assert set(questions(built.invoke(Command(resume="yes"), THREAD))) == {10}
    built.invoke(Command(resume=APPROVE), THREAD)
    assert ran == [10]

    built.invoke({"amount": 20}, THREAD)
    built.invoke(Command(resume=APPROVE), THREAD)
    assert ran == [10, 20]
    with pytest.raises(RuntimeError, match="another call"):
        built.invoke(Command(resume=APPROVE), THREAD)
    assert ran == [10, 20]


def test_tasks_of_the_functional_api(pay: Any) -> None:
    """A call in a `@task` waits; of several at once, none gets another's answer."""

    @task
    def one(amount: int) -> str:
        return pay(amount)

    @entrypoint(checkpointer=InMemorySaver())
    def flow(amounts: list[int]) -> list[str]:
        return [each.result() for each in [one(amount) for amount in amounts]]

    flow.invoke([5], THREAD)
    assert flow.invoke(Command(resume=APPROVE), THREAD) == ["paid 5"]

    ran.clear()
    other: Any = {"configurable": {"thread_id": "2"}}
    asked = set(questions(flow.invoke([10, 9999], other)))
    with contextlib.suppress(RuntimeError):
        flow.invoke(Command(resume=APPROVE), other)
    assert ran in ([], [*asked])


def test_what_is_asked_is_plain_json(pay: Any) -> None:
    """Every checkpointer can keep the question, and the call is still recognized by it."""
    odd = [b"x", {1, 2}, 10**400, float("nan"), "\ud800", pay]
    args = [Decimal("4000.10"), date(2026, 6, 1), *odd]
    built = graph(lambda state: {"amount": pay(args)})

    (question,) = built.invoke({"amount": 0}, THREAD)["__interrupt__"]
    json.dumps(question.value, allow_nan=False)
    built.invoke(Command(resume=APPROVE), THREAD)

    assert ran == [args]


def test_a_policy_that_changes_its_mind_releases_nothing(run: Run, log_path: Path) -> None:
    """What a person rejected does not run if the policy no longer holds it on the resume."""
    needed = [True]
    tools = [refunding(log_path, ApprovalPolicy(require_if=lambda args: needed[0]))]
    built = agent(tools, calls(5), calls(6), saver=InMemorySaver())
    run(built, START_OF_TALK)
    needed[0] = False
    result = run(built, Command(resume=REJECT))

    assert [answer[:6] for answer in said(result)] == ["DENIED", "refund"]
    assert ran == [6]


def test_a_repeat_is_asked_about(log_path: Path) -> None:
    """A call that only the log holds is paused like any other, and says what it repeats."""
    pay = paying(log_path, ApprovalPolicy(repeat_within=600))
    built = graph(lambda state: pay(5) and None)
    built.invoke({"amount": 0}, {"configurable": {"thread_id": "before"}})

    (question,) = built.invoke({"amount": 0}, THREAD)["__interrupt__"]
    assert question.value["action_requests"][0]["description"].startswith("The same call ran")
    built.invoke(Command(resume=APPROVE), THREAD)
    assert ran == [5, 5]


PROGRAM = """
import os, sys
folder, step, tests = sys.argv[1:]
sys.path.insert(0, tests)
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command
from actionguard import guard
from actionguard.langgraph import InterruptChannel
from test_interrupt import agent, calls

@guard(channel=InterruptChannel(), audit=folder + "/audit.jsonl")
@tool
def refund(amount: float) -> str:
    "Issue a refund."
    with open(folder + "/ran", "a") as file:
        file.write(f"{amount}\\n")
    if step == "killed":
        print("killed", flush=True)
        os._exit(9)
    return "refunded"

with SqliteSaver.from_conn_string(folder + "/checkpoints.sqlite") as saver:
    built = agent([refund], calls(4000), saver=saver)
    given = {"ask": {"messages": [("user", "refund")]}, "again": None}
    resume = Command(resume={"type": "approve"})
    result = built.invoke(given.get(step, resume), {"configurable": {"thread_id": "1"}})
    print("waits" if "__interrupt__" in result else result["messages"][-1].content, flush=True)
    os._exit(7)
"""


def test_approvals_outlive_the_process(tmp_path: Path, lines: Any) -> None:
    """Asked in one process, answered in another, from SQLite; a kill uses the answer up."""
    pytest.importorskip("langgraph.checkpoint.sqlite")

    def step(name: str) -> tuple[int, str]:
        args = [str(tmp_path), name, str(Path(__file__).parent)]
        command = [sys.executable, "-c", PROGRAM, *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (7, 9), done.stderr
        return done.returncode, done.stdout.strip()

    steps = [step(name) for name in ("ask", "killed", "again")]
    assert steps == [(7, "waits"), (9, "killed"), (7, "waits")]
    assert (tmp_path / "ran").read_text() == "4000.0\n"
    assert [line["executed"] for line in lines()] == [None]

    assert step("answer") == (7, "done")
    assert (tmp_path / "ran").read_text() == "4000.0\n" * 2
    assert [line["executed"] for line in lines()] == [None, True]


def test_async_checkpointers(refund: BaseTool, tmp_path: Path) -> None:
    """A checkpointer that is only for async code is awaited."""
    aio = pytest.importorskip("langgraph.checkpoint.sqlite.aio")

    async def main() -> Any:
        async with aio.AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
            built = agent([refund], calls(5), saver=saver)
            await built.ainvoke(START_OF_TALK, THREAD)
            return await built.ainvoke(Command(resume=APPROVE), THREAD)

    assert said(asyncio.run(main())) == ["refunded 5.0"]
    assert ran == [5]


def test_subagents_of_deepagents(refund: BaseTool) -> None:
    """The calls of two subagents at once are answered crosswise, each with its own answer."""
    deepagents = pytest.importorskip("deepagents")

    def subagent(amount: int) -> dict[str, Any]:
        model = Model(turns=[calls(amount), AIMessage("done")])
        about = {"name": f"sub{amount}", "description": "Refunds.", "system_prompt": "Refund."}
        return {**about, "tools": [refund], "model": model}

    made = [
        {"name": "task", "args": {"description": "x", "subagent_type": f"sub{n}"}, "id": f"t{n}"}
        for n in (10, 9999)
    ]
    built = deepagents.create_deep_agent(
        Model(turns=[AIMessage("", tool_calls=made), AIMessage("done")]),
        subagents=[subagent(10), subagent(9999)],
        checkpointer=InMemorySaver(),
    )
    ids = questions(built.invoke(START_OF_TALK, THREAD))
    assert set(ids) == {10, 9999}
    paused = built.invoke(Command(resume={ids[9999]: REJECT}), THREAD)
    assert set(questions(paused)) == {10}
    result = built.invoke(Command(resume=APPROVE), THREAD)

    assert result["messages"][-1].content == "done"
    assert ran == [10]


def test_langgraph_is_imported_here_only() -> None:
    """Everything else works without it."""
    code = "import sys, actionguard.langchain; assert 'langgraph' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_example(tmp_path: Path) -> None:
    """It asks in one process and goes on in another."""
    example = Path(__file__).parents[2] / "examples" / "durable_approval.py"
    shown = subprocess.check_output([sys.executable, example], cwd=tmp_path, text=True)

    assert shown.splitlines() == [
        "asked: Approve refund_customer(amount=4000.0, customer_id='cus_123')?",
        "done: refunded 4000.0 to cus_123",
    ]
