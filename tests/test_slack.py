"""SlackChannel against a real HTTP server on this machine."""

from __future__ import annotations

import asyncio
import copy
import html
import json
import logging
import pickle
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from actionguard.channels._waiting import ask_async
from actionguard.channels.slack import NotDelivered, SlackChannel
from actionguard.core import Action, Decision

PATH = "/services/T0TEAM/B0HOOK/s3cretToken"
Reply = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int, body: str = "", **headers: str) -> Reply:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return send


OK = reply(200, "ok")


class Hook:
    """A webhook that answers from a script, and with 200 when the script is over."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.payloads: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.over = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.paths.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.payloads.append(json.loads(body))
                try:
                    (hook.script.pop(0) if hook.script else OK)(self)
                except OSError:  # the client did not wait
                    pass

            def do_GET(self) -> None:
                hook.paths.append(f"{self.command} {self.path}")
                OK(self)

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

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        self.over.wait(60)

    def drip(self, start: bytes) -> Reply:
        """Send one byte at a time, without an end, each well within any timeout."""

        def send(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(start)
            while not self.over.wait(0.02):
                handler.wfile.write(b"x")

        return send

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


def wait_for_our_threads() -> None:
    end = time.monotonic() + 120
    while any(thread.name == "actionguard-approval" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """No thread of ours outlives the test by more than a moment."""
    yield
    wait_for_our_threads()


@pytest.fixture(autouse=True)
def long_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take more than a second for a poll that does not hang."""
    monkeypatch.setattr("actionguard.channels.slack._LAST_LOOK", 120.0)


@pytest.fixture
def short_last_look(monkeypatch: pytest.MonkeyPatch, long_last_look: None) -> None:
    """A poll that hangs is given up sooner after the timeout than is good for real ones."""
    monkeypatch.setattr("actionguard.channels.slack._LAST_LOOK", 0.05)


def refund(amount: object = 50) -> Action:
    return Action(
        "refund_customer", {"amount": amount, "customer_id": "cus_123"}, "Issue a refund."
    )


def yes(action: Action) -> Decision:
    return Decision.approve("go ahead")


def not_yet(action: Action) -> None:
    return None


def plain(channel: SlackChannel, action: Action) -> Decision:
    return channel.request_approval(action)


def awaited(channel: SlackChannel, action: Action) -> Decision:
    return asyncio.run(ask_async(channel, action))


both = pytest.mark.parametrize("ask", [plain, awaited])
Ask = Callable[[SlackChannel, Action], Decision]


# --- answers ---------------------------------------------------------------------------------


@both
def test_posts_and_returns_the_answer(hook: Hook, ask: Ask) -> None:
    """One post to the webhook, and what poll_fn found is the decision."""
    action = refund(4000.0)
    asked: list[Action] = []

    def poll(action: Action) -> Decision:
        asked.append(action)
        return answer

    answer = Decision(False, "too much", metadata={"by": "U1"})
    decision = ask(SlackChannel(hook.url, poll_fn=poll), action)

    assert decision is answer
    assert asked == [action] and asked[0] is action
    assert hook.paths == [f"POST {PATH}"]
    text = hook.payloads[0]["text"]
    for piece in ("refund_customer", "Issue a refund.", "amount = 4000.0", "'cus_123'", action.id):
        assert piece in text


@both
def test_polls_until_there_is_an_answer(hook: Hook, ask: Ask) -> None:
    """None means "not yet", and is asked about again."""
    answers = [None, None, Decision.approve("third time")]

    decision = ask(
        SlackChannel(hook.url, poll_fn=lambda _: answers.pop(0), poll_interval=0.01), refund()
    )

    assert decision.comment == "third time"


@both
def test_async_poll_fn_is_awaited(hook: Hook, ask: Ask) -> None:
    """An async poll_fn runs on the loop, be it a function or an object."""

    class Poll:
        async def __call__(self, action: Action) -> Decision:
            await asyncio.sleep(0)
            return Decision.approve("async")

    assert ask(SlackChannel(hook.url, poll_fn=Poll()), refund()).comment == "async"
    assert ask(SlackChannel(hook.url, poll_fn=Poll().__call__), refund()).comment == "async"


@both
@pytest.mark.parametrize("on_timeout", ["deny", "approve"])
def test_unanswered(hook: Hook, ask: Ask, on_timeout: Any) -> None:
    """When nobody answers in time on_timeout decides, and the decision is no person's."""
    channel = SlackChannel(
        hook.url, poll_fn=not_yet, timeout=0.05, poll_interval=0.01, on_timeout=on_timeout
    )

    decision = ask(channel, refund())

    assert decision.approved is (on_timeout == "approve")
    assert decision.unanswered
    assert decision.comment == "no answer within 0.05 s"


