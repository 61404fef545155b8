"""Approve or deny in Slack: the whole loop, from the post to the click to the call.

Run:  python examples/slack_end_to_end.py

An agent asks for the same refund twice. Both requests stand in Slack at once, each with two
buttons. You will see somebody deny the second and then approve the first: one refund is made, the
other call gets "DENIED", and the audit log says who decided. Nothing leaves this machine: without
the two variables below, a stand-in at the end of this file plays Slack, and clicks.

To use it with your Slack, make an app at https://api.slack.com/apps and turn on
- Incoming Webhooks: add one to a channel, and put its URL into SLACK_WEBHOOK_URL;
- Interactivity: its request URL is where Slack can reach `Endpoint` below (port 3000 of this
  machine, behind HTTPS). Put the app's signing secret into SLACK_SIGNING_SECRET.
Then put the ids of the people who may approve into APPROVERS.

SlackChannel itself sends no buttons. `ButtonChannel` adds them, and this program takes the clicks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode
from urllib.request import Request, urlopen

from actionguard import Action, ApprovalDenied, Decision, SlackChannel, guard

APPROVERS = {"U0ADA", "U0GRACE"}


# --- where answers are kept ------------------------------------------------------------------


class Answers:
    """Who said what to which request, in a file that this and other processes may use at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(self._open()) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, approved INT, who TEXT)"
            )

    def _open(self) -> sqlite3.Connection:
        # One for each use: a plain poll function is called in a new thread each time.
        return sqlite3.connect(self.path)

    def add(self, action_id: str, *, approved: bool, who: str) -> bool:
        """Keep an answer; False if there was one before, which then stands."""
        with closing(self._open()) as database, database:
            row = (action_id, approved, who)
            return (
                database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", row).rowcount > 0
            )

    def find(self, action: Action) -> Decision | None:
        """The poll function: the answer to this very request, or None if there is none yet."""
        with closing(self._open()) as database:
            query = "SELECT approved, who FROM answers WHERE id = ?"
            row = database.execute(query, (action.id,)).fetchone()
        if row is None:
            return None
        approved, who = row
        return Decision(approved == 1, metadata={"who": who})


# --- the question ----------------------------------------------------------------------------


class ButtonChannel(SlackChannel):
    """A SlackChannel whose messages have two buttons that carry the id of the action."""

    def message(self, action: Action) -> dict[str, Any]:
        """The usual message, and the buttons below it."""
        message = super().message(action)
        buttons = [
            {
                "type": "button",
                "action_id": word,
                "style": style,
                "text": {"type": "plain_text", "text": word.capitalize()},
                "value": action.id,
            }
            for word, style in (("approve", "primary"), ("deny", "danger"))
        ]
        message["blocks"].append({"type": "actions", "elements": buttons})
        return message


# --- the answer ------------------------------------------------------------------------------


def is_from_slack(headers: Message | Mapping[str, str], body: bytes, secret: str) -> bool:
    """Whether Slack signed this request, less than five minutes ago.

    https://docs.slack.dev/authentication/verifying-requests-from-slack
    """
    timestamp = headers.get("X-Slack-Request-Timestamp", "")
    signature = headers.get("X-Slack-Signature", "")
    if not re.fullmatch("[0-9]{1,12}", timestamp) or abs(time.time() - int(timestamp)) > 5 * 60:
        return False  # an old one may be a copy of what somebody overheard
    return hmac.compare_digest(signature.encode(), sign(timestamp, body, secret).encode())


def sign(timestamp: str, body: bytes, secret: str) -> str:
    """The signature that Slack gives a request."""
    message = b"v0:" + timestamp.encode() + b":" + body
    return "v0=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


