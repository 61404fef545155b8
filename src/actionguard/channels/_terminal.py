"""The terminal of this process: who sits there, how large it is, and one line of keys from it."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import contextvars
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from actionguard.channels.base import start_thread

#: Seconds after which a reader looks whether its question was withdrawn.
_GLANCE = 0.05
#: Seconds within which keys that were typed ahead have to end.
_PATIENCE = 5


class Withdrawn(Exception):
    """Nobody waits for the answer any more, or can give it."""


def terminal_of_stdin() -> int | None:
    """The descriptor behind `sys.stdin`, if it is a terminal that can be read with care."""
    try:
        import termios  # noqa: F401 - absent on Windows, where input() reads the console

        descriptor = sys.stdin.fileno()
        return descriptor if os.isatty(descriptor) else None
    except (ImportError, AttributeError, OSError, ValueError):
        return None


def in_main_thread() -> bool:
    """Whether Ctrl-C interrupts this thread."""
    return threading.current_thread() is threading.main_thread()


def is_terminal(stream: object) -> bool:
    """Whether a person sees what is written there."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def window(stream: TextIO) -> tuple[int, int | None]:
    """Columns and rows of the stream's window; no rows where there is no window."""
    if not is_terminal(stream):
        return 80, None
    try:
        size = os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24  # a terminal may not know its size


def open_terminal(descriptor: int) -> TextIO:
    """The terminal that a descriptor reads from, opened for writing."""
    try:
        path = os.ttyname(descriptor)
    except OSError:  # a container may show the terminal without its name
        path = "/dev/tty"
    screen = os.open(path, os.O_WRONLY | os.O_NOCTTY)
    return open(screen, "w", encoding=sys.stdin.encoding, errors="backslashreplace")


def in_background(descriptor: int) -> bool:
    """Whether reading would stop the process, because its terminal belongs to another job."""
    try:
        return os.tcgetpgrp(descriptor) not in (0, os.getpgrp())
    except OSError:  # not our controlling terminal: no job control here
        return False


def read_line(
    descriptor: int,
    question: Callable[[], None],
    withdrawn: Callable[[], bool],
    *,
    deaf: bool,
) -> str:
    """One line of keys that were pressed after the question appeared.

    Args:
        descriptor: A terminal.
        question: Shows the question.
        withdrawn: Whether nobody waits for the answer any more.
        deaf: Whether Ctrl-C, as a signal, would not reach who waits for the answer.

    Returns:
        The line with its newline.

    Raises:
        Withdrawn: Nobody waits for the answer any more.
        EOFError: Ctrl-D, or the terminal was hung up.
        OSError: The terminal is gone, or keys come without end.
        KeyboardInterrupt: Ctrl-C.
    """
    import termios

    line, glance = b"", None if in_main_thread() else _GLANCE
    try:
        with _line_mode(descriptor, signals=not deaf) as ends:
            _discard_keys(descriptor)
            question()
            while not line.endswith(ends):
                if withdrawn():
                    _discard_keys(descriptor)
                    raise Withdrawn
                # Not through sys.stdin: its buffer would keep the lines that a paste left behind.
                if select.select([descriptor], [], [], glance)[0]:
                    keys = os.read(descriptor, 4096)
                    if not keys:
                        raise EOFError
                    line += keys
    except termios.error as error:  # is no OSError, but stands for one
        raise OSError(*error.args) from error
    if not line.endswith(b"\n"):
        # As Ctrl-C does: to the main thread, also when it is blocked, waiting for this one. Only
        # now, with the terminal as it was: the signal may end the process on the spot.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        raise KeyboardInterrupt
    return line.decode(errors="replace")


#: A line that is being read, and where its outcome is put.
_Reading = tuple[threading.Thread, list[Callable[[], str]]]

_left_behind: deque[_Reading] = deque(maxlen=1)