@both
def test_timeout_0_polls_once(hook: Hook, ask: Ask) -> None:
    """A timeout of 0 posts, looks once, and decides."""
    asked: list[Action] = []

    decision = ask(SlackChannel(hook.url, poll_fn=asked.append, timeout=0), refund())

    assert (len(hook.paths), len(asked), decision.unanswered) == (1, 1, True)
    assert ask(SlackChannel(hook.url, poll_fn=yes, timeout=0), refund()).approved is True


def test_answer_at_the_last_moment_counts(hook: Hook) -> None:
    """The last look is when the time is up, however long the interval."""
    begin = time.monotonic()

    def poll(action: Action) -> Decision | None:
        return Decision.approve() if time.monotonic() - begin > 0.15 else None

    decision = SlackChannel(hook.url, poll_fn=poll, timeout=0.2, poll_interval=60).request_approval(
        refund()
    )

    assert decision.approved is True


@both
def test_answer_during_a_slow_look_counts(
    hook: Hook, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that came in time is found, though a look was under way that had missed it."""
    now = 0.0
    store: list[Decision] = []

    def poll(action: Action) -> Decision | None:
        nonlocal now
        seen = store[-1] if store else None
        store.append(Decision.deny("in time"))
        now = 301.0
        return seen

    monkeypatch.setattr("actionguard.channels.slack.monotonic", lambda: now)
    channel = SlackChannel(hook.url, poll_fn=poll, timeout=300, on_timeout="approve")

    assert ask(channel, refund()).comment == "in time"


def test_without_poll_fn_nobody_can_answer(hook: Hook) -> None:
    """Without poll_fn the request is posted, and the comment says why there was no answer."""
    decision = SlackChannel(hook.url, timeout=0.01).request_approval(refund())

    assert len(hook.paths) == 1
    assert (decision.approved, decision.unanswered) == (False, True)
    assert "no poll_fn" in str(decision.comment)


@both
def test_equal_requests_are_told_apart(hook: Hook, ask: Ask) -> None:
    """Two equal refunds are two requests: each gets its own answer, in whatever order."""
    first, second = refund(), refund()
    assert first == second
    store: dict[str, Decision] = {}
    channel = SlackChannel(
        hook.url, poll_fn=lambda action: store.get(action.id), poll_interval=0.01, timeout=300
    )
    got: dict[str, Decision] = {}

    def wait_for(action: Action) -> None:
        got[action.id] = ask(channel, action)

    threads = [threading.Thread(target=wait_for, args=(action,)) for action in (first, second)]
    for thread in threads:
        thread.start()
    store[second.id] = Decision.deny("a duplicate")
    threads[1].join(120)
    assert list(got) == [second.id]
    store[first.id] = Decision.approve("the real one")
    threads[0].join(120)

    assert got[first.id].comment == "the real one"
    assert got[second.id].comment == "a duplicate"


# --- poll functions that fail ----------------------------------------------------------------


@both
@pytest.mark.parametrize("is_async", [False, True], ids=["plain poll_fn", "async poll_fn"])
def test_poll_fn_that_raises(hook: Hook, ask: Ask, is_async: bool) -> None:
    """What poll_fn raises arrives as it is: the gate blocks the call."""
    error = LookupError("the store is gone")

    def poll(action: Action) -> None:
        raise error

    async def apoll(action: Action) -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        ask(SlackChannel(hook.url, poll_fn=apoll if is_async else poll), refund())

    assert caught.value is error


@both
@pytest.mark.parametrize("garbage", [True, False, "yes", 1, {"approved": True}, (), object()])
def test_poll_fn_that_answers_garbage(hook: Hook, ask: Ask, garbage: Any) -> None:
    """Only a Decision or None is an answer; falsy things are no "not yet"."""
    channel = SlackChannel(hook.url, poll_fn=lambda _: garbage)

    with pytest.raises(TypeError, match=f"Decision or None, not {type(garbage).__name__}"):
        ask(channel, refund())


@both
@pytest.mark.parametrize("is_async", [False, True], ids=["plain poll_fn", "async poll_fn"])
def test_poll_fn_that_cancels_itself(hook: Hook, ask: Ask, is_async: bool) -> None:
    """A poll_fn that ends as cancelled is a fault, and cancels neither the caller nor its loop."""

    def poll(action: Action) -> None:
        raise asyncio.CancelledError

    async def apoll(action: Action) -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match="poll_fn was cancelled"):
        ask(SlackChannel(hook.url, poll_fn=apoll if is_async else poll), refund())


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_poll_fn_that_ends_the_program(hook: Hook, ask: Ask, error: BaseException) -> None:
    """What is meant to stop the program stops it."""

    def poll(action: Action) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ask(SlackChannel(hook.url, poll_fn=poll), refund())

    assert caught.value is error


@both
@pytest.mark.usefixtures("short_last_look")
def test_plain_poll_fn_that_hangs(hook: Hook, ask: Ask, no_threads_left: None) -> None:
    """The timeout decides on time; a yes that the hanging call returns later releases nothing."""
    release = threading.Event()

    def poll(action: Action) -> Decision:
        release.wait(60)
        return Decision.approve("too late")

    begin = time.monotonic()
    decision = ask(SlackChannel(hook.url, poll_fn=poll, timeout=0.1), refund())

    assert decision.unanswered and not decision.approved
    assert time.monotonic() - begin < 30
    release.set()


@both
@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.usefixtures("short_last_look")
def test_async_poll_fn_that_hangs(hook: Hook, ask: Ask, stubborn: bool) -> None:
    """An async one is cancelled when the time is up, and not waited for if it refuses."""
    refused = []

    async def poll(action: Action) -> Decision:
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if not stubborn or refused:
                    raise
                refused.append(True)
        return Decision.approve("too late")

    begin = time.monotonic()
    decision = ask(SlackChannel(hook.url, poll_fn=poll, timeout=0.1), refund())

    assert decision.unanswered and not decision.approved
    assert time.monotonic() - begin < 30


@both
@pytest.mark.usefixtures("short_last_look")
def test_hanging_poll_fn_is_no_consent(hook: Hook, ask: Ask) -> None:
    """Where silence is consent, a poll_fn that hangs blocks: a no may be waiting behind it."""

    async def poll(action: Action) -> Decision:
        await asyncio.sleep(60)
        return Decision.deny("never seen")

    channel = SlackChannel(hook.url, poll_fn=poll, timeout=0.05, on_timeout="approve")

    with pytest.raises(TimeoutError, match="poll_fn did not return"):
        ask(channel, refund())


def test_slow_poll_fn_may_end_after_the_timeout(hook: Hook) -> None:
    """A poll that is under way when the time is up is not thrown away."""

    async def poll(action: Action) -> Decision:
        await asyncio.sleep(0.1)
        return Decision.deny("just in time")

    for timeout in (0, 0.05):
        channel = SlackChannel(hook.url, poll_fn=poll, timeout=timeout, on_timeout="approve")
        assert channel.request_approval(refund()).comment == "just in time"


def test_interval_of_0_does_not_spin(hook: Hook) -> None:
    """poll_interval=0 is a short interval, not a busy loop."""
    asked: list[Action] = []

    SlackChannel(hook.url, poll_fn=asked.append, timeout=0.2, poll_interval=0).request_approval(
        refund()
    )

    assert 1 <= len(asked) <= 22


# --- posts that fail -------------------------------------------------------------------------


def refused(hook: Hook, *script: Reply, **options: Any) -> NotDelivered:
    """Ask plainly and awaited; both fail alike, and poll_fn is never asked."""
    asked: list[Action] = []
    options = {"poll_fn": asked.append, "timeout": 60, **options}
    for ask in (plain, awaited):
        hook.script = list(script)
        with pytest.raises(NotDelivered, match="nobody was asked") as caught:
            ask(SlackChannel(hook.url, **options), refund())
    assert asked == []
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, "invalid_blocks", "HTTP 400 invalid_blocks"),
        (403, "action_prohibited", "HTTP 403 action_prohibited"),
        (404, "no_service", "HTTP 404 no_service"),
        (404, f"<html>{PATH} was not found", "HTTP 404"),
        (410, "channel_is_archived", "HTTP 410 channel_is_archived"),
        (304, "", "HTTP 304"),
    ],
)
def test_post_refused(hook: Hook, status: int, body: str, said: str) -> None:
    """A refusal is not repeated, and is reported by its status and Slack's one word for it."""
    error = refused(hook, reply(status, body))

    assert str(error).endswith(f": {said}")
    assert len(hook.paths) == 2  # one for each way of asking


def test_post_redirected_to_a_login_page(hook: Hook) -> None:
    """A redirect is no delivery, and is not followed."""
    error = refused(hook, reply(302, Location=f"http://127.0.0.1:{hook.port}/login"))

    assert str(error).endswith(": HTTP 302")
    assert hook.paths == [f"POST {PATH}"] * 2


def test_post_hangs(hook: Hook) -> None:
    """A webhook that accepts and says nothing is given up after post_timeout."""
    begin = time.monotonic()
    error = refused(hook, hook.hang, post_timeout=0.1)

    assert re.search(r": (ReadTimeout|no answer within 0\.1 s)$", str(error))
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 404 Not Found\r\nContent-Length: 64\r\n\r\n"],
)
def test_post_answered_byte_by_byte(hook: Hook, start: bytes) -> None:
    """Dripping bytes keep a socket's timeout from passing; post_timeout ends it all the same."""
    begin = time.monotonic()
    error = refused(hook, hook.drip(start), post_timeout=0.3)

    assert "nobody was asked" in str(error)
    assert time.monotonic() - begin < 30


