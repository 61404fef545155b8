"""Asking a person at the terminal, or wherever `input()` asks."""

from __future__ import annotations

import builtins
import contextlib
import contextvars
import inspect
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TextIO

from actionguard._render import show
from actionguard.channels import _terminal
from actionguard.channels._banner import QUESTION, Banner
from actionguard.channels.base import ApprovalChannel, start_thread
from actionguard.core import Action, Decision


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
        if isinstance(input_fn, type) or not (input_fn is None or _is_plain(input_fn)):
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
        if _here.asks:
            return _unanswered(_NESTED)
        turn = _Turn(withdrawn=lambda: False)
        with _asking():
            try:
                _line.enter(turn)
                turn.result()
                return self._ask(action, turn)
            finally:
                _line.leave(turn)

    async def arequest_approval(self, action: Action) -> Decision:
        """The same for guarded async code: cancelled, it takes its question back."""
        import asyncio

        if _here.asks:
            return _unanswered(_NESTED)
        # A thread asks, but only once it is this caller's turn. Until it has asked, it needs
        # nothing of the loop: a guarded plain function, queueing behind it, may block that.
        outcome: Future[Callable[[], Decision]] = Future()
        outcome.set_running_or_notify_cancel()  # it is the thread's, whoever stops waiting
        context, loop, waits = contextvars.copy_context(), asyncio.get_running_loop(), True

        def withdrawn() -> bool:
            # After Ctrl-C, IPython leaves the loop as it was, with a task that nobody cancels.
            return not (waits and loop.is_running())

        def ask() -> Decision:
            with _asking():
                return context.run(self._ask, action, turn)

        def asked(result: Callable[[], Decision]) -> None:
            _line.leave(turn)
            outcome.set_result(result)

        def called(_: Future[None]) -> None:
            try:
                turn.result()
                start_thread(ask, asked)
            except BaseException as error:  # Ctrl-C, or no more threads
                _line.leave(turn)
                outcome.set_exception(error)

        turn = _Turn(withdrawn)
        turn.add_done_callback(called)
        try:
            _line.enter(turn)
            return (await asyncio.wrap_future(outcome))()
        finally:
            waits = False
            _line.give_up(turn)

    def _ask(self, action: Action, turn: _Turn) -> Decision:
        """Ask now, whoever else may be waiting."""
        if turn.withdrawn():
            return _withdrawn()
        own_reader = self._input_fn is None and not _input_was_replaced()
        terminal = _terminal.terminal_of_stdin() if own_reader else None
        try:
            with self._screen(terminal) as screen:
                waiting = len(_line) - 1
                told = waiting if waiting or turn.queued else None
                screen.write(screen.banner.text(action, waiting=told))
                try:
                    decision = self._answer(screen, terminal, turn)
                except KeyboardInterrupt:
                    screen.end("")
                    _line.interrupt()
                    raise
                if turn.withdrawn():
                    decision = _withdrawn()
                screen.end(screen.banner.outcome(decision))
                return decision
        except _Unseen as unseen:
            return _unanswered(f"the question could not be shown ({unseen})")

    @contextlib.contextmanager
    def _screen(self, terminal: int | None) -> Iterator[_Screen]:
        stream = sys.stderr if self._stream is None else self._stream
        if self._stream is None and terminal is not None and not _terminal.is_terminal(stream):
            # Whoever sits at the keyboard does not see stderr.
            try:
                stream = _terminal.open_terminal(terminal)
            except OSError as error:
                raise _Unseen(type(error).__name__) from error
            with stream:
                yield _Screen(stream)
        elif stream is None:
            raise _Unseen("there is no standard error")
        else:
            yield _Screen(stream)

    def _answer(self, screen: _Screen, terminal: int | None, turn: _Turn) -> Decision:
        def question() -> None:  # input(QUESTION) would write it to stdout
            screen.write(QUESTION)

        try:
            if self._input_fn is not None:
                answer = self._input_fn(QUESTION)
            elif _input_was_replaced():
                answer = _ask_front_end(builtins.input, turn)
            elif terminal is None:
                answer = _terminal.read_pipe(question, turn.withdrawn)
            elif _terminal.in_background(terminal):
                return _unanswered("this process runs in the background of its terminal")
            else:
                answer = _terminal.read_line(terminal, question, turn.withdrawn, deaf=turn.deaf)
        except _terminal.Withdrawn:
            return _withdrawn()
        except EOFError:
            return _unanswered("the input ended without an answer")
        except (OSError, RuntimeError, ValueError) as error:
            if self._input_fn is not None:
                raise
            return _unanswered(_why_no_input(error))
        if not isinstance(answer, str):
            raise TypeError(
                f"the answer to CLIChannel's question must be a str, not {show(answer)}"
            )
        yes = str.strip(answer).lower() in ("y", "yes")
        return Decision.approve() if yes else Decision.deny()


