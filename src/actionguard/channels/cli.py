"""Asking a person at the terminal, or wherever `input()` asks."""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from time import monotonic
from typing import Any, TextIO

from actionguard._values import show
from actionguard.channels import _terminal
from actionguard.channels._banner import QUESTION, Banner
from actionguard.channels._terminal import WITHDRAWN, Input, Unanswered
from actionguard.channels.base import ApprovalChannel, seconds, waiter
from actionguard.core import Action, Decision

#: What a comment need not repeat: "no, wrong customer", but not "no refunds on Sundays".
_NO = re.compile(r"no?\s*(?:[,.:;!-]+(?:\s+|$)|$)", re.IGNORECASE)

#: Who answers: the descriptor of a terminal, or an input function.
Source = int | Input


class CLIChannel(ApprovalChannel):
    """Shows the action at the terminal and takes a line as the answer.

    `y` or `yes` approves. Enter, `n` and `no` deny. Any other text denies as well, and becomes the
    comment that agent and log get: `no, wrong customer` or `wrong customer`. Where the request was
    cut to fit the window, `v` shows all of it in a pager, and the question is asked again.

    Works in scripts and in notebooks. One question is asked at a time in the whole process: the
    next caller, whatever its thread, task or channel object, waits its turn. Where nobody can be
    asked (stdin is a pipe, a file or closed, or the input ends), the action is denied at once as
    unanswered, with a comment that says why.

    Args:
        stream: Where the request is shown. If left out, `sys.stderr` at the time of asking; or
            the terminal, if stderr was redirected and a person sits at stdin.
        input_fn: Takes the question, returns the answer. If left out, the person at the terminal
            of stdin is asked; or `input`, where a notebook or a test replaced it.
        timeout: Seconds from the request after which it is denied as unanswered, whether or not it
            was its turn by then. If left out, there is no limit.

    Raises:
        TypeError: The stream has no `write`, or `input_fn` is not a plain function.
        ValueError: The timeout is not a finite number of seconds, 0 or more.
    """

    name = "cli"

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        input_fn: Input | None = None,
        timeout: float | None = None,
    ) -> None:
        if not (stream is None or (hasattr(stream, "write") and hasattr(stream, "flush"))):
            raise TypeError(f"CLIChannel takes a text stream as stream, not {show(stream)}")
        if not (input_fn is None or callable(input_fn)) or inspect.iscoroutinefunction(input_fn):
            raise TypeError(f"CLIChannel takes a plain function as input_fn, not {show(input_fn)}")
        self._stream = stream
        self._input_fn = input_fn
        self.timeout = None if timeout is None else seconds("timeout", timeout)

    def request_approval(self, action: Action) -> Decision:
        """Wait for the turn, ask, and wait for the answer.

        Returns:
            The person's answer; or a denial marked as unanswered, saying why nobody answered.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            TypeError: `input_fn` returned something other than a str.
            Exception: Whatever else `input_fn` raises.
        """
        # Async callers need no other form of this: the thread that asks for them knows of them.
        turn = _Turn(self.timeout)
        try:
            with _line.place(turn):
                return self._ask(action, turn)
        except Unanswered as why:
            return Decision(False, str(why), self.name, unanswered=True)

    def _ask(self, action: Action, turn: _Turn) -> Decision:
        try:
            source = self._input_fn or _terminal.person()
        except Unanswered as why:
            name = ascii(str.__str__(action.tool_name))[1:-1]
            _Screen(self._stream or sys.stderr).end(f"actionguard: {name} was not approved: {why}")
            raise
        with self._stream_for(source) as stream, _terminal.hearing_ctrl_c() as turn.interrupted:
            screen = _Screen(stream)
            try:
                decision = self._decision(self._answer(action, screen, source, turn))
            except Unanswered as why:
                decision = Decision(False, str(why), self.name, unanswered=True)
            except KeyboardInterrupt:
                screen.end("")
                _line.interrupt()
                raise
            screen.end(screen.banner(action).outcome(decision))
            return decision

    def _answer(self, action: Action, screen: _Screen, source: Source, turn: _Turn) -> str:
        _terminal.wait_for_reader(turn.look)
        while True:
            banner = screen.banner(action)
            screen.write(banner.request(_line.waiting()))
            try:
                if isinstance(source, int):
                    answer = _terminal.read_line(source, partial(screen.write, QUESTION), turn.look)
                elif turn.is_patient:
                    answer = source(QUESTION)
                else:
                    answer = _terminal.call_input(source, QUESTION, turn.look)
            except EOFError:
                raise Unanswered("the input ended without an answer") from None
            except NotImplementedError:
                raise Unanswered("this front end takes no input") from None
            turn.look()
            if not isinstance(answer, str):
                raise TypeError(f"input_fn must return a str, not {show(answer)}")
            text = str.__str__(answer).strip()
            if text.lower() != "v" or not banner.is_cut:
                return text
            screen.page(banner.everything())

    def _stream_for(self, source: Source) -> AbstractContextManager[TextIO]:
        """Where the question is seen by whoever answers it."""
        stream = sys.stderr if self._stream is None else self._stream
        if isinstance(source, int) and self._stream is None and not _terminal.is_terminal(stream):
            return open(os.ttyname(source), "w")  # who sits at its keys does not see stderr
        return nullcontext(stream)

    def _decision(self, text: str) -> Decision:
        if text.lower() in ("y", "yes"):
            return Decision(True, source=self.name)
        no = _NO.match(text)
        return Decision(False, text[no.end() if no else 0 :] or None, self.name)


