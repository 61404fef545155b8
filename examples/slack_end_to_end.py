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
"""

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
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import requests

from actionguard import Action, ApprovalDenied, Decision, SlackChannel, guard

APPROVERS = {"U0ADA", "U0GRACE"}


class ButtonChannel(SlackChannel):
    """The question: a SlackChannel's message, and two buttons that carry the id of the action."""

    def message(self, action: Action) -> dict:
        message = super().message(action)
        buttons = [
            {
                "type": "button",
                "action_id": word,
                "text": {"type": "plain_text", "text": word.capitalize()},
                "value": action.id,
            }
            for word in ("approve", "deny")
        ]
        message["blocks"].append({"type": "actions", "elements": buttons})
        return message


class Answers:
    """Who said what to which request, in a file that this and other processes may use at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run("CREATE TABLE IF NOT EXISTS answers (id PRIMARY KEY, approved INT, who TEXT)")

    def _run(self, statement: str, *values: object) -> list[tuple]:
        # A connection for each use: a plain poll function is called in a new thread each time.
        with closing(sqlite3.connect(self.path)) as database, database:
            return database.execute(statement, values).fetchall()

    def add(self, action_id: str, *, approved: bool, who: str) -> Decision:
        """Keep an answer, unless there is one: the first stands, and is returned."""
        self._run("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", action_id, approved, who)
        return self._get(action_id)

    def find(self, action: Action) -> Decision | None:
        """The poll function: the answer to this very request, or None if there is none yet."""
        return self._get(action.id)

    def _get(self, action_id: str) -> Decision | None:
        for approved, who in self._run("SELECT approved, who FROM answers WHERE id = ?", action_id):
            return Decision(approved == 1, metadata={"who": who})
        return None


def is_from_slack(timestamp: str, signature: str, body: bytes, secret: str) -> bool:
    """Whether Slack signed this, less than five minutes ago: an older one may be a replay.

    https://docs.slack.dev/authentication/verifying-requests-from-slack
    """
    if not re.fullmatch("[0-9]{1,12}", timestamp) or abs(time.time() - int(timestamp)) > 5 * 60:
        return False
    return hmac.compare_digest(signature.encode(), sign(timestamp, body, secret).encode())


def sign(timestamp: str, body: bytes, secret: str) -> str:
    """The signature that Slack gives a request."""
    message = b"v0:" + timestamp.encode() + b":" + body
    return "v0=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves in the background; who leaves it waits for what it has begun."""

    daemon_threads = False

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        super().__exit__(*exc)


class Handler(BaseHTTPRequestHandler):
    """Takes a small body, and answers without one."""

    timeout = 10

    def body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        return self.rfile.read(min(int(length), 1_000_000) if length.isdecimal() else 0)

    def reply(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Print nothing."""


class Endpoint(Server):
    """The app's request URL: takes the clicks and keeps them as answers."""

    def __init__(self, port: int, answers: Answers, secret: str) -> None:
        self.answers = answers
        self.secret = secret
        super().__init__(port, Click)


class Click(Handler):
    """One click, as https://docs.slack.dev/reference/interaction-payloads shows block_actions."""

    def do_POST(self) -> None:
        body = self.body()
        timestamp = self.headers.get("X-Slack-Request-Timestamp", "")
        signature = self.headers.get("X-Slack-Signature", "")
        if not is_from_slack(timestamp, signature, body, self.server.secret):
            self.reply(401)
            return
        payload = json.loads(parse_qs(body.decode())["payload"][0])
        user, button = payload["user"]["id"], payload["actions"][0]
        note = f"<@{user}> may not decide this."
        blocks = []
        if allowed := user in APPROVERS:
            approved = button["action_id"] == "approve"
            answer = self.server.answers.add(button["value"], approved=approved, who=user)
            word = "approved" if answer.approved else "denied"
            note = f"<@{answer.metadata['who']}> {word} this."
            blocks = [b for b in payload["message"]["blocks"] if b["type"] != "actions"]
        self.reply(200)  # within three seconds, or Slack says that it failed
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": note}]})
        said = {"text": note, "blocks": blocks, "replace_original": allowed}
        requests.post(payload["response_url"], json=said, timeout=10).raise_for_status()


def main() -> None:
    """Ask for one refund twice, as an agent does that is not sure that the first went through."""
    webhook = os.environ.get("SLACK_WEBHOOK_URL")
    secret = os.environ.get("SLACK_SIGNING_SECRET", "not a secret")
    with (
        tempfile.TemporaryDirectory() as folder,  # yours is a place that lasts
        Endpoint(
            3000 if webhook else 0, Answers(Path(folder, "answers.sqlite3")), secret
        ) as endpoint,
    ):
        log = Path(folder, "audit.jsonl")
        channel = ButtonChannel(
            webhook or StandIn(endpoint).url,
            poll_fn=endpoint.answers.find,
            poll_interval=1 if webhook else 0.05,
            timeout=300,
        )

        @guard(channel=channel, audit=log)
        async def refund(amount: float, customer_id: str) -> str:
            """Refund a customer's card."""
            return f"refunded ${amount:.2f} to {customer_id}"

        async def agent() -> list:
            asked = [refund(50, "cus_123") for _ in range(2)]
            return await asyncio.gather(*asked, return_exceptions=True)

        for outcome in asyncio.run(agent()):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ApprovalDenied):
                raise outcome
            print(f"Agent gets:  {outcome}")
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            print(f"Audit log:   executed={entry['executed']} {entry['decision_metadata']}")


# --- a stand-in for Slack: delete what follows, and its use above ----------------------------


class StandIn(Server):
    """Takes what is posted to the webhook; once two requests are there, clicks on both."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.messages = []
        self.lock = threading.Lock()
        super().__init__(0, Posted)

    def click(self, message: dict, button: str, user: str) -> None:
        """Send the app what Slack sends when this user presses that button."""
        (action,) = [b for b in message["blocks"][-1]["elements"] if b["action_id"] == button]
        payload = {"user": {"id": user}, "actions": [action], "message": message}
        payload["response_url"] = self.url
        form = requests.Request("POST", self.endpoint.url, data={"payload": json.dumps(payload)})
        request, now = form.prepare(), str(int(time.time()))
        request.headers["X-Slack-Request-Timestamp"] = now
        request.headers["X-Slack-Signature"] = sign(
            now, request.body.encode(), self.endpoint.secret
        )
        with requests.Session() as session:
            session.send(request, timeout=10).raise_for_status()


class Posted(Handler):
    """A request, or a note on one that was clicked."""

    def do_POST(self) -> None:
        message, slack = json.loads(self.body()), self.server
        if "replace_original" in message:
            print(f"Slack shows: {message['text']}")
            self.reply(200)
            return
        self.reply(200)
        with slack.lock:
            slack.messages.append(message)
            requested = slack.messages.copy()
            print(f"Slack shows: request {len(requested)}, {message['text'].splitlines()[1]}")
        if len(requested) == 2:
            slack.click(requested[1], "deny", "U0ADA")
            slack.click(requested[0], "approve", "U0GRACE")


if __name__ == "__main__":
    main()
