"""A stand-in for Slack on this machine: a webhook that answers from a script."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from actionguard.channels._waiting import ask_async
from actionguard.channels.slack import SlackChannel
from actionguard.core import Action, Decision

PATH = "/services/T0TEAM/B0HOOK/s3cretToken"
Reply = Callable[[BaseHTTPRequestHandler], object]


def reply(status: int, body: str = "", **headers: str) -> Reply:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return send


def raw(data: bytes) -> Reply:
    return lambda handler: handler.wfile.write(data)


class Hook:
    """Keeps what is posted; `script` has the next replies, and 200 follows when it is over."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.payloads: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.over = threading.Event()
        self.news = threading.Condition()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with hook.news:
                    hook.paths.append(f"{self.command} {self.path}")
                    hook.payloads += [json.loads(body)] if body else []
                    send = hook.script.pop(0) if hook.script else reply(200, "ok")
                    hook.news.notify_all()
                try:
                    send(self)
                except OSError:  # the client did not wait
                    pass

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 500

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}{PATH}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Wait until there were so many posts."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.payloads) >= count, 120)
            return self.payloads

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        self.over.wait(120)

    def drip(self, start: bytes) -> Reply:
        """Send one byte at a time, without an end, each well within any timeout."""

        def send(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(start)
            while not self.over.wait(0.02):
                handler.wfile.write(b"x")

        return send

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *exc: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def plain(channel: SlackChannel, action: Action) -> Decision:
    return channel.request_approval(action)


def awaited(channel: SlackChannel, action: Action) -> Decision:
    return asyncio.run(ask_async(channel, action))


Ask = Callable[[SlackChannel, Action], Decision]
both = pytest.mark.parametrize("ask", [plain, awaited])


def refund(amount: object = 50) -> Action:
    args = {"amount": amount, "customer_id": "cus_123"}
    return Action("refund_customer", args, "Issue a refund.")
