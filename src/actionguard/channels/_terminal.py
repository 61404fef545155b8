"""The terminal of this process: who sits there, how large it is, and one line of keys from it."""

from __future__ import annotations

import builtins
import contextlib
import contextvars
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from actionguard.channels.base import outcome_of, start_thread

#: Seconds after which a reader looks whether its question still stands.
GLANCE = 0.1
#: Seconds without a key after which a paste is over.
_PAUSE = 0.05

#: Takes the question, returns the answer.
Input = Callable[[str], str]
#: Raises if the question does not stand any more; called now and then.
Look = Callable[[], None]

WITHDRAWN = "the request was withdrawn: nobody waits for the answer any more"


class Unanswered(Exception):
    """Nobody answers the question, for the reason given."""


def replaced_input() -> Input | None:
    """What a notebook, or a test, put in place of Python's own `input`."""
    owner = getattr(builtins.input, "__self__", None)
    # The prompt of Python 3.13 has one that belongs to its own lines.
    is_pythons = owner is builtins or type(owner).__module__ == "_pyrepl.readline"
    return None if is_pythons else builtins.input


def keyboard() -> int | Input:
    """The descriptor of the terminal at stdin; `input` where it cannot be read with care."""
    if sys.stdin is None:
        raise Unanswered("there is no standard input")
    try:
        is_terminal = sys.stdin.isatty()
    except (AttributeError, OSError, ValueError) as error:
        raise Unanswered(f"standard input cannot be read ({type(error).__name__})") from None
    if not is_terminal:
        raise Unanswered(
            "standard input is not a terminal, so nobody can be asked there; use another channel, "
            "or CLIChannel(input_fn=input) to take the answers from it all the same"
        )
    try:
        import termios  # noqa: F401 - absent on Windows

        descriptor = sys.stdin.fileno()
    except (ImportError, OSError, ValueError):  # a console of Windows, or of IDLE
        return builtins.input
    if _is_in_background(descriptor):
        raise Unanswered("this process runs in the background of its terminal")
    return descriptor


def _is_in_background(descriptor: int) -> bool:
    """Whether reading would stop the process, because its terminal belongs to another job."""
    try:
        return os.tcgetpgrp(descriptor) not in (0, os.getpgrp())
    except OSError:  # not our controlling terminal: no job control here
        return False


def is_terminal(stream: object) -> bool:
    """Whether a person sees what is written there."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def window(stream: TextIO) -> tuple[int, int | None]:
    """Columns and rows of the stream's window; no rows where there is no window."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return 80, 24 if is_terminal(stream) else None
    return size.columns or 80, size.lines or 24  # a terminal may not know its size


def open_terminal(descriptor: int) -> TextIO:
    """The terminal that a descriptor reads from, opened for writing."""
    try:
        screen = os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY)
    except OSError as error:  # a container may hide its name
        raise Unanswered("standard error is not the terminal at standard input") from error
    return open(screen, "w", encoding=sys.stdin.encoding, errors="backslashreplace")


# --- answers ---------------------------------------------------------------------------------


def read_line(descriptor: int, ask: Callable[[], None], look: Look) -> str:
    """A line of keys that were pressed after the question appeared.

    The terminal edits and echoes the line as it always does; its mode is not touched.

    Args:
        descriptor: The terminal.
        ask: Shows the question.
        look: Called until there is an answer.

    Raises:
        Unanswered: There will be no answer.
        EOFError: The input ended.
        KeyboardInterrupt: Ctrl-C, in a terminal that another program left in raw mode.
    """
    import termios

    try:
        termios.tcflush(descriptor, termios.TCIFLUSH)
        while select.select([descriptor], [], [], _PAUSE)[0]:  # the rest of a paste arrives
            look()
            termios.tcflush(descriptor, termios.TCIFLUSH)
        termios.tcflush(descriptor, termios.TCIFLUSH)  # half a line is none to `select`
        ask()
        line = b""
        while not line.endswith((b"\n", b"\r")):
            is_ready = select.select([descriptor], [], [], GLANCE)[0]
            look()  # before reading: the keys may be for who goes on in place of the question
            if is_ready:
                # Not through sys.stdin: its buffer would keep the lines that a paste left behind.
                keys = os.read(descriptor, 4096)
                if not keys:
                    raise EOFError
                if b"\x03" in keys:
                    raise KeyboardInterrupt
                line += keys
    except (OSError, termios.error) as error:  # hung up
        raise Unanswered(f"standard input cannot be read ({type(error).__name__})") from error
    return line.decode(errors="replace")


_left_behind: threading.Thread | None = None


def wait_for_reader(look: Look) -> None:
    """Wait until an input function returns whose question was taken back: it takes a line yet."""
    while _left_behind and _left_behind.is_alive():
        look()
        _left_behind.join(GLANCE)


def call_input(function: Input, question: str, look: Look) -> str:
    """What an input function answers; in a thread, which is left behind if `look` raises."""
    global _left_behind
    outcome: list[Callable[[], str]] = []
    is_replaced = function is builtins.input
    context = contextvars.copy_context()  # by which a kernel knows the cell
    thread = start_thread(
        lambda: outcome.append(outcome_of(lambda: context.run(function, question)))
    )
    try:
        while thread.is_alive():
            look()
            if is_replaced:
                _check_that_it_stands(function)
            thread.join(GLANCE)
    except BaseException:
        _left_behind = thread
        if is_replaced:
            _interrupt(thread)
        raise
    return outcome[0]()


def _check_that_it_stands(function: Input) -> None:
    # A notebook removes the box of a cell that is over. Each cell has its own `input`.
    if builtins.input is not function:
        raise Unanswered(WITHDRAWN)


def _interrupt(thread: threading.Thread) -> None:
    """Raise KeyboardInterrupt in a thread: a notebook's `input` would wait for ever."""
    import ctypes

    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt))


# --- Ctrl-C ----------------------------------------------------------------------------------


@contextlib.contextmanager
def hearing_ctrl_c(look: Look) -> Iterator[Look]:
    """Yields a `look` that also raises KeyboardInterrupt if Ctrl-C was pressed, in any thread.

    Python raises it in the main thread only, and under asyncio not even there. A thread that asks
    has to hear it as well, or who waits for that thread (a pool that is shut down) would go on
    waiting. `signal` cannot help: only the main thread may use it. Any thread can tell faulthandler
    to write to a file at a signal, before whatever else is done about it.
    """
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None) or os.name == "nt":
        yield look
        return
    import faulthandler

    def look_for_ctrl_c() -> None:
        if select.select([pressed], [], [], 0)[0]:
            raise KeyboardInterrupt
        look()

    pressed, write = os.pipe()
    os.set_blocking(write, False)
    faulthandler.register(signal.SIGINT, write, all_threads=False, chain=True)
    try:
        yield look_for_ctrl_c
    finally:
        faulthandler.unregister(signal.SIGINT)
        os.close(pressed)
        os.close(write)
