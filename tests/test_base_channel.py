"""How plain and async code wait for a channel."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import pytest

from actionguard import AuditLog, guard
from actionguard._gate import ask
from actionguard.channels._waiting import ask_async, call, in_thread, run_sync
from actionguard.channels.base import ApprovalChannel, async_form_of, earlier_line, seconds
from actionguard.core import Action, Decision

ACTION = Action("refund", {"amount": 50})
NO_LOG = AuditLog(enabled=False)
WHO = contextvars.ContextVar("WHO", default="nobody")


class Plain(ApprovalChannel):
    """Answers with what a function returns."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    def request_approval(self, action: Action) -> Decision:
        return self.answer()  # type: ignore[no-any-return]


class Async(Plain):
    async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().request_approval(action)


both = pytest.mark.parametrize("kind", [Plain, Async])


def ask_in_a_loop(channel: ApprovalChannel) -> Decision:
    """Ask from sync code that runs inside a loop, as a notebook's cell does."""

    async def cell() -> Decision:
        return ask(channel, ACTION)

    return asyncio.run(cell())


WAYS = {
    "sync": lambda channel: ask(channel, ACTION),
    "async": lambda channel: asyncio.run(ask_async(channel, ACTION)),
    "sync in a loop": ask_in_a_loop,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def ours() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "actionguard-approval"]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@both
@every_way
def test_asked(kind: type[Plain], way: Callable[[ApprovalChannel], Decision]) -> None:
    """Sync and async code can ask plain and async channels, which see the caller's context."""
    seen: list[str] = []

    def answer() -> Decision:
        seen.append(WHO.get())
        return Decision.approve("fine")

    token = WHO.set("ada")
    decision = way(kind(answer))
    WHO.reset(token)

    assert decision == Decision.approve("fine")
    assert seen == ["ada"]


@both
@every_way
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ValueError("x")])
def test_exceptions_come_through_as_the_same_object(
    kind: type[Plain], way: Callable[[ApprovalChannel], Decision], error: BaseException
) -> None:
    """What a channel raises is what the caller catches, without a context of ours."""

    def answer() -> Decision:
        raise error

    with pytest.raises(type(error)) as caught:
        way(kind(answer))

    assert caught.value is error
    assert error.__context__ is None


def test_stop_iteration_of_a_plain_channel() -> None:
    """StopIteration reaches sync code as it is; in a coroutine, Python wraps it."""
    error = StopIteration("no more")

    def answer() -> Decision:
        raise error

    with pytest.raises(StopIteration) as caught:
        ask(Plain(answer), ACTION)
    assert caught.value is error
    with pytest.raises(RuntimeError) as wrapped:
        asyncio.run(ask_async(Plain(answer), ACTION))
    assert wrapped.value.__cause__ is error


# --- async callers ---------------------------------------------------------------------------


def test_a_thousand_plain_channels_leave_the_executor_free() -> None:
    """1,000 plain channels wait in daemon threads, and meanwhile `to_thread` works at once."""
    release = threading.Event()
    waiting: list[threading.Thread] = []

    def answer() -> Decision:
        waiting.append(threading.current_thread())
        release.wait(250)
        return Decision.approve()

    async def main() -> list[Decision]:
        asked = [asyncio.create_task(ask_async(Plain(answer), ACTION)) for _ in range(1_000)]
        while len(waiting) < 1_000:
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 120) == "free"
        release.set()
        return await asyncio.gather(*asked)

    assert all(decision.approved for decision in asyncio.run(main()))
    assert len(set(waiting)) == 1_000
    assert all(thread.daemon for thread in waiting)


def test_ten_thousand_async_channels_need_no_thread() -> None:
    """10,000 calls wait on an async channel in one process, with no thread of ours."""

    class Waiting(ApprovalChannel):
        async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
            await released.wait()
            return Decision.approve()

    async def main() -> None:
        nonlocal released
        released = asyncio.Event()
        asked = [asyncio.create_task(ask_async(Waiting(), ACTION)) for _ in range(10_000)]
        await asyncio.sleep(0)
        assert not ours()
        released.set()
        assert all(decision.approved for decision in await asyncio.gather(*asked))

    released: asyncio.Event
    asyncio.run(main())


