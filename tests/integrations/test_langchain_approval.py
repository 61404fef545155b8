"""What the README's table says of LangChain's own ways to ask a person, line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool

pytest.importorskip("langchain.agents.middleware", reason="LangChain before 1.0 has no middleware")

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from actionguard import ApprovalPolicy, guard
from actionguard.testing import AutoApproveChannel

THREAD: Any = {"configurable": {"thread_id": "1"}}


class Model(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def model(*calls: dict[str, Any]) -> Model:
    """A model that makes these calls in one message, and then is done."""
    tool_calls = [{"id": f"call_{i}", "type": "tool_call", **c} for i, c in enumerate(calls)]
    return Model(messages=iter([AIMessage("", tool_calls=tool_calls), AIMessage("done")]))


def refund_call(amount: float) -> dict[str, Any]:
    return {"name": "refund", "args": {"amount": amount}}


class Desk:
    """A tool that says what it did."""

    def __init__(self) -> None:
        self.did: list[float] = []
        did = self.did

        @tool
        def refund(amount: float) -> str:
            """Refund an amount."""
            did.append(amount)
            return f"refunded {amount}"

        self.refund = refund


@pytest.fixture
def desk() -> Desk:
    return Desk()


ASKS = HumanInTheLoopMiddleware(interrupt_on={"refund": True})


def asked(state: Any) -> Any:
    (pending,) = state["__interrupt__"]
    return pending.value


def reply(**decision: Any) -> Command[Any]:
    return Command(resume={"decisions": [decision]})


def messages(state: Any) -> list[str]:
    return [m.content for m in state["messages"] if isinstance(m, ToolMessage)]


def start(agent: Any) -> Any:
    return agent.invoke({"messages": [("user", "refund it")]}, THREAD)


def test_middleware_ends_the_run_and_resumes_it_later(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is over while people think, and another agent object can take it up; no log is kept.

    The body runs once.
    """
    monkeypatch.chdir(tmp_path)
    saver = InMemorySaver()
    first = create_agent(
        model(refund_call(4000)), [desk.refund], middleware=[ASKS], checkpointer=saver
    )
    assert asked(start(first))["action_requests"][0]["args"] == {"amount": 4000}
    assert desk.did == []
    assert list(tmp_path.iterdir()) == []

    second = create_agent(
        Model(messages=iter([AIMessage("done")])),
        [desk.refund],
        middleware=[ASKS],
        checkpointer=saver,
    )
    state = second.invoke(reply(type="approve"), THREAD)

    assert messages(state) == ["refunded 4000.0"]
    assert desk.did == [4000]
    assert list(tmp_path.iterdir()) == []


def test_middleware_needs_a_checkpointer(desk: Desk) -> None:
    """Without a checkpointer the run stops, and nothing can take it up again."""
    agent = create_agent(model(refund_call(4000)), [desk.refund], middleware=[ASKS])
    start(agent)

    with pytest.raises(RuntimeError, match="checkpointer"):
        agent.invoke(reply(type="approve"), THREAD)

    assert desk.did == []


def test_middleware_lets_a_person_reject(desk: Desk) -> None:
    """A rejected call does not run, and the model reads why."""
    agent = create_agent(
        model(refund_call(4000)), [desk.refund], middleware=[ASKS], checkpointer=InMemorySaver()
    )
    start(agent)

    state = agent.invoke(reply(type="reject", message="too much"), THREAD)

    assert "too much" in messages(state)[0]
    assert desk.did == []


def test_middleware_lets_a_person_edit(desk: Desk) -> None:
    """The person may change the arguments, which this library does not offer."""
    agent = create_agent(
        model(refund_call(4000)), [desk.refund], middleware=[ASKS], checkpointer=InMemorySaver()
    )
    start(agent)

    edited = {"name": "refund", "args": {"amount": 40}}
    agent.invoke(reply(type="edit", edited_action=edited), THREAD)

    assert desk.did == [40]


def test_middleware_stands_before_one_agent_only(desk: Desk) -> None:
    """The tool itself runs for anybody else who calls it; a guarded tool asks there too."""
    create_agent(
        model(refund_call(4000)), [desk.refund], middleware=[ASKS], checkpointer=InMemorySaver()
    )

    desk.refund.invoke({"amount": 4000})

    assert desk.did == [4000]
    channel = AutoApproveChannel()
    guard(desk.refund, channel=channel).invoke({"amount": 4000})
    assert len(channel.requests) == 1


@pytest.mark.parametrize(
    ("options", "did"),
    [({}, []), ({"interrupt_mode": "per_call"}, [0])],
    ids=["by default", "per call"],
)
def test_middleware_and_the_other_calls_of_a_message(
    options: dict[str, Any], did: list[float], desk: Desk
) -> None:
    """By default a call that needs nobody waits for the one beside it; per call, it goes ahead."""
    try:
        middleware = HumanInTheLoopMiddleware({"refund": True}, **options)
    except TypeError:
        pytest.skip("this LangChain asks for all calls of a message at once")

    @tool
    def find(name: str) -> str:
        """Look somebody up."""
        desk.did.append(0)
        return "found"

    find_call = {"name": "find", "args": {"name": "ann"}}
    agent = create_agent(
        model(find_call, refund_call(4000)),
        [find, desk.refund],
        middleware=[middleware],
        checkpointer=InMemorySaver(),
    )

    start(agent)

    assert desk.did == did