def test_dripping_body_of_a_delivered_post(hook: Hook) -> None:
    """Once Slack has said 200 the request is delivered; nobody waits for the rest of its answer."""
    hook.script = [hook.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")]

    assert SlackChannel(hook.url, poll_fn=yes).request_approval(refund()).approved is True


def test_connection_refused(hook: Hook) -> None:
    """Where nobody listens, nobody was asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        hook.url = f"http://127.0.0.1:{free.getsockname()[1]}{PATH}"
        error = refused(hook)

    assert str(error).endswith(": ConnectionError")


def test_tls_that_fails(hook: Hook) -> None:
    """What cannot show a certificate is not spoken to."""
    hook.url = hook.url.replace("http:", "https:")

    assert str(refused(hook)).endswith(": SSLError")


def test_proxy_that_fails(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies of the environment are used, and their passwords shown as little as the URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://me:s3cret@127.0.0.1:{free.getsockname()[1]}")
        hook.url = f"http://slack.example{PATH}"
        error = refused(hook)

    assert str(error).endswith(": ProxyError")


def test_answer_that_is_no_http(hook: Hook) -> None:
    """Something else on that port is no Slack."""
    error = refused(hook, lambda handler: handler.wfile.write(b"220 smtp ready\r\n") and None)

    assert str(error).endswith(": ConnectionError")


def test_url_that_only_requests_refuses(hook: Hook) -> None:
    """A URL that requests finds wrong blocks the call without being shown."""
    hook.url = f"http://*.example{PATH}"

    assert str(refused(hook)).endswith(": InvalidURL")


@both
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_post_is_repeated(hook: Hook, ask: Ask, status: int) -> None:
    """429 and 5xx are repeated after the wait that Slack names, and then all goes on."""
    hook.script = [reply(status, Retry_After="0")] * 4

    decision = ask(SlackChannel(hook.url, poll_fn=yes), refund())

    assert decision.approved is True
    assert len(hook.paths) == 5
    assert all(payload == hook.payloads[0] for payload in hook.payloads)


def test_wait_between_attempts(hook: Hook) -> None:
    """Retry-After counts in seconds or as a date; without a usable one there is a short wait."""
    hook.script = [
        reply(500, Retry_After="soon"),
        reply(429, Retry_After="1"),
        reply(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    ]
    begin = time.monotonic()

    SlackChannel(hook.url, poll_fn=yes).request_approval(refund())

    assert time.monotonic() - begin >= 0.5 + 1 + 0
    assert len(hook.paths) == 4


@pytest.mark.parametrize("status", [429, 500])
def test_post_is_not_repeated_for_ever(hook: Hook, status: int) -> None:
    """After five attempts the call is blocked."""
    error = refused(hook, *[reply(status, Retry_After="0")] * 9)

    assert str(error).endswith(f": HTTP {status}")
    assert len(hook.paths) == 2 * 5


@pytest.mark.parametrize("seconds", ["3600", "9" * 400])
def test_retry_after_beyond_the_timeout(hook: Hook, seconds: str) -> None:
    """A wait that would end after the timeout is not begun: nobody can answer by then."""
    begin = time.monotonic()
    error = refused(hook, reply(429, "rate_limited", Retry_After=seconds), timeout=30)

    assert "HTTP 429" in str(error)
    assert time.monotonic() - begin < 30
    assert len(hook.paths) == 2


def test_timeout_0_does_not_repeat(hook: Hook) -> None:
    """With no time left there is one attempt."""
    refused(hook, reply(500), timeout=0)

    assert len(hook.paths) == 2


# --- what does not show ----------------------------------------------------------------------


def shown_by(error: BaseException) -> str:
    """What a traceback with the locals of each frame shows, below the test's own."""
    assert error.__traceback__ is not None
    trace = traceback.TracebackException(
        type(error), error, error.__traceback__.tb_next, capture_locals=True
    )
    return "".join(trace.format())


FAILURES: dict[str, Callable[[Hook], tuple[list[Reply], dict[str, Any]]]] = {
    "refused": lambda hook: ([reply(404, f"no {PATH} here")], {}),
    "redirected": lambda hook: ([reply(302, Location=PATH)], {}),
    "repeated": lambda hook: ([reply(500, Retry_After="0")] * 9, {}),
    "hanging": lambda hook: ([hook.hang], {"post_timeout": 0.1}),
    "dripping": lambda hook: ([hook.drip(b"HTTP/1.1 200 OK\r\nX: ")], {"post_timeout": 0.2}),
    "odd headers": lambda hook: (
        [lambda h: h.wfile.write(b"HTTP/1.1 500 No\r\n: odd\r\nbad header\r\n\r\n") and None],
        {"timeout": 0},
    ),
    "closed": lambda hook: ([lambda h: None], {}),
}


@both
@pytest.mark.parametrize("failure", FAILURES)
def test_url_shows_nowhere(
    hook: Hook,
    ask: Ask,
    failure: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No part of the URL is in the error, its chain, its frames, any log, or on the screen."""
    caplog.set_level(logging.DEBUG)
    hook.script, options = FAILURES[failure](hook)
    channel = SlackChannel(hook.url, poll_fn=yes, **options)

    with pytest.raises(NotDelivered) as caught:
        ask(channel, refund())

    error = caught.value
    assert error.__cause__ is None and error.__context__ is None
    shown = [
        *(str(error), repr(error), shown_by(error)),
        *(repr(channel), str(vars(channel)), repr(copy.copy(channel))),
        *(record.getMessage() + str(record.args) for record in caplog.records),
        *capfd.readouterr(),
    ]
    text = "\n".join(shown)
    for secret in ("127.0.0.1", *PATH.strip("/").split("/")):
        assert secret not in text
    # As a number of its own: addresses, times, threads and ids are longer ones, and may hold it.
    assert not re.search(rf"(?<![\w.]){hook.port}(?!\w|\.\d)", text)


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_url_is_kept_out_of_httpx_logs(
    hook: Hook, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client of httpx can stand for a session, and its log keeps quiet too."""
    httpx = pytest.importorskip(library)
    caplog.set_level(logging.DEBUG)
    hook.script = [reply(302, Location="/login")]
    with httpx.Client() as client:
        channel = SlackChannel(hook.url, poll_fn=yes, session=client)
        with pytest.raises(NotDelivered, match=r": HTTP 302$"):
            channel.request_approval(refund())
        assert channel.request_approval(refund()).approved is True
        assert PATH not in caplog.text

        client.get(f"http://127.0.0.1:{hook.port}/mine")

    assert "/mine" in caplog.text


def test_other_posts_still_log(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    """Only our own posts are kept out of urllib3's log, not the program's."""
    caplog.set_level(logging.DEBUG, "urllib3")
    SlackChannel(hook.url, poll_fn=yes).request_approval(refund())
    assert caplog.records == []

    requests.post(f"http://127.0.0.1:{hook.port}/mine", json={}, timeout=10).close()

    assert "/mine" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks",
        PATH,
        f"ftp://slack.example{PATH}",
        f"http://{PATH}",
        f"https://slack.example{PATH}\n",
        f" https://slack.example{PATH}",
        f"https://slack.example/a b{PATH}",
        f"https://slack.example:port{PATH}",
        f"https://[::1{PATH}",
        f"https://slack.example\u200b{PATH}",
        PATH.encode(),
        None,
        7,
    ],
)
def test_bad_url(url: Any) -> None:
    """A URL that cannot work is refused at once, without being shown."""
    with pytest.raises(ValueError, match=r"webhook_url must be an http\(s\) URL") as caught:
        SlackChannel(url)

    assert "s3cret" not in shown_by(caught.value)
    assert caught.value.__context__ is None


# --- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timeout", "poll_interval", "post_timeout"])
@pytest.mark.parametrize(
    "value", [-1, -0.001, float("nan"), float("inf"), 10**400, True, "5", None, 1j]
)
def test_bad_numbers(name: str, value: Any) -> None:
    """Seconds are finite numbers from 0 up; the error names which, what is wanted and what came."""
    with pytest.raises(ValueError, match=f"{name} must be") as caught:
        SlackChannel("https://slack.example/x", **{name: value})

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"post_timeout": 0}, ValueError, "post_timeout must be more than 0"),
        (
            {"on_timeout": "raise"},
            ValueError,
            'on_timeout must be "deny" or "approve", not \'raise',
        ),
        ({"on_timeout": True}, ValueError, "on_timeout must be"),
        ({"on_timeout": None}, ValueError, "on_timeout must be"),
        ({"poll_fn": 3}, TypeError, "poll_fn must be a function of the action or None, not 3"),
        ({"poll_fn": object()}, TypeError, "poll_fn must be"),
        ({"poll_fn": dict}, TypeError, "poll_fn must be"),
        ({"session": 3}, TypeError, "session must have a post method, not be 3"),
        ({"session": object()}, TypeError, "session must have"),
        ({"session": requests.Session}, TypeError, "session must have a post method, not be <cl"),
        ({"session": mock.AsyncMock()}, TypeError, "session must have"),
        ({"poll_fn": lambda: None}, TypeError, "poll_fn must be a function of the action"),
        ({"poll_fn": lambda action, more: None}, TypeError, "poll_fn must be"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], match: str) -> None:
    """What cannot work is an error at construction."""
    with pytest.raises(error, match=match) as caught:
        SlackChannel(f"https://slack.example{PATH}", **options)

    assert "s3cret" not in shown_by(caught.value)


