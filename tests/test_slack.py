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
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slackserver import PATH, Hook, Reply, raw, reply

from actionguard.channels._waiting import ask_async
from actionguard.channels.slack import NotDelivered, SlackChannel
from actionguard.core import Action, Decision


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


class Clock:
    """Time that passes only where a channel sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("slack", "_slack_webhook"):
        monkeypatch.setattr(f"actionguard.channels.{module}.monotonic", lambda: clock.now)
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    monkeypatch.setattr("asyncio.sleep", clock.sleep)
    return clock


@pytest.fixture(autouse=True)
def long_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take more than a second for a poll that does not hang."""
    monkeypatch.setattr("actionguard.channels.slack._LAST_LOOK", 120.0)


@pytest.fixture
def short_last_look(monkeypatch: pytest.MonkeyPatch, long_last_look: None) -> None:
    """A poll that hangs is given up sooner after the timeout than is good for real ones."""
    monkeypatch.setattr("actionguard.channels.slack._LAST_LOOK", 0.05)


def refund(amount: object = 50) -> Action:
    args = {"amount": amount, "customer_id": "cus_123"}
    return Action("refund_customer", args, "Issue a refund.")


def yes(action: Action) -> Decision:
    return Decision.approve("go ahead")


def plain(channel: SlackChannel, action: Action) -> Decision:
    return channel.request_approval(action)


def awaited(channel: SlackChannel, action: Action) -> Decision:
    return asyncio.run(ask_async(channel, action))


Ask = Callable[[SlackChannel, Action], Decision]
both = pytest.mark.parametrize("ask", [plain, awaited])


# --- answers ---------------------------------------------------------------------------------


@both
def test_posts_and_returns_the_answer(hook: Hook, ask: Ask) -> None:
    """One post to the webhook, and what poll_fn found is the decision, with its source."""
    action, asked = refund(4000.0), []

    def poll(action: Action) -> Decision:
        asked.append(action)
        return answer

    answer = Decision(False, "too much", metadata={"by": "U1"})
    decision = ask(SlackChannel(hook.url, poll_fn=poll), action)

    assert decision == Decision(False, "too much", "slack", {"by": "U1"})
    assert answer.source is None
    assert asked == [action]
    assert asked[0] is action
    assert hook.paths == [f"POST {PATH}"]
    text = hook.payloads[0]["text"]
    for piece in ("refund_customer", "Issue a refund.", "amount = 4000.0", "'cus_123'", action.id):
        assert piece in text


class Poll:
    async def __call__(self, action: Action) -> Decision:
        await asyncio.sleep(0)
        return Decision(True, source="store")

    async def method(self, action: Action) -> Decision:
        return await self(action)

    def plain(self, action: Action) -> Any:
        return self(action)


@both
@pytest.mark.parametrize(
    "poll_fn", [lambda _: Decision(True, source="store"), Poll(), Poll().method, Poll().plain]
)
def test_every_shape_of_poll_fn(hook: Hook, ask: Ask, poll_fn: Any) -> None:
    """poll_fn may be plain, async, or an object; a source that it names stays."""
    decision = ask(SlackChannel(hook.url, poll_fn=poll_fn), refund())

    assert decision == Decision(True, source="store")


@both
def test_polls_until_there_is_an_answer(hook: Hook, ask: Ask, clock: Clock) -> None:
    """None means "not yet", and is asked about again after the interval, and when time is up."""
    answers = [None, None, None, Decision.approve("at the end")]
    channel = SlackChannel(
        hook.url, poll_fn=lambda _: answers.pop(0), poll_interval=7, timeout=20, on_timeout="deny"
    )

    assert ask(channel, refund()).comment == "at the end"
    assert clock.slept == [7, 7, 6]


