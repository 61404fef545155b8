"""A real terminal for the tests: a pseudo-terminal with a Python program at its other end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path
from typing import Any

import actionguard

#: Seconds that anything may take: a busy machine imports slowly.
_PATIENCE = 250

QUESTION = "Approve this action? [y/N] "

#: What each program starts with.
PRELUDE = """
import asyncio, io, os, sys, threading, time
from actionguard.channels import CLIChannel
from actionguard.channels._waiting import ask_async
from actionguard.core import Action, Decision

refund = Action("refund_customer", {"amount": 4000.0, "customer_id": "cus_123"}, "Issue a refund.")
channel = CLIChannel()

def ask(action):
    return channel.request_approval(action)

async def aask(action):
    return await ask_async(channel, action)

def say(decision):
    how = "unanswered" if decision.unanswered else "approved" if decision.approved else "denied"
    print(f"<{how}>", decision.comment or "", flush=True)
"""


class Terminal:
    """Runs a program that has a terminal, and is the person in front of it.

    Args:
        code: The program, after the prelude.
        columns: Width of the window.
        rows: Height of the window.
        env: Further environment variables.
        options: For `subprocess.Popen`: `stdin`, `stdout` and `stderr` are the terminal by default.
    """

    def __init__(
        self,
        code: str,
        *,
        columns: int = 80,
        rows: int = 24,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._keyboard, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.modes = termios.tcgetattr(terminal)
        #: All that the terminal was sent.
        self.output = ""
        self._read = 0
        self._bytes = b""
        self.terminal = terminal
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
            env={**environment(), **(env or {})},
            preexec_fn=_take_terminal(terminal),
            **{"stdin": terminal, "stdout": terminal, "stderr": terminal, **options},
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the program, if it has not, and take the terminal away."""
        self.process.kill()
        self.process.communicate()
        for descriptor in (self._keyboard, self.terminal):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def expect(self, text: str, timeout: float = _PATIENCE) -> str:
        """Wait until the terminal shows the text; returns what it showed since the last time."""
        deadline = time.monotonic() + timeout
        while (found := self.output.find(text, self._read)) < 0:
            if not self._receive(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} did not appear in {self.output[self._read :]!r}")
        start, self._read = self._read, found + len(text)
        return self.output[start : self._read]

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._keyboard, keys.encode())

    def answer(self, keys: str) -> str:
        """Wait for the question and type an answer; returns what was shown before."""
        shown = self.expect(QUESTION)
        self.type(keys)
        return shown

    def rest(self, timeout: float = _PATIENCE) -> str:
        """Wait for the program to end; returns what it showed since the last time."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:  # reading, or a long output would block the program
            assert time.monotonic() < deadline, f"still running after {self.output!r}"
            self._receive(0.01)
        while self._receive(0):
            pass
        start, self._read = self._read, len(self.output)
        return self.output[start:]

    def _receive(self, timeout: float) -> bool:
        if not select.select([self._keyboard], [], [], max(timeout, 0))[0]:
            return False
        self._bytes += os.read(self._keyboard, 65536)
        self.output = self._bytes.decode(errors="replace").replace("\r\n", "\n")
        return True


def environment() -> dict[str, str]:
    """The environment of a program that is to behave the same everywhere."""
    changing = ("COLUMNS", "LINES", "NO_COLOR", "PYTHONUNBUFFERED")
    kept = {k: v for k, v in os.environ.items() if k not in changing}
    source = str(Path(actionguard.__file__).parents[1])
    return {**kept, "PYTHONPATH": source, "PYTHONUTF8": "1", "TERM": "xterm-256color"}


def _take_terminal(terminal: int) -> Any:
    def take() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    return take