class Endpoint(ThreadingHTTPServer):
    """The app's request URL: takes the clicks and keeps them as answers."""

    daemon_threads = True

    def __init__(self, port: int, answers: Answers, secret: str) -> None:
        super().__init__(("127.0.0.1", port), Click)
        self.answers = answers
        self.secret = secret
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Click(BaseHTTPRequestHandler):
    """One click, as https://docs.slack.dev/reference/interaction-payloads shows block_actions."""

    server: Endpoint

    def do_POST(self) -> None:
        """Check, keep, and say what became of it; Slack waits three seconds for a 200."""
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1_000_000))
        if not is_from_slack(self.headers, body, self.server.secret):
            self.reply(401)
            return
        self.reply(200)
        payload = json.loads(parse_qs(body.decode())["payload"][0])
        user, click = payload["user"]["id"], payload["actions"][0]
        approved = click["action_id"] == "approve"
        if user not in APPROVERS:
            tell(payload, f"<@{user}> may not decide this.")
        elif self.server.answers.add(click["value"], approved=approved, who=user):
            tell(payload, f"<@{user}> {'approved' if approved else 'denied'} this.", in_place=True)

    def reply(self, status: int) -> None:
        """An answer without a body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


def tell(payload: Mapping[str, Any], text: str, *, in_place: bool = False) -> None:
    """Answer only to whoever clicked, or put the text in place of the buttons, for everybody."""
    kept = [block for block in payload["message"]["blocks"] if block["type"] != "actions"]
    note = {"type": "context", "elements": [{"type": "mrkdwn", "text": text}]}
    blocks = [*kept, note] if in_place else [note]
    body = {"text": text, "blocks": blocks, "replace_original": in_place}
    post(payload["response_url"], json.dumps(body).encode(), {"Content-Type": "application/json"})


def post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """POST, and raise if it fails."""
    with urlopen(Request(url, body, dict(headers)), timeout=10):  # noqa: S310 - from Slack
        pass


# --- the agent -------------------------------------------------------------------------------


def main() -> None:
    """Ask for one refund twice, as an agent does that is not sure that the first went through."""
    webhook = os.environ.get("SLACK_WEBHOOK_URL")
    secret = os.environ.get("SLACK_SIGNING_SECRET", "not a secret")
    with tempfile.TemporaryDirectory() as folder:  # yours is a place that lasts
        answers = Answers(Path(folder, "answers.sqlite3"))
        log = Path(folder, "audit.jsonl")
        endpoint = Endpoint(3000 if webhook else 0, answers, secret)
        channel = ButtonChannel(
            webhook or StandIn(endpoint.server_port, secret).webhook,
            poll_fn=answers.find,
            poll_interval=1 if webhook else 0.05,
            timeout=300,
        )

        @guard(channel=channel, audit=log)
        async def refund(amount: float, customer_id: str) -> str:
            """Refund a customer's card."""
            return f"refunded ${amount:.2f} to {customer_id}"

        async def agent() -> list[Any]:
            asked = [refund(50, "cus_123") for _ in range(2)]
            return await asyncio.gather(*asked, return_exceptions=True)

        for outcome in asyncio.run(agent()):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ApprovalDenied):
                raise outcome
            print(f"Agent gets:  {outcome}")
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            print(f"Audit log:   executed={entry['executed']} {entry['decision_metadata']}")


# --- a stand-in for Slack: delete what follows -----------------------------------------------


class StandIn(ThreadingHTTPServer):
    """Takes what is posted to the webhook; once two requests are there, clicks on both."""

    daemon_threads = True

    def __init__(self, endpoint_port: int, secret: str) -> None:
        super().__init__(("127.0.0.1", 0), Posted)
        self.webhook = f"http://127.0.0.1:{self.server_port}/services/T0/B0/not-a-secret"
        self.request_url = f"http://127.0.0.1:{endpoint_port}/"
        self.secret = secret
        self.messages: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def arrived(self, message: dict[str, Any]) -> None:
        """Show it as Slack would, and click when both are there: the second first."""
        if "replace_original" in message:
            print(f"Slack shows: {message['text']}")
            return
        with self.lock:
            self.messages.append(message)
            messages = list(self.messages)
            print(f"Slack shows: request {len(messages)}, {message['text'].splitlines()[1]}")
        if len(messages) == 2:
            first, second = messages
            self.click(second, "deny", "U0ADA")
            self.click(first, "approve", "U0GRACE")

    def click(self, message: dict[str, Any], button: str, user: str) -> None:
        """Send the app what Slack sends when this user presses that button."""
        (action,) = [b for b in message["blocks"][-1]["elements"] if b["action_id"] == button]
        payload = {
            "type": "block_actions",
            "user": {"id": user},
            "actions": [{"action_id": button, "value": action["value"]}],
            "message": message,
            "response_url": self.webhook,
        }
        body = urlencode({"payload": json.dumps(payload)}).encode()
        now = str(int(time.time()))
        signature = sign(now, body, self.secret)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        signed = {"X-Slack-Request-Timestamp": now, "X-Slack-Signature": signature}
        post(self.request_url, body, {**form, **signed})


class Posted(BaseHTTPRequestHandler):
    """One post to the webhook."""

    server: StandIn

    def do_POST(self) -> None:
        """Say ok as Slack does, and then read."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
        self.server.arrived(message)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


if __name__ == "__main__":
    main()
