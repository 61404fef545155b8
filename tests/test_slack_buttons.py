"""SlackButtonsChannel against a stand-in for Slack; test_example_slack.py adds a web server."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
from slackserver import Ask, Hook, awaited, both, plain, refund, reply

from actionguard.channels import SlackButtonsChannel
from actionguard.channels._waiting import ask_async
from actionguard.channels.slack import NotDelivered, SlackChannel
from actionguard.core import Decision

SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
ADA, GRACE, EVE = "U0ADA", "U0GRACE", "U0EVE"


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as hook:
        yield hook


@pytest.fixture
def channel(hook: Hook) -> SlackButtonsChannel:
    return made(hook)


def made(hook: Hook, **options: Any) -> SlackButtonsChannel:
    options = {"signing_secret": SECRET, "approvers": {ADA, GRACE}, **options}
    return SlackButtonsChannel(hook.url, **options)


class Waiting(threading.Thread):
    """Somebody who waits for an answer, and the message that asks for it."""

    def __init__(self, hook: Hook, channel: SlackButtonsChannel, ask: Ask = plain) -> None:
        super().__init__(daemon=True)
        self.work = lambda: ask(channel, refund())
        before = len(hook.payloads)
        self.start()
        self.message = hook.wait_for(before + 1)[-1]

    def run(self) -> None:
        self.outcome = self.work()

    def ends(self) -> Decision:
        self.join(120)
        return self.outcome


def signed(body: bytes, *, secret: str = SECRET, age: float = 0) -> dict[str, str]:
    timestamp = str(int(time.time() - age))
    base = b"v0:" + timestamp.encode() + b":" + body
    digest = hmac.new(secret.encode(), base, hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={digest}"}


def click(message: dict[str, Any], word: str, user: str = ADA, url: str | None = None) -> bytes:
    """What Slack sends when this user presses that button below the message."""
    (actions,) = [block for block in message["blocks"] if block["type"] == "actions"]
    (button,) = [b for b in actions["elements"] if b["text"]["text"] == word]
    payload = {
        "type": "block_actions",
        "user": {"id": user, "username": user.lower(), "team_id": "T0"},
        "message": message,
        "actions": [button],
        "response_url": url,
    }
    return urlencode({"payload": json.dumps(payload)}).encode()


def send(channel: SlackButtonsChannel, body: bytes, **forgery: Any) -> tuple[int, str]:
    return channel.handle(signed(body, **forgery), body)


# --- answers ---------------------------------------------------------------------------------


def is_over(answer: tuple[int, str]) -> bool:
    return answer[0] == 200 and answer[1].startswith("No longer waiting: ")


@both
@pytest.mark.parametrize(("word", "past"), [("Approve", "approved"), ("Deny", "denied")])
def test_click_is_the_decision(
    hook: Hook, channel: SlackButtonsChannel, ask: Ask, word: str, past: str
) -> None:
    """The approver's click decides and says who; the message loses its buttons and says it too."""
    waiting = Waiting(hook, channel, ask)

    answer = send(channel, click(waiting.message, word, url=hook.url))

    comment, note = f"{past} by u0ada (U0ADA)", f"{past.capitalize()} by <@U0ADA>."
    assert waiting.ends() == Decision(word == "Approve", comment, "slack", {"who": ADA})
    assert answer == (200, note)
    update = hook.wait_for(2)[1]
    *kept, added = update.pop("blocks")
    assert update == {"replace_original": True, "text": note}
    assert kept == waiting.message["blocks"][:-1]
    assert added["elements"] == [{"type": "mrkdwn", "text": note}]


def test_the_message(channel: SlackButtonsChannel) -> None:
    """The message is SlackChannel's, with two buttons that carry the id."""
    action = refund()
    message = channel.message(action)
    *shown, actions = message["blocks"]

    assert {**message, "blocks": shown} == SlackChannel("http://h", timeout=300).message(action)
    buttons = [(b["text"]["text"], b["style"], b["value"]) for b in actions["elements"]]
    assert buttons == [("Approve", "primary", action.id), ("Deny", "danger", action.id)]


def test_stranger_then_approver(hook: Hook, channel: SlackButtonsChannel) -> None:
    """Somebody who is not on the list is told so alone, and the request stays open."""
    waiting = Waiting(hook, channel)

    status, text = send(channel, click(waiting.message, "Approve", EVE, hook.url))
    assert (status, text) == (200, "You (U0EVE) are not an approver of this request.")
    told = {"response_type": "ephemeral", "replace_original": False, "text": text}
    assert hook.wait_for(2)[1] == told
    assert waiting.is_alive()

    send(channel, click(waiting.message, "Deny", GRACE))
    assert waiting.ends().metadata == {"who": GRACE}


