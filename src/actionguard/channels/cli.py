"""Asking a person at the terminal, or wherever `input()` asks."""

from __future__ import annotations

import codecs
import contextlib
import contextvars
import inspect
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager
from functools import partial
from typing import TextIO

from actionguard._values import show
from actionguard.channels import _terminal
from actionguard.channels._banner import QUESTION, Banner
from actionguard.channels._terminal import WITHDRAWN, Unanswered
from actionguard.channels.base import ApprovalChannel, async_form_of, outcome_of, start_thread
from actionguard.core import Action, Decision

#: Seconds that a cancelled wait may take to put the terminal back in order.
_PATIENCE = 1.0


class CLIChannel(ApprovalChannel):
    """Shows the action at the terminal; `y` or `yes` approves, anything else denies.

    Works in scripts, in notebooks and in pipes. One question is asked at a time in the whole
    process: the next caller, whatever its thread, task or channel object, waits its turn.

    Args:
        stream: Where the request is shown. If left out, `sys.stderr` at the time of asking; or
            the terminal, where stderr was redirected and a person sits at stdin.
        input_fn: Takes the question, returns the answer. If left out, `input` at the time of
            asking; or, on a terminal, keys that were pressed after the question appeared.

    Raises:
        TypeError: The stream has no `write`, or `input_fn` is no plain function.
    """

    name = "cli"

    def __init__(
        self, *, stream: TextIO | None = None, input_fn: Callable[[str], str] | None = None
    ) -> None:
        if isinstance(stream, type) or not (stream is None or hasattr(stream, "write")):
            raise TypeError(f"CLIChannel takes an open text stream as stream, not {show(stream)}")
        plain = callable(input_fn) and not inspect.iscoroutinefunction(input_fn)
        if isinstance(input_fn, type) or not (input_fn is None or plain):
            raise TypeError(
                "CLIChannel takes a plain function from the question to the answer as input_fn, "
                f"not {show(input_fn)}"
            )
        self._stream = stream
        self._input_fn = input_fn

    def request_approval(self, action: Action) -> Decision:
        """Wait for the turn, ask, and wait for the answer.

        Returns:
            The person's answer; or a denial marked as unanswered, saying why nobody could be asked.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            TypeError: `input_fn` returned something else than a str.
            Exception: Whatever else `input_fn` raises.
        """
        turn = _Turn()
        try:
            _line.enter(turn)
            return self._in_turn(action, turn)
        finally:
            _line.leave(turn)  # Ctrl-C may have kept it from doing so

    @async_form_of(request_approval)
    async def _request_approval(self, action: Action) -> Decision:
        """The same for guarded async code: cancelled, it takes its question back."""
        import asyncio

        turn = _Turn(asyncio.get_running_loop().is_running)
        work = partial(contextvars.copy_context().run, self._in_turn, action, turn)
        outcome: Future[Callable[[], Decision]] = Future()
        outcome.set_running_or_notify_cancel()  # it is the thread's, whoever stops waiting

        # A thread asks, but only once it is this caller's turn. Until it has asked, it needs
        # nothing of the loop: a guarded plain function, queueing behind it, may block that.
        def called(_: Future[None]) -> None:
            try:
                if not turn.cancelled():
                    start_thread(lambda: outcome.set_result(outcome_of(work)))
            except RuntimeError as error:  # no more threads
                outcome.set_exception(error)

        turn.add_done_callback(called)
        answered = asyncio.wrap_future(outcome)
        try:
            _line.enter(turn)
            return (await answered)()
        except asyncio.CancelledError:
            _line.give_up(turn)
            if turn.terminal is not None:
                # The program may go on at the terminal: first, our thread lets go of that.
                await asyncio.wait({asyncio.wrap_future(outcome)}, timeout=_PATIENCE)
            raise
        finally:
            _line.give_up(turn)

    def _in_turn(self, action: Action, turn: _Turn) -> Decision:
        """Wait for the turn, ask, and pass the turn on."""
        try:
            _line.wait(turn)
            return self._ask(action, turn)
        except Unanswered as why:
            return _unanswered(why)
        finally:
            _line.leave(turn)

    def _ask(self, action: Action, turn: _Turn) -> Decision:
        turn.terminal = _terminal.terminal_of_stdin() if self._input_fn is None else None
        if turn.withdrawn():
            raise Unanswered(WITHDRAWN)
        with self._stream_for(turn.terminal) as stream:
            screen = _Screen(stream)
            waiting = len(_line) - 1
            told = waiting if waiting or turn.queued else None
            screen.write(screen.banner.text(action, told))
            try:
                answer = self._answer(screen, turn)
                decision = Decision(answer.strip().lower() in ("y", "yes"))
            except Unanswered as why:
                decision = _unanswered(why)
            except KeyboardInterrupt:
                screen.end("")
                _line.interrupt()
                raise
            screen.end(screen.banner.outcome(decision))
            return decision

    def _stream_for(self, terminal: int | None) -> AbstractContextManager[TextIO]:
        """Where the question is seen by whoever answers it."""
        stream = sys.stderr if self._stream is None else self._stream
        if self._stream is None and terminal is not None and not _terminal.is_terminal(stream):
            return _terminal.open_terminal(terminal)  # who sits at its keys does not see stderr
        if stream is None:
            raise Unanswered("there is no standard error to show the question")
        return contextlib.nullcontext(stream)

    def _answer(self, screen: _Screen, turn: _Turn) -> str:
        try:
            if self._input_fn is not None:
                answer = self._input_fn(QUESTION)
            else:
                answer = _terminal.read(turn.terminal, screen.write, turn.withdrawn, deaf=turn.deaf)
        except EOFError:
            raise Unanswered("the input ended without an answer") from None
        if turn.withdrawn():
            raise Unanswered(WITHDRAWN)
        if not isinstance(answer, str):
            raise TypeError(
                f"the answer to CLIChannel's question must be a str, not {show(answer)}"
            )
        return str.__str__(answer)