@both
@pytest.mark.parametrize("on_timeout", ["deny", "approve"])
@pytest.mark.parametrize("poll_fn", [lambda _: None, None])
def test_unanswered(hook: Hook, ask: Ask, clock: Clock, on_timeout: Any, poll_fn: Any) -> None:
    """When nobody answers in time on_timeout decides, and the decision is no person's."""
    channel = SlackChannel(hook.url, poll_fn=poll_fn, timeout=0.5, on_timeout=on_timeout)

    decision = ask(channel, refund())

    comment = "no answer within 0.5 s"
    approved = on_timeout == "approve"
    assert decision == Decision(approved, comment, "slack", unanswered=True)


@both
def test_timeout_0_polls_once(hook: Hook, ask: Ask) -> None:
    """A timeout of 0 posts, looks once, and decides."""
    asked: list[Action] = []

    decision = ask(SlackChannel(hook.url, poll_fn=asked.append, timeout=0), refund())

    assert (len(hook.paths), len(asked), decision.unanswered) == (1, 1, True)
    assert ask(SlackChannel(hook.url, poll_fn=yes, timeout=0), refund()).approved is True


@both
def test_interval_of_0_does_not_spin(hook: Hook, ask: Ask, clock: Clock) -> None:
    """poll_interval=0 is a short interval, not a busy loop."""
    ask(SlackChannel(hook.url, poll_fn=lambda _: None, timeout=0.2, poll_interval=0), refund())

    assert 20 <= len(clock.slept) <= 21


@both
def test_answer_during_a_slow_look_counts(hook: Hook, ask: Ask, clock: Clock) -> None:
    """An answer that came in time is found, though a look was under way that had missed it."""
    store: list[Decision] = []

    def poll(action: Action) -> Decision | None:
        seen = store[-1] if store else None
        store.append(Decision.deny("in time"))
        clock.now = 301
        return seen

    channel = SlackChannel(hook.url, poll_fn=poll, timeout=300, on_timeout="approve")

    assert ask(channel, refund()).comment == "in time"


@both
def test_equal_requests_are_told_apart(hook: Hook, ask: Ask) -> None:
    """Two equal refunds are two requests: each gets its own answer, in whatever order."""
    first, second = refund(), refund()
    assert first == second
    store: dict[str, Decision] = {}
    channel = SlackChannel(
        hook.url, poll_fn=lambda action: store.get(action.id), poll_interval=0.01
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


def raising(error: BaseException) -> list[Any]:
    def poll(action: Action) -> None:
        raise error

    async def apoll(action: Action) -> None:
        raise error

    return [poll, apoll]


@both
@pytest.mark.parametrize(
    ("error", "form"),
    [
        *((LookupError("gone"), form) for form in (0, 1)),
        *((error, 0) for error in (KeyboardInterrupt(), SystemExit(3), GeneratorExit())),
    ],
)
def test_poll_fn_that_raises(hook: Hook, ask: Ask, error: BaseException, form: int) -> None:
    """What poll_fn raises arrives as it is: the gate blocks the call."""
    with pytest.raises(type(error)) as caught:
        ask(SlackChannel(hook.url, poll_fn=raising(error)[form]), refund())

    assert caught.value is error


@both
@pytest.mark.parametrize("garbage", [True, False, "yes", 1, {"approved": True}, (), object()])
def test_poll_fn_that_answers_garbage(hook: Hook, ask: Ask, garbage: Any) -> None:
    """Only a Decision or None is an answer; falsy things are no "not yet"."""
    with pytest.raises(TypeError, match=f"Decision or None, not {type(garbage).__name__}"):
        ask(SlackChannel(hook.url, poll_fn=lambda _: garbage), refund())


@both
@pytest.mark.parametrize("form", [0, 1], ids=["plain poll_fn", "async poll_fn"])
def test_poll_fn_that_cancels_itself(hook: Hook, ask: Ask, form: int) -> None:
    """A poll_fn that ends as cancelled is a fault, and cancels neither the caller nor its loop."""
    with pytest.raises(RuntimeError, match="poll_fn was cancelled"):
        ask(SlackChannel(hook.url, poll_fn=raising(asyncio.CancelledError())[form]), refund())


@both
@pytest.mark.parametrize("form", ["plain", "async", "stubborn"])
@pytest.mark.usefixtures("short_last_look")
def test_poll_fn_that_hangs(hook: Hook, ask: Ask, form: str) -> None:
    """The timeout denies on time, but is no consent: a no may be waiting. A late yes is nothing."""
    release = threading.Event()

    def poll(action: Action) -> Decision:
        release.wait(120)
        return Decision.approve("too late")

    async def apoll(action: Action) -> Decision:
        try:
            await asyncio.sleep(120)
        except asyncio.CancelledError:
            if form == "async":
                raise
            await asyncio.sleep(0.1)
        return Decision.approve("too late")

    poll_fn: Any = poll if form == "plain" else apoll

    decision = ask(SlackChannel(hook.url, poll_fn=poll_fn, timeout=0.02), refund())
    with pytest.raises(TimeoutError, match="poll_fn did not return"):
        ask(
            SlackChannel(hook.url, poll_fn=poll_fn, timeout=0.02, on_timeout="approve"),
            refund(),
        )
    release.set()

    assert (decision.approved, decision.unanswered) == (False, True)


# --- posts that fail -------------------------------------------------------------------------


def refused(hook: Hook, *script: Reply, **options: Any) -> NotDelivered:
    """Ask plainly and awaited; both fail alike, and poll_fn is never asked."""
    asked: list[Action] = []
    for ask in (plain, awaited):
        hook.script = list(script)
        with pytest.raises(NotDelivered, match="nobody was asked") as caught:
            ask(SlackChannel(hook.url, poll_fn=asked.append, **options), refund())
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
        (302, "", "HTTP 302"),
        (307, "", "HTTP 307"),
        (304, "", "HTTP 304"),
    ],
)
def test_post_refused(hook: Hook, status: int, body: str, said: str) -> None:
    """A refusal is not repeated, a redirect is one, and Slack's one word for it is told."""
    error = refused(hook, reply(status, body, Location=f"http://127.0.0.1:{hook.port}/login"))

    assert str(error).endswith(f": {said}")
    assert hook.paths == [f"POST {PATH}"] * 2  # one for each way of asking


