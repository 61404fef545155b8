"""How plain code waits for async answers, and async code for plain ones."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

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
        _cancel_all(loop)
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
    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    try:
        loop.call_soon_threadsafe(cancel)
    except RuntimeError:  # the loop is closed: it is over already
        pass


def in_thread(function: Callable[..., T], *args: Any) -> Coroutine[Any, Any, T]:
    """Run a blocking function in a thread of its own, with the caller's contextvars.

    Never the loop's default executor: its few threads belong to the program, and people think
    for longer than it can spare one. Cancelling the wait leaves the thread behind; it is a daemon,
    so it keeps no process alive, and its late answer goes nowhere.
    """
    context = contextvars.copy_context()

    async def wait() -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Callable[[], T]] = loop.create_future()

        def settle(outcome: Callable[[], T]) -> None:
            if not future.done():
                future.set_result(outcome)

        def done(outcome: Callable[[], T]) -> None:
            try:
                loop.call_soon_threadsafe(settle, outcome)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

        start_thread(lambda: context.run(function, *args), done)
        return (await future)()

    return wait()


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