@pytest.mark.parametrize("amount", [50, 4000])
def test_middleware_decides_by_arguments(desk: Desk, amount: float) -> None:
    """A predicate decides by the arguments of a call, as a policy does."""
    when = HumanInTheLoopMiddleware(
        interrupt_on={
            "refund": {
                "allowed_decisions": ["approve", "reject"],
                "when": lambda request: request.tool_call["args"]["amount"] > 100,
            }
        }
    )
    agent = create_agent(
        model(refund_call(amount)), [desk.refund], middleware=[when], checkpointer=InMemorySaver()
    )

    state = start(agent)

    assert ("__interrupt__" in state) is (amount > 100)


def test_middleware_shows_what_the_model_wrote(desk: Desk) -> None:
    """It shows the arguments before the tool's validation; a guarded tool shows them after it."""
    wrote = refund_call("4000")  # type: ignore[arg-type]
    agent = create_agent(
        model(wrote), [desk.refund], middleware=[ASKS], checkpointer=InMemorySaver()
    )
    assert asked(start(agent))["action_requests"][0]["args"] == {"amount": "4000"}

    channel = AutoApproveChannel()
    guard(desk.refund, channel=channel).invoke({"amount": "4000"})

    assert channel.requests[0].args == {"amount": 4000.0}


def test_interrupt_runs_the_body_again() -> None:
    """What stands before a bare interrupt() happens once more when the run is taken up."""
    did: list[str] = []

    @tool
    def refund(amount: float) -> str:
        """Refund an amount."""
        did.append("before")
        if interrupt({"amount": amount}) != "yes":
            return "denied"
        did.append("refund")
        return "refunded"

    agent = create_agent(model(refund_call(4000)), [refund], checkpointer=InMemorySaver())
    start(agent)
    agent.invoke(Command(resume="yes"), THREAD)

    assert did == ["before", "before", "refund"]


def test_middleware_lets_a_person_answer_instead(desk: Desk) -> None:
    """The person may say what the tool would have said, which this library does not offer."""
    agent = create_agent(
        model(refund_call(4000)),
        [desk.refund],
        middleware=[HumanInTheLoopMiddleware({"refund": {"allowed_decisions": ["respond"]}})],
        checkpointer=InMemorySaver(),
    )
    start(agent)

    state = agent.invoke(reply(type="respond", message="I paid in cash"), THREAD)

    assert messages(state) == ["I paid in cash"]
    assert desk.did == []


def test_interrupt_lets_other_calls_go_ahead(desk: Desk) -> None:
    """A call beside the one that interrupts runs meanwhile, as it does beside a guarded one."""

    @tool
    def ask(question: str) -> str:
        """Ask somebody."""
        return str(interrupt(question))

    ask_call = {"name": "ask", "args": {"question": "may I?"}}
    agent = create_agent(
        model(ask_call, refund_call(50)), [ask, desk.refund], checkpointer=InMemorySaver()
    )

    state = start(agent)

    assert asked(state) == "may I?"
    assert desk.did == [50]


def test_interrupt_needs_a_checkpointer() -> None:
    """Without a checkpointer nothing can take the run up again."""

    @tool
    def ask(question: str) -> str:
        """Ask somebody."""
        return str(interrupt(question))

    agent = create_agent(model({"name": "ask", "args": {"question": "may I?"}}), [ask])
    start(agent)

    with pytest.raises(RuntimeError, match="checkpointer"):
        agent.invoke(Command(resume="yes"), THREAD)


def test_interrupt_works_in_a_graph_only() -> None:
    """Outside of a graph a tool with interrupt() fails; a guarded function asks anywhere."""

    @tool
    def refund(amount: float) -> str:
        """Refund an amount."""
        return str(interrupt({"amount": amount}))

    with pytest.raises((RuntimeError, KeyError)):
        refund.invoke({"amount": 4000})


def test_interrupt_in_a_channel_is_durable(desk: Desk, log_path: Any, lines: Any) -> None:
    """A channel may call interrupt(): the run is taken up later, and leaves one line."""
    from actionguard import Action, ApprovalChannel, Decision

    class Interrupt(ApprovalChannel):
        name = "interrupt"

        def request_approval(self, action: Action) -> Decision:
            return Decision(interrupt(action.args) == "yes")

    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})
    refund = guard(desk.refund, policy=policy, channel=Interrupt(), audit=log_path)
    agent = create_agent(model(refund_call(4000)), [refund], checkpointer=InMemorySaver())
    start(agent)
    assert desk.did == []
    assert log_path.read_text() == ""

    state = agent.invoke(Command(resume="yes"), THREAD)

    assert messages(state) == ["refunded 4000.0"]
    assert desk.did == [4000]
    (line,) = lines()
    assert (line["decision_source"], line["executed"]) == ("interrupt", True)