class _Screen:
    """A stream that a person looks at."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        columns, rows = _terminal.window(stream)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            codecs.lookup(encoding)
        except LookupError:  # a stream's own word for it
            encoding = "ascii"
        dumb = os.environ.get("TERM") == "dumb" and _terminal.is_terminal(stream)
        self.banner = Banner(columns, rows, encoding, dumb=dumb)

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            getattr(self._stream, "flush", lambda: None)()
        except (OSError, ValueError) as error:
            raise Unanswered(f"the question could not be shown ({type(error).__name__})") from error

    def end(self, text: str) -> None:
        """Write the last line; by now it is decided, so a failure changes nothing."""
        with contextlib.suppress(Unanswered):
            self.write(f"{text}\n")


class _Turn(Future[None]):
    """A caller's place in the line: done once it has the turn.

    Args:
        loop_runs: Whether the event loop runs on which the caller waits, if it does on one.
    """

    def __init__(self, loop_runs: Callable[[], bool] | None = None) -> None:
        super().__init__()
        self._loop_runs = loop_runs
        self.given_up = False
        #: Whether Ctrl-C would leave the caller waiting: it interrupts the main thread, or asyncio
        #: has it cancel a task, which a plain caller keeps from running.
        self.deaf = not _terminal.in_main_thread() or (
            loop_runs is None and _terminal.asyncio_takes_ctrl_c()
        )
        #: The thread that waits for the turn, and then asks; who waits on a loop has none yet.
        self.thread = None if loop_runs else threading.get_ident()
        #: Whether others were there before.
        self.queued = False
        #: The terminal that the answer is read from, if it is.
        self.terminal: int | None = None

    def withdrawn(self) -> bool:
        """Whether nobody waits for the answer any more."""
        # After Ctrl-C, IPython leaves the loop as it was, with a task that nobody cancels.
        return self.given_up or not (self._loop_runs is None or self._loop_runs())


class _Line:
    """Who waits for the one prompt of this process, in order; the first has the turn."""

    def __init__(self) -> None:
        # Reentrant: calling a turn may end it at once, and a signal handler may ask.
        self._lock = threading.RLock()
        self._turns: deque[_Turn] = deque()
        #: By thread: the turn that it waits for, or has.
        self._threads: dict[int | None, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def enter(self, turn: _Turn) -> None:
        with self._lock:
            here = threading.get_ident()
            if here in self._threads:
                # It would wait for itself to get out of the way.
                turn.set_exception(Unanswered("it was asked for in the middle of another question"))
                return
            if turn.thread == here:  # first, and last in `leave`: a signal's handler may ask
                self._threads[here] = turn
            turn.queued = bool(self._turns)
            self._turns.append(turn)
            self._call_first()

    def wait(self, turn: _Turn) -> None:
        """Block this thread until it has the turn."""
        turn.thread = threading.get_ident()
        self._threads.setdefault(turn.thread, turn)
        turn.result()

    def leave(self, turn: _Turn) -> None:
        """Pass the turn on, or stop waiting for it."""
        with self._lock:
            with contextlib.suppress(ValueError):  # interrupted before it entered, or forked
                self._turns.remove(turn)
            self._call_first()
            if self._threads.get(turn.thread) is turn:
                del self._threads[turn.thread]

    def give_up(self, turn: _Turn) -> None:
        """Stop waiting; a thread that has taken the turn already passes it on by itself."""
        with self._lock:
            turn.given_up = True
            if turn.cancel() or turn.thread is None:
                self.leave(turn)

    def interrupt(self) -> None:
        """Ctrl-C ended a question: it ends the wait of those whom no signal reaches, too."""
        with self._lock:
            for turn in list(self._turns):
                if turn.deaf and not turn.done():
                    turn.set_exception(KeyboardInterrupt())

    def _call_first(self) -> None:
        if self._turns and not self._turns[0].done():
            with contextlib.suppress(InvalidStateError):  # a signal's handler asked, and called it
                self._turns[0].set_result(None)


_line = _Line()
if hasattr(os, "register_at_fork"):
    # Those who wait are threads of the parent; what this thread was asking, the parent still asks.
    os.register_at_fork(after_in_child=_line.__init__)  # type: ignore[misc]


def _unanswered(why: Unanswered) -> Decision:
    return Decision(False, str(why), unanswered=True)