class _Screen:
    """A stream that a person looks at."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def banner(self, action: Action) -> Banner:
        """The request, laid out for the window as it is now."""
        columns, rows = _terminal.window(self._stream)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        if os.environ.get("TERM") == "dumb" and _terminal.is_terminal(self._stream):
            encoding = "ascii"
        return Banner(action, columns, rows, encoding)

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (AttributeError, OSError, ValueError) as error:  # there may be no stderr
            raise Unanswered(f"the question could not be shown ({type(error).__name__})") from error

    def end(self, text: str) -> None:
        """Write the last line; by now it is decided, so a failure changes nothing."""
        with suppress(Unanswered):
            self.write(f"{text}\n")

    def page(self, text: str) -> None:
        """Show a long text, in a pager if all of it goes to a terminal."""
        if all(map(_terminal.is_terminal, (sys.stdin, sys.stdout, self._stream))):
            import pydoc

            pydoc.pager(text)
        else:
            self.write(text)


class _Turn:
    """A caller that waits for its turn to ask, and then for the answer."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self.deadline = None if timeout is None else monotonic() + timeout
        #: Whether nobody waits for the answer any more.
        self.has_gone = waiter.has_gone
        #: Whether it can be left alone with an input function until that returns.
        in_main_thread = threading.current_thread() is threading.main_thread()
        self.is_patient = in_main_thread and timeout is None
        #: Whether Ctrl-C passes it by: that reaches the main thread and its tasks only.
        self.is_deaf = not (in_main_thread or waiter.in_main_thread)
        #: Set when it has the turn, or need not wait for it any more.
        self.called = threading.Event()
        #: Whether Ctrl-C was pressed.
        self.interrupted: Callable[[], bool] = lambda: False

    def look(self) -> None:
        """Raise if the question does not stand any more."""
        if self.interrupted():
            raise KeyboardInterrupt
        if self.has_gone():
            raise Unanswered(WITHDRAWN)
        if self.deadline is not None and monotonic() >= self.deadline:
            raise Unanswered(f"denied automatically after {self._timeout:,.10g} s")


class _Line:
    """Who waits for the one prompt of this process, in order; the first has the turn."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may ask
        self._turns: list[_Turn] = []

    def waiting(self) -> int:
        """How many stand behind the first."""
        return sum(not turn.has_gone() for turn in self._turns[1:])

    @contextmanager
    def place(self, turn: _Turn) -> Iterator[None]:
        """Wait for the turn, and pass it on in the end."""
        if _asking.get():  # it would wait for itself to get out of the way
            raise Unanswered("it was asked for in the middle of another question")
        token = _asking.set(True)
        try:
            with self._lock:
                self._turns.append(turn)
                self._turns[0].called.set()
            turn.called.wait(None if turn.deadline is None else turn.deadline - monotonic())
            turn.look()
            yield
        finally:
            with self._lock:
                self._turns.remove(turn)
                if self._turns:
                    self._turns[0].called.set()
            _asking.reset(token)

    def interrupt(self) -> None:
        """Ctrl-C ended a question: it ends the wait of those whom no signal reaches, too."""
        with self._lock:
            for turn in self._turns[1:]:
                if turn.is_deaf:
                    turn.interrupted = lambda: True
                    turn.called.set()


_line = _Line()
#: Whether this context waits for an answer already.
_asking: ContextVar[bool] = ContextVar("actionguard_asking", default=False)
if hasattr(os, "register_at_fork"):
    # Those who wait are threads of the parent; what this thread was asking, the parent still asks.
    os.register_at_fork(after_in_child=_line.__init__)  # type: ignore[misc]
