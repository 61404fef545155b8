"""How plain code waits for async answers, and async code for plain ones."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from types import CodeType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from actionguard.channels import base
from actionguard.core import Action, Decision

T = TypeVar("T")


async def ask_async(channel: base.ApprovalChannel, action: Action) -> Decision:
    """Ask from async code. If the wait was cancelled, no answer counts."""
    times_cancelled = getattr(asyncio.current_task(), "cancelling", int)  # not in Python 3.10
    before = times_cancelled()
    method: Any = channel.request_approval
    form = base.async_forms.get(getattr(method, "__func__", None))
    answer = await (form(method.__self__, action) if form else call(method, action))
    if times_cancelled() > before:  # and the channel suppressed it
        raise asyncio.CancelledError
    return answer


async def call(function: Callable[..., T | Awaitable[T]], *args: Any) -> T:
    """Call anybody's function from async code: an async one on this loop, else `in_thread`."""
    code = getattr(function, "__code__", None)
    is_async = type(code) is CodeType and code.co_flags & inspect.CO_COROUTINE
    answer: Any = function(*args) if is_async else await in_thread(function, *args)
    return await answer if inspect.isawaitable(answer) else answer  # type: ignore[no-any-return]


# --- plain work for async callers ------------------------------------------------------------


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run a blocking function in a daemon thread of its own, with the caller's contextvars.

    Never in the loop's default executor: its few threads belong to the program, and people take
    longer than it can spare one. If the wait is cancelled, the thread is left to itself, and its
    answer ignored.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Callable[[], T]] = loop.create_future()
    in_main_thread = threading.current_thread() is threading.main_thread()
    context = contextvars.copy_context()

    def work() -> T:
        base.waiter.has_gone = lambda: answered.done() or not loop.is_running()
        base.waiter.in_main_thread = in_main_thread
        return context.run(function, *args)

    jobs = _new_jobs.setdefault(loop, [])
    jobs.append((answered, work))
    if len(jobs) == 1:
        loop.call_soon(lambda: _start(_new_jobs.pop(loop)))
    return (await answered)()


#: Who waits for the outcome of work in a thread, and the work.
_Job = tuple["asyncio.Future[Callable[[], Any]]", Callable[[], Any]]
#: What a loop's tasks asked for in this step of it.
_new_jobs: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Job]] = WeakKeyDictionary()


def _start(jobs: list[_Job]) -> None:
    # Starting a thread means waiting until it runs: a loop that started a thousand by itself would
    # stand still for a tenth of a second. So it starts one, which starts the others.
    if len(jobs) > 1:
        with suppress(RuntimeError):  # no more threads, as each of them will find out
            base.start_thread(partial(_start_each, jobs))
            return
    _start_each(jobs)


def _start_each(jobs: list[_Job]) -> None:
    for answered, work in jobs:
        if not answered.done():  # it was not cancelled meanwhile
            try:
                base.start_thread(partial(_answer, answered, work))
            except BaseException as error:  # no more threads, or Ctrl-C
                _answer(answered, partial(base.raising, error))


def _answer(answered: asyncio.Future[Callable[[], Any]], work: Callable[[], Any]) -> None:
    outcome = base.outcome_of(work)
    with suppress(RuntimeError):  # the loop was closed
        answered.get_loop().call_soon_threadsafe(_settle, answered, outcome)


def _settle(answered: asyncio.Future[Callable[[], Any]], outcome: Callable[[], Any]) -> None:
    if not answered.done():
        answered.set_result(outcome)


async def within(seconds: float, work: Awaitable[T]) -> asyncio.Future[T] | None:
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


# --- async work for plain callers ------------------------------------------------------------


def run_sync(answer: Awaitable[T]) -> T:
    """Wait for an awaitable from sync code, also where a loop is already running."""
    # A loop of its own instead of asyncio.run, which would leave the thread without the current
    # loop that the program may have set, and would wait for executor threads that hang.
    loop = asyncio.new_event_loop()
    if asyncio._get_running_loop() is None:
        return _run(loop, answer)
    done: list[Callable[[], T]] = []
    thread = base.start_thread(lambda: done.append(base.outcome_of(partial(_run, loop, answer))))
    try:
        thread.join()
    except BaseException:  # Ctrl-C: nobody waits any more
        with suppress(RuntimeError):  # the loop is closed: it is over already
            loop.call_soon_threadsafe(_cancel_all, loop)
        raise
    return done[0]()


def _run(loop: asyncio.AbstractEventLoop, answer: Awaitable[T]) -> T:
    async def wind_up() -> None:
        leftovers = _cancel_all(loop)
        if leftovers:  # bounded: a task can refuse to be cancelled
            await asyncio.wait(leftovers, timeout=1)
        await loop.shutdown_asyncgens()

    with closing(loop):
        try:
            return loop.run_until_complete(answer)
        finally:
            loop.run_until_complete(wind_up())


def _cancel_all(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    return tasks
