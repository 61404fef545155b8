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
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from actionguard.channels._banner import QUESTION
from actionguard.channels.base import outcome_of, start_thread

#: Seconds after which a reader looks whether its question was withdrawn.
_GLANCE = 0.05
#: Seconds within which keys that were typed ahead have to end.
_PATIENCE = 5

WITHDRAWN = "the request was withdrawn: nobody waits for the answer any more"


class Unanswered(Exception):
    """Nobody answers the question, for the reason given."""


def terminal_of_stdin() -> int | None:
    """The descriptor behind `sys.stdin`, if it is a terminal that can be read with care."""
    if input_was_replaced():
        return None
    try:
        import termios  # noqa: F401 - absent on Windows, where input() reads the console

        descriptor = sys.stdin.fileno()
        return descriptor if os.isatty(descriptor) else None
    except (ImportError, AttributeError, OSError, ValueError):
        return None


def in_main_thread() -> bool:
    """Whether Ctrl-C interrupts this thread."""
    return threading.current_thread() is threading.main_thread()


def asyncio_takes_ctrl_c() -> bool:
    """Whether a loop handles the signal, by `asyncio.run` or by `add_signal_handler`."""
    handler = signal.getsignal(signal.SIGINT)
    module = getattr(getattr(handler, "func", handler), "__module__", None)
    return str(module).startswith("asyncio.")


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
    except OSError:  # a container may hide its name: but it was most likely opened for both
        screen = os.dup(descriptor)
    return open(screen, "w", encoding=sys.stdin.encoding, errors="backslashreplace")


def in_background(descriptor: int) -> bool:
    """Whether reading would stop the process, because its terminal belongs to another job."""
    try:
        return os.tcgetpgrp(descriptor) not in (0, os.getpgrp())
    except OSError:  # not our controlling terminal: no job control here
        return False


def input_was_replaced() -> bool:
    """Whether a notebook, or a test, put an `input` in place of Python's."""
    owner = getattr(builtins.input, "__self__", None)
    # From 3.13 on, Python's own prompt has one, which breaks that prompt if it is left behind.
    return owner is not builtins and type(owner).__module__ != "_pyrepl.readline"


