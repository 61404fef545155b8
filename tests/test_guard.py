"""The whole flow through the public API: every way that a call can go, for every kind of call."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import sys
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from conftest import Kind

from actionguard import (
    Action,
    ApprovalChannel,
    ApprovalDenied,
    ApprovalPolicy,
    Decision,
    guard,
)

KEYS = [
    "timestamp",
    "tool",
    "args",
    "needed_approval",
    "approved",
    "decision_source",
    "decision_comment",
    "executed",
    "result",
    "error",
    "id",
    "waited_s",
    "ran_s",
]


class Answer(ApprovalChannel):
    """Answers what it was made with, or raises it."""

    name = "answer"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Action] = []

    def __len__(self) -> int:  # so it is falsy until it is asked, and yet it is to be asked
        return len(self.asked)

    def request_approval(self, action: Action) -> Decision:
        self.asked.append(action)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


class AsyncAnswer(Answer):
    async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().request_approval(action)


class BrokenPolicy(ApprovalPolicy):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def needs_approval(self, args: dict[str, Any]) -> bool:
        raise self.error


@pytest.fixture(params=[Answer, AsyncAnswer], ids=["plain channel", "async channel"])
def channel(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_approved(kind: Kind, channel: Any, lines: Any) -> None:
    """A yes releases the call, once, and the line says all of it."""
    asked = channel(Decision(True, comment="fine", metadata={"who": "ann"}))
    guarded = kind.guarded(channel=asked)

    result = kind.call(guarded)

    assert result == "refunded 4000.0"
    assert kind.ran == [4000.0]
    assert [a.args for a in asked.asked] == [{"amount": 4000.0}]
    assert asked.asked[0].tool_description == "Refund an amount."
    (line,) = lines()
    assert list(line) == [*KEYS, "decision_metadata"]
    assert line["args"] == {"amount": 4000.0}
    assert (line["needed_approval"], line["approved"], line["executed"]) == (True, True, True)
    assert (line["decision_source"], line["decision_comment"]) == ("answer", "fine")
    assert line["decision_metadata"] == {"who": "ann"}
    assert line["error"] is None
    assert line["result"] == (None if "generator" in kind.name else result)


def test_not_held(kind: Kind, lines: Any) -> None:
    """A call that the policy releases runs without anybody being asked."""
    asked = Answer(AssertionError("nobody is to be asked"))
    policy = ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100})

    result = kind.call(kind.guarded(policy=policy, channel=asked), 50.0)

    assert result == "refunded 50.0"
    assert asked.asked == []
    (line,) = lines()
    assert list(line) == KEYS
    assert (line["needed_approval"], line["approved"], line["executed"]) == (False, None, True)


def test_denied(kind: Kind, channel: Any, lines: Any) -> None:
    """A no is told in the caller's language, and nothing runs."""
    guarded = kind.guarded(channel=channel(Decision.deny("twice in a row")))

    if kind.is_tool:
        message = kind.call(guarded)
    else:
        with pytest.raises(ApprovalDenied) as caught:
            kind.call(guarded)
        message = str(caught.value)
        assert caught.value.action.args == {"amount": 4000.0}
        assert caught.value.decision == Decision(False, "twice in a row", source="answer")
        assert caught.value.__context__ is None

    assert message.startswith("DENIED: a person denied ")
    assert "amount=4000.0" in message and "twice in a row" in message
    assert kind.ran == []
    (line,) = lines()
    assert list(line) == KEYS
    assert (line["approved"], line["executed"], line["error"]) == (False, False, None)


def test_on_denied_return(kind: Kind, lines: Any) -> None:
    """With on_denied="return" a refusal is what the call returns or yields."""
    guarded = kind.guarded(channel=Answer(Decision.deny()), on_denied="return")

    assert kind.call(guarded).startswith("DENIED: ")
    assert kind.ran == []
    assert len(lines()) == 1


def test_policy_raises(kind: Kind, lines: Any) -> None:
    """A failing policy blocks the call; its exception's text reaches the log and no agent."""
    error = LookupError("secret-token")
    guarded = kind.guarded(policy=BrokenPolicy(error), channel=Answer(Decision(True)))

    if kind.is_tool:
        message = kind.call(guarded)
        assert message.startswith("BLOCKED: ") and "LookupError" in message
        assert "secret-token" not in message
    else:
        with pytest.raises(LookupError) as caught:
            kind.call(guarded)
        assert caught.value is error
        assert caught.value.__context__ is None

    assert kind.ran == []
    (line,) = lines()
    assert (line["needed_approval"], line["approved"], line["executed"]) == (True, None, False)
    assert line["error"] == "policy failed: LookupError: secret-token"


