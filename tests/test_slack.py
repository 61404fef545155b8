"""SlackChannel against a real HTTP server on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import pickle
import re
import threading
import traceback
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from slackserver import PATH, Ask, Hook, Reply, awaited, both, plain, raw, refund, reply

from actionguard.channels._waiting import ask_async
from actionguard.channels.slack import NotDelivered, SlackChannel
from actionguard.core import Action, Decision


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as hook:
        yield hook


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
    monkeypatch.setattr("actionguard.channels.slack.monotonic", lambda: clock.now)
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    monkeypatch.setattr("asyncio.sleep", clock.sleep)
    return clock


@pytest.fixture(autouse=True)
def long_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take more than a second for a poll that does not hang."""
    monkeypatch.setattr("actionguard.channels.slack._LAST_LOOK", 120.0)


def yes(action: Action) -> Decision:
    return Decision.approve("go ahead")


# --- answers ---------------------------------------------------------------------------------


@both
def test_posts_and_returns_the_answer(hook: Hook, ask: Ask) -> None:
    """One post to the webhook, and what poll_fn found is the decision, with its source."""
    action, asked = refund(4000.0), []
    answer = Decision(False, "too much", metadata={"by": "U1"})
    channel = SlackChannel(hook.url, poll_fn=lambda a: asked.append(a) or answer)

    assert ask(channel, action) == Decision(False, "too much", "slack", {"by": "U1"})
    assert answer.source is None
    assert [one is action for one in asked] == [True]
    assert hook.paths == [f"POST {PATH}"]
    text = hook.payloads[0]["text"]
    for piece in ("refund_customer", "Issue a refund.", "amount = 4000.0", "'cus_123'", action.id):
        assert piece in text


@both
def test_async_poll_fn_is_awaited(hook: Hook, ask: Ask) -> None:
    """poll_fn may be async; a source that it names stays."""
    answer = Decision(True, source="store")
    channel = SlackChannel(hook.url, poll_fn=mock.AsyncMock(return_value=answer))

    assert ask(channel, refund()) == answer


@both
@pytest.mark.parametrize("on_timeout", ["deny", "approve"])
@pytest.mark.parametrize(
    ("timeout", "interval", "pauses"), [(0, 5, 0), (0.5, 5, 1), (20, 7, 3), (0.2, 0, 20)]
)
def test_polls_until_the_timeout(
    hook: Hook,
    clock: Clock,
    ask: Ask,
    timeout: float,
    interval: float,
    pauses: int,
    on_timeout: Any,
) -> None:
    """The last look is when time is up; then on_timeout decides, which is no person's decision."""
    answers: list[Decision | None] = [None] * (pauses + 2)
    options: Any = {"timeout": timeout, "poll_interval": interval, "on_timeout": on_timeout}
    channel = SlackChannel(hook.url, poll_fn=lambda _: answers.pop(), **options)

    comment = f"no answer within {timeout} s"
    silence = Decision(on_timeout == "approve", comment, "slack", unanswered=True)
    assert ask(channel, refund()) == silence
    assert len(clock.slept) - pauses in (0, 1)  # hundredths do not add up
    assert sum(clock.slept) == pytest.approx(timeout)

    answers = [Decision.approve("at the last moment"), *[None] * pauses]
    assert ask(channel, refund()).comment == "at the last moment"


def test_without_poll_fn_nobody_can_answer(hook: Hook, clock: Clock) -> None:
    """The request is posted all the same, and the comment says why there was no answer."""
    decision = plain(SlackChannel(hook.url), refund())

    assert decision.comment == "no answer within 300 s (there is no poll_fn)"
    assert len(hook.paths) == 1


@both
def test_equal_requests_are_told_apart(hook: Hook, ask: Ask) -> None:
    """Two equal refunds are two requests: each gets its own answer."""
    first, second = refund(), refund()
    assert first == second
    store = {first.id: Decision.approve("the real one"), second.id: Decision.deny("a duplicate")}
    channel = SlackChannel(hook.url, poll_fn=lambda action: store[action.id])

    comments = [ask(channel, action).comment for action in (second, first)]
    assert comments == ["a duplicate", "the real one"]


# --- poll functions that fail ----------------------------------------------------------------


@both
@pytest.mark.parametrize("error", [LookupError("gone"), KeyboardInterrupt()])
def test_poll_fn_that_raises(hook: Hook, ask: Ask, error: BaseException) -> None:
    """Its exception arrives as it is."""
    with pytest.raises(type(error)) as caught:
        ask(SlackChannel(hook.url, poll_fn=mock.Mock(side_effect=error)), refund())

    assert caught.value is error