def test_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without requests the channel says at construction what to install."""
    monkeypatch.setitem(sys.modules, "requests", None)

    with pytest.raises(ImportError, match=r'pip install "actionguard\[slack\]"'):
        SlackChannel("https://slack.example/x")
    SlackChannel("https://slack.example/x", session=mock.Mock())  # posts without it


def test_numbers_of_other_kinds(hook: Hook) -> None:
    """0 and whole numbers are seconds too."""
    channel = SlackChannel(hook.url, timeout=0, poll_interval=0, post_timeout=3)

    assert (channel.timeout, channel.poll_interval, channel.post_timeout) == (0, 0, 3)


def test_copies(hook: Hook) -> None:
    """A deep copy is the same channel; a pickled one asks at the same place in another process."""
    channel = SlackChannel(hook.url, poll_fn=yes, timeout=7)

    assert copy.deepcopy(channel) is channel
    copied = pickle.loads(pickle.dumps(channel))
    assert copied.request_approval(refund()).approved is True
    assert (hook.paths, copied.timeout) == ([f"POST {PATH}"], 7)


# --- sessions --------------------------------------------------------------------------------


def test_session_of_requests(hook: Hook) -> None:
    """A session's own headers, proxies and adapters are used, and redirects still not followed."""
    with requests.Session() as session:
        session.headers["X-Team"] = "payments"
        channel = SlackChannel(hook.url, poll_fn=yes, session=session)

        assert channel.request_approval(refund()).approved is True
        hook.script = [reply(302, Location="/login")]
        with pytest.raises(NotDelivered, match="302"):
            channel.request_approval(refund())


