"""SlackButtonsChannel between a stand-in for Slack and a small web server."""

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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
import requests
from slackserver import Ask, Hook, awaited, both, plain, raw, refund, reply

from actionguard import AuditLog, guard
from actionguard.channels import SlackButtonsChannel
from actionguard.channels._waiting import ask_async
from actionguard.channels.slack import NotDelivered, SlackChannel
from actionguard.core import Action, Decision

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
    """Somebody who waits for an answer."""

    def __init__(self, ask: Ask, channel: SlackButtonsChannel, action: Action) -> None:
        super().__init__(daemon=True)
        self.work = lambda: ask(channel, action)
        self.start()

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


@both
@pytest.mark.parametrize("word", ["Approve", "Deny"])
def test_click_is_the_decision(
    hook: Hook, channel: SlackButtonsChannel, ask: Ask, word: str
) -> None:
    """The approver's click decides and says who; the message loses its buttons and says it too."""
    waiting = Waiting(ask, channel, refund())
    message = hook.wait_for(1)[0]

    status, text = send(channel, click(message, word, url=hook.url))

    past = {"Approve": "approved", "Deny": "denied"}[word]
    comment = f"{past} by u0ada (U0ADA)"
    assert waiting.ends() == Decision(word == "Approve", comment, "slack", {"who": ADA})
    note = f"{past.capitalize()} by <@U0ADA>."
    assert (status, text) == (200, note)
    update = hook.wait_for(2)[1]
    assert update["replace_original"] is True
    assert update["text"] == note
    assert update["blocks"][:-1] == [b for b in message["blocks"] if b["type"] != "actions"]
    assert update["blocks"][-1]["elements"] == [{"type": "mrkdwn", "text": note}]


def test_the_message(channel: SlackButtonsChannel) -> None:
    """The message is SlackChannel's, with two buttons that carry the id."""
    action = refund()
    message = channel.message(action)
    *shown, actions = message["blocks"]

    assert {**message, "blocks": shown} == SlackChannel("http://h", timeout=300).message(action)
    assert actions["type"] == "actions"
    assert [(b["text"]["text"], b["style"], b["value"]) for b in actions["elements"]] == [
        ("Approve", "primary", action.id),
        ("Deny", "danger", action.id),
    ]


def test_stranger_then_approver(hook: Hook, channel: SlackButtonsChannel) -> None:
    """Somebody who is not on the list is told so alone, and the request stays open."""
    waiting = Waiting(plain, channel, refund())
    message = hook.wait_for(1)[0]

    status, text = send(channel, click(message, "Approve", EVE, hook.url))
    assert (status, text) == (200, "You (U0EVE) are not an approver of this request.")
    told = {"response_type": "ephemeral", "replace_original": False, "text": text}
    assert hook.wait_for(2)[1] == told
    assert waiting.is_alive()

    send(channel, click(message, "Deny", GRACE))
    assert waiting.ends().metadata == {"who": GRACE}


def test_first_answer_stands(hook: Hook, channel: SlackButtonsChannel) -> None:
    """Another click, or the same one delivered again, changes nothing and is told so alone."""
    waiting = Waiting(plain, channel, refund())
    message = hook.wait_for(1)[0]
    first = click(message, "Deny", url=hook.url)
    headers = signed(first)

    assert channel.handle(headers, first) == (200, "Denied by <@U0ADA>.")
    assert waiting.ends().approved is False
    hook.wait_for(2)
    for status, text in (channel.handle(headers, first), send(channel, click(message, "Approve"))):
        assert status == 200
        assert text.startswith("No longer waiting: the request was answered,")
    told = {"response_type": "ephemeral", "replace_original": False, "text": text}
    assert hook.wait_for(3)[2] == told