@pytest.mark.parametrize("ask", [plain, awaited])
def test_first_answer_stands(hook: Hook, channel: SlackButtonsChannel, ask: Ask) -> None:
    """Of many clicks at once one counts; the others, and what is sent again later, are told so."""
    waiting = Waiting(hook, channel, ask)
    barrier, answers = threading.Barrier(8), []
    first = click(waiting.message, "Deny")
    headers = signed(first)

    def one(n: int) -> None:
        body = click(waiting.message, ("Approve", "Deny")[n % 2], (ADA, GRACE)[n // 2 % 2])
        barrier.wait(120)
        answers.append(send(channel, body))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))

    decision = waiting.ends()
    word = "Approved" if decision.approved else "Denied"
    (counted,) = [answer for answer in answers if not is_over(answer)]
    assert counted == (200, f"{word} by <@{decision.metadata['who']}>.")
    assert is_over(channel.handle(headers, first))
    assert is_over(channel.handle(headers, first))


@both
def test_equal_requests_answered_crosswise(
    hook: Hook, channel: SlackButtonsChannel, ask: Ask
) -> None:
    """Two equal refunds are two requests: each gets the answer that stands under it."""
    first, second = Waiting(hook, channel, ask), Waiting(hook, channel, ask)

    send(channel, click(second.message, "Approve"))
    assert second.ends().approved is True
    assert first.is_alive()
    send(channel, click(first.message, "Deny"))
    assert first.ends().approved is False


@both
@pytest.mark.parametrize("on_timeout", ["deny", "approve"])
def test_unanswered(hook: Hook, ask: Ask, on_timeout: Any) -> None:
    """The timeout decides; a later click is told that it is over."""
    channel = made(hook, timeout=0.05, on_timeout=on_timeout)

    decision = ask(channel, refund())

    approved = on_timeout == "approve"
    assert decision == Decision(approved, "no answer within 0.05 s", "slack", unanswered=True)
    assert is_over(send(channel, click(hook.payloads[0], "Approve")))


def test_click_before_the_post_has_returned(hook: Hook, channel: SlackButtonsChannel) -> None:
    """Slack may send a click before it has answered the post."""

    def quick(handler: BaseHTTPRequestHandler) -> None:
        send(channel, click(hook.payloads[0], "Approve"))
        reply(200)(handler)

    hook.script = [quick]

    assert channel.request_approval(refund()).approved is True


@both
def test_click_while_the_post_hangs(hook: Hook, ask: Ask) -> None:
    """A click proves that Slack took the request, so its answer counts."""
    channel = made(hook, post_timeout=0.2)

    def quick(handler: BaseHTTPRequestHandler) -> None:
        send(channel, click(hook.payloads[0], "Approve"))
        hook.hang(handler)

    hook.script = [quick]

    assert ask(channel, refund()).metadata == {"who": ADA}


@both
def test_post_that_fails(hook: Hook, channel: SlackButtonsChannel, ask: Ask) -> None:
    """What Slack does not take blocks the call, and a click on it is too late."""
    hook.script = [reply(404, "no_service")]

    with pytest.raises(NotDelivered, match="HTTP 404 no_service"):
        ask(channel, refund())

    assert is_over(send(channel, click(hook.payloads[0], "Approve")))


def test_two_channels_behind_one_url(hook: Hook) -> None:
    """One channel's handle takes clicks for all of the same app, each with its own approvers."""
    payments, deploys = made(hook, approvers=[ADA]), made(hook, approvers=[GRACE])
    another_app = made(hook, signing_secret="another")
    waiting = Waiting(hook, deploys)

    assert "not an approver" in send(payments, click(waiting.message, "Approve", ADA))[1]
    stolen = click(waiting.message, "Approve", GRACE)
    assert is_over(send(another_app, stolen, secret="another"))
    assert waiting.is_alive()
    assert send(payments, stolen)[1] == "Approved by <@U0GRACE>."
    assert waiting.ends().metadata == {"who": GRACE}


# --- what is not from Slack ------------------------------------------------------------------


