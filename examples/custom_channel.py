"""A channel of your own: requests appear on a web page with two buttons.

Run:  python examples/custom_channel.py
It prints the address of a page on this computer. Open it in a browser, and approve or deny the two
refunds there. The program prints the results and ends.
"""

import asyncio
import html
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from actionguard import Action, ApprovalChannel, Decision, guard


class WebChannel(ApprovalChannel):
    """Serves a page with the waiting requests, to this computer only."""

    name = "web"

    def __init__(self, port: int = 0) -> None:
        self._open: dict[str, tuple[Action, Future[Decision]]] = {}
        # A secret in the address, so that no other page in your browser can press a button.
        self._path = f"/{secrets.token_urlsafe()}"
        channel = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == channel._path:
                    self._reply(200, channel._page())
                else:
                    self._reply(404, "")

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                if self.path == channel._path:
                    fields = {name: values[0] for name, values in parse_qs(form).items()}
                    with channel._answered(fields):
                        self._reply(200, channel._page())
                else:
                    self._reply(404, "")

            def _reply(self, status: int, page: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *args: object) -> None:
                pass  # it would print the address

        server = ThreadingHTTPServer(("127.0.0.1", port), Page)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}{self._path}"

    # Async, so that a waiting async call needs no thread. Plain functions can use it as well.
    async def request_approval(self, action: Action) -> Decision:
        answer: Future[Decision] = Future()
        self._open[action.id] = action, answer
        try:
            return await asyncio.wrap_future(answer)
        finally:
            self._open.pop(action.id, None)

    @contextmanager
    def _answered(self, form: dict[str, str]) -> Iterator[None]:
        # By id: two equal refunds are two requests, each with its own answer.
        _, answer = self._open.pop(form.get("id", ""), (None, None))
        try:
            yield  # send the page first: after the last answer, the program ends
        finally:
            if answer is not None and answer.set_running_or_notify_cancel():
                approved = form.get("answer") == "approve"
                answer.set_result(Decision(approved, comment=form.get("comment") or None))

    def _page(self) -> str:
        requests = "".join(
            f"<form method=post><pre>{html.escape(action.pretty())}</pre>"
            f"<input type=hidden name=id value={action.id}>"
            "<input name=comment placeholder=comment> "
            "<button name=answer value=approve>Approve</button> "
            "<button name=answer value=deny>Deny</button></form>"
            for action, _ in list(self._open.values())
        )
        return f"<!doctype html><title>Approvals</title>{requests or 'Nothing is waiting.'}"


channel = WebChannel()


@guard(channel=channel, on_denied="return")
async def refund(amount: float, customer_id: str) -> str:
    """Issue a refund to a customer's card."""
    return f"refunded {amount} to {customer_id}"


async def main() -> None:
    print(f"Open {channel.url}", flush=True)
    for finished in asyncio.as_completed([refund(4000, "cus_1"), refund(250, "cus_2")]):
        print(await finished, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