@pytest.mark.parametrize("loop_closed", [False, True])
def test_cancellation_ends_the_wait_at_once(loop_closed: bool) -> None:
    """A cancelled task does not wait for its plain channel, whose late answer goes nowhere."""
    asking, release = threading.Event(), threading.Event()
    problems: list[Any] = []

    def answer() -> Decision:
        asking.set()
        release.wait(250)
        return Decision.approve()

    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        wait = asyncio.ensure_future(ask_async(Plain(answer), ACTION))
        while not asking.is_set():
            await asyncio.sleep(0.005)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert ours()
        if not loop_closed:
            release.set()
            while ours():
                await asyncio.sleep(0.005)
        return weakref.ref(loop)

    loop = asyncio.run(main())
    release.set()
    until(lambda: not ours())
    gc.collect()
    assert problems == []
    assert loop() is None  # no late answer keeps it


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not count before")
def test_a_channel_cannot_keep_a_cancellation_to_itself() -> None:
    """The body of a cancelled task does not run, though the channel then still says yes."""

    class Sloppy(ApprovalChannel):
        async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
            asking.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            return Decision.approve()

    class OwnTimeout(ApprovalChannel):
        async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):  # cancels, and takes that back
                    await asyncio.sleep(60)
            return Decision.approve()

    async def pay() -> None:
        ran.append("pay")

    async def main() -> None:
        nonlocal asking
        asking = asyncio.Event()
        task = asyncio.create_task(guard(pay, channel=Sloppy(), audit=NO_LOG)())
        await asking.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ran == []
        await guard(pay, channel=OwnTimeout(), audit=NO_LOG)()

    asking: asyncio.Event
    ran: list[str] = []
    asyncio.run(main())
    assert ran == ["pay"]


def test_a_burst_of_waits_does_not_start_its_threads_on_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop starts at most one thread for a hundred waits; each gets its own answer."""
    starters: list[threading.Thread] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        starters.append(threading.current_thread())
        start(thread)

    async def main() -> list[int]:
        return await asyncio.gather(*(in_thread(abs, -n) for n in range(100)))

    monkeypatch.setattr(threading.Thread, "start", noted)

    assert asyncio.run(main()) == list(range(100))
    assert starters.count(threading.main_thread()) <= 1
    assert len(starters) >= 100


def test_threads_that_cannot_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left, the caller is told, and does not wait."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    with pytest.raises(RuntimeError, match="can't start new thread"):
        asyncio.run(in_thread(abs, -1))


class Callables:
    """Every shape that a function handed to us may have."""

    @staticmethod
    def plain(x: int) -> int:
        return x

    @staticmethod
    async def asynchronous(x: int) -> int:
        return x

    class Object:
        async def __call__(self, x: int) -> int:
            return x

    @staticmethod
    def returns_a_coroutine(x: int) -> Awaitable[int]:
        return Callables.asynchronous(x)


@pytest.mark.parametrize(
    "function",
    [
        *(Callables.plain, Callables.asynchronous, Callables.Object()),
        *(Callables.returns_a_coroutine, functools.partial(Callables.asynchronous)),
    ],
)
def test_call_takes_every_shape_of_function(function: Any) -> None:
    """`call` awaits what is async in any way, and runs the rest in a thread."""
    assert asyncio.run(call(function, 7)) == 7  # type: ignore[arg-type]


# --- sync callers of async channels ----------------------------------------------------------


def test_run_sync_leaves_the_current_loop_alone() -> None:
    """A program's own loop is still its current one after it waited for an async channel."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        ask(Async(Decision.approve), ACTION)

        assert asyncio.get_event_loop_policy().get_event_loop() is loop
        assert loop.run_until_complete(asyncio.sleep(0, "still usable")) == "still usable"
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.skipif(os.name == "nt", reason="needs a signal to oneself")
@pytest.mark.parametrize("inside", [False, True], ids=["plain code", "inside a loop"])
def test_ctrl_c_ends_the_wait_and_the_asking(inside: bool) -> None:
    """Ctrl-C reaches sync code that waits for an async channel, and the channel stops asking."""
    ended = threading.Event()

    async def endless() -> Decision:
        try:
            presses.start()
            await asyncio.sleep(250)
        finally:
            ended.set()
        return Decision.approve()

    async def cell() -> None:
        run_sync(endless())

    def press() -> None:
        """Press Ctrl-C, once the main thread waits."""
        waits = ("select", "wait")
        main = threading.main_thread().ident
        until(lambda: sys._current_frames()[main].f_code.co_name in waits)
        os.kill(os.getpid(), signal.SIGINT)

    presses = threading.Thread(target=press)
    with pytest.raises(KeyboardInterrupt):
        if inside:
            loop = asyncio.new_event_loop()  # asyncio.run has a handler of its own from 3.11 on
            try:
                loop.run_until_complete(cell())
            finally:
                loop.close()
        else:
            run_sync(endless())
    assert ended.wait(120)
    presses.join()
    until(lambda: not ours())


# --- channels made of other channels ---------------------------------------------------------


class TwoForms(ApprovalChannel):
    """A channel with a plain form and an async one, as SlackChannel is."""

    def request_approval(self, action: Action) -> Decision:
        return Decision.approve("plain")

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        return Decision.approve("async")


class Below(TwoForms):
    """Adds nothing to the forms."""


