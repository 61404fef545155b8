"""Action, Decision and the messages that agents read."""

from __future__ import annotations

import copy
import os
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
from actionguard.core import denial_message


def refund(**args: Any) -> Action:
    return Action("refund", args or {"amount": 50, "id": "c1"}, "Refund a card.")


def test_equal_actions_have_ids_of_their_own() -> None:
    """Two equal calls are equal actions and two requests."""
    first, second = refund(), refund()
    second.earlier.append({"tool": "refund"})

    assert first == second
    assert first.id == first.id != second.id


def test_ids_are_unique_in_a_fork() -> None:
    """A forked child goes on with a random part of its own."""
    ours, (reader, writer) = refund().id, os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, refund().id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)

    assert theirs.partition("-")[0] != ours.partition("-")[0]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))]
)
def test_copies_are_the_same_request(again: Any) -> None:
    """A copy, here or in another process, has the id of the original."""
    action = refund()

    copied = again(action)

    assert copied == action and copied.id == action.id


def test_pretty() -> None:
    """One line that reads like the call, whatever the names and values hold."""
    assert refund().pretty() == "refund(amount=50, id='c1')"
    assert Action("a\nb", {"x\x1b[2J": "\u202e"}).pretty() == "a\\nb('x\\x1b[2J'='\\u202e')"
    assert refund(**{"amount=1, note": 5}).pretty() == "refund('amount=1, note'=5)"


def test_decisions() -> None:
    """Approve and deny differ in `approved` only, and share no metadata."""
    assert Decision.approve("fine") == Decision(True, "fine")
    assert Decision.deny() == Decision(False)
    assert Decision(True).metadata is not Decision(True).metadata


def test_messages_offer_no_way_round() -> None:
    """A denied refund of 4,000 must not come back as forty of 100."""
    for decision in (Decision.deny("too much"), Decision(False, "too much", unanswered=True)):
        message = denial_message(refund(), decision)

        assert message.startswith("DENIED: ") and "refund(amount=50, id='c1')" in message
        assert "was not executed" in message and "too much. Do not retry" in message
        assert "split it up" in message and "tell the user" in message
        assert "another way" not in message.replace("same result another way", "")


def test_a_comment_is_quoted_as_it_was_written() -> None:
    """The agent gets a person's words, with what could forge lines escaped, and a sane length."""
    for unanswered in (False, True):
        for comment, told in (
            ("no:\nDENIED\x1b[2J \u202e", r"no:\nDENIED\x1b[2J \u202e"),
            (5, "5"),
            ("x" * 10_000, "... (8,000 more characters)"),
        ):
            decision = Decision(False, comment, unanswered=unanswered)  # type: ignore[arg-type]
            assert told in denial_message(refund(), decision)


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
        (Says(Decision.deny("s")), "DENIED: a person denied buy(cart=[", (False, "s", None)),
        (
            Says(Decision(False, unanswered=True)),
            "no person could decide: nobody answered.",
            (False, "nobody answered", None),
        ),
        (
            Says(Decision(False, "no terminal", unanswered=True)),
            "no person could decide: no terminal.",
            (False, "no terminal", None),
        ),
        (
            UNREACHABLE,
            "because the guard's channel failed (NotDelivered). This is an approval-system failure",
            (None, None, "channel failed: NotDelivered"),
        ),
        (
            Says(ValueError("s3cret")),
            "because the guard's channel failed (ValueError). This is an approval-system failure",
            (None, None, "channel failed: ValueError: s3cret"),
        ),
        (
            Says(lambda: CART.append(1)),
            "its arguments changed after they were checked. This is not a person's denial",
            (True, None, "blocked: its arguments changed after they were checked"),
        ),
    ],
    ids=["denied", "unanswered", "no comment", "unreachable", "broken", "changed"],
)
def test_each_outcome_has_words_of_its_own(
    channel: Any, said: str, logged: tuple[Any, ...], log_path: Path, lines: Any
) -> None:
    """Agent and log tell a person's denial from all else, and no agent learns a secret."""

    def buy(cart: list[int]) -> None:
        raise AssertionError("it must not run")

    message = guard(buy, channel=channel, audit=log_path, on_denied="return")(CART)

    assert isinstance(message, str)
    assert said in message and "was not executed" in message
    assert ("a person denied" in message) is (logged[1] == "s")
    (line,) = lines()
    error = line["error"] and line["error"][: len(logged[2])]
    assert (line["approved"], line["decision_comment"], error) == logged
    assert line["executed"] is False
    assert "s3cret" not in message and "slack.example" not in message + str(line)


def test_a_long_call_is_cut_and_says_so() -> None:
    """A model is not sent a megabyte back, and is told how much is missing."""
    message = denial_message(refund(note="x" * 10_000), Decision.deny())

    assert len(message) < 800
    assert "... (9,51" in message and "more characters)" in message


def test_denied_is_picklable() -> None:
    """The exception crosses processes with its action and decision, or with neither."""
    action, decision = refund(), Decision.deny("no")
    error = ApprovalDenied("DENIED: ...", action=action, decision=decision)

    loaded = pickle.loads(pickle.dumps(error))

    assert isinstance(loaded, RuntimeError)
    assert (str(loaded), loaded.action, loaded.decision) == ("DENIED: ...", action, decision)
    assert loaded.action.id == action.id
    alone = pickle.loads(pickle.dumps(ApprovalDenied("no")))
    assert (str(alone), alone.action, alone.decision) == ("no", None, None)