@pytest.mark.parametrize(
    "start",
    [None, b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 404 Not Found\r\nContent-Length: 64\r\n\r\n"],
)
def test_post_hangs(hook: Hook, start: bytes | None) -> None:
    """A webhook that says nothing, or drips bytes for ever, is given up after post_timeout."""
    error = refused(hook, hook.hang if start is None else hook.drip(start), post_timeout=0.2)

    assert re.search(r": (ReadTimeout|no answer within 0\.2 s)$", str(error))
    assert len(hook.paths) == 2


def test_tls_that_fails(hook: Hook) -> None:
    """What cannot show a certificate is not spoken to a second time."""
    hook.url = hook.url.replace("http:", "https:")

    assert str(refused(hook)).endswith(": SSLError")


def test_url_that_only_requests_refuses(hook: Hook) -> None:
    """A URL that requests finds wrong blocks the call without being shown."""
    hook.url = f"http://.example{PATH}"

    assert str(refused(hook)).endswith(": InvalidURL")


def test_proxy_that_fails(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies of the environment are used, and their passwords shown as little as the URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://me:s3cret@127.0.0.1:{free.getsockname()[1]}")
        hook.url = f"http://slack.example{PATH}"

        assert str(refused(hook)).endswith(": ProxyError")


@pytest.mark.parametrize("kind", ["nobody listens", "closed", "no HTTP"])
def test_slack_that_cannot_be_reached(hook: Hook, clock: Clock, kind: str) -> None:
    """It is tried again for post_timeout; then the call is blocked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        if kind == "nobody listens":
            hook.url = f"http://127.0.0.1:{free.getsockname()[1]}{PATH}"
        answer = raw(b"" if kind == "closed" else b"220 smtp ready\r\n")
        error = refused(hook, *[answer] * 9, post_timeout=10)

    assert str(error).endswith(": ConnectionError")
    assert clock.slept == [0.5, 1, 2, 4] * 2


@both
@pytest.mark.parametrize(
    ("answer", "pauses"),
    [
        (raw(b""), [0.5, 1, 2]),
        (reply(500), [0.5, 1, 2]),
        (reply(429, Retry_After="0"), [0, 0, 0]),
        (reply(429, Retry_After="11"), [11, 11, 11]),
        (reply(503, Retry_After="90"), [90, 90, 90]),
        (reply(429, Retry_After="soon"), [0.5, 1, 2]),
        (reply(429, Retry_After="9" * 400), [0.5, 1, 2]),
    ],
    ids=["closed", "500", "429 now", "429", "503", "429 in words", "429 huge"],
)
def test_post_is_repeated(
    hook: Hook, ask: Ask, clock: Clock, answer: Reply, pauses: list[float]
) -> None:
    """After the wait that Slack names or, without one, after longer and longer ones."""
    hook.script = [answer] * 3

    assert ask(SlackChannel(hook.url, poll_fn=yes), refund()).approved is True
    assert clock.slept == pauses
    assert len(hook.paths) == 4
    assert all(payload == hook.payloads[0] for payload in hook.payloads)


def test_post_is_repeated_until_the_timeout(hook: Hook, clock: Clock) -> None:
    """However often that is; a wait that would end after the timeout is not begun."""
    error = refused(hook, *[reply(500)] * 99, timeout=600)
    assert str(error).endswith(": HTTP 500")
    assert clock.slept[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert 2 * 560 < sum(clock.slept) <= 2 * 600

    clock.slept.clear()
    refused(hook, reply(429, Retry_After="301"))
    refused(hook, reply(500), timeout=0)
    assert clock.slept == []


def test_twenty_at_once_through_a_narrow_webhook(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that Slack refuses together are spread by chance, and all arrive."""
    spread: list[float] = []

    def uniform(low: float, high: float) -> float:
        spread.append(high - low)
        return 0.0

    monkeypatch.setattr("random.uniform", uniform)
    hook.script = [reply(429, Retry_After="0")] * 100
    channel = SlackChannel(hook.url, poll_fn=yes)

    async def main() -> list[Decision]:
        return await asyncio.gather(*[ask_async(channel, refund(n)) for n in range(20)])

    assert [decision.approved for decision in asyncio.run(main())] == [True] * 20
    assert len(hook.paths) == 120
    assert spread == [1] * 100


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
    "repeated": lambda hook: ([reply(500, Retry_After="0")] * 2 + [reply(400)], {}),
    "hanging": lambda hook: ([hook.hang], {"post_timeout": 0.1}),
    "dripping": lambda hook: ([hook.drip(b"HTTP/1.1 200 OK\r\nX: ")], {"post_timeout": 0.2}),
    "odd headers": lambda hook: (
        [raw(b"HTTP/1.1 500 No\r\n: odd\r\nbad header\r\n\r\n")],
        {"timeout": 0},
    ),
    "closed": lambda hook: ([raw(b"")], {"timeout": 0}),
}


@both
@pytest.mark.parametrize("failure", FAILURES)
def test_url_shows_nowhere(
    hook: Hook,
    ask: Ask,
    failure: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No part of the URL is in the error, its chain, its frames, any log, or on the screen."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    hook.script, options = FAILURES[failure](hook)
    channel = SlackChannel(hook.url, poll_fn=yes, **options)

    with pytest.raises(NotDelivered) as caught:
        ask(channel, refund())

    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = [
        *(str(error), repr(error), shown_by(error)),
        *(repr(channel), str(vars(channel)), str(vars(channel._webhook))),
        *(record.getMessage() + str(record.args) for record in caplog.records),
        *capfd.readouterr(),
    ]
    text = "\n".join(shown)
    for secret in ("127.0.0.1", *PATH.strip("/").split("/")):
        assert secret not in text
    # As a number of its own: addresses, times, threads and ids are longer ones, and may hold it.
    assert not re.search(rf"(?<![\w.]){hook.port}(?!\w|\.\d)", text)


@pytest.mark.parametrize("library", ["requests", "httpx"])
def test_other_posts_still_log(hook: Hook, library: str, caplog: pytest.LogCaptureFixture) -> None:
    """Only our own posts are kept out of a library's log, not the program's."""
    client = pytest.importorskip(library)
    caplog.set_level(logging.DEBUG)
    with (client.Client if library == "httpx" else client.Session)() as session:
        channel = SlackChannel(hook.url, poll_fn=yes, session=session)
        assert channel.request_approval(refund()).approved is True
        assert PATH not in caplog.text

        session.post(f"http://127.0.0.1:{hook.port}/mine", json={})

    assert "/mine" in caplog.text


# --- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("", "hooks", PATH, f"ftp://slack.example{PATH}", f"http://{PATH}"),
        *(f"https://slack.example{PATH}\n", f" https://slack.example{PATH}"),
        *(f"https://slack.example/a b{PATH}", f"https://slack.example:port{PATH}"),
        *(f"https://[::1{PATH}", f"https://slack.example\u200b{PATH}", PATH.encode(), None, 7),
    ],
)
def test_bad_url(url: Any) -> None:
    """A URL that cannot work is refused at once, without being shown."""
    with pytest.raises(ValueError, match=r"webhook_url must be an http\(s\) URL") as caught:
        SlackChannel(url)

    assert "s3cret" not in shown_by(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "url", ["http://[::1]:80/x", "HTTPS://me:pw@h-1.example:8443/a?b=c#d", "https://h"]
)
def test_good_url(url: str) -> None:
    """Whatever a URL may look like is taken."""
    SlackChannel(url)


