"""Approve or deny in Slack with buttons: from the post to the click to the call.

Run:  python examples/slack_end_to_end.py

An agent asks for the same refund twice. You will see somebody deny the second request and then
approve the first: one refund is made, the other call gets "DENIED", and the audit log says who
decided. Nothing leaves this machine: unless you set the two variables below, a stand-in at the end
of this file plays the part of Slack and clicks.

To use it with your Slack, make an app at https://api.slack.com/apps and turn on
- Incoming Webhooks: add one to a channel and put its URL into SLACK_WEBHOOK_URL;
- Interactivity: set its request URL to an address where Slack can reach `Endpoint` below (port
  3000 of this machine, behind HTTPS). Put the app's signing secret into SLACK_SIGNING_SECRET.
Then put the ids of the people who may approve into APPROVERS.
"""

import asyncio
import hashlib
import hmac
import json
import os
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from actionguard import guard
from actionguard.channels import SlackButtonsChannel

APPROVERS = {"U0ADA", "U0GRACE"}
WEBHOOK = os.environ.get("SLACK_WEBHOOK_URL")
SECRET = os.environ.get("SLACK_SIGNING_SECRET", "not-a-secret")


def serve(port: int, handler: type[BaseHTTPRequestHandler]) -> str:
    """Serve in the background; returns the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def main() -> None:
    """Ask for the same refund twice, like an agent that is not sure that the first went through."""
    slack = SlackButtonsChannel(
        WEBHOOK or serve(0, StandIn), signing_secret=SECRET, approvers=APPROVERS, timeout=300
    )

    class Endpoint(BaseHTTPRequestHandler):
        """The request URL of your Slack app: one route in any web framework."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, text = slack.handle(self.headers, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    StandIn.endpoint = serve(3000 if WEBHOOK else 0, Endpoint)
    log = Path(tempfile.mkdtemp(), "audit.jsonl")

    @guard(channel=slack, audit=log, on_denied="return")
    async def refund(amount: float, customer_id: str) -> str:
        """Refund a customer's card."""
        return f"refunded ${amount:.2f} to {customer_id}"

    async def agent() -> list[str]:
        return await asyncio.gather(refund(50, "cus_123"), refund(50, "cus_123"))

    for answer in asyncio.run(agent()):
        print(f"Agent gets:  {answer}")
    for line in log.read_text().splitlines():
        record = json.loads(line)
        print(f"Audit log:   executed={record['executed']} {record['decision_metadata']}")
    if not WEBHOOK:
        StandIn.updated.wait(10)


# --- a stand-in for Slack: delete what follows, and its use above ----------------------------


class StandIn(BaseHTTPRequestHandler):
    """Takes what is posted to it. Once two requests are there, it clicks a button on each."""

    endpoint = ""
    requested: list[dict] = []  # noqa: RUF012  # shared by all posts
    updates: list[dict] = []  # noqa: RUF012
    updated = threading.Event()
    lock = threading.Lock()

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        with self.lock:
            if "replace_original" in message:
                print(f"Slack shows: {message['text']}")
                self.updates.append(message)
                if len(self.updates) == 2:
                    self.updated.set()
                return
            self.requested.append(message)
            print(f"Slack shows: request {len(self.requested)}, {message['text'].splitlines()[1]}")
            if len(self.requested) < 2:
                return
        self.click(self.requested[1], "Deny", "U0ADA")
        self.click(self.requested[0], "Approve", "U0GRACE")

    def click(self, message: dict, label: str, user: str) -> None:
        """Send the signed request that Slack sends when this user presses that button."""
        buttons = message["blocks"][-1]["elements"]
        payload = {
            "type": "block_actions",
            "user": {"id": user},
            "message": message,
            "actions": [button for button in buttons if button["text"]["text"] == label],
            "response_url": f"http://127.0.0.1:{self.server.server_port}/",
        }
        form = requests.Request("POST", self.endpoint, data={"payload": json.dumps(payload)})
        request, now = form.prepare(), str(int(time.time()))
        digest = hmac.new(SECRET.encode(), f"v0:{now}:{request.body}".encode(), hashlib.sha256)
        request.headers["X-Slack-Request-Timestamp"] = now
        request.headers["X-Slack-Signature"] = f"v0={digest.hexdigest()}"
        with requests.Session() as session:
            session.send(request, timeout=10).raise_for_status()

    def log_message(self, *args: object) -> None:
        """Print nothing."""


if __name__ == "__main__":
    main()