def test_channel_raises(kind: Kind, channel: Any, lines: Any) -> None:
    """A failing channel blocks the call, and the same exception object arrives."""
    error = ConnectionError("https://hooks.example/secret-token")
    guarded = kind.guarded(channel=channel(error))

    if kind.is_tool:
        message = kind.call(guarded)
        assert message.startswith("BLOCKED: ") and "ConnectionError" in message
        assert "secret-token" not in message
    else:
        with pytest.raises(ConnectionError) as caught:
            kind.call(guarded)
        assert caught.value is error

    assert kind.ran == []
    (line,) = lines()
    assert (line["approved"], line["executed"]) == (None, False)
    assert line["error"] == "channel failed: ConnectionError: https://hooks.example/secret-token"


def test_fault_returned(kind: Kind, lines: Any) -> None:
    """With on_denied="return" a failure of the guard is told as one, and not as a denial."""
    guarded = kind.guarded(channel=Answer(RuntimeError("secret-token")), on_denied="return")

    message = kind.call(guarded)

    assert message.startswith("BLOCKED: ") and "RuntimeError" in message
    assert "secret-token" not in message and "not a denial" in message
    assert len(lines()) == 1


NONSENSE = [None, True, "yes", 1, object(), Decision("no"), Decision(None), Decision(1)]  # type: ignore[arg-type]


def test_channel_answers_nonsense(kind: Kind, lines: Any) -> None:
    """Anything but a Decision whose approved is True or False is a failure of the channel."""
    for nonsense in NONSENSE:
        guarded = kind.guarded(channel=Answer(nonsense), on_denied="return")
        assert kind.call(guarded).startswith("BLOCKED: "), nonsense

    assert kind.ran == []
    assert {line["executed"] for line in lines()} == {False}
    assert {line["error"][:27] for line in lines()} == {"channel failed: TypeError: "}
    assert len(lines()) == len(NONSENSE)


def test_policy_answers_nonsense(kind: Kind, lines: Any) -> None:
    """Only a boolean from needs_approval counts."""

    class Odd:
        def needs_approval(self, args: dict[str, Any]) -> Any:
            return answer

    for answer in (None, 0, 1, "no", [], Decision(False)):
        guarded = kind.guarded(policy=Odd(), channel=Answer(Decision(True)), on_denied="return")
        assert kind.call(guarded).startswith("BLOCKED: "), answer

    assert kind.ran == []
    assert {line["error"][:26] for line in lines()} == {"policy failed: TypeError: "}


def test_body_raises(kind: Kind, lines: Any) -> None:
    """The body's exception arrives as the same object; the line says that the body had started."""
    error = ValueError("card declined")

    def body(amount: float) -> str:
        raise error

    kind.body = body
    with pytest.raises(ValueError, match="card declined") as caught:
        kind.call(kind.guarded(channel=Answer(Decision(True))))

    assert caught.value is error
    (line,) = lines()
    assert (line["approved"], line["executed"]) == (True, True)
    assert line["error"] == "ValueError: card declined"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["policy", "channel", "body"])
def test_interrupted(kind: Kind, where: str, stop: Any, lines: Any) -> None:
    """An interruption anywhere passes as the same object, and leaves its one line."""
    if kind.is_async and kind.is_tool:
        stop = KeyboardInterrupt  # an executor's thread hands on nothing else
    error = stop("stop")

    def body(amount: float) -> str:
        if where == "body":
            raise error
        return "done"

    kind.body = body
    channel = Answer(error if where == "channel" else Decision(True))
    policy = BrokenPolicy(error) if where == "policy" else None
    with pytest.raises(stop) as caught:
        kind.call(kind.guarded(channel=channel, policy=policy))

    assert caught.value is error
    kind.log.in_flight()  # waits for the log's thread
    (line,) = lines()
    assert line["executed"] is (where == "body")
    assert stop.__name__ in line["error"]


ASYNC_BODIES = ["async function", "async generator", "async tool"]


