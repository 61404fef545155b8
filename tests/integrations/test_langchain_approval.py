"""What the README says of LangChain's own ways to ask a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, tool

pytest.importorskip("langchain.agents.middleware", reason="LangChain before 1.0 has no middleware")

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from actionguard import guard
from actionguard.testing import AutoApproveChannel

THREAD: Any = {"configurable": {"thread_id": "1"}}
DID: list[float] = []


class Model(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


@tool
def refund(amount: float) -> str:
    """Refund an amount."""
    DID.append(amount)
    return f"refunded {amount}"


@tool
def find(name: str) -> str:
    """Look somebody up."""
    DID.append(0)
    return "found"


@tool
def ask(amount: float) -> str:
    """Ask somebody from within the body."""
    DID.append(-1)
    return str(interrupt(amount))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    DID.clear()


def agent_of(*calls: tuple[BaseTool, Any], **options: Any) -> Any:
    """An agent whose model makes these calls in one message, and then is done."""
    tool_calls = [
        {"id": f"call_{i}", "type": "tool_call", "name": made.name, "args": args}
        for i, (made, args) in enumerate(calls)
    ]
    model = Model(messages=iter([AIMessage("", tool_calls=tool_calls), AIMessage("done")]))
    return create_agent(model, [refund, find, ask], **options)


def asks(**options: Any) -> Any:
    """An agent with the middleware in front of `refund`."""
    when = options or {"allowed_decisions": ["approve", "reject", "edit", "respond"]}
    middleware = HumanInTheLoopMiddleware(interrupt_on={"refund": when})
    return {"middleware": [middleware], "checkpointer": InMemorySaver()}


def start(agent: Any) -> Any:
    return agent.invoke({"messages": [("user", "refund it")]}, THREAD)


def reply(agent: Any, **decision: Any) -> list[str]:
    state = agent.invoke(Command(resume={"decisions": [decision]}), THREAD)
    return [m.content for m in state["messages"] if isinstance(m, ToolMessage)]


def test_the_run_ends_and_is_resumed_by_another_agent() -> None:
    """The run is over while people think, and another agent object can resume it."""
    options = asks()
    (question,) = start(agent_of((refund, {"amount": 4000}), **options))["__interrupt__"]
    assert question.value["action_requests"][0]["args"] == {"amount": 4000}
    assert DID == []

    second = create_agent(Model(messages=iter([AIMessage("done")])), [refund], **options)

    assert reply(second, type="approve") == ["refunded 4000.0"]
    assert DID == [4000]


@pytest.mark.parametrize(
    ("decision", "answer", "did"),
    [
        ({"type": "reject", "message": "too much"}, "too much", []),
        (
            {"type": "edit", "edited_action": {"name": "refund", "args": {"amount": 40}}},
            "refunded 40.0",
            [40],
        ),
        ({"type": "respond", "message": "I paid in cash"}, "I paid in cash", []),
    ],
)
def test_what_a_person_may_answer(decision: Any, answer: str, did: list[float]) -> None:
    """Besides approving and rejecting: other arguments, or an answer in the tool's place."""
    agent = agent_of((refund, {"amount": 4000}), **asks())
    start(agent)

    (content,) = reply(agent, **decision)

    assert answer in content and did == DID


@pytest.mark.parametrize("made", [refund, ask])
def test_both_need_a_checkpointer(made: BaseTool) -> None:
    """Without a checkpointer the run stops, and nothing can resume it."""
    agent = agent_of((made, {"amount": 4000}), middleware=asks()["middleware"])
    start(agent)

    with pytest.raises(RuntimeError, match="checkpointer"):
        reply(agent, type="approve")


def test_the_middleware_stands_before_one_agent_only(log_path: Path) -> None:
    """The tool itself runs for anybody else who calls it; a guarded tool asks there too."""
    agent_of((refund, {"amount": 4000}), **asks())

    refund.invoke({"amount": 4000})

    assert DID == [4000]
    channel = AutoApproveChannel()
    guard(refund, channel=channel, audit=log_path).invoke({"amount": 4000})
    assert len(channel.requests) == 1


@pytest.mark.parametrize(
    ("options", "did"),
    [({}, []), ({"interrupt_mode": "per_call"}, [0])],
    ids=["by default", "per call"],
)
def test_other_calls_of_the_message(options: dict[str, Any], did: list[float]) -> None:
    """By default a call that needs nobody waits for the one beside it; per call, it goes ahead."""
    try:
        middleware = HumanInTheLoopMiddleware({"refund": True}, **options)
    except TypeError:
        pytest.skip("this LangChain asks for all calls of a message at once")
    calls = (find, {"name": "ann"}), (refund, {"amount": 4000})

    start(agent_of(*calls, middleware=[middleware], checkpointer=InMemorySaver()))

    assert did == DID


@pytest.mark.parametrize("amount", [50, 4000])
def test_it_decides_by_arguments(amount: float) -> None:
    """A predicate decides by the arguments of a call, as a policy does."""

    def over(request: Any) -> bool:
        return bool(request.tool_call["args"]["amount"] > 100)

    agent = agent_of((refund, {"amount": amount}), **asks(allowed_decisions=["approve"], when=over))

    assert ("__interrupt__" in start(agent)) is (amount > 100)


def test_it_shows_what_the_model_wrote(log_path: Path) -> None:
    """It shows the arguments before the tool's validation; a guarded tool shows them after it."""
    (question,) = start(agent_of((refund, {"amount": "4000"}), **asks()))["__interrupt__"]
    assert question.value["action_requests"][0]["args"] == {"amount": "4000"}

    channel = AutoApproveChannel()
    guard(refund, channel=channel, audit=log_path).invoke({"amount": "4000"})

    assert channel.requests[0].args == {"amount": 4000.0}


def test_interrupt_runs_the_body_again() -> None:
    """What stands before `interrupt()` happens once more on resume; calls beside it go ahead."""
    agent = agent_of((ask, {"amount": 1}), (refund, {"amount": 50}), checkpointer=InMemorySaver())

    (question,) = start(agent)["__interrupt__"]

    assert question.value == 1 and sorted(DID) == [-1, 50]
    agent.invoke(Command(resume="yes"), THREAD)
    assert sorted(DID) == [-1, -1, 50]