def test_signature_of_slacks_documentation(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is the one that Slack's documentation works out step by step."""
    body = (
        "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
        "&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
        "&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands"
        "%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        "&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    headers = {"x-slack-request-timestamp": "1531420618", "x-slack-signature": signature}
    channel = made(hook)

    assert channel.handle(headers, body)[0] == 401
    monkeypatch.setattr(time, "time", lambda: 1531420618 + 299.0)
    assert channel.handle(headers, body)[0] == 400  # signed, and no click
    assert channel.handle(headers, body.encode())[0] == 400
    assert channel.handle(headers, body + " ")[0] == 401


FORGERIES: list[dict[str, Any]] = [
    *({"secret": "another"}, {"secret": "None"}, {"age": 310}, {"age": -310}),
    *({"X-Slack-Signature": None}, {"X-Slack-Request-Timestamp": None}),
    *({"X-Slack-Request-Timestamp": t} for t in ("", "now", "9" * 5000, "\u0661", " 1", "-1")),
    *({"X-Slack-Signature": s} for s in ("", "v0=", "v0=\u00e4", "v0=\udcff", "v1=00")),
]


def test_forged_clicks(hook: Hook, channel: SlackButtonsChannel) -> None:
    """What Slack did not sign within five minutes is refused, and answers nothing."""
    waiting = Waiting(hook, channel)
    body = click(waiting.message, "Approve", url=hook.url)
    for forgery in FORGERIES:
        options = {k: v for k, v in forgery.items() if not k.startswith("X-")}
        headers = signed(body, **options) | {k: forgery[k] for k in forgery.keys() - options}
        headers = {k: v for k, v in headers.items() if v is not None}
        refused = (401, "Not signed by Slack within the last five minutes.")
        assert channel.handle(headers, body) == refused, forgery

    assert waiting.is_alive()
    send(channel, click(waiting.message, "Deny"))
    assert waiting.ends().approved is False
    assert len(hook.payloads) == 1


PAYLOADS: list[Any] = [
    *(7, [], {}, {"type": "view_submission", "user": {"id": ADA}, "view": {}}),
    {"user": {"id": ADA}, "actions": []},
    {"user": {"id": ADA}, "actions": [{"action_id": "mine", "value": "x"}]},
    {"user": {"id": ADA}, "actions": [{"action_id": "actionguard_approve"}]},
    {"user": None, "actions": [{"action_id": "actionguard_approve", "value": "x"}]},
    {"user": {"id": ADA}, "actions": [{"action_id": ["x"], "value": ["x"]}]},
]
FORMS = [urlencode({"payload": json.dumps(payload)}).encode() for payload in PAYLOADS]


@pytest.mark.parametrize("body", [b"", b"payload=", b"\xff", b"ssl_check=1", *FORMS])
def test_signed_by_slack_but_no_click(channel: SlackButtonsChannel, body: bytes) -> None:
    """What else Slack sends to the URL is refused, and is no crash."""
    assert send(channel, body) == (400, "Not a click on an actionguard button.")


# --- set-ups ---------------------------------------------------------------------------------


def test_async_waits_hold_no_thread() -> None:
    """Any number of async calls wait without a thread, and cancelling one ends it at once."""
    session = mock.Mock()
    session.post.return_value = mock.Mock(status_code=200)
    options: Any = {"signing_secret": SECRET, "approvers": [ADA], "session": session}
    channel = SlackButtonsChannel("http://slack.example", **options)

    async def main() -> list[Any]:
        waits = [asyncio.create_task(ask_async(channel, refund(n))) for n in range(300)]
        while session.post.call_count < 300 or threading.active_count() > 50:
            await asyncio.sleep(0.01)
        assert not any(wait.done() for wait in waits)
        waits[7].cancel()
        await asyncio.wait({waits[7]})
        posted = [call.kwargs["json"] for call in session.post.call_args_list]
        assert sum(is_over(send(channel, click(message, "Approve"))) for message in posted) == 1
        return await asyncio.gather(*waits, return_exceptions=True)

    outcomes = asyncio.run(main())
    assert isinstance(outcomes.pop(7), asyncio.CancelledError)
    assert all(decision.approved for decision in outcomes)


def test_update_that_fails(hook: Hook, channel: SlackButtonsChannel, caplog: Any) -> None:
    """The answer counts at once all the same, and no URL is logged."""
    caplog.set_level(logging.DEBUG)
    waiting = Waiting(hook, channel)

    hook.script = [hook.hang, reply(500)]
    send(channel, click(waiting.message, "Approve", EVE, hook.url))
    hook.wait_for(2)
    send(channel, click(waiting.message, "Approve", url=hook.url))

    assert waiting.ends().approved is True
    hook.wait_for(3)
    assert "127.0.0.1" not in caplog.text
    assert "s3cret" not in caplog.text


SPACES, IDS = (
    "signing_secret must be a string without spaces",
    "approvers must be one or more Slack",
)
WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    ("signing_secret", ("", " ", "s3cret s3cret", "s3cret\n", None, b"s3cret", 7), SPACES),
    ("approvers", (ADA, "", None, (), set(), [ADA, None], [""], [b"U0ADA"], b"U0ADA"), IDS),
    ("timeout", (-1,), "timeout must be a finite number of seconds"),
    ("poll_fn", (lambda action: None,), "poll_fn"),
]


@pytest.mark.parametrize(("name", "values", "told"), WRONG)
def test_bad_options(hook: Hook, name: str, values: tuple[Any, ...], told: str) -> None:
    """What cannot work is an error at construction, which shows no secret."""
    for value in values:
        with pytest.raises((TypeError, ValueError), match=told) as caught:
            made(hook, **{name: value})
        assert "s3cret" not in str(caught.value)


def test_secrets_do_not_show(channel: SlackButtonsChannel) -> None:
    """Neither URL nor signing secret is in what people print of a channel."""
    shown = repr(channel) + str(vars(channel))

    assert SECRET not in shown
    assert "s3cret" not in shown
    assert pickle.loads(pickle.dumps(channel)).approvers == {ADA, GRACE}
