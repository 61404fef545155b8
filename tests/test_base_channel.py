"""How plain and async code wait for a channel."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
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
from actionguard.channels._waiting import call, in_thread, run_sync
from actionguard.channels.base import ApprovalChannel, ask
from actionguard.channels.slack import SlackChannel
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


def ours() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "actionguard-approval"]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@both
def test_asked_from_sync_code(kind: type[Plain]) -> None:
    """Sync code can ask a plain and an async channel."""
    decision = ask(kind(Decision.approve), ACTION)

    assert decision.approved is True


@both
def test_asked_from_async_code(kind: type[Plain]) -> None:
    """Async code can ask a plain and an async channel."""
    decision = asyncio.run(kind(Decision.deny).arequest_approval(ACTION))

    assert decision.approved is False


@both
def test_asked_from_sync_code_inside_a_running_loop(kind: type[Plain]) -> None:
    """Sync code that runs inside a loop (a notebook's cell) can ask both as well."""

    async def cell() -> Decision:
        return ask(kind(Decision.approve), ACTION)

    assert asyncio.run(cell()).approved is True


@both
def test_contextvars_arrive(kind: type[Plain]) -> None:
    """The channel sees the caller's context, from every kind of code."""
    seen: list[str] = []

    def answer() -> Decision:
        seen.append(WHO.get())
        return Decision.approve()

    async def inside() -> None:
        WHO.set("ada")
        ask(kind(answer), ACTION)
        await kind(answer).arequest_approval(ACTION)

    asyncio.run(inside())
    token = WHO.set("grace")
    ask(kind(answer), ACTION)
    WHO.reset(token)

    assert seen == ["ada", "ada", "grace"]


def test_plain_channel_has_a_thread_of_its_own() -> None:
    """A plain channel asked by async code blocks neither the loop's thread nor the executor's."""
    threads: list[threading.Thread] = []

    def answer() -> Decision:
        threads.append(threading.current_thread())
        return Decision.approve()

    asyncio.run(Plain(answer).arequest_approval(ACTION))

    assert threads[0] is not threading.main_thread()
    assert threads[0].daemon
    assert not threads[0].name.startswith("asyncio_")


def test_a_thousand_plain_channels_leave_the_executor_free() -> None:
    """While 1,000 plain channels wait, to_thread answers at once and the loop goes on."""
    release = threading.Event()
    waiting = threading.Semaphore(0)

    def answer() -> Decision:
        waiting.release()
        release.wait(250)
        return Decision.approve()

    async def main() -> list[Decision]:
        channel = Plain(answer)
        asked = [asyncio.create_task(channel.arequest_approval(ACTION)) for _ in range(1_000)]
        while waiting._value < 1_000:
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 120) == "free"
        release.set()
        return await asyncio.gather(*asked)

    assert all(decision.approved for decision in asyncio.run(main()))


def test_ten_thousand_async_channels_need_no_thread() -> None:
    """10,000 calls wait on an async channel in one process, with no thread of ours."""

    class Waiting(ApprovalChannel):
        async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
            await released.wait()
            return Decision.approve()

    async def main() -> None:
        nonlocal released
        released = asyncio.Event()
        before = threading.active_count()
        channel = Waiting()
        asked = [asyncio.create_task(channel.arequest_approval(ACTION)) for _ in range(10_000)]
        await asyncio.sleep(0)
        assert threading.active_count() <= before  # one of another test may have ended meanwhile
        released.set()
        assert all(decision.approved for decision in await asyncio.gather(*asked))

    released: asyncio.Event
    asyncio.run(main())


def test_cancellation_ends_the_wait_at_once() -> None:
    """A cancelled task does not wait for its plain channel, whose late answer goes nowhere."""
    asking, release, answered = threading.Event(), threading.Event(), threading.Event()

    def answer() -> Decision:
        asking.set()
        release.wait(250)
        answered.set()
        return Decision.approve()

    async def main() -> None:
        wait = asyncio.ensure_future(Plain(answer).arequest_approval(ACTION))
        while not asking.is_set():
            await asyncio.sleep(0.005)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert not answered.is_set()

    asyncio.run(main())
    release.set()  # after the loop was closed
    assert answered.wait(120)
    until(lambda: not ours())


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