class Minimal:
    """What a test of a user may put in place of a session."""

    def __init__(self, error: Exception | None = None) -> None:
        self.posts: list[Any] = []
        self.error = error

    def post(self, url: str, json: Any, timeout: float) -> Minimal:
        self.posts.append((url, json, timeout))
        return self

    def raise_for_status(self) -> None:
        if self.error:
            raise self.error


def test_session_that_follows_redirects(hook: Hook) -> None:
    """What a login page answered is no delivery, whoever went there."""
    httpx = pytest.importorskip("httpx")
    hook.script = [reply(302, Location="/login")]
    with httpx.Client(follow_redirects=True) as client:
        channel = SlackChannel(hook.url, poll_fn=yes, session=client)

        with pytest.raises(NotDelivered, match=r": HTTP 302$"):
            channel.request_approval(refund())

    assert hook.paths == [f"POST {PATH}", "GET /login"]


def test_session_that_knows_little() -> None:
    """A stand-in with post(url, json, timeout) and raise_for_status() is enough."""
    session = Minimal()
    channel = SlackChannel("https://slack.example/x", poll_fn=yes, session=session, post_timeout=3)

    assert channel.request_approval(refund()).approved is True
    ((url, payload, timeout),) = session.posts
    assert (url, timeout) == ("https://slack.example/x", 3)
    assert "refund_customer" in payload["text"]

    bad = SlackChannel("https://slack.example/x", session=Minimal(OSError("https://slack.example")))
    with pytest.raises(NotDelivered, match=r": OSError$"):
        bad.request_approval(refund())