def test_many_clicks_at_once(hook: Hook, channel: SlackButtonsChannel) -> None:
    """However many threads answer at once, one counts, and the others are told so."""
    waiting = Waiting(awaited, channel, refund())
    message = hook.wait_for(1)[0]
    barrier, answers = threading.Barrier(8), []

    def one(n: int) -> None:
        body = click(message, ("Approve", "Deny")[n % 2], (ADA, GRACE)[n // 2 % 2])
        barrier.wait(120)
        answers.append(send(channel, body))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    decision = waiting.ends()
    word = "Approved" if decision.approved else "Denied"
    counted = [text for status, text in answers if not text.startswith("No longer waiting: ")]
    assert counted == [f"{word} by <@{decision.metadata['who']}>."]


@both
def test_equal_requests_answered_crosswise(
    hook: Hook, channel: SlackButtonsChannel, ask: Ask
) -> None:
    """Two equal refunds are two requests: each gets the answer that stands under it."""
    first, second = refund(), refund()
    assert first == second
    waits = {action.id: Waiting(ask, channel, action) for action in (first, second)}
    messages = {m["blocks"][-1]["elements"][0]["value"]: m for m in hook.wait_for(2)}

    send(channel, click(messages[second.id], "Approve"))
    assert waits[second.id].ends().approved is True
    assert waits[first.id].is_alive()
    send(channel, click(messages[first.id], "Deny"))
    assert waits[first.id].ends().approved is False


@both
@pytest.mark.parametrize("on_timeout", ["deny", "approve"])
def test_unanswered(hook: Hook, ask: Ask, on_timeout: Any) -> None:
    """The timeout decides; a later click is told that it is over."""
    channel = made(hook, timeout=0.05, on_timeout=on_timeout)

    decision = ask(channel, refund())

    approved = on_timeout == "approve"
    assert decision == Decision(approved, "no answer within 0.05 s", "slack", unanswered=True)
    assert send(channel, click(hook.payloads[0], "Approve"))[1].startswith("No longer waiting: ")


def test_click_before_the_post_has_returned(hook: Hook, channel: SlackButtonsChannel) -> None:
    """Slack may send a click before it has answered the post."""

    def quick(handler: BaseHTTPRequestHandler) -> None:
        send(channel, click(hook.payloads[0], "Approve"))
        reply(200)(handler)

    hook.script = [quick]

    assert channel.request_approval(refund()).approved is True


@both
def test_post_that_fails(hook: Hook, channel: SlackButtonsChannel, ask: Ask) -> None:
    """What Slack does not take blocks the call, and a click on it is too late."""
    hook.script = [reply(404, "no_service")]
    action = refund()

    with pytest.raises(NotDelivered, match="HTTP 404 no_service"):
        ask(channel, action)

    assert send(channel, click(channel.message(action), "Approve"))[1].startswith("No longer")


def test_two_channels_behind_one_url(hook: Hook) -> None:
    """One channel's handle takes clicks for all of the same app, each with its own approvers."""
    payments, deploys = made(hook, approvers=[ADA]), made(hook, approvers=[GRACE])
    another_app = made(hook, signing_secret="another")
    waiting = Waiting(plain, deploys, refund())
    message = hook.wait_for(1)[0]

    assert "not an approver" in send(payments, click(message, "Approve", ADA))[1]
    stolen = send(another_app, click(message, "Approve", GRACE), secret="another")
    assert stolen[1].startswith("No longer waiting: ")
    assert waiting.is_alive()
    assert send(payments, click(message, "Approve", GRACE))[1] == "Approved by <@U0GRACE>."
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


@pytest.mark.parametrize(
    "forgery",
    [
        *({"secret": "another"}, {"secret": "None"}, {"age": 310}, {"age": -310}),
        *({"X-Slack-Signature": None}, {"X-Slack-Request-Timestamp": None}),
        *({"X-Slack-Request-Timestamp": t} for t in ("", "now", "9" * 5000, "\u0661", " 1", "-1")),
        *({"X-Slack-Signature": s} for s in ("", "v0=", "v0=\u00e4", "v0=\udcff", "v1=00")),
    ],
    ids=str,
)
def test_forged_click(hook: Hook, channel: SlackButtonsChannel, forgery: dict[str, Any]) -> None:
    """What Slack did not sign within five minutes is refused, and answers nothing."""
    waiting = Waiting(plain, channel, refund())
    message = hook.wait_for(1)[0]
    body = click(message, "Approve", url=hook.url)
    options = {k: v for k, v in forgery.items() if not k.startswith("X-")}
    headers: dict[str, Any] = {**signed(body, **options)}
    headers.update({k: v for k, v in forgery.items() if k not in options})
    headers = {k: v for k, v in headers.items() if v is not None}

    status, text = channel.handle(headers, body)

    assert (status, text) == (401, "Not signed by Slack within the last five minutes.")
    assert waiting.is_alive()
    send(channel, click(message, "Deny"))
    assert waiting.ends().approved is False
    assert len(hook.payloads) == 1


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"payload=",
            b"payload=7",
            b"payload=[]",
            b"payload=%7B%7D",
            b"\xff",
            b"ssl_check=1",
        ),
        *(
            urlencode({"payload": json.dumps(payload)}).encode()
            for payload in (
                {"type": "view_submission", "user": {"id": ADA}, "view": {}},
                {"user": {"id": ADA}, "actions": []},
                {"user": {"id": ADA}, "actions": [{"action_id": "mine", "value": "x"}]},
                {"user": {"id": ADA}, "actions": [{"action_id": "actionguard_approve"}]},
                {"user": None, "actions": [{"action_id": "actionguard_approve", "value": "x"}]},
                {"user": {"id": ADA}, "actions": [{"action_id": ["x"], "value": ["x"]}]},
            )
        ),
    ],
)
def test_signed_by_slack_but_no_click(channel: SlackButtonsChannel, body: bytes) -> None:
    """What else Slack sends to the URL is refused, and is no crash."""
    assert send(channel, body) == (400, "Not a click on a button of actionguard.")


