"""Asking a person at the terminal, or wherever `input()` asks."""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from time import monotonic, sleep
from typing import Any, TextIO

from actionguard._values import show
from actionguard.channels import _terminal
from actionguard.channels._banner import QUESTION, Banner
from actionguard.channels._terminal import WITHDRAWN, Input, Unanswered
from actionguard.channels.base import ApprovalChannel, seconds, waiter
from actionguard.core import Action, Decision

#: What a comment need not repeat: "no, wrong customer", but not "no refunds on Sundays".
_NO = re.compile(r"^no?\s*(?:[,.:;!-]+(?:\s+|$)|$)", re.IGNORECASE)

#: Who answers: the descriptor of a terminal, or an input function.
Source = int | Input


class CLIChannel(ApprovalChannel):
    """Shows the action at the terminal and takes a line as the answer.

    `y` or `yes` approves. Enter, `n` and `no` deny. Any other text denies as well, and becomes the
    comment that the agent and the log get: `no, wrong customer` or `wrong customer`. If the request
    was cut to fit the window, `v` shows all of it in a pager, and the question is asked again.

    Works in scripts and in notebooks. One question is asked at a time in the whole process: other
    callers wait their turn, also in another thread or task, or with another channel object. If
    nobody can be asked (stdin is a pipe, a file or closed, or the input ends), the action is denied
    at once as unanswered, with a comment that says why.

    Args:
        stream: Where the request is shown. If left out, `sys.stderr` at the time of asking, or the
            terminal if stderr is redirected and a person is at stdin.
        input_fn: Takes the question, returns the answer. If left out, the person at the terminal
            is asked, or `input` is called if a notebook or a test replaced it.
        timeout: Seconds after which a request is denied as unanswered, counted from when it was
            made, even if its turn never came. If left out, there is no limit.

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
            with _in_line(turn):
                return self._ask(action, turn)
        except Unanswered as why:
            return self._unanswered(why)

    def _ask(self, action: Action, turn: _Turn) -> Decision:
        try:
            source = self._input_fn or _terminal.person()
        except Unanswered as why:
            name = ascii(str.__str__(action.tool_name))[1:-1]
            _end(self._stream or sys.stderr, f"actionguard: {name} was not approved: {why}")
            raise
        with self._stream_for(source) as stream, _terminal.hearing_ctrl_c() as turn.hears_ctrl_c:
            banner = Banner(action, *_terminal.window(stream))
            try:
                decision = self._decision(self._answer(banner, stream, source, turn))
            except Unanswered as why:
                decision = self._unanswered(why)
            except KeyboardInterrupt:
                _Turn.interrupts += 1
                _end(stream, "")
                raise
            _end(stream, banner.outcome(decision))
            return decision

    def _answer(self, banner: Banner, stream: TextIO, source: Source, turn: _Turn) -> str:
        _terminal.wait_for_reader(turn.look)
        in_main_thread = threading.current_thread() is threading.main_thread()
        while True:
            _write(stream, banner.request(len(_turns) - 1))
            try:
                if isinstance(source, int):
                    ask = partial(_write, stream, QUESTION)
                    answer = _terminal.read_line(source, ask, turn.look)
                elif in_main_thread and self.timeout is None:  # it can be left alone with it
                    answer = source(QUESTION)
                else:
                    answer = _terminal.call_input(source, QUESTION, turn.look)
            except EOFError:
                raise Unanswered("the input ended without an answer") from None
            except NotImplementedError:
                raise Unanswered("this front end takes no input") from None
            turn.look()
            text = str.__str__(answer).strip()  # a TypeError if it is no text
            if text.lower() != "v" or not banner.is_cut:
                return text
            _page(stream, banner.everything())

    def _stream_for(self, source: Source) -> AbstractContextManager[TextIO]:
        """Where the question is seen by whoever answers it."""
        stream = sys.stderr if self._stream is None else self._stream
        if isinstance(source, int) and self._stream is None and not _terminal.is_terminal(stream):
            return open(os.ttyname(source), "w")  # who sits at its keys does not see stderr
        return nullcontext(stream)

    def _decision(self, text: str) -> Decision:
        if text.lower() in ("y", "yes"):
            return Decision(True, source=self.name)
        return Decision(False, _NO.sub("", text) or None, self.name)

    def _unanswered(self, why: Unanswered) -> Decision:
        return Decision(False, str(why), self.name, unanswered=True)


def _write(stream: Any, text: str) -> None:
    stream.write(text)
    stream.flush()


def _end(stream: Any, text: str) -> None:
    """Write the last line; by now it is decided, so a failure changes nothing."""
    with suppress(AttributeError, OSError, ValueError):  # there may be no stderr
        _write(stream, f"{text}\n")


def _page(stream: Any, text: str) -> None:
    """Show a long text, in a pager if all of it goes to a terminal."""
    if all(map(_terminal.is_terminal, (sys.stdin, sys.stdout, stream))):
        import pydoc

        pydoc.pager(text)
    else:
        _write(stream, text)


class _Turn:
    """A caller that waits for its turn to ask, and then for the answer."""

    #: How many questions Ctrl-C has ended.
    interrupts = 0

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else monotonic() + timeout
        self._has_gone = waiter.has_gone
        self._interrupts = _Turn.interrupts
        # No signal reaches its thread: Ctrl-C that ends an earlier question has to end this, too.
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._is_deaf = not (in_main_thread or waiter.in_main_thread)
        #: Tells whether Ctrl-C was pressed at this question.
        self.hears_ctrl_c: Callable[[], bool] = lambda: False
        self.thread = threading.get_ident()

    def look(self) -> None:
        """Raise if the question does not stand any more."""
        if self.hears_ctrl_c() or (self._is_deaf and self._interrupts < _Turn.interrupts):
            raise KeyboardInterrupt
        if self._has_gone():
            raise Unanswered(WITHDRAWN)
        if monotonic() >= self._deadline:
            raise Unanswered(f"denied automatically after {self._timeout:,.10g} s")


#: Who waits for the one prompt of this process, in order; the first has the turn.
_turns: list[_Turn] = []
if hasattr(os, "register_at_fork"):  # they are threads of the parent
    os.register_at_fork(after_in_child=_turns.clear)


@contextmanager
def _in_line(turn: _Turn) -> Iterator[None]:
    """Wait for the turn, and pass it on in the end."""
    if any(other.thread == turn.thread for other in _turns):  # it would wait for itself
        raise Unanswered("it was asked for while the same thread was asking another question")
    _turns.append(turn)
    try:
        while _turns[0] is not turn:
            turn.look()
            sleep(_terminal.GLANCE)
        turn.look()
        yield
    finally:
        _turns.remove(turn)