def test_session_that_is_a_mock() -> None:
    """A mock can stand for a session."""
    session = mock.Mock()

    decision = SlackChannel(
        "https://slack.example/x", poll_fn=yes, session=session
    ).request_approval(refund())

    assert decision.approved is True
    assert session.post.call_args.kwargs["allow_redirects"] is False


# --- waiting ---------------------------------------------------------------------------------


def test_async_waits_hold_no_thread(hook: Hook) -> None:
    """Between two polls an async wait is only a timer, however many there are."""
    released = False

    async def poll(action: Action) -> Decision | None:
        return Decision.approve() if released else None

    async def main() -> list[Decision]:
        nonlocal released
        before = threading.active_count()
        channel = SlackChannel(
            "https://slack.example/x", poll_fn=poll, poll_interval=0.05, session=Minimal()
        )
        waits = [asyncio.create_task(ask_async(channel, refund())) for _ in range(300)]
        while len(channel._session.posts) < 300 or threading.active_count() > before:
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 120) == "free"
        released = True
        return await asyncio.gather(*waits)

    assert all(decision.approved for decision in asyncio.run(main()))


def test_cancelled_wait_ends_at_once(hook: Hook, no_threads_left: None) -> None:
    """A cancelled task polls no more."""
    asked: list[Action] = []

    async def main() -> int:
        channel = SlackChannel(hook.url, poll_fn=asked.append, poll_interval=0.01)
        wait = asyncio.create_task(ask_async(channel, refund()))
        while not asked:
            await asyncio.sleep(0.01)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        await asyncio.to_thread(wait_for_our_threads)  # a poll that had begun
        before = len(asked)
        await asyncio.sleep(0.05)
        return before

    assert asyncio.run(main()) == len(asked)


def test_cancelled_while_it_polls(hook: Hook, no_threads_left: None) -> None:
    """Cancelling does not wait for a hanging poll_fn, and cancels an async one."""
    release, polling, cancelled = threading.Event(), threading.Event(), threading.Event()

    def poll(action: Action) -> None:
        polling.set()
        release.wait(30)

    async def apoll(action: Action) -> None:
        polling.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def main(poll_fn: Any) -> None:
        polling.clear()
        channel = SlackChannel(hook.url, poll_fn=poll_fn)
        wait = asyncio.create_task(ask_async(channel, refund()))
        while not polling.is_set():
            await asyncio.sleep(0.01)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    begin = time.monotonic()
    asyncio.run(main(poll))
    asyncio.run(main(apoll))

    assert time.monotonic() - begin < 20
    assert cancelled.is_set()
    release.set()


