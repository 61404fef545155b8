"""Crash notes: what a process has in flight, kept beside the log for whoever comes after it."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
import time
from contextlib import suppress
from typing import Any
from weakref import WeakSet

try:
    import fcntl
except ImportError:  # Windows, where nothing here can tell whether another process still lives
    fcntl = None  # type: ignore[assignment]

#: Open for reading and writing, bytes as they are.
OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0)
#: The room for `line_at`: two numbers of up to 20 digits each.
_ROOM = 44
#: A file that was made so many times within a second lingers for so many seconds of quiet.
_OFTEN = 100
_QUIET = 0.01

_count = itertools.count()
_seeking = threading.Lock()
_with_janitor: WeakSet[Journal] = WeakSet()


class Journal:
    """The notes of one process about one log.

    They stand in a file of their own, `<log>.inflight-<pid>-<random>`, which exists while something
    is in flight. Its process keeps it locked: one that can be locked was left by a dead process.
    Each line is a call, in JSON: the fields of its audit line as far as they are known, then
    `state` ("waiting" for a person, or "running"), `call` (one that has two notes is running) and
    `line_at` ([inode, offset] where its audit line will stand). A line that begins with "#" was
    struck off, and will be written over.
    """

    def __init__(self, log: str) -> None:
        self._prefix = f"{log}.inflight-{os.getpid()}-{os.urandom(4).hex()}"
        self._path = ""
        self._fd = -1
        self._end = 0
        #: By call: where its notes start, the room they take, and where their `line_at` stands.
        self._live: dict[int, list[tuple[int, int, int]]] = {}
        #: By room: where a note was struck off.
        self._free: dict[int, list[int]] = {}
        #: Held while the file is made or removed and room in it is taken, not while it is written.
        self._lock = threading.RLock()
        # What decides whether the file lingers.
        self._since = 0.0
        self._made = 0
        self._struck = 0
        self._janitor: threading.Thread | None = None
        self._at_work = False
        self._hurry = threading.Event()

    @classmethod
    def adopt(cls, path: str) -> Journal | None:
        """What a dead process left at the path; None if it lives, or somebody else was first."""
        journal = cls("")
        with suppress(OSError):
            journal._path, journal._fd = path, os.open(path, OPEN)
            if lock(journal._fd, wait=False) and os.fstat(journal._fd).st_nlink:
                return journal
        journal.release()
        return None

    def calls(self) -> dict[int, dict[str, Any]]:
        """What the file says of the calls that are in flight, by their numbers."""
        with open(self._fd, "rb", closefd=False) as file:
            data = file.read()
        calls: dict[int, dict[str, Any]] = {}
        for line in re.finditer(rb"[^\n\0]+", data):  # zeros stand where a write failed
            with suppress(ValueError, KeyError, TypeError):  # struck off, or not finished
                note = json.loads(line.group())
                if note["state"] == "running" or note["call"] not in calls:
                    calls[note["call"]] = note
                    line_at = line.start() + len(line.group().rstrip()) - _ROOM - 1
                    self._live[note["call"]] = [(line.start(), 0, line_at)]
        return calls

    def add(
        self, call: int, fields: str, line_at: tuple[int, int], *, running: bool, sync: bool
    ) -> None:
        """Note a call, or note it anew; raises where that cannot be done."""
        state = "running" if running else "waiting"
        note = f'{{{fields}, "state": "{state}", "call": {call}, "line_at": '.encode()
        room = max(512, 1 << (len(note) + _ROOM + 1).bit_length())
        with self._lock:
            notes = self._live.setdefault(call, [])  # first, so that the file stays from now on
            while self._fd < 0:
                self._create(sync)
            free = self._free.get(room)
            if free:
                start = free.pop()
            else:
                start, self._end = self._end, self._end + room
            notes.append((start, room, start + len(note)))
        self._write((note + _numbers(line_at) + b"}").ljust(room - 1) + b"\n", start, sync)
        self._clear(notes, but=1)

    def place(self, call: int, line_at: tuple[int, int], *, sync: bool) -> None:
        """Note where the call's line is about to be written, so that nobody writes it twice."""
        for _, _, place in self._live.get(call, [])[-1:]:
            self._write(_numbers(line_at), place, sync)

    def strike(self, call: int) -> None:
        """Take back what is noted of a call; with the last one goes the file."""
        self._clear(self._live.get(call, []))
        with self._lock:
            self._live.pop(call, None)
            if not self._live and not self._lingers():
                self.remove()

    def remove(self) -> None:
        """Remove the file."""
        path, fd = self._path, self._detached()
        if fd >= 0:
            _remove(path, fd)

    def release(self) -> None:
        """Close the file and leave it: without unlocking, since after a fork the lock is shared."""
        fd = self._detached()
        if fd >= 0:
            os.close(fd)

    def _detached(self) -> int:
        # In one step, in which no signal's handler can come with a call of its own.
        fd, self._fd, self._end, self._live, self._free = self._fd, -1, 0, {}, {}
        return fd

    def _create(self, sync: bool) -> None:
        now = time.monotonic()
        if now - self._since > 1:
            self._since, self._made = now, 0
        self._made += 1
        path = f"{self._prefix}{next(_count):x}"
        fd = os.open(path, OPEN | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            lock(fd)
            if sync:
                sync_folder(path)
            gone = fcntl is not None and not os.fstat(fd).st_nlink
        except BaseException:
            _remove(path, fd)
            raise
        if gone or self._fd >= 0:
            # It was taken for a dead process's before it was locked; or a signal came, and its
            # handler's call has made one.
            _remove(path, fd)
        else:
            self._path, self._fd = path, fd

    def _lingers(self) -> bool:
        """Whether the idle file is left to a thread of ours, since calls come thick and fast.

        To make and remove it costs more than all else that the log does for a call. The thread is
        no daemon: a program does not end before it has done its work.
        """
        if self._made < _OFTEN or self._fd < 0:
            return False
        self._struck += 1
        if not self._at_work:
            if not threading.main_thread().is_alive():
                return False  # the program is ending, and waits for threads no more
            janitor = threading.Thread(target=self._clean_up, name="actionguard", daemon=False)
            try:
                janitor.start()
            except RuntimeError:  # there can be no thread more
                return False
            self._janitor, self._at_work = janitor, True
            _with_janitor.add(self)
        return True

    def _clean_up(self) -> None:
        seen = -1
        while seen != self._struck:
            seen = self._struck
            if self._hurry.wait(_QUIET):
                break
        with self._lock:
            self._at_work = False
            if not self._live:  # else the next strike decides again
                with suppress(OSError):
                    self.remove()

    def end_janitor(self) -> None:
        """End the thread, if there is one."""
        if self._janitor is not None:
            self._hurry.set()
            self._janitor.join(1)  # not for ever: who wants to fork may have the lock it waits for
            self._hurry.clear()
            self._janitor = None

    def _clear(self, notes: list[tuple[int, int, int]], *, but: int = 0) -> None:
        while len(notes) > but:
            self._write(b"#", notes[0][0], sync=False)
            start, room, _ = notes.pop(0)
            self._free.setdefault(room, []).append(start)

    def _write(self, data: bytes, at: int, sync: bool) -> None:
        while data:
            written = _pwrite(self._fd, data, at)
            data, at = data[written:], at + written
        if sync:
            os.fsync(self._fd)


def _before_fork() -> None:
    # Python 3.12 warns of a fork beside a thread.
    for journal in list(_with_janitor):
        journal.end_janitor()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)


