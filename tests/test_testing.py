from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool

from actionguard import ApprovalDenied, AuditLog, configure, guard
from actionguard._gate import ask
from actionguard.channels._waiting import ask_async
from actionguard.core import Action, Decision
from actionguard.testing import (
    AutoApproveChannel,
    AutoDenyChannel,
    ScriptedChannel,
    ScriptExhausted,
    SilentChannel,
    answering,
    read_log,
)

NO_LOG = AuditLog(enabled=False)


def refund(amount: float) -> str:
    """Refund an amount."""
    return f"refunded {amount}"


async def arefund(amount: float) -> str:
    return f"refunded {amount}"


@pytest.fixture(params=["sync", "async"])
def asked(request: pytest.FixtureRequest) -> Any:
    """Asks a channel as guarded plain code does, or as guarded async code does."""
    if request.param == "sync":
        return ask
    return lambda channel, action: asyncio.run(ask_async(channel, action))


@pytest.fixture
def silent() -> Iterator[SilentChannel]:
    with SilentChannel() as channel:
        yield channel


# --- channels that answer --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AutoApproveChannel, AutoDenyChannel])
def test_always_the_same_answer(asked: Any, kind: Any) -> None:
    """Every request is answered as a person would, with the comment, and kept in order."""
    channel = kind("because")
    actions = [Action("refund", {"amount": n}) for n in range(3)]

    answers = [asked(channel, action) for action in actions]

    assert answers == [Decision(kind is AutoApproveChannel, "because", channel.name)] * 3
    assert not any(answer.unanswered for answer in answers)
    assert channel.requests == actions


def test_scripted_answers_come_in_order(asked: Any) -> None:
    """Decisions are given as they are, bools as decisions, and exceptions are raised."""
    given = Decision(True, "ok", metadata={"ticket": 7})
    channel = ScriptedChannel(True, False, given, ConnectionError("down"))

    assert asked(channel, Action("a", {})) == Decision(True, source="scripted")
    assert asked(channel, Action("b", {})) == Decision(False, source="scripted")
    assert asked(channel, Action("c", {})) is given
    with pytest.raises(ConnectionError, match="down"):
        asked(channel, Action("d", {}))
    assert [action.tool_name for action in channel.requests] == ["a", "b", "c", "d"]


def test_exhausted_script_says_so(asked: Any) -> None:
    """A request too many fails the test that made it, and is recorded."""
    channel = ScriptedChannel(True)
    asked(channel, Action("first", {}))

    with pytest.raises(ScriptExhausted, match=r"has no answer left for second\(n=5\)"):
        asked(channel, Action("second", {"n": 5}))
    assert len(channel.requests) == 2


def test_a_script_goes_on_when_its_requests_are_forgotten(asked: Any) -> None:
    """A test that empties the list between two steps gets no answer twice."""
    channel = ScriptedChannel(True, False)
    asked(channel, Action("first", {}))
    channel.requests.clear()

    assert asked(channel, Action("second", {})).approved is False
    assert channel.requests == [Action("second", {})]


@pytest.mark.parametrize("answer", ["yes", 1, None, TimeoutError])
def test_script_takes_only_answers(answer: Any) -> None:
    """What is no answer is refused when the script is written."""
    with pytest.raises(TypeError, match="takes Decisions, bools and exceptions to raise, not"):
        ScriptedChannel(True, answer)


def test_answers_by_tool_and_from_a_function(asked: Any) -> None:
    """A tool gets its answer whatever the order; a function sees the action."""
    by_tool = ScriptedChannel(refund=False, send_email=True)
    computed = ScriptedChannel(lambda action: action.args["n"] < 5)

    order = ["send_email", "refund", "send_email"]
    assert [asked(by_tool, Action(n, {})).approved for n in order] == [True, False, True]
    assert [asked(computed, Action("a", {"n": n})).approved for n in (1, 9)] == [True, False]
    with pytest.raises(ScriptExhausted, match=r"no answer left for deploy\(\)"):
        asked(by_tool, Action("deploy", {}))
    with pytest.raises(TypeError, match="not 'yes'"):
        asked(ScriptedChannel(lambda action: "yes"), Action("a", {}))  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="in order or by tool, not both"):
        ScriptedChannel(True, refund=False)


def test_each_thread_gets_an_answer_of_its_own() -> None:
    """A script shared by threads gives every answer once, and records every request once."""
    script = [Decision(True, str(n)) for n in range(200)]
    channel = ScriptedChannel(*script)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ask(channel, Action("a", {"n": n})), range(200)))

    assert sorted(str(answer.comment) for answer in answers) == sorted(map(str, range(200)))
    given = {action.args["n"]: str(at) for at, action in enumerate(channel.requests)}
    assert [given[n] for n in range(200)] == [answer.comment for answer in answers]


def test_subclass_may_answer_in_its_own_way(asked: Any) -> None:
    """A subclass that overrides the plain method is asked by async code, too."""

    class Cautious(AutoApproveChannel):
        def request_approval(self, action: Action) -> Decision:
            decision = super().request_approval(action)
            return decision if action.args["n"] < 5 else Decision.deny()

    channel = Cautious()

    assert asked(channel, Action("a", {"n": 1})).approved is True
    assert asked(channel, Action("a", {"n": 9})).approved is False
    assert len(channel.requests) == 2


# --- a channel that does not -----------------------------------------------------------------