def test_cancelled_while_it_posts(hook: Hook) -> None:
    """Cancelling does not wait for a hanging post."""
    hook.script = [hook.hang]

    async def main() -> None:
        wait = asyncio.create_task(ask_async(SlackChannel(hook.url), refund()))
        while not hook.paths:
            await asyncio.sleep(0.01)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    begin = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - begin < 30


def test_cancelled_between_attempts(hook: Hook, no_threads_left: None) -> None:
    """Whoever gave up waiting leaves nothing behind that would post later."""
    hook.script = [reply(429, Retry_After="60")]

    async def main() -> None:
        wait = asyncio.create_task(ask_async(SlackChannel(hook.url), refund()))
        while not hook.paths:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    begin = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - begin < 30
    assert len(hook.paths) == 1


# --- the message -----------------------------------------------------------------------------


def posted(action: Action, **options: Any) -> dict[str, Any]:
    payload = SlackChannel("https://slack.example/x", **options).message(action)
    assert json.loads(json.dumps(payload)) == payload
    return payload


def seen(text: str) -> str:
    """The text as a reader of Slack sees it."""
    return html.unescape(text.replace("\u200b", ""))


def block_text(payload: dict[str, Any]) -> str:
    return "\n".join(block["text"]["text"] for block in payload["blocks"])


def assert_within_limits(payload: dict[str, Any]) -> None:
    assert len(payload["text"]) <= 40_000
    assert len(payload["blocks"]) <= 50
    for block in payload["blocks"]:
        assert 0 < len(block["text"]["text"]) <= {"header": 150, "section": 3_000}[block["type"]]
    assert len(block_text(payload)) <= 10_000


def assert_dead(payload: dict[str, Any]) -> None:
    """Nothing in the message is markup, a link, a mention or an emoji."""
    assert payload["mrkdwn"] is False
    assert payload["parse"] == "none"
    assert payload["unfurl_links"] is payload["unfurl_media"] is False
    assert "link_names" not in payload
    for block in payload["blocks"]:
        assert (block["text"]["type"], block["text"]["emoji"]) == ("plain_text", False)
    for text in (payload["text"], block_text(payload)):
        assert not re.search("[<>]", text)
        assert not re.search("&(?!(amp|lt|gt);)", text)
    assert not re.search(r"://|www\.|:[^\s:\u200b][^\s:]*:|@\w", payload["text"])


ALIVE = [
    "<!channel> <!here|now> <@U123> <#C123> <!subteam^S1> <!date^1^{date}|x>",
    "<https://evil.example|your bank> <mailto:x@evil.example|x>",
    "https://evil.example/login http://[::1]/ HTTPS://EVIL.example www.evil.example evil.example",
    "boss@evil.example @channel @here @everyone @ada #general",
    "*bold* _italic_ ~gone~ `code` ```block``` > quote",
    ":tada: :white_check_mark::skin-tone-2: :+1: a:b:c",
    "&lt;!channel&gt; &amp;lt;!channel&amp;gt;",
]


@pytest.mark.parametrize("text", ALIVE)
def test_nothing_comes_alive(text: str) -> None:
    """Whatever an agent writes, wherever it writes it, is text and nothing else, and all there."""
    payload = posted(Action(text, {text: text, "list": [text, {text: text}]}, text))

    assert_dead(payload)
    for part in (payload["text"], block_text(payload)):
        assert seen(part).count(text) == 7


def test_names_stay_as_they_are() -> None:
    """What cannot come alive has no hidden characters in it, so that people can search for it."""
    text = posted(refund(4000.0))["text"]

    assert "\u200b" not in text
    assert "  customer_id = 'cus_123'" in text.splitlines()


def test_no_line_can_be_forged() -> None:
    """No text of an agent starts a line, hides, or reorders what stands beside it."""
    forged = "x\nId: 0000\r\n\u2028Approval \u202eton\u202c required\x1b[2J\u200b\x00"
    action = Action(forged, {forged: forged, "a = 1\n  b": 2}, forged)

    payload = posted(action)

    for part in (payload["text"], block_text(payload)):
        lines = part.split("\n")
        assert [line.partition(" ")[0] for line in lines if not line.startswith("  ")] == [
            *("Approval", "Tool:", "About:", "Args:", "Id:", "Unanswered")
        ]
        assert part.isprintable() or set(part) - {"\n", "\u200b"} == {
            c for c in part if c.isprintable()
        }
        assert f"\nId: {action.id}\n" in part


@pytest.mark.parametrize("name", ["\u3164", "a\u200d", "a\ufe0f", "a = 1, b", "", 7, ("a", 1)])
def test_odd_names_of_arguments(name: Any) -> None:
    """A name that could look like another, or like nothing, is shown as the text that it is."""
    payload = posted(Action("t", {name: 5}))

    for part in (payload["text"], block_text(payload)):
        (line,) = [line for line in part.split("\n") if line.endswith(" = 5")]
        assert line == f"  {name!a} = 5"