@both
@pytest.mark.parametrize("garbage", [True, False, "yes", 1, {"approved": True}, (), object()])
def test_poll_fn_that_answers_garbage(hook: Hook, ask: Ask, garbage: Any) -> None:
    """Only a Decision or None is an answer; falsy things are no "not yet"."""
    with pytest.raises(TypeError, match=f"Decision or None, not {type(garbage).__name__}"):
        ask(SlackChannel(hook.url, poll_fn=lambda _: garbage), refund())


@both
@pytest.mark.parametrize("is_async", [False, True])
def test_poll_fn_that_hangs(
    hook: Hook, ask: Ask, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout denies on time, but is no consent: a no may be waiting. A late yes is nothing."""
    monkeypatch.setattr("actionguard.channels.slack._LAST_LOOK", 0.02)
    release = threading.Event()

    async def apoll(action: Action) -> Decision:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(120)
        await asyncio.sleep(0.1)  # it refuses to be cancelled
        return yes(action)

    poll = apoll if is_async else lambda action: release.wait(120) and yes(action)
    options: Any = {"poll_fn": poll, "timeout": 0.02}
    decision = ask(SlackChannel(hook.url, **options), refund())
    with pytest.raises(TimeoutError, match="poll_fn hangs"):
        ask(SlackChannel(hook.url, **options, on_timeout="approve"), refund())
    release.set()

    assert (decision.approved, decision.unanswered) == (False, True)


# --- posts that fail -------------------------------------------------------------------------


class Refused:
    """Asks plainly and awaited; both fail alike, ask nobody, and show no part of the URL."""

    def __init__(self, hook: Hook, caplog: Any, capfd: Any) -> None:
        self.hook, self.caplog, self.capfd = hook, caplog, capfd
        caplog.set_level(logging.DEBUG)

    def __call__(self, *script: Reply, **options: Any) -> str:
        asked: list[Action] = []
        for ask in (plain, awaited):
            self.hook.script = list(script)
            channel = SlackChannel(self.hook.url, poll_fn=asked.append, **options)
            with pytest.raises(NotDelivered, match="Slack did not accept the request: ") as caught:
                ask(channel, refund())
            self.assert_dead_silent(channel, caught.value)
        assert asked == []
        return str(caught.value).partition(": ")[2]

    def assert_dead_silent(self, channel: SlackChannel, error: BaseException) -> None:
        assert (error.__cause__, error.__context__) == (None, None)
        trace = error.__traceback__.tb_next  # type: ignore[union-attr]
        shown = [
            *traceback.TracebackException(type(error), error, trace, capture_locals=True).format(),
            *(record.getMessage() + str(record.args) for record in self.caplog.records),
            *(repr(error), repr(channel), str(vars(channel)), *self.capfd.readouterr()),
        ]
        for secret in ("127.0.0.1", *PATH.strip("/").split("/")):
            assert secret not in "\n".join(shown)


@pytest.fixture
def refused(hook: Hook, caplog: Any, capfd: Any) -> Refused:
    return Refused(hook, caplog, capfd)


DRIPS = (b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 404 Not Found\r\nContent-Length: 64\r\n\r\n")
REFUSALS: dict[str, tuple[Any, str]] = {
    "bad blocks": (reply(400, "invalid_blocks"), "HTTP 400 invalid_blocks"),
    "no service": (reply(404, "no_service"), "HTTP 404 no_service"),
    "a page": (reply(404, f"<html>{PATH} was not found"), "HTTP 404"),
    **{f"HTTP {n}": (reply(n, Location=PATH), f"HTTP {n}") for n in (302, 304, 307)},
    "closed": (raw(b""), "ConnectionError"),
    "no HTTP": (raw(b"220 smtp ready\r\n"), "ConnectionError"),
    "odd": (raw(b"HTTP/1.1 404 No\r\n: odd\r\nbad header\r\n\r\n"), "HTTP 404"),
    "hanging": (Hook.hang, "ReadTimeout|no answer within 0.2 s"),
    **{f"dripping {n}": (start, "no answer within 0.2 s") for n, start in enumerate(DRIPS)},
    "no TLS": ("https://127.0.0.1:{}/x", "SSLError"),
    "no host": ("http://.example/x", "InvalidURL"),
    "no port": ("http://127.0.0.1:port/x", "InvalidURL"),
    "nobody listens": ("http://127.0.0.1:1/x", "ConnectionError"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_post_refused(hook: Hook, refused: Refused, kind: str) -> None:
    """It is not repeated, a redirect is a refusal, and Slack's one word for it is told."""
    answer, why = REFUSALS[kind]
    if isinstance(answer, str):
        hook.url = answer.format(hook.port)
        assert refused() == why
        return
    answer = hook.drip(answer) if isinstance(answer, bytes) else answer
    answer = hook.hang if answer is Hook.hang else answer

    assert re.fullmatch(why, refused(answer, post_timeout=0.2 if "ing" in kind else 10))
    assert hook.paths == [f"POST {PATH}"] * 2  # one for each way of asking


@both
@pytest.mark.parametrize(
    ("answer", "pauses"),
    [
        (reply(500), [0.5, 1, 2]),
        (reply(429, Retry_After="11"), [11, 11, 11]),
        (reply(503, Retry_After="90"), [90, 90, 90]),
        (reply(429, Retry_After="soon"), [0.5, 1, 2]),
        (reply(429, Retry_After="9" * 400), [0.5, 1, 2]),
    ],
    ids=["500", "429", "503", "429 in words", "429 huge"],
)
def test_post_is_repeated(
    hook: Hook, ask: Ask, clock: Clock, answer: Reply, pauses: list[float]
) -> None:
    """After the wait that Slack names or, without one, after longer and longer ones."""
    hook.script = [answer] * 3

    assert ask(SlackChannel(hook.url, poll_fn=yes), refund()).approved is True
    assert clock.slept == pauses
    assert hook.payloads == hook.payloads[:1] * 4


def test_post_is_repeated_until_the_timeout(refused: Refused, clock: Clock) -> None:
    """However often that is; a wait that would end after the timeout is not begun."""
    assert refused(*[reply(500)] * 99, timeout=600) == "HTTP 500"
    assert clock.slept[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert 2 * 560 < sum(clock.slept) <= 2 * 600

    clock.slept.clear()
    assert refused(reply(429, "rate_limited", Retry_After="301")).startswith("HTTP 429")
    assert refused(reply(500), timeout=0) == "HTTP 500"
    assert clock.slept == []


def test_twenty_at_once_through_a_narrow_webhook(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that Slack refuses together are spread by chance, and all arrive."""
    spread: list[float] = []
    monkeypatch.setattr("random.uniform", lambda low, high: spread.append(high - low) or -0.5)
    hook.script = [reply(429)] * 20
    channel = SlackChannel(hook.url, poll_fn=yes)

    async def main() -> list[Decision]:
        return await asyncio.gather(*[ask_async(channel, refund(n)) for n in range(20)])

    assert [decision.approved for decision in asyncio.run(main())] == [True] * 20
    assert (len(hook.paths), spread) == (40, [1] * 20)


# --- sessions --------------------------------------------------------------------------------


def client(library: str, **options: Any) -> Any:
    module = pytest.importorskip(library)
    return module.Session() if library == "requests" else module.Client(**options)


@pytest.mark.parametrize("library", ["requests", "httpx"])
def test_sessions(hook: Hook, library: str, caplog: pytest.LogCaptureFixture) -> None:
    """Only our own posts are kept out of a library's log; a login page's answer is no delivery."""
    caplog.set_level(logging.DEBUG)
    with client(library, follow_redirects=True) as session:
        channel = SlackChannel(hook.url, poll_fn=yes, session=session)
        hook.script = [reply(200), reply(302, Location="/login")]
        assert channel.request_approval(refund()).approved is True
        with pytest.raises(NotDelivered, match=r": HTTP 302$"):
            channel.request_approval(refund())
        assert PATH not in caplog.text
        assert hook.paths == [f"POST {PATH}"] * 2 + ["GET /login"]

        session.post(f"http://127.0.0.1:{hook.port}/mine", json={})
    assert "/mine" in caplog.text


class Minimal:
    """What a test of a user may put in place of a session."""

    def post(self, url: str, json: Any, timeout: float) -> Minimal:
        self.posted = (url, json["text"], timeout)
        return self

    def raise_for_status(self) -> None:
        pass


def test_session_that_knows_little() -> None:
    """post(url, json, timeout) and raise_for_status() are enough; an answer of nothing is not."""
    url, session, action = "https://slack.example/x", Minimal(), refund()
    channel = SlackChannel(url, poll_fn=yes, session=session, post_timeout=3)

    assert plain(channel, action).approved is True
    assert session.posted == (url, channel.message(action)["text"], 3)

    assert plain(SlackChannel(url, poll_fn=yes, session=mock.Mock()), action).approved is True
    for failing, why in (({"side_effect": OSError(url)}, "OSError"), ({}, "AttributeError")):
        silent = mock.Mock(post=mock.Mock(**{"return_value": None, **failing}))
        with pytest.raises(NotDelivered, match=f": {why}$"):
            plain(SlackChannel(url, poll_fn=yes, session=silent), action)


# --- configuration ---------------------------------------------------------------------------


NUMBERS = (-1, -0.001, float("nan"), float("inf"), True, None, "5")
TIME = "{} must be a finite number of seconds, 0 or more, not {!r}"
POLL = "{} must be a function that takes the action, or None, not {!r}"
WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    *((name, NUMBERS, TIME) for name in ("timeout", "poll_interval", "post_timeout")),
    ("on_timeout", ("raise", True, None), '{} must be "deny" or "approve", not {!r}'),
    ("poll_fn", (3, object(), lambda: None, lambda action, more: None), POLL),
    ("session", (3, object()), "{} must have a post method; {!r} has none"),
]


@pytest.mark.parametrize(("name", "values", "told"), WRONG)
def test_bad_options(name: str, values: tuple[Any, ...], told: str) -> None:
    """What cannot work is an error at construction, which says what is wanted and what came."""
    for value in values:
        with pytest.raises((TypeError, ValueError), match=re.escape(told.format(name, value))):
            SlackChannel("https://slack.example/x", **{name: value})


def test_bad_url() -> None:
    """A URL that cannot work is refused at once, without being shown."""
    good, hidden = f"https://slack.example{PATH}", f"slack.example{PATH}"
    no_urls = ("", "hooks", PATH, f"ftp://{hidden}", f"http://{PATH}", PATH.encode(), None, 7)
    for url in (
        *no_urls,
        f"{good}\n",
        f" {good}",
        f"https://a b{hidden}",
        f"https://\u200b{hidden}",
    ):
        with pytest.raises(ValueError, match=r"webhook_url must be an http\(s\) URL") as caught:
            SlackChannel(url)  # type: ignore[arg-type]
        assert "s3cret" not in str(caught.value)
    for good in ("http://[::1]:80/x", "HTTPS://me:pw@h-1.example:8443/a?b=c#d", "https://h"):
        SlackChannel(good)


def test_copies(hook: Hook) -> None:
    """A deep copy is the same channel; a pickled one asks at the same place in another process."""
    channel = SlackChannel(hook.url, poll_fn=yes, timeout=7)

    assert copy.deepcopy(channel) is channel
    copied = pickle.loads(pickle.dumps(channel))
    assert copied.request_approval(refund()).approved is True
    assert (hook.paths, copied.timeout) == ([f"POST {PATH}"], 7)


# --- waiting ---------------------------------------------------------------------------------


def test_async_waits_hold_no_thread() -> None:
    """Between two polls an async wait is only a timer, however many there are."""
    asked: set[str] = set()
    released = asyncio.Event()

    async def poll(action: Action) -> Decision | None:
        asked.add(action.id)
        if len(asked) == 300 and threading.active_count() < 100:
            released.set()
        return Decision.approve() if released.is_set() else None

    async def main() -> list[Decision]:
        channel = SlackChannel("http://h", poll_fn=poll, poll_interval=0.05, session=mock.Mock())
        return await asyncio.gather(*[ask_async(channel, refund()) for _ in range(300)])

    assert all(decision.approved for decision in asyncio.run(main()))


@pytest.mark.parametrize("when", ["posting", "between posts", "polling", "between polls"])
@pytest.mark.parametrize("is_async", [False, True])
def test_cancelled_wait_ends_at_once(hook: Hook, when: str, is_async: bool) -> None:
    """Cancelling waits for nothing that hangs, and posts and polls no more."""
    release, polls = threading.Event(), threading.Semaphore(0)

    def poll(action: Action) -> None:
        polls.release()
        if when == "polling":
            release.wait(120)

    async def apoll(action: Action) -> None:
        polls.release()
        if when == "polling":
            await asyncio.sleep(120)

    script = {"posting": hook.hang, "between posts": reply(429, Retry_After="60")}
    hook.script = [script[when]] if when in script else []

    async def main() -> None:
        options: Any = {"poll_fn": apoll if is_async else poll, "poll_interval": 120}
        wait = asyncio.create_task(ask_async(SlackChannel(hook.url, **options), refund()))
        await asyncio.to_thread(polls.acquire if "poll" in when else lambda: hook.wait_for(1))
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    asyncio.run(main())
    release.set()
    assert len(hook.paths) == 1
    assert not polls.acquire(blocking=False)
