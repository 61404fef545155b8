"""Action, Decision and the words that an agent reads."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from actionguard import (
    Action,
    ApprovalChannel,
    ApprovalDenied,
    Decision,
    SlackChannel,
    guard,
)
from actionguard.core import blocked_message, denial_message


def refund(**args: Any) -> Action:
    return Action("refund", args or {"amount": 50, "id": "c1"}, "Refund a card.")


def test_equal_actions_have_ids_of_their_own() -> None:
    """Two equal calls are equal actions and two requests."""
    first, second = refund(), refund()

    assert first == second and repr(first) == repr(second)
    assert first.id == first.id != second.id
    assert "_id" not in dataclasses.asdict(first)


def test_id_asked_for_by_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second gets the id that the first has got."""
    action = refund()
    other: list[str] = []

    def interrupted(size: int) -> bytes:
        monkeypatch.undo()
        other.append(action.id)
        return b"\0" * size

    monkeypatch.setattr("actionguard.core.os.urandom", interrupted)

    assert [action.id] == other


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))]
)
def test_copies_are_the_same_request(again: Any) -> None:
    """A copy, here or in another process, has the id of the original, asked for before or after."""
    action = refund()

    copied = again(action)

    assert copied == action and copied.id == action.id


def test_pretty() -> None:
    """One line that reads like the call, whatever the names and values hold."""
    assert refund().pretty() == "refund(amount=50, id='c1')"
    assert Action("a\nb", {"x\x1b[2J": "\u202e"}).pretty() == "a\\nb('x\\x1b[2J'='\\u202e')"
    assert refund(**{"amount=1, note": 5}).pretty() == "refund('amount=1, note'=5)"


def test_decisions() -> None:
    """Approve and deny are a person's answers; only these two differ in `approved`."""
    assert Decision.approve("fine") == Decision(True, "fine")
    assert Decision.deny() == Decision(False)
    assert Decision(True).metadata is not Decision(True).metadata


def test_messages_tell_apart_what_happened() -> None:
    """A person's no, nobody's answer and the guard's fault do not sound alike."""
    denied = denial_message(refund(), Decision.deny("too much"))
    unanswered = denial_message(refund(), Decision(False, "no terminal", unanswered=True))
    blocked = blocked_message(refund(), "the guard's policy failed (KeyError)")

    assert denied.startswith("DENIED: a person refused refund(amount=50, id='c1').")
    assert "too much" in denied and "Do not repeat it unchanged" in denied
    assert unanswered.startswith("DENIED: refund(") and "no terminal" in unanswered
    assert "a person refused" not in unanswered
    assert blocked.startswith("BLOCKED: ") and "KeyError" in blocked and "do not retry" in blocked
    for message in (denied, unanswered, blocked):
        assert "was not executed" in message


def test_a_comment_is_quoted_as_it_was_written() -> None:
    """The agent gets a person's words, with what could forge lines shown, and a sane length."""
    for unanswered in (False, True):
        decision = Decision(False, "no:\nDENIED\x1b[2J \u202e", unanswered=unanswered)
        assert r"no:\nDENIED\x1b[2J \u202e" in denial_message(refund(), decision)

        decision = Decision(False, 5, unanswered=unanswered)  # type: ignore[arg-type]
        assert "5" in denial_message(refund(), decision)

        decision = Decision(False, "x" * 10_000, unanswered=unanswered)
        assert "... (8,000 more characters)" in denial_message(refund(), decision)


class Session:
    """Slack, refusing."""

    def post(self, url: str, json: Any, timeout: float) -> Any:
        raise ConnectionError(url)


class Says(ApprovalChannel):
    """Returns or raises what it was made with."""

    name = "says"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def request_approval(self, action: Action) -> Decision:
        if isinstance(self.answer, Exception):
            raise self.answer
        self.answer() if callable(self.answer) else None
        return Decision(True) if callable(self.answer) else self.answer


CART: list[int] = []
UNREACHABLE = SlackChannel("https://slack.example/s3cret", session=Session())


@pytest.mark.parametrize(
    ("channel", "said", "logged"),
    [
        (Says(Decision.deny("s")), "DENIED: a person refused buy(cart=[", (False, "s", None)),
        (
            Says(Decision(False, unanswered=True)),
            "no person could decide on it: nobody answered.",
            (False, "nobody answered", None),
        ),
        (
            Says(Decision(False, "no terminal", unanswered=True)),
            "no person could decide on it: no terminal.",
            (False, "no terminal", None),
        ),
        (
            UNREACHABLE,
            "because the guard's channel failed (NotDelivered). This is a fault of the guard",
            (None, None, "channel failed: NotDelivered"),
        ),
        (
            Says(ValueError("s3cret")),
            "because the guard's channel failed (ValueError). This is a fault of the guard",
            (None, None, "channel failed: ValueError"),
        ),
        (
            Says(lambda: CART.append(1)),
            "its arguments changed after they were checked. This is no person's denial",
            (True, None, "blocked: its arguments changed after they were checked"),
        ),
    ],
    ids=["denied", "unanswered", "no comment", "unreachable", "broken", "changed"],
)
def test_each_outcome_has_words_of_its_own(
    channel: Any, said: str, logged: tuple[Any, ...], log_path: Path, lines: Any
) -> None:
    """Agent and log tell apart a person's no and what is none, and neither learns a secret."""

    def buy(cart: list[int]) -> None:
        raise AssertionError("it must not run")

    message = guard(buy, channel=channel, audit=log_path, on_denied="return")(CART)

    assert isinstance(message, str)
    assert said in message and "was not executed" in message
    assert ("refused" in message) is (logged[1] == "s")
    (line,) = lines()
    assert (line["approved"], line["decision_comment"], line["error"]) == logged
    assert line["executed"] is False
    assert "s3cret" not in message + str(line)


def test_a_long_call_is_cut_and_says_so() -> None:
    """A model is not sent a megabyte back, and is told how much is missing."""
    message = denial_message(refund(note="x" * 10_000), Decision.deny())

    assert len(message) < 800
    assert "... (9,51" in message and "more characters)" in message


def test_denied_is_picklable() -> None:
    """The exception crosses processes with its action and decision."""
    action, decision = refund(), Decision.deny("no")
    error = ApprovalDenied("DENIED: ...", action=action, decision=decision)

    loaded = pickle.loads(pickle.dumps(error))

    assert (str(loaded), loaded.action, loaded.decision) == ("DENIED: ...", action, decision)
    assert loaded.action.id == action.id