def test_silent_channel_keeps_a_plain_caller_waiting(silent: SilentChannel) -> None:
    """A plain caller waits until the channel is hung up, and then runs nothing."""
    ran: list[float] = []
    outcome: list[object] = []
    guarded = guard(ran.append, channel=silent, audit=NO_LOG, on_denied="return")
    thread = threading.Thread(target=lambda: outcome.append(guarded(4000.0)), daemon=True)
    thread.start()

    requests = silent.wait_for_requests(timeout=120)
    assert (len(requests), ran, outcome) == (1, [], [])
    silent.hang_up()
    thread.join(120)

    assert ran == []
    assert str(outcome[0]).startswith("DENIED: append(")
    assert "the silent channel hung up" in str(outcome[0])


def test_silent_channel_keeps_async_callers_waiting_until_cancelled(silent: SilentChannel) -> None:
    """A task is cancelled at once, and the other waiting ones wait on."""
    guarded = guard(arefund, channel=silent, audit=NO_LOG)

    async def main() -> list[Any]:
        first, second = asyncio.create_task(guarded(1.0)), asyncio.create_task(guarded(2.0))
        while len(silent.requests) < 2:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        await asyncio.sleep(0.01)
        assert not second.done()
        silent.hang_up()
        return await asyncio.gather(first, second, return_exceptions=True)

    cancelled, denied = asyncio.run(main())

    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(denied, ApprovalDenied)
    assert denied.decision is not None
    assert denied.decision.unanswered is True


def test_hung_up_channel_waits_no_more(asked: Any) -> None:
    """Requests after the end do not wait, and hanging up twice does no harm."""
    with SilentChannel() as channel:
        pass
    channel.hang_up()

    assert asked(channel, Action("a", {})).unanswered is True
    assert len(channel.requests) == 1


def test_waiting_for_requests_gives_up() -> None:
    """A test that waits for a request that never comes is told so, in numbers."""
    channel = AutoApproveChannel()
    ask(channel, Action("a", {}))

    assert channel.wait_for_requests(1, timeout=0) == [Action("a", {})]
    with pytest.raises(TimeoutError, match=r"expected 2 requests in 0\.01 s, got 1"):
        channel.wait_for_requests(2, timeout=0.01)


# --- with a guard ----------------------------------------------------------------------------


def test_a_guard_is_tested_without_a_person(log_path: Path) -> None:
    """What ran, what was asked and what was logged can all be seen."""
    channel = ScriptedChannel(True, False)
    guarded = guard(refund, channel=channel, audit=log_path, on_denied="return")

    assert guarded(50.0) == "refunded 50.0"
    assert guarded(60.0).startswith("DENIED: ")
    assert [action.pretty() for action in channel.requests] == [
        "refund(amount=50.0)",
        "refund(amount=60.0)",
    ]
    assert [(line["approved"], line["decision_source"]) for line in read_log(log_path)] == [
        (True, "scripted"),
        (False, "scripted"),
    ]


# --- one switch for all guards ---------------------------------------------------------------

MADE_AT_IMPORT = AutoDenyChannel("nobody should be asked here")
imported = guard(refund, channel=MADE_AT_IMPORT, audit=NO_LOG)
imported_async = guard(arefund, channel=MADE_AT_IMPORT, audit=NO_LOG)
imported_tool = guard(tool(refund), channel=MADE_AT_IMPORT, audit=NO_LOG)


def test_answering_reaches_every_guard() -> None:
    """Guards that were made at import ask the block's channel, and write to the block's log."""
    with answering(AutoApproveChannel()) as log:
        imported(1.0)
        asyncio.run(imported_async(2.0))
        imported_tool.invoke({"amount": 3.0})
        ThreadPoolExecutor(1).submit(imported, 4.0).result()

    assert [record["args"]["amount"] for record in log.records()] == [1.0, 2.0, 3.0, 4.0]
    assert MADE_AT_IMPORT.requests == []
    with pytest.raises(ApprovalDenied, match="nobody should be asked"):
        imported(5.0)
    MADE_AT_IMPORT.requests.clear()


def test_answering_puts_everything_back() -> None:
    """Nested and failing blocks restore what was there before."""
    outer, inner = AutoApproveChannel(), ScriptedChannel(True, True)
    with answering(outer):
        with pytest.raises(LookupError), answering(inner) as log:
            imported(1.0)
            raise LookupError
        imported(2.0)

    assert [request.args for request in inner.requests] == [{"amount": 1.0}]
    assert [request.args for request in outer.requests] == [{"amount": 2.0}]
    assert len(list(log.records())) == 1
    with pytest.raises(TypeError, match="takes an ApprovalChannel, not 'yes'"), answering("yes"):  # type: ignore[arg-type]
        pass


def test_configure(log_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards that name nothing use what is configured at the time of the call."""
    monkeypatch.chdir(tmp_path)
    channel = AutoApproveChannel()
    named = guard(refund, channel=AutoDenyChannel(), audit=NO_LOG, on_denied="return")
    unnamed = guard(refund, on_denied="return")

    configure(channel=channel, audit=log_path)
    try:
        assert unnamed(5.0) == "refunded 5.0"
        assert named(5.0).startswith("DENIED: ")
    finally:
        configure()

    assert [record["args"] for record in read_log(log_path)] == [{"amount": 5.0}]
    assert len(channel.requests) == 1
    assert "no person could decide" in unnamed(6.0)  # the terminal again, and there is none
    assert (tmp_path / "actionguard_audit.jsonl").exists()
    for wrong in ({"channel": "slack"}, {"audit": 5}, {"audit": tmp_path}):
        with pytest.raises((TypeError, OSError)):
            configure(**wrong)  # type: ignore[arg-type]