async def apost(url: str, **options: Any) -> None:
    """Post with a library for async code."""


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(
        (
            {name: value},
            ValueError,
            f"^{name} must be a finite number .*, not {re.escape(str(value))}",
        )
        for name in ("timeout", "poll_interval", "post_timeout")
        for value in (-1, -0.001, float("nan"), float("inf"), 10**400, True, None, 1j)
    ),
    ({"timeout": "5"}, ValueError, "timeout must be a finite number of seconds.*, not '5'"),
    ({"post_timeout": 0}, ValueError, "post_timeout must be more than 0"),
    *(
        (
            {"on_timeout": value},
            ValueError,
            f'on_timeout must be "deny" or "approve", not {value!r}',
        )
        for value in ("raise", True, None)
    ),
    *(
        ({"poll_fn": value}, TypeError, "poll_fn must be a function of the action or None, not ")
        for value in (3, object(), lambda: None, lambda action, more: None)
    ),
    *(
        ({"session": value}, TypeError, "session must have a post method that is not async, not ")
        for value in (3, object(), mock.AsyncMock(), mock.Mock(post=apost))
    ),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD_OPTIONS)
def test_bad_options(options: dict[str, Any], error: type[Exception], match: str) -> None:
    """What cannot work is an error at construction, which says what is wanted and what came."""
    with pytest.raises(error, match=match) as caught:
        SlackChannel(f"https://slack.example{PATH}", **options)

    assert "s3cret" not in shown_by(caught.value)