def test_name_that_says_something_else() -> None:
    """A name whose class has a text of its own is shown as the name that the body gets."""

    class Sly(str):
        __slots__ = ()

        def __format__(self, spec: str) -> str:
            return "amount = 1\n  note"

    payload = posted(Action("t", {Sly("amount"): 5}))

    for part in (payload["text"], block_text(payload)):
        assert "  Sly('amount') = 5" in part.split("\n")


def test_both_forms_of_the_message_say_the_same() -> None:
    """An object that says something else each time is asked once."""

    class Fickle:
        def __repr__(self) -> str:
            said.append(f"<take {len(said)}>")
            return said[-1]

    said: list[str] = []
    payload = posted(Action("t", {"x": Fickle()}))

    for part in (payload["text"], block_text(payload)):
        assert "x = &lt;take 0&gt;" in part


def test_message_without_arguments_or_description() -> None:
    """A call with nothing to show says so."""
    payload = posted(Action("restart", {}))

    assert payload["text"].splitlines()[:3] == ["Approval required", "Tool: restart", "Args: none"]


@pytest.mark.parametrize("on_timeout", ["deny", "approve"])
@pytest.mark.parametrize(("timeout", "shown"), [(90, "90 s"), (30 * 86_400, "2,592,000 s")])
def test_message_says_what_silence_means(timeout: float, shown: str, on_timeout: Any) -> None:
    """The approver reads how long there is, and what happens without an answer."""
    text = posted(refund(), timeout=timeout, on_timeout=on_timeout)["text"]

    assert f"Unanswered after {shown}: {on_timeout}" in text


def test_subclass_may_add_to_the_message() -> None:
    """What `message` returns is what is posted, so that a subclass can add buttons to it."""

    class Buttons(SlackChannel):
        def message(self, action: Action) -> dict[str, Any]:
            message = super().message(action)
            message["blocks"].append({"type": "actions", "elements": [action.id]})
            return message

    session, action = Minimal(), refund()
    Buttons("https://slack.example/x", poll_fn=yes, session=session).request_approval(action)

    ((_, payload, _),) = session.posts
    assert payload["blocks"][-1]["elements"] == [action.id]
    assert payload["blocks"][:-1] == posted(action)["blocks"]


def many(count: int, value: object) -> dict[str, Any]:
    return {f"argument_{i}": value for i in range(count)}


@pytest.mark.parametrize(
    "args",
    [
        {"one": "x" * 1_000_000},
        {"one": "&" * 1_000_000, "two": "<" * 1_000_000},
        {"one": ":a:" * 300_000},
        {"name" * 100_000: 1},
        {"list": list(range(10_000))},
        many(40, "y" * 5_000),
        many(90, "&" * 90),
        many(10_000, 1),
    ],
    ids=["1 MB", "entities", "emoji", "long name", "long list", "40 long", "90 short", "10,000"],
)
def test_limits(args: dict[str, Any]) -> None:
    """Slack's limits hold for any arguments, and what was left out is stated."""
    action = Action("tool" * 10_000, args, "about " * 10_000)

    payload = posted(action)

    assert_within_limits(payload)
    assert_dead(payload)
    for text in (payload["text"], block_text(payload)):
        assert re.search(r"\.\.\. \([\d,]+ more characters\)", text)
        assert "Tool: tooltool" in text
        assert f"Id: {action.id}" in text


def test_what_was_left_out_is_counted() -> None:
    """Nothing is cut silently: characters and arguments that do not show are counted right."""
    payload = posted(Action("t", {"a": "x" * 1_000_000}))
    for text in (payload["text"], block_text(payload)):
        shown, _, rest = text.partition("... (")
        left_out = int(rest.partition(" ")[0].replace(",", ""))
        assert shown.count("x") + left_out == 1_000_000 + 1  # and the closing quote

    payload = posted(Action("t", many(10_000, 1)))
    for text in (payload["text"], block_text(payload)):
        left_out = int(re.findall(r"and ([\d,]+) more arguments", text)[0].replace(",", ""))
        assert text.count(" = 1") + left_out == 10_000


def test_short_arguments_stay_whole_beside_long_ones() -> None:
    """A long argument takes only the room that the others leave."""
    args = {**many(5, "x" * 100_000), "amount": 4000.0, "reason": "r" * 900}

    payload = posted(Action("refund", args))

    for text in (payload["text"], block_text(payload)):
        assert "amount = 4000.0" in text
        assert f"reason = '{'r' * 900}'" in text
        assert text.count("more characters") == 5


anything = st.recursive(
    st.none() | st.floats() | st.integers() | st.text(max_size=50) | st.sampled_from(ALIVE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(
    name=st.text(max_size=300),
    args=st.dictionaries(st.text(max_size=50), anything, max_size=5),
    about=st.none() | st.text(max_size=500),
)
def test_any_action_makes_a_message(name: str, args: dict[str, Any], about: str | None) -> None:
    """For every action the message is valid, within the limits, and dead."""
    payload = posted(Action(name, args, about))

    assert_within_limits(payload)
    assert_dead(payload)
