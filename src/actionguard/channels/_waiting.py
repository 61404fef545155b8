"""How plain code waits for async answers, and async code for plain ones."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cache, partial
from typing import Any, TypeVar

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
    # Most say so themselves; `inspect` takes 2 us to tell.
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    is_async = flags & inspect.CO_COROUTINE or inspect.iscoroutinefunction(function)
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
    answered: asyncio.Future[Future[T]] = loop.create_future()
    in_main_thread = threading.current_thread() is threading.main_thread()
    run = partial(contextvars.copy_context().run, function, *args)

    def work() -> None:
        base.waiter.has_gone = lambda: answered.done() or not loop.is_running()
        base.waiter.in_main_thread = in_main_thread
        outcome: Future[T] = Future()
        base.settle(outcome, run)
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(answer, outcome)

    def answer(outcome: Future[T]) -> None:
        if not answered.done():
            answered.set_result(outcome)

    try:
        await loop.run_in_executor(_starter(), base.start_thread, work)
        return (await answered).result()
    finally:
        answered.cancel()  # if it has no answer, nobody waits for one any more


@cache
def _starter() -> ThreadPoolExecutor:
    """Starts the threads, one after the other.

    Starting a thread means waiting until it runs: a loop that started a thousand by itself would
    stand still for a tenth of a second.
    """
    return ThreadPoolExecutor(1, "actionguard-starter")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_starter.cache_clear)


async def within(seconds: float, work: Awaitable[T]) -> asyncio.Future[T] | None:
    """The finished work, or None if it takes longer; it is then cancelled and left to itself.

    Unlike `asyncio.wait_for`, this does not wait for work that refuses to be cancelled.
    """
    task = asyncio.ensure_future(work)
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
    task = asyncio.ensure_future(answer, loop=loop)
    if asyncio._get_running_loop() is None:
        return _run(loop, task)
    try:
        _, outcome = base.start_thread(partial(_run, loop, task))
        return outcome.result()
    except BaseException:  # Ctrl-C: nobody waits any more
        with suppress(RuntimeError):  # the loop is closed: it is over already
            loop.call_soon_threadsafe(task.cancel)
        raise


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Future[T]) -> T:
    with closing(loop):
        try:
            return loop.run_until_complete(task)
        finally:
            for leftover in asyncio.all_tasks(loop):
                leftover.cancel()
            loop.create_task(loop.shutdown_asyncgens())
            # Bounded: a task can refuse to be cancelled.
            loop.run_until_complete(asyncio.wait(asyncio.all_tasks(loop), timeout=1))