def test_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without requests the channel says at construction what to install."""
    monkeypatch.setitem(sys.modules, "requests", None)

    with pytest.raises(ImportError, match=r'pip install "actionguard\[slack\]"'):
        SlackChannel("https://slack.example/x")
    SlackChannel("https://slack.example/x", session=mock.Mock())  # posts without it


def test_copies(hook: Hook) -> None:
    """A deep copy is the same channel; a pickled one asks at the same place in another process."""
    channel = SlackChannel(hook.url, poll_fn=yes, timeout=7)

    assert copy.deepcopy(channel) is channel
    copied = pickle.loads(pickle.dumps(channel))
    assert copied.request_approval(refund()).approved is True
    assert (hook.paths, copied.timeout) == ([f"POST {PATH}"], 7)


# --- sessions --------------------------------------------------------------------------------


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


def test_session_that_knows_little() -> None:
    """A stand-in with post(url, json, timeout) and raise_for_status() is enough, as is a mock."""
    session = Minimal()
    channel = SlackChannel("https://slack.example/x", poll_fn=yes, session=session, post_timeout=3)

    assert channel.request_approval(refund()).approved is True
    ((url, payload, timeout),) = session.posts
    assert (url, timeout) == ("https://slack.example/x", 3)
    assert "refund_customer" in payload["text"]

    channel = SlackChannel("https://slack.example/x", poll_fn=yes, session=mock.Mock())
    assert channel.request_approval(refund()).approved is True


@pytest.mark.parametrize(
    ("session", "said"),
    [
        (Minimal(OSError("https://slack.example")), "OSError"),
        (mock.Mock(post=mock.Mock(return_value=None)), "AttributeError"),
        (mock.Mock(post=lambda url: None), "TypeError"),
    ],
)
def test_session_that_fails(session: Any, said: str) -> None:
    """What a session raises, or an answer that says nothing, is no delivery."""
    with pytest.raises(NotDelivered, match=f": {said}$"):
        SlackChannel("https://slack.example/x", session=session).request_approval(refund())


@pytest.mark.parametrize("library", ["requests", "httpx"])
def test_session_that_follows_redirects(hook: Hook, library: str) -> None:
    """What a login page answered is no delivery, whoever went there; headers are the session's."""
    client = pytest.importorskip(library)
    hook.script = [reply(302, Location="/login")]
    follows = {"follow_redirects": True} if library == "httpx" else {}
    with (client.Client if library == "httpx" else client.Session)(**follows) as session:
        channel = SlackChannel(hook.url, poll_fn=yes, session=session)

        with pytest.raises(NotDelivered, match=r": HTTP 302$"):
            channel.request_approval(refund())

    assert hook.paths == [f"POST {PATH}", "GET /login"]


