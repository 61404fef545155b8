"""What a channel is, and how plain and async code wait for one."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from actionguard.core import Action, Decision

T = TypeVar("T")


class ApprovalChannel(ABC):
    """Where a yes or no comes from. Subclass it and implement `request_approval`.

    `request_approval` may be plain or `async def`. Guarded async code awaits an async one on its
    own loop; a plain one runs in a thread of its own. Guarded sync code can use either.
    """

    #: Names the channel as the source of its decisions in messages and in the log.
    name: str = "channel"

    @abstractmethod
    def request_approval(self, action: Action) -> Decision | Awaitable[Decision]:
        """Ask, wait for the answer, and return it.

        Returns:
            The answer. Only a `Decision` whose `approved` is `True` releases the call.

        Raises:
            Exception: Whatever keeps the channel from asking; the call is then blocked.
        """

    async def arequest_approval(self, action: Action) -> Decision:
        """The same for guarded async code; override it where the wait has an async form."""
        return await call(self.request_approval, action)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A subclass that replaces one form of a channel with two would be passed by in the other:
        # a second look added to SlackChannel.request_approval has to hold for async code too.
        super().__init_subclass__(**kwargs)
        plain, asynchronous = _depth(cls, "request_approval"), _depth(cls, "arequest_approval")
        if plain < asynchronous:
            cls.arequest_approval = ApprovalChannel.arequest_approval  # type: ignore[method-assign]
        elif asynchronous < plain:
            cls.request_approval = _request_approval  # type: ignore[method-assign]

    def __deepcopy__(self, memo: object) -> ApprovalChannel:
        return self  # copies of a guarded tool ask the same people


def _depth(cls: type, name: str) -> int:
    return next(depth for depth, base in enumerate(cls.__mro__) if name in vars(base))


def _request_approval(self: ApprovalChannel, action: Action) -> Decision:
    return run_sync(self.arequest_approval(action))


def ask(channel: ApprovalChannel, action: Action) -> Decision:
    """Ask from sync code."""
    answer = channel.request_approval(action)
    return run_sync(answer) if inspect.isawaitable(answer) else answer


async def call(function: Callable[..., T | Awaitable[T]], *args: Any) -> T:
    """Call anybody's function from async code: an async one on this loop, else `in_thread`."""
    if inspect.iscoroutinefunction(function):
        answer: Any = function(*args)
    else:
        answer = await in_thread(function, *args)
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


def start_thread(
    work: Callable[[], T], done: Callable[[Callable[[], T]], object]
) -> threading.Thread:
    """Run work in a daemon thread; `done` gets a function that returns or raises its outcome."""

    def run() -> None:
        try:
            value = work()
        except BaseException as raised:  # belongs to the waiting caller
            error = raised

            def outcome() -> T:
                raise error

        else:

            def outcome() -> T:
                return value

        done(outcome)

    thread = threading.Thread(target=run, name="actionguard-approval", daemon=True)
    thread.start()
    return thread