def test_late_answer_to_a_living_loop_goes_nowhere() -> None:
    """An answer that comes after the wait was cancelled does not disturb the loop."""
    asking, release = threading.Event(), threading.Event()
    problems: list[Any] = []

    def answer() -> None:
        asking.set()
        release.wait(250)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: problems.append(context)
        )
        wait = asyncio.ensure_future(in_thread(answer))
        while not asking.is_set():
            await asyncio.sleep(0.005)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        release.set()
        while ours():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert problems == []


def test_a_burst_of_waits_does_not_start_its_threads_on_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop waits for one new thread and not for a hundred; each gets its own answer."""
    starters: list[threading.Thread] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        starters.append(threading.current_thread())
        start(thread)

    async def main() -> list[int]:
        return await asyncio.gather(*(in_thread(abs, -n) for n in range(100)))

    monkeypatch.setattr(threading.Thread, "start", noted)

    assert asyncio.run(main()) == list(range(100))
    assert starters.count(threading.main_thread()) == 1
    assert len(starters) == 100


def test_a_wait_that_is_cancelled_in_a_burst_starts_nothing() -> None:
    """Whoever was cancelled before the question was asked is not asked about; the others are."""
    asked: list[int] = []

    async def main() -> None:
        waits = [asyncio.create_task(in_thread(asked.append, n)) for n in range(4)]
        await asyncio.sleep(0)
        waits[0].cancel()
        waits[2].cancel()
        await asyncio.wait(waits)
        assert [wait.cancelled() for wait in waits] == [True, False, True, False]

    asyncio.run(main())
    assert sorted(asked) == [1, 3]


def test_a_late_answer_keeps_no_closed_loop() -> None:
    """A loop that was closed while people were thinking is not kept for ever by their answers."""
    releases = [threading.Event(), threading.Event()]

    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        waits = [asyncio.ensure_future(in_thread(release.wait, 250)) for release in releases]
        while len(ours()) < len(waits):
            await asyncio.sleep(0.005)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(main())
    for release in releases:  # one after the other
        release.set()
        until(lambda: len(ours()) < len(releases))
    until(lambda: not ours())
    gc.collect()

    assert loop() is None


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_thread_that_cannot_start_is_its_own_callers_error(
    monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    """The call whose thread does not start fails, and those beside it are answered."""
    attempts: list[threading.Thread] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        attempts.append(thread)
        if len(attempts) == failing + 1:
            raise error
        start(thread)

    async def wait(n: int) -> object:
        try:
            return await in_thread(abs, -n)
        except BaseException as raised:
            return raised

    async def main() -> list[object]:
        return await asyncio.gather(*(wait(n) for n in range(3)))

    monkeypatch.setattr(threading.Thread, "start", limited)

    assert asyncio.run(main()) == [error if n == failing else n for n in range(3)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ValueError("x")])
@both
def test_exceptions_come_through_as_the_same_object(
    kind: type[Plain], error: BaseException
) -> None:
    """What a channel raises is what the caller catches, in and out of loops."""

    def answer() -> Decision:
        raise error

    async def cell() -> None:
        ask(kind(answer), ACTION)

    for attempt in (
        lambda: ask(kind(answer), ACTION),
        lambda: asyncio.run(kind(answer).arequest_approval(ACTION)),
        lambda: asyncio.run(cell()),
    ):
        with pytest.raises(type(error)) as caught:
            attempt()
        assert caught.value is error


def test_stop_iteration_of_a_plain_channel() -> None:
    """StopIteration reaches sync code as it is; in a coroutine, Python wraps it."""
    error = StopIteration("no more")

    def answer() -> Decision:
        raise error

    with pytest.raises(StopIteration) as caught:
        ask(Plain(answer), ACTION)
    assert caught.value is error
    with pytest.raises(RuntimeError) as wrapped:
        asyncio.run(Plain(answer).arequest_approval(ACTION))
    assert wrapped.value.__cause__ is error


def test_an_async_channel_of_another_loop_fails_loudly() -> None:
    """Sync code in a loop cannot wait for what only that loop could bring, and is told so."""

    class Bound(ApprovalChannel):
        async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
            await event.wait()
            return Decision.approve()

    async def main() -> None:
        nonlocal event
        event = asyncio.Event()
        waiting = asyncio.create_task(event.wait())
        await asyncio.sleep(0)  # the event belongs to this loop now
        try:
            ask(Bound(), ACTION)
        finally:
            waiting.cancel()

    event: asyncio.Event
    with pytest.raises(RuntimeError, match="different event loop"):
        asyncio.run(main())


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


def test_run_sync_shows_no_exception_of_its_own() -> None:
    """What a channel raises is not shown as raised while another exception was handled."""

    def answer() -> Decision:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x") as caught:
        ask(Async(answer), ACTION)

    assert caught.value.__context__ is None


def test_run_sync_winds_up_what_the_channel_left() -> None:
    """Tasks and generators that the channel left open are closed before sync code goes on."""
    closed: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            closed.append("task")

    async def ticks() -> Any:
        try:
            while True:
                yield 1
        finally:
            closed.append("generator")

    class Untidy(ApprovalChannel):
        async def request_approval(self, action: Action) -> Decision:  # type: ignore[override]
            self.task = asyncio.create_task(background())
            self.ticks = ticks()
            async for _ in self.ticks:
                break
            await asyncio.sleep(0)
            return Decision.approve()

    ask(Untidy(), ACTION)

    assert sorted(closed) == ["generator", "task"]


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
        waits = ("select", "join", "_wait_for_tstate_lock")
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
    [Callables.plain, Callables.asynchronous, Callables.Object(), Callables.returns_a_coroutine],
)
def test_call_takes_every_shape_of_function(function: Any) -> None:
    """`call` awaits what is async in any way, and runs the rest in a thread."""
    assert asyncio.run(call(function, 7)) == 7


class TwoForms(ApprovalChannel):
    """A channel with a plain form and an async one, as SlackChannel is."""

    def request_approval(self, action: Action) -> Decision:
        return Decision.approve("plain")

    async def arequest_approval(self, action: Action) -> Decision:
        return Decision.approve("async")


def answers(channel: ApprovalChannel) -> list[str | None]:
    return [
        ask(channel, ACTION).comment,
        asyncio.run(channel.arequest_approval(ACTION)).comment,
    ]


def test_subclass_with_another_plain_form_is_heard_by_async_code() -> None:
    """Replacing only `request_approval` replaces both, or async code would pass it by."""

    class Strict(TwoForms):
        def request_approval(self, action: Action) -> Decision:
            return Decision.deny(f"strict, {super().request_approval(action).comment}")

    class Mixin:
        def request_approval(self, action: Action) -> Decision:
            return Decision.deny("mixin")

    class Mixed(Mixin, TwoForms):  # type: ignore[misc]
        pass

    class Below(Strict):
        pass

    assert answers(TwoForms()) == ["plain", "async"]
    assert answers(Strict()) == ["strict, plain", "strict, plain"]
    assert answers(Below()) == ["strict, plain", "strict, plain"]
    assert answers(Mixed()) == ["mixin", "mixin"]


def test_subclass_with_another_async_form_is_heard_by_sync_code() -> None:
    """Replacing only `arequest_approval` replaces both, and is enough for a new channel."""

    class Strict(TwoForms):
        async def arequest_approval(self, action: Action) -> Decision:
            return Decision.deny(f"strict, {(await super().arequest_approval(action)).comment}")

    class Only(ApprovalChannel):
        async def arequest_approval(self, action: Action) -> Decision:
            return Decision.deny("only")

    assert answers(Strict()) == ["strict, async", "strict, async"]
    assert answers(Only()) == ["only", "only"]  # type: ignore[abstract]


def test_subclasses_that_replace_different_forms() -> None:
    """Each level may replace either form, and call the one that it inherits: all are heard once."""

    class First(TwoForms):
        def request_approval(self, action: Action) -> Decision:
            return Decision.approve(f"first, {super().request_approval(action).comment}")

    class Second(First):
        async def arequest_approval(self, action: Action) -> Decision:
            return Decision.approve(f"second, {(await super().arequest_approval(action)).comment}")

    class Third(Second):
        def request_approval(self, action: Action) -> Decision:
            return Decision.approve(f"third, {super().request_approval(action).comment}")

    class Fourth(Third):
        async def arequest_approval(self, action: Action) -> Decision:
            return Decision.approve(f"fourth, {(await super().arequest_approval(action)).comment}")

    assert answers(First()) == ["first, plain"] * 2
    assert answers(Second()) == ["second, first, plain"] * 2
    assert answers(Third()) == ["third, second, first, plain"] * 2
    assert answers(Fourth()) == ["fourth, third, second, first, plain"] * 2


@pytest.mark.parametrize("form", ["request_approval", "arequest_approval"])
def test_a_form_that_is_replaced_on_the_object_is_asked_both_ways(form: str) -> None:
    """A test may replace the one form that a channel has by a stand-in on the object alone."""

    class OnlyAsync(ApprovalChannel):
        async def arequest_approval(self, action: Action) -> Decision:
            return Decision.deny("the class's")

    channel: Any = Plain(Decision.deny)
    stand_in = mock.Mock(return_value=Decision.approve("stand-in"))
    if form == "arequest_approval":
        channel = OnlyAsync()  # type: ignore[abstract]
        stand_in = mock.AsyncMock(return_value=Decision.approve("stand-in"))
    setattr(channel, form, stand_in)

    assert answers(channel) == ["stand-in", "stand-in"]


@pytest.mark.parametrize("kind", [ApprovalChannel, Plain, Async])
def test_stand_in_that_is_specified_by_a_channel(kind: type[ApprovalChannel]) -> None:
    """`mock` sees by a class that its async form has to be awaited."""
    channel = mock.create_autospec(kind, instance=True)
    channel.name = "stand-in"
    channel.arequest_approval.return_value = Decision.approve()

    @guard(channel=channel, audit=NO_LOG)
    async def refund() -> str:
        return "refunded"

    assert asyncio.run(refund()) == "refunded"


@pytest.mark.parametrize("form", ["request_approval", "arequest_approval"])
def test_subclass_of_slack_channel_may_call_the_inherited_form(form: str) -> None:
    """A subclass of the real one that adds to either form and calls the inherited is no loop."""

    def plain(self: Any, action: Action) -> Decision:
        seen.append(form)
        return SlackChannel.request_approval(self, action)

    async def asynchronous(self: Any, action: Action) -> Decision:
        seen.append(form)
        return await SlackChannel.arequest_approval(self, action)

    class Session:
        def post(self, url: str, json: Any, timeout: float) -> Any:
            return type("Response", (), {"status_code": 200})

    seen: list[str] = []
    method = plain if form == "request_approval" else asynchronous
    channel = type("Mine", (SlackChannel,), {form: method})(
        "https://slack.example/x", session=Session(), poll_fn=lambda _: Decision.approve("yes")
    )

    assert answers(channel) == ["yes", "yes"]
    assert seen == [form, form]


def test_abstract_without_either_form() -> None:
    """A channel that answers in no form cannot be made."""

    class Nothing(ApprovalChannel):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()  # type: ignore[abstract]


def test_deepcopy_shares() -> None:
    """Copies of a guarded tool ask the same people through the same channel."""
    channel = Plain(Decision.approve)
    channel.lock = threading.Lock()  # type: ignore[attr-defined]

    assert copy.deepcopy({"channel": channel})["channel"] is channel