class _Unseen(Exception):
    """Nobody could see the question, for the reason given."""


class _Screen:
    """A stream that a person looks at."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        columns, rows = _terminal.window(stream)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        dumb = os.environ.get("TERM") == "dumb" and _terminal.is_terminal(stream)
        self.banner = Banner(columns, rows, encoding, dumb=dumb)

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            flush = getattr(self._stream, "flush", None)
            if flush is not None:
                flush()
        except (OSError, ValueError) as error:
            raise _Unseen(type(error).__name__) from error

    def end(self, text: str) -> None:
        """Write the last line; by now it is decided, so a failure changes nothing."""
        with contextlib.suppress(_Unseen):
            self.write(f"{text}\n")


class _Turn(Future[None]):
    """A caller's place in the line: done once it has the turn."""

    def __init__(self, withdrawn: Callable[[], bool]) -> None:
        super().__init__()
        #: Whether the caller has stopped waiting.
        self.withdrawn = withdrawn
        #: Whether Ctrl-C, which interrupts the main thread, would leave the caller waiting.
        self.deaf = not _terminal.in_main_thread()
        #: Whether others were there before.
        self.queued = False


class _Line:
    """Who waits for the one prompt of this process, in order; the first has the turn."""

    def __init__(self) -> None:
        # Reentrant: calling a turn may end it at once, and a signal handler may ask.
        self._lock = threading.RLock()
        self._turns: deque[_Turn] = deque()

    def __len__(self) -> int:
        return len(self._turns)

    def enter(self, turn: _Turn) -> None:
        with self._lock:
            turn.queued = bool(self._turns)
            self._turns.append(turn)
            self._call_first()

    def leave(self, turn: _Turn) -> None:
        """Pass the turn on, or stop waiting for it."""
        with self._lock:
            with contextlib.suppress(ValueError):  # interrupted before it entered, or forked
                self._turns.remove(turn)
            self._call_first()

    def give_up(self, turn: _Turn) -> None:
        """Stop waiting for the turn; if it has come already, its prompt passes it on."""
        with self._lock:
            if not turn.done():
                self.leave(turn)

    def interrupt(self) -> None:
        """Ctrl-C ended a question: it ends the wait of those whom no signal reaches, too."""
        with self._lock:
            for turn in list(self._turns):
                if turn.deaf and not turn.done():
                    turn.set_exception(KeyboardInterrupt())

    def _call_first(self) -> None:
        if self._turns and not self._turns[0].done():
            self._turns[0].set_result(None)


class _Here(threading.local):
    """What this thread is doing."""

    def __init__(self) -> None:
        self.asks = False


_line = _Line()
_here = _Here()
if hasattr(os, "register_at_fork"):
    # Those who wait are threads of the parent; what this thread was asking, the parent still asks.
    os.register_at_fork(after_in_child=_line.__init__)  # type: ignore[misc]
    os.register_at_fork(after_in_child=_here.__init__)  # type: ignore[misc]
_NESTED = "it was asked for in the middle of another question"


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Within, this thread cannot ask again: it would wait for itself to get out of the way."""
    _here.asks = True
    try:
        yield
    finally:
        _here.asks = False


def _ask_front_end(asks: Callable[[str], str], turn: _Turn) -> str:
    """The answer of an `input` that a notebook, or a test, put in place of Python's.

    A notebook removes the box of a cell that was stopped: nobody can answer there any more, and
    whoever asks next would wait for that answer. Each cell has an `input` of its own.
    """
    if _terminal.in_main_thread():  # the interrupt of a cell arrives there
        return asks(QUESTION)
    return _terminal.call_until(
        lambda: turn.withdrawn() or builtins.input is not asks, lambda: asks(QUESTION)
    )


def _is_plain(function: object) -> bool:
    return callable(function) and not inspect.iscoroutinefunction(function)


def _input_was_replaced() -> bool:
    return getattr(builtins.input, "__self__", None) is not builtins


def _unanswered(why: str) -> Decision:
    return Decision(False, why, unanswered=True)


def _withdrawn() -> Decision:
    return _unanswered("the request was withdrawn: nobody waits for the answer any more")


def _why_no_input(error: Exception) -> str:
    if isinstance(error, NotImplementedError):
        return "this front end takes no input"
    if sys.stdin is None:
        return "there is no standard input"
    return f"standard input cannot be read ({type(error).__name__})"