@pytest.mark.parametrize("kind", [*ASYNC_BODIES, "sync tool awaited"], indirect=True)
def test_cancelled_while_waiting(kind: Kind, lines: Any) -> None:
    """A cancelled wait ends at once, runs nothing, and leaves its line; a late yes is ignored."""
    late: list[asyncio.Future[Decision]] = []

    class Slow(ApprovalChannel):
        name = "slow"

        async def request_approval(self, action: Action) -> Decision:
            late.append(asyncio.get_running_loop().create_future())
            started.set()
            return await asyncio.shield(late[0])

    async def main() -> None:
        global started
        started = asyncio.Event()
        task = asyncio.ensure_future(kind.acall(kind.guarded(channel=Slow())))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        late[0].set_result(Decision(True))
        await asyncio.sleep(0)

    asyncio.run(main())

    assert kind.ran == []
    (line,) = lines()
    assert (line["approved"], line["executed"]) == (None, False)
    assert "CancelledError" in line["error"]


@pytest.mark.parametrize("kind", ASYNC_BODIES, indirect=True)
def test_cancelled_in_the_body(kind: Kind, lines: Any) -> None:
    """A task cancelled in the body leaves a line that says that it had started."""

    def body(amount: float) -> str:
        raise asyncio.CancelledError

    kind.body = body
    with pytest.raises(asyncio.CancelledError):
        kind.call(kind.guarded(channel=Answer(Decision(True))))

    (line,) = lines()
    assert line["executed"] is True
    assert "CancelledError" in line["error"]


def test_arguments_that_do_not_fit(kind: Kind, lines: Any) -> None:
    """A call that does not fit is no call: nobody is asked, and no line is written."""
    asked = Answer(Decision(True))
    guarded = kind.guarded(channel=asked)

    with pytest.raises((TypeError, ValueError)):
        if kind.is_tool:
            kind.call(guarded, {"nested": "no number"})  # type: ignore[arg-type]
        else:
            kind.call(functools.partial(guarded, nonsense=1))

    assert asked.asked == []
    assert lines() == []


def test_policy_with_names_of_its_own(tmp_path: Path) -> None:
    """What another policy calls `names` is its own business: any object may be one."""

    class Strangers:
        names = frozenset({"ann", "bob"})

        def needs_approval(self, args: dict[str, Any]) -> bool:
            return args["to"] not in self.names

    class Released(Strangers):
        def needs_approval(self, args: dict[str, Any]) -> bool:
            return False

    for policy in (Strangers(), Mock(needs_approval=Strangers().needs_approval)):
        asked = Answer(Decision(True))
        pay = guard(lambda to: to, policy=policy, channel=asked, audit=tmp_path / "log")

        assert [pay("ann"), pay("eve")] == ["ann", "eve"]
        assert [action.args for action in asked.asked] == [{"to": "eve"}]

    largest = guard(max, policy=Released(), channel=asked, audit=tmp_path / "log")

    assert largest(1, 2) == 2
    assert len(asked.asked) == 1


def test_why_the_guard_failed(caplog: pytest.LogCaptureFixture, log_path: Path, lines: Any) -> None:
    """The operator gets the text and the traceback, the caller a note, the agent the type only."""
    policy = ApprovalPolicy(require_if=lambda args: args["currency"])
    options: dict[str, Any] = {"policy": policy, "audit": log_path}
    told = guard(lambda amount: amount, on_denied="return", **options)(5)

    assert "the guard's policy failed (KeyError)" in told and "currency" not in told
    (logged,) = caplog.records
    assert (logged.name, logged.levelname) == ("actionguard", "ERROR")
    assert logged.exc_info and "currency" in caplog.text
    assert lines()[0]["error"] == "policy failed: KeyError: 'currency'"
    with pytest.raises(KeyError) as caught:
        guard(lambda amount: amount, **options)(5)
    if sys.version_info >= (3, 11):
        note = "actionguard: the guard's policy failed; <lambda> did not run"
        assert caught.value.__notes__ == [note]


def test_a_denial_keeps_nothing_alive(tmp_path: Path) -> None:
    """The arguments of a denied call go when its caller lets go of them, not some time later."""

    class Connection:
        pass

    channel = Answer(Decision(False))
    pay = guard(lambda connection: None, channel=channel, audit=tmp_path / "log")
    connection = Connection()
    alive = weakref.ref(connection)

    gc.disable()
    try:
        with contextlib.suppress(ApprovalDenied):
            pay(connection)
        channel.asked.clear()
        del connection
        assert alive() is None
    finally:
        gc.enable()