def read(
    terminal: int | None,
    write: Callable[[str], None],
    withdrawn: Callable[[], bool],
    *,
    deaf: bool,
) -> str:
    """The answer of the person at stdin.

    Args:
        terminal: The descriptor of the terminal that they sit at; without one, `input` is asked.
        write: Shows the question.
        withdrawn: Whether nobody waits for the answer any more.
        deaf: Whether Ctrl-C, as a signal, would not reach who waits for the answer.

    Raises:
        Unanswered: There will be no answer, for the reason given.
        EOFError: The input ended.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        if terminal is None:
            return _read_input(write, withdrawn)
        return _read_keys(terminal, write, withdrawn, deaf=deaf)
    except NotImplementedError:
        raise Unanswered("this front end takes no input") from None
    except (OSError, RuntimeError, ValueError) as error:
        if sys.stdin is None:
            raise Unanswered("there is no standard input") from None
        raise Unanswered(f"standard input cannot be read ({type(error).__name__})") from error


# --- from a terminal, with care --------------------------------------------------------------


def _read_keys(
    descriptor: int, write: Callable[[str], None], withdrawn: Callable[[], bool], *, deaf: bool
) -> str:
    """A line of keys that were pressed after the question appeared."""
    import termios

    if in_background(descriptor):
        raise Unanswered("this process runs in the background of its terminal")
    line = b""
    try:
        with _line_mode(descriptor, deaf=deaf) as (set_mode, ends):
            _discard_keys(descriptor)
            write(QUESTION)
            while not line.endswith(ends):
                set_mode()  # again: a shell that resumes a program sets its own
                if withdrawn():
                    if not in_background(descriptor):  # or it would stop the process
                        termios.tcflush(descriptor, termios.TCIFLUSH)
                    raise Unanswered(WITHDRAWN)
                # Not through sys.stdin: its buffer would keep the lines that a paste left behind.
                if select.select([descriptor], [], [], _GLANCE)[0]:
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
def _line_mode(
    descriptor: int, *, deaf: bool
) -> Iterator[tuple[Callable[[], None], tuple[bytes, ...]]]:
    """Make the terminal echo and edit lines, whoever used it before; leave it as it was.

    Yields what sets its mode again, and the keys that end a line: for the deaf, Ctrl-C too, unless
    it is ignored.
    """
    import termios

    before = termios.tcgetattr(descriptor)
    mode: list[Any] = [*before[:6], list(before[6])]
    mode[0] = mode[0] & ~(termios.INLCR | termios.IGNCR) | termios.ICRNL
    mode[1] |= termios.OPOST | termios.ONLCR
    mode[3] |= termios.ICANON | termios.ECHO | termios.ECHOE | termios.ISIG | termios.IEXTEN
    interrupt_key, off = mode[6][termios.VINTR], bytes([os.fpathconf(descriptor, "PC_VDISABLE")])
    ends: tuple[bytes, ...] = (b"\n",)
    if deaf and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        ends = (b"\n", interrupt_key)
        mode[6][termios.VEOL], mode[6][termios.VINTR] = interrupt_key, off
    process, lock, over = os.getpid(), threading.RLock(), False

    def set_mode() -> None:
        with lock:
            if not over:  # a daemon thread goes on for a moment after it was restored at exit
                _set_mode(descriptor, mode)

    def restore() -> None:
        nonlocal over
        if os.getpid() == process:  # no forked child at its exit: the parent may be asking still
            with lock:
                over = True
                _set_mode(descriptor, before)

    atexit.register(restore)  # a daemon thread does not reach its `finally`
    try:
        set_mode()
        yield set_mode, ends
    finally:
        atexit.unregister(restore)
        restore()


def _set_mode(descriptor: int, mode: list[Any]) -> None:
    import termios

    # Not in the background: the shell has taken care of it, and uses it.
    if not in_background(descriptor):
        with contextlib.suppress(termios.error):  # hung up, as who reads will find out
            termios.tcsetattr(descriptor, termios.TCSANOW, mode)


# --- by input(): a pipe, the console of Windows, a notebook -----------------------------------

#: A thread that reads, and where its outcome is put.
_Reader = tuple[threading.Thread, list[Callable[[], str]]]

_left_behind: list[_Reader] = []


def _read_input(write: Callable[[str], None], withdrawn: Callable[[], bool]) -> str:
    """What `input` answers.

    Nothing calls Python's own back. What a withdrawn question left behind of it reads on for the
    next, unless it had its line before that was asked. Any other is Python code, and interrupted.
    """
    asks, replaced = builtins.input, input_was_replaced()

    def read() -> str:
        # A daemon thread that is left behind at exit must keep stdin alive: destroying it while
        # its lock is held is fatal to the interpreter.
        stdin = sys.stdin  # noqa: F841
        return asks(QUESTION) if replaced else asks()

    readers = [reader for reader in _left_behind if reader[0].is_alive() and not replaced]
    if not replaced:
        _left_behind.clear()
        write(QUESTION)  # input(QUESTION) would write it to stdout
    # Ctrl-C interrupts the main thread; after its end, Python 3.12.1 starts no threads.
    if not readers and (in_main_thread() or not threading.main_thread().is_alive()):
        return read()
    thread, outcome = readers[0] if readers else _start(read)
    try:
        while thread.is_alive():
            # A notebook removes the box of a cell that is over. Each cell has its own `input`.
            if withdrawn() or builtins.input is not asks:
                raise Unanswered(WITHDRAWN)
            thread.join(_GLANCE)
        return outcome[0]()
    finally:
        if not replaced and thread.is_alive():
            _left_behind.append((thread, outcome))
        while replaced and thread.is_alive():
            _interrupt(thread)
            thread.join(_GLANCE)


def _start(read: Callable[[], str]) -> _Reader:
    outcome: list[Callable[[], str]] = []
    context = contextvars.copy_context()  # by which a kernel knows the cell
    thread = start_thread(lambda: outcome.append(outcome_of(lambda: context.run(read))))
    return thread, outcome


def _interrupt(thread: threading.Thread) -> None:
    """Raise KeyboardInterrupt in a thread, as soon as it is in Python code."""
    import ctypes

    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt))
