"""The terminal of this process: who sits there, how large it is, and one line of keys from it."""

from __future__ import annotations

import builtins
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TextIO

from actionguard.channels.base import start_thread, waiter

#: Seconds after which a reader looks whether its question still stands.
GLANCE = 0.1
#: Seconds without a key after which a paste is over.
_PAUSE = 0.05

#: Takes the question, returns the answer.
Input = Callable[[str], str]
#: Raises if the question does not stand any more; called now and then.
Look = Callable[[], None]

WITHDRAWN = "the request was withdrawn: nobody is waiting for the answer any more"


class Unanswered(Exception):
    """Nobody answers the question, for the reason given."""


def person() -> int | Input:
    """Who answers: the descriptor of the terminal at stdin, or `input` where it has to do."""
    # Of the builtin, or of the prompt of Python 3.13, which belongs to its own lines.
    if getattr(builtins.input, "__module__", None) not in ("builtins", "_pyrepl.readline"):
        return builtins.input  # a notebook, or a test, replaced it
    if not is_terminal(sys.stdin):
        raise Unanswered(
            "standard input is not a terminal, so nobody can be asked; use another channel, "
            "or CLIChannel(input_fn=input) to read answers from it anyway"
        )
    try:
        import termios  # noqa: F401 - absent on Windows

        descriptor = sys.stdin.fileno()
    except (ImportError, OSError, ValueError):  # a console of Windows, or of IDLE
        return builtins.input
    with contextlib.suppress(OSError):  # not our controlling terminal: no job control here
        if os.tcgetpgrp(descriptor) not in (0, os.getpgrp()):  # reading would stop the process
            raise Unanswered("this process runs in the background of its terminal")
    return descriptor


def is_terminal(stream: object) -> bool:
    """Whether a person sees what is written there."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return bool(stream.isatty())  # type: ignore[attr-defined]
    return False


def window(stream: TextIO) -> tuple[int, int | None, str]:
    """Columns, rows (None where there is no window) and encoding of what the stream can show."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with contextlib.suppress(AttributeError, OSError, ValueError):
        size = os.get_terminal_size(stream.fileno())
        encoding = "ascii" if os.environ.get("TERM") == "dumb" else encoding
        return size.columns or 80, size.lines or 24, encoding  # a terminal may not know its size
    return 80, None, encoding


# --- answers ---------------------------------------------------------------------------------


def read_line(descriptor: int, ask: Callable[[], None], look: Look) -> str:
    """A line of keys that were pressed after the question appeared.

    The terminal edits and echoes the line as it always does; its mode is not touched.

    Args:
        descriptor: The terminal.
        ask: Shows the question.
        look: Called until there is an answer.

    Raises:
        EOFError: The input ended.
    """
    import termios

    while select.select([descriptor], [], [], _PAUSE)[0]:  # the rest of a paste arrives
        look()
        termios.tcflush(descriptor, termios.TCIFLUSH)
    termios.tcflush(descriptor, termios.TCIFLUSH)  # `select` does not see half a line
    ask()
    line = b""
    while not line.endswith((b"\n", b"\r")):
        is_ready = select.select([descriptor], [], [], GLANCE)[0]
        look()  # before reading: the keys may be for who goes on in place of the question
        if is_ready:
            # Not through sys.stdin: its buffer would keep the lines that a paste left behind.
            try:
                keys = os.read(descriptor, 4096)
            except OSError:  # the terminal hung up
                raise EOFError from None
            if not keys:
                raise EOFError
            line += keys
    return line.decode(errors="replace")


#: Where an input function was called last; it may be there still, though nobody waits for it.
_reader = threading.Thread()


def wait_for_reader(look: Look) -> None:
    """Wait until no input function is at work: it would take the next answer."""
    while _reader.is_alive():
        look()
        _reader.join(GLANCE)


def call_input(function: Input, question: str, look: Look) -> str:
    """What an input function answers; in a thread, which is left behind if `look` raises."""
    global _reader
    is_replaced = function is builtins.input

    def look_at_cell() -> None:
        look()
        # A notebook removes the box of a cell that is over. Each cell has its own `input`.
        if is_replaced and builtins.input is not function:
            raise Unanswered(WITHDRAWN)

    _reader, outcome = start_thread(partial(function, question))
    try:
        wait_for_reader(look_at_cell)
    except BaseException:
        if is_replaced:  # a notebook's would wait for ever
            import ctypes

            raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
            raise_in(ctypes.c_ulong(_reader.ident or 0), ctypes.py_object(KeyboardInterrupt))
        raise
    return outcome.result()


# --- Ctrl-C ----------------------------------------------------------------------------------


@contextlib.contextmanager
def hearing_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells, in any thread, whether Ctrl-C was pressed.

    Python raises it in the main thread only, and under asyncio not even there. A thread that asks
    has to hear it as well, or who waits for that thread (a pool that is shut down) would go on
    waiting. `signal` cannot help: only the main thread may use it. Any thread can tell faulthandler
    to write to a file at a signal, before whatever else is done about it.
    """
    is_ignored = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    if waiter.in_main_thread or is_ignored or os.name == "nt":
        yield lambda: False  # in the main thread, asyncio cancels the task
        return
    import faulthandler

    pressed, write = os.pipe()
    os.set_blocking(write, False)
    faulthandler.register(signal.SIGINT, write, all_threads=False, chain=True)
    try:
        yield lambda: bool(select.select([pressed], [], [], 0)[0])
    finally:
        faulthandler.unregister(signal.SIGINT)
        os.close(pressed)
        os.close(write)