def read_pipe(question: Callable[[], None], withdrawn: Callable[[], bool]) -> str:
    """One line of a stdin that cannot be read with care: a pipe, or the console of Windows.

    Nothing calls a reader back from there. The one that a withdrawn question left behind reads on
    for the next, unless it had its line before that was asked.

    Raises:
        Withdrawn: Nobody waits for the answer any more.
        Exception: Whatever `input` raises.
    """
    readers = [reading for reading in _left_behind if reading[0].is_alive()]
    _left_behind.clear()
    question()
    if in_main_thread() and not readers:
        return _input()
    try:
        thread, outcome = readers[0] if readers else _start(_input)
    except RuntimeError:  # the main thread is at its end, and Python starts no more threads
        return _input()
    try:
        while thread.is_alive():
            thread.join(_GLANCE)
            if withdrawn():
                raise Withdrawn
        return outcome[0]()
    finally:
        if thread.is_alive():
            _left_behind.append((thread, outcome))


def _input() -> str:
    # A daemon thread that is left behind at exit must keep stdin alive: destroying it while its
    # lock is held is fatal to the interpreter.
    stdin = sys.stdin  # noqa: F841
    return builtins.input()


def call_until(over: Callable[[], bool], function: Callable[[], str]) -> str:
    """Call Python code that waits for a person, and stop it once it is over.

    Raises:
        Withdrawn: It was stopped.
        Exception: Whatever the function raises.
    """
    thread, outcome = _start(function)
    stopped = False
    while thread.is_alive():
        thread.join(_GLANCE)
        if thread.is_alive() and over():
            stopped = True
            _interrupt(thread)
    if stopped:
        raise Withdrawn
    return outcome[0]()


def _start(function: Callable[[], str]) -> _Reading:
    outcome: list[Callable[[], str]] = []
    context = contextvars.copy_context()  # by which a kernel knows the cell
    return start_thread(lambda: context.run(function), outcome.append), outcome


def _interrupt(thread: threading.Thread) -> None:
    """Raise KeyboardInterrupt in a thread, as soon as it is in Python code."""
    with contextlib.suppress(ImportError, AttributeError):  # known to CPython only
        import ctypes

        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt))


def _discard_keys(descriptor: int) -> None:
    """Forget what was typed before, half a line too, and the rest of a paste that still arrives."""
    import termios

    deadline = time.monotonic() + _PATIENCE
    termios.tcflush(descriptor, termios.TCIFLUSH)
    while select.select([descriptor], [], [], _GLANCE)[0]:
        if time.monotonic() > deadline:
            raise TimeoutError("keys keep coming: none of them would be an answer")
        termios.tcflush(descriptor, termios.TCIFLUSH)


@contextlib.contextmanager
def _line_mode(descriptor: int, *, signals: bool) -> Iterator[tuple[bytes, ...]]:
    """Make the terminal echo and edit lines, whoever used it before; leave it as it was.

    Yields the keys that end a line. With `signals=False`, Ctrl-C is one of them, unless it did
    nothing before.
    """
    import termios

    before = termios.tcgetattr(descriptor)
    mode: list[Any] = [*before[:6], list(before[6])]
    mode[0] = mode[0] & ~(termios.INLCR | termios.IGNCR) | termios.ICRNL
    mode[1] |= termios.OPOST | termios.ONLCR
    mode[3] |= termios.ICANON | termios.ECHO | termios.ECHOE | termios.ISIG | termios.IEXTEN
    interrupt_key, off = mode[6][termios.VINTR], bytes([os.fpathconf(descriptor, "PC_VDISABLE")])
    ignored = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    ends: tuple[bytes, ...] = (b"\n",)
    if not (signals or ignored or interrupt_key == off):
        ends = (b"\n", interrupt_key)
        mode[6][termios.VEOL], mode[6][termios.VINTR] = interrupt_key, off

    process = os.getpid()

    def restore() -> None:
        # Not in the background: the shell has taken care of it, and uses it. Nor at the exit of a
        # forked child, whose parent may be asking still.
        if os.getpid() == process and not in_background(descriptor):
            with contextlib.suppress(termios.error):  # hung up: nothing to restore
                termios.tcsetattr(descriptor, termios.TCSANOW, before)

    if mode == before:
        yield ends
        return
    atexit.register(restore)  # a daemon thread does not reach its `finally`
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, mode)
        yield ends
    finally:
        atexit.unregister(restore)
        restore()