class Override(TwoForms):
    def request_approval(self, action: Action) -> Decision:
        return Decision.deny(f"mine, {super().request_approval(action).comment}")


class Wrapped(TwoForms):
    @functools.wraps(TwoForms.request_approval)  # takes attributes along
    def request_approval(self, action: Action) -> Decision:
        return Decision.deny(f"mine, {super().request_approval(action).comment}")


class AsyncOverride(TwoForms):
    async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
        return Decision.deny(f"mine, {super().request_approval(action).comment}")


class Mixin:
    def request_approval(self, action: Action) -> Decision:
        return Decision.deny("mixin")


class Mixed(Mixin, TwoForms):  # type: ignore[misc]
    pass


class Forwarding(ApprovalChannel):
    """Asks what another channel asks, in its name."""

    def __init__(self) -> None:
        self.request_approval = TwoForms().request_approval  # type: ignore[method-assign]

    def request_approval(self, action: Action) -> Decision:
        raise NotImplementedError


def stand_in() -> Any:
    channel = TwoForms()
    channel.request_approval = mock.Mock(return_value=Decision(True, "mine"))  # type: ignore[method-assign]
    return channel


@pytest.mark.parametrize(
    ("channel", "plain", "asynchronous"),
    [
        (TwoForms(), "plain", "async"),
        (Below(), "plain", "async"),
        (Override(), "mine, plain", "mine, plain"),
        (Wrapped(), "mine, plain", "mine, plain"),
        (AsyncOverride(), "mine, plain", "mine, plain"),
        (Mixed(), "mixin", "mixin"),
        (Forwarding(), "plain", "async"),
        (stand_in(), "mine", "mine"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ApprovalChannel) else "",
)
def test_what_replaces_a_plain_form_is_heard_by_async_code(
    channel: ApprovalChannel, plain: str, asynchronous: str
) -> None:
    """Replacing `request_approval` in any way drops its async form, which would pass it by."""
    assert ask(channel, ACTION).comment == plain
    assert asyncio.run(ask_async(channel, ACTION)).comment == asynchronous


def test_abstract() -> None:
    """A channel that cannot be asked cannot be made."""

    class Nothing(ApprovalChannel):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()  # type: ignore[abstract]


def test_deepcopy_shares() -> None:
    """Copies of a guarded tool ask the same people through the same channel."""
    channel = Plain(Decision.approve)
    channel.lock = threading.Lock()  # type: ignore[attr-defined]

    assert copy.deepcopy({"channel": channel})["channel"] is channel


# --- what our channels share -----------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), 1e300, True, "5", None])
def test_times_that_cannot_be(value: Any) -> None:
    """A time that is no finite number from 0 up is an error that names setting and value."""
    with pytest.raises(ValueError, match="timeout must be a finite number of seconds") as caught:
        seconds("timeout", value)

    assert str(caught.value).endswith(f"not {value!r}")


def record(**changes: Any) -> dict[str, Any]:
    """A record whose call ended 5 seconds ago."""
    timestamp = time.strftime("%Y-%m-%dT%H:%M:%S.500000+00:00", time.gmtime(time.time() - 65))
    ran: dict[str, Any] = {"timestamp": timestamp, "approved": None, "executed": True}
    return {**ran, "error": None, "waited_s": 50.0, "ran_s": 9.5, **changes}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "The same call ran 5 s ago"),
        ({"error": "TimeoutError"}, "The same call failed 5 s ago and may have gone through"),
        ({"executed": None}, "The same call failed 5 s ago and may have gone through"),
        (
            {"executed": False, "approved": False},
            "The same call was denied 5 s ago, and ran 5 s ago",
        ),
        (
            {"executed": False, "error": "x"},
            "The same call was stopped before it ran, 5 s ago, and ran 5 s ago",
        ),
        ({"state": "waiting"}, "The same call is waiting, and ran 5 s ago"),
        ({"state": "running"}, "The same call is running"),
        ({"ran_s": -600}, "The same call ran 10 min ago"),
        ({"ran_s": -20_000}, "The same call ran 5 h ago"),
        ({"ran_s": -200_000}, "The same call ran 2 days ago"),
        ({"ran_s": 600}, "The same call ran 1 s ago"),
    ],
)
def test_earlier_line(changes: dict[str, Any], line: str) -> None:
    """What became of the newest equal call is told in one line, and behind it what ran."""
    denied = record(executed=False, approved=False)
    action = copy.copy(ACTION)
    action.earlier = [record(**changes), denied, record()]  # type: ignore[attr-defined]

    assert earlier_line(action) == line
    action.earlier = [denied, denied]  # type: ignore[attr-defined]
    assert earlier_line(action) == "The same call was denied 5 s ago"
    assert earlier_line(ACTION) is None
