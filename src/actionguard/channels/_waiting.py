"""How plain code waits for async answers, and async code for plain ones."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

from actionguard.channels.base import ApprovalChannel, start_thread
from actionguard.core import Action, Decision

T = TypeVar("T")


async def ask_async(channel: ApprovalChannel, action: Action) -> Decision:
    """Ask from async code. Where the wait was cancelled, no answer counts."""
    cancelled = _times_cancelled()
    answer = await channel.arequest_approval(action)
    if _times_cancelled() > cancelled:  # and the channel kept that to itself
        raise asyncio.CancelledError
    return answer


def _times_cancelled() -> int:
    try:
        task: Any = asyncio.current_task()
        return int(task.cancelling())
    except (RuntimeError, AttributeError):  # no asyncio, or Python 3.10, which does not count
        return 0


def call(function: Callable[..., T | Awaitable[T]], *args: Any) -> Coroutine[Any, Any, T]:
    """Call anybody's function from async code: an async one on this loop, else `in_thread`."""
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:  # needs no layer of ours
        return function(*args)  # type: ignore[return-value]
    return _call(function, *args)


async def _call(function: Callable[..., T | Awaitable[T]], *args: Any) -> T:
    is_async = inspect.iscoroutinefunction(function)
    answer: Any = function(*args) if is_async else await in_thread(function, *args)
    return await answer if inspect.isawaitable(answer) else answer  # type: ignore[no-any-return]


def run_sync(answer: Awaitable[T]) -> T:
    """Wait for an awaitable from sync code, also where a loop is already running."""
    # A loop of its own instead of asyncio.run, which would leave the thread without the current
    # loop that the program may have set, and would wait for executor threads that hang.
    loop = asyncio.new_event_loop()
    if not _is_in_a_loop():
        return _run(loop, answer)
    context = contextvars.copy_context()
    done: list[Callable[[], T]] = []
    thread = start_thread(lambda: context.run(_run, loop, answer), done.append)
    try:
        thread.join()
    except BaseException:  # Ctrl-C: nobody waits any more
        with suppress(RuntimeError):  # the loop is closed: it is over already
            loop.call_soon_threadsafe(_cancel_all, loop)
        raise
    return done[0]()


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run(loop: asyncio.AbstractEventLoop, answer: Awaitable[T]) -> T:
    async def wait() -> T:
        return await answer

    async def wind_up() -> None:
        leftovers = asyncio.all_tasks() - {asyncio.current_task()}
        for task in leftovers:
            task.cancel()
        if leftovers:  # bounded: a task can refuse to be cancelled
            await asyncio.wait(leftovers, timeout=1)
        await loop.shutdown_asyncgens()

    try:
        return loop.run_until_complete(wait())
    finally:
        try:
            loop.run_until_complete(wind_up())
        finally:
            loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run a blocking function in a thread of its own, with the caller's contextvars.

    Never the loop's default executor: its few threads belong to the program, and people think
    for longer than it can spare one. Cancelling the wait leaves the thread behind; it is a daemon,
    so it keeps no process alive, and its late answer goes nowhere.
    """
    loop = asyncio.get_running_loop()
    threads = _threads.get(loop) or _threads.setdefault(loop, _Threads())
    work = partial(contextvars.copy_context().run, function, *args)
    outcome: Callable[[], T] = await threads.outcome_of(work)
    return outcome()


_Outcome = asyncio.Future[Callable[[], Any]]
_Job = tuple[_Outcome, Callable[[], Any]]


class _Threads:
    """One loop's threads, each started by the one before, their answers taken all at once.

    To start a thread is to wait until it runs: a loop that started a thousand by itself would do
    nothing else for a tenth of a second.
    """

    def __init__(self) -> None:
        self._new: list[_Job] = []
        self._answers: deque[tuple[_Outcome, Callable[[], Any]]] = deque()
        self._called = False

    def outcome_of(self, work: Callable[[], Any]) -> _Outcome:
        """What comes of the work, as a function that returns or raises it."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._new.append((future, work))
        loop.call_soon(self._go_on)
        return future

    def _go_on(self) -> None:
        self._called = False  # first: whoever answers from now on calls again
        while self._answers:
            future, outcome = self._answers.popleft()
            if not future.done():
                future.set_result(outcome)
        jobs, self._new = self._new, []
        self._start_next(iter(jobs))

    def _start_next(self, jobs: Iterator[_Job]) -> None:
        for future, work in jobs:
            if future.done():  # it was cancelled
                continue
            try:
                start_thread(partial(self._work, work, jobs), partial(self._answer, future))
            except BaseException as error:  # no more threads, or Ctrl-C
                self._answer(future, partial(_raise, error))
            else:
                break

    def _work(self, work: Callable[[], T], others: Iterator[_Job]) -> T:
        self._start_next(others)
        return work()

    def _answer(self, future: _Outcome, outcome: Callable[[], Any]) -> None:
        loop = future.get_loop()
        if future.done() or loop.is_closed():  # nobody waits any more
            return
        self._answers.append((future, outcome))
        if not self._called:
            self._called = True
            try:
                loop.call_soon_threadsafe(self._go_on)
            except RuntimeError:  # it was closed just now
                self._answers.clear()


_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, _Threads] = WeakKeyDictionary()


def _raise(error: BaseException) -> NoReturn:
    raise error


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> asyncio.Task[T] | None:
    """The finished work, or None if it takes longer; it is then cancelled and left to itself.

    Unlike `asyncio.wait_for`, this does not wait for work that refuses to be cancelled.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else may
    try:
        await asyncio.wait({task}, timeout=seconds)
        return task if task.done() else None
    finally:
        task.cancel()