# --- set-ups ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "asyncio"])
def test_behind_a_web_server(hook: Hook, tmp_path: Any, is_async: bool) -> None:
    """Guarded calls wait in threads or tasks; clicks arrive at a server in another thread."""
    channel = made(hook)
    log = AuditLog(tmp_path / "audit.jsonl")

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, text = channel.handle(self.headers, body)
            reply(status, text)(self)

        def log_message(self, *args: Any) -> None:
            pass

    def refund(number: int) -> str:
        return f"refunded {number}"

    async def arefund(number: int) -> str:
        return refund(number)

    guarded: Any = guard(
        arefund if is_async else refund, channel=channel, audit=log, on_denied="return"
    )
    answers: list[str] = []

    def calls() -> None:
        async def main() -> list[str]:
            return await asyncio.gather(*map(guarded, range(10)))

        with ThreadPoolExecutor(10) as pool:
            answers.extend(asyncio.run(main()) if is_async else pool.map(guarded, range(10)))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    works = (lambda: server.serve_forever(0.01), calls)
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for message in reversed(hook.wait_for(10)[:10]):
        is_odd = any(f"number = {n}\n" in message["text"] for n in range(1, 10, 2))
        body = click(message, "Approve" if is_odd else "Deny")
        url = f"http://127.0.0.1:{server.server_port}/slack"
        assert requests.post(url, body, headers=signed(body), timeout=100).status_code == 200
    threads[1].join(120)
    server.shutdown()
    threads[0].join(120)
    server.server_close()

    assert [a for a in answers if a.startswith("ref")] == [f"refunded {n}" for n in range(1, 10, 2)]
    assert sum(a.startswith("DENIED") for a in answers) == 5
    records = list(log.records())
    assert [r["decision_metadata"] for r in records] == [{"who": ADA}] * 10
    assert {(r["approved"], r["executed"]) for r in records} == {(True, True), (False, False)}


def test_async_waits_hold_no_thread() -> None:
    """Any number of async calls wait without a thread, and cancelling one ends it at once."""
    posted: list[dict[str, Any]] = []

    class Session:
        def post(self, url: str, json: Any, timeout: float) -> Any:
            posted.append(json)
            return mock.Mock(status_code=200, history=[])

    channel = SlackButtonsChannel(
        "http://slack.example", signing_secret=SECRET, approvers=[ADA], session=Session()
    )

    async def main() -> list[Any]:
        waits = [asyncio.create_task(ask_async(channel, refund(n))) for n in range(300)]
        while len(posted) < 300 or threading.active_count() > 50:
            await asyncio.sleep(0.01)
        assert not any(wait.done() for wait in waits)
        waits[7].cancel()
        await asyncio.wait({waits[7]})
        texts = [send(channel, click(message, "Approve"))[1] for message in posted]
        assert sum(text.startswith("No longer waiting") for text in texts) == 1
        return await asyncio.gather(*waits, return_exceptions=True)

    outcomes = asyncio.run(main())
    assert isinstance(outcomes.pop(7), asyncio.CancelledError)
    assert all(decision.approved for decision in outcomes)


def test_update_that_slack_does_not_take(
    hook: Hook, channel: SlackButtonsChannel, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer counts all the same, and the log says what failed without any URL."""
    caplog.set_level(logging.DEBUG)
    waiting = Waiting(plain, channel, refund())
    message = hook.wait_for(1)[0]
    hook.script = [reply(500)]

    send(channel, click(message, "Approve", url=hook.url))

    assert waiting.ends().approved is True
    while not (ours := [r for r in caplog.records if r.name == "actionguard"]):
        time.sleep(0.01)
    (record,) = ours
    assert record.getMessage() == "Slack did not take the update of a message: HTTP 500"
    assert "127.0.0.1" not in caplog.text
    assert "s3cret" not in caplog.text


def test_handle_does_no_network_work(hook: Hook, channel: SlackButtonsChannel) -> None:
    """An update that hangs does not keep Slack, which waits three seconds, from its answer."""
    waiting = Waiting(plain, channel, refund())
    message = hook.wait_for(1)[0]
    hook.script = [hook.hang, raw(b"")]

    assert send(channel, click(message, "Approve", EVE, hook.url))[0] == 200
    assert send(channel, click(message, "Approve", ADA, hook.url))[0] == 200
    assert waiting.ends().approved is True


SPACES, IDS = "signing_secret must be a text without spaces", "approvers must be one or more Slack"
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