# --- waiting ---------------------------------------------------------------------------------


def test_async_waits_hold_no_thread() -> None:
    """Between two polls an async wait is only a timer, however many there are."""
    asked: set[str] = set()
    released = False

    async def poll(action: Action) -> Decision | None:
        asked.add(action.id)
        return Decision.approve() if released else None

    async def main() -> list[Decision]:
        nonlocal released
        channel = SlackChannel(
            "https://slack.example/x", poll_fn=poll, poll_interval=0.05, session=Minimal()
        )
        waits = [asyncio.create_task(ask_async(channel, refund())) for _ in range(300)]
        while len(asked) < 300:
            await asyncio.sleep(0.01)
        assert threading.active_count() < 100
        released = True
        return await asyncio.gather(*waits)

    assert all(decision.approved for decision in asyncio.run(main()))


@pytest.mark.parametrize("when", ["posting", "between posts", "polling", "between polls"])
@pytest.mark.parametrize("is_async", [False, True], ids=["plain poll_fn", "async poll_fn"])
def test_cancelled_wait_ends_at_once(hook: Hook, when: str, is_async: bool) -> None:
    """Cancelling waits for nothing that hangs, and posts and polls no more."""
    release, polled = threading.Event(), threading.Event()
    polls: list[Action] = []

    def poll(action: Action) -> None:
        polls.append(action)
        polled.set()
        if when == "polling":
            release.wait(120)

    async def apoll(action: Action) -> None:
        polls.append(action)
        polled.set()
        if when == "polling":
            await asyncio.sleep(120)

    hook.script = {"posting": [hook.hang], "between posts": [reply(429, Retry_After="60")]}.get(
        when, []
    )

    async def main() -> None:
        poll_fn: Any = apoll if is_async else poll
        channel = SlackChannel(hook.url, poll_fn=poll_fn, poll_interval=120, post_timeout=100)
        wait = asyncio.create_task(ask_async(channel, refund()))
        if "poll" in when:
            await asyncio.to_thread(polled.wait, 120)
        else:
            await asyncio.to_thread(hook.wait_for, 1)
        await asyncio.sleep(0.05)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    asyncio.run(main())
    release.set()
    assert len(hook.paths) == 1
    assert len(polls) == ("poll" in when)


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
            *("Approval", "Tool:", "About:", "Args:", "Id:", "Denied")
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

    word = {"deny": "Denied", "approve": "Approved"}[on_timeout]
    assert text.endswith(f"\n{word} automatically after {shown}")


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