def note_files(log: str) -> list[str]:
    """The note files beside a log, whichever process they belong to."""
    folder, name = os.path.split(log)
    with suppress(OSError):
        return [f"{folder}/{n}" for n in os.listdir(folder) if n.startswith(f"{name}.inflight-")]
    return []


def in_flight(log: str) -> list[dict[str, Any]]:
    """The notes of all living processes."""
    calls: list[dict[str, Any]] = []
    for path in note_files(log):
        journal = Journal("")
        with suppress(OSError):
            journal._fd = os.open(path, os.O_RDONLY)
            if not lock(journal._fd, wait=False):
                calls += journal.calls().values()
        journal.release()
    return calls


def lock(fd: int, *, wait: bool = True) -> bool:
    """Take the file from all others, here and in other processes; False if one of them has it."""
    if fcntl is None:
        return wait
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let others have the file."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


def sync_folder(path: str) -> None:
    """See to it that the name of a new file survives a power cut."""
    if fcntl is not None:
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _remove(path: str, fd: int) -> None:
    if fcntl is None:  # Windows removes no open file
        os.close(fd)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
    finally:
        if fcntl is not None:  # locked until it is gone, so that nobody takes it up
            os.close(fd)


def _numbers(line_at: tuple[int, int]) -> bytes:
    return (b"[%d, %d]" % line_at).ljust(_ROOM)


def _pwrite(fd: int, data: bytes, at: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, at)
    with _seeking:  # Windows
        os.lseek(fd, at, os.SEEK_SET)
        return os.write(fd, data)
