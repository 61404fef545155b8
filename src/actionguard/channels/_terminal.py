"""The terminal of this process: who sits there, how large it is, and one line of keys from it."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from actionguard.channels.base import start_thread

#: Seconds after which a reader looks whether its question was withdrawn.
_GLANCE = 0.05


def terminal_of_stdin() -> int | None:
    """The descriptor behind `sys.stdin`, if it is a terminal that can be read with care."""
    try:
        import termios  # noqa: F401 - absent on Windows, where input() reads the console

        descriptor = sys.stdin.fileno()
        return descriptor if os.isatty(descriptor) else None
    except (ImportError, AttributeError, OSError, ValueError):
        return None


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
    withdrawn: threading.Event | None,
    ctrl_c: Callable[[], None] | None,
) -> str:
    """One line of keys that were pressed after the question appeared.

    Args:
        descriptor: A terminal.
        question: Shows the question.
        withdrawn: When set, nobody waits for the answer any more.
        ctrl_c: Given by threads that no signal reaches; called when Ctrl-C is pressed.

    Returns:
        The line with its newline; nothing if it was withdrawn.

    Raises:
        EOFError: Ctrl-D, or the terminal was hung up.
        OSError: The terminal is gone.
        KeyboardInterrupt: Ctrl-C.
    """
    with _usual_errors(), _line_mode(descriptor, signals=ctrl_c is None) as interrupt_key:
        _discard_keys(descriptor)
        question()
        line = b""
        while not line.endswith(b"\n"):
            if withdrawn and withdrawn.is_set():
                _discard_keys(descriptor)
                return ""
            # Not through sys.stdin: its buffer would keep the lines that a paste left behind.
            if not select.select([descriptor], [], [], _GLANCE if withdrawn else None)[0]:
                continue
            keys = os.read(descriptor, 4096)
            if not keys:
                raise EOFError
            if interrupt_key and keys.endswith(interrupt_key):
                break
            line += keys
        else:
            return line.decode(errors="replace")
    # Only now, with the terminal as it was: the signal may end the process on the spot.
    if ctrl_c:
        ctrl_c()
    raise KeyboardInterrupt


def call_until(withdrawn: threading.Event, function: Callable[[], str]) -> str:
    """Call Python code that waits for a person, and end it when its question is withdrawn.

    A notebook removes the box of a cell that was stopped: nobody can answer there any more, and
    without this, whoever asks next would wait for that answer.

    Returns:
        What the function returns; nothing if it was withdrawn.
    """
    outcome: list[Callable[[], str]] = []
    context = contextvars.copy_context()  # by which a kernel knows the cell
    thread = start_thread(lambda: context.run(function), outcome.append)
    while thread.is_alive():
        thread.join(_GLANCE)
        if withdrawn.is_set() and thread.is_alive():
            _interrupt(thread)
    return outcome[0]() if outcome and not withdrawn.is_set() else ""


def _interrupt(thread: threading.Thread) -> None:
    """Raise KeyboardInterrupt in a thread, as soon as it is in Python code."""
    with contextlib.suppress(ImportError, AttributeError):  # known to CPython only
        import ctypes

        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt))


def interrupt_main_thread() -> None:
    """Do what Ctrl-C does: also to a main thread that is blocked, waiting for this one."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


@contextlib.contextmanager
def _usual_errors() -> Iterator[None]:
    """Turn `termios.error` into the OSError that it stands for."""
    import termios

    try:
        yield
    except termios.error as error:
        raise OSError(*error.args) from error


def _discard_keys(descriptor: int) -> None:
    """Forget what was typed before, half a line too, and the rest of a paste that still arrives."""
    import termios

    for _ in range(20):  # at most a second: somebody may lean on the Enter key
        termios.tcflush(descriptor, termios.TCIFLUSH)
        if not select.select([descriptor], [], [], _GLANCE)[0]:
            break


@contextlib.contextmanager
def _line_mode(descriptor: int, *, signals: bool) -> Iterator[bytes | None]:
    """Make the terminal echo and edit lines, whoever used it before; leave it as it was.

    With `signals=False`, Ctrl-C ends the line at once as a key that the reader sees: it is
    yielded, or None where Ctrl-C remains a signal (or does nothing, if it did nothing before).
    """
    import termios

    before = termios.tcgetattr(descriptor)
    mode: list[Any] = [*before[:6], list(before[6])]
    mode[0] = mode[0] & ~(termios.INLCR | termios.IGNCR) | termios.ICRNL
    mode[1] |= termios.OPOST | termios.ONLCR
    mode[3] |= termios.ICANON | termios.ECHO | termios.ECHOE | termios.ISIG | termios.IEXTEN
    interrupt_key, off = mode[6][termios.VINTR], bytes([os.fpathconf(descriptor, "PC_VDISABLE")])
    ignored = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    as_key = not (signals or ignored or interrupt_key == off)
    if as_key:
        mode[6][termios.VEOL], mode[6][termios.VINTR] = interrupt_key, off

    def restore() -> None:
        if not in_background(descriptor):  # else the shell has taken care of it, and uses it
            with contextlib.suppress(termios.error):  # hung up: nothing to restore
                termios.tcsetattr(descriptor, termios.TCSANOW, before)

    if mode == before:
        yield None
        return
    atexit.register(restore)  # a daemon thread does not reach its `finally`
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, mode)
        yield interrupt_key if as_key else None
    finally:
        atexit.unregister(restore)
        restore()
