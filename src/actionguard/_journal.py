"""Crash notes: what a process has in flight, kept beside the log for whoever comes after it."""

from __future__ import annotations

import _thread
import json
import os
import re
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where nothing here can tell whether another process still lives
    fcntl = None  # type: ignore[assignment]

#: Open for reading and writing, bytes as they are.
OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0)

# A note begins so; the first room is for two numbers of up to 20 digits each.
_BEGINS = '{"line_at": '
_ROOM = 44

# A file that was made again so soon (in seconds), so many times on end, stays for as long.
_SOON, _OFTEN = 0.005, 256

_seeking = threading.Lock()


class Journal:
    """The notes of one process about one log.

    They stand in a file of their own, `<log>.inflight-<pid>-<random>`, which exists while something
    is in flight. Its process keeps it locked: one that can be locked was left by a dead process.
    Each line is a call, in JSON: `line_at` ([inode, offset] where its audit line will stand),
    `state` ("waiting" for a person, or "running"), `call` (a number; one that has two notes is
    running), `if_killed` (its audit line, should nobody write another), and `end` (the number
    again, without which the note is not whole). A line that begins with "#" was struck off, and
    will be written over.
    """

    def __init__(self, log: str) -> None:
        self._log = log
        self._path = ""
        self._fd = -1
        #: Who may read and write the file: those who may the log.
        self.mode = 0o666
        #: Whether notes are to survive a power cut.
        self.sync = False
        self._end = 0
        #: By call: where its notes start, and the room they take.
        self._live: dict[int, list[tuple[int, int]]] = {}
        #: By room: where a note was struck off.
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        #: Held while the file is made or removed and room in it is taken, and while lines are
        #: written. One for both: a signal's handler may make a guarded call while its thread holds
        #: it, and would wait for a second lock whose holder waits for this one.
        self.lock = threading.RLock()
        self._removed_at = 0.0
        #: How often on end the file was made again soon.
        self._again = 0
        self._sweeper: _Sweeper | None = None

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
        """The notes of the calls that are in flight, by their numbers."""
        with open(self._fd, "rb", closefd=False) as file:
            data = file.read()
        calls: dict[int, dict[str, Any]] = {}
        for line in re.finditer(rb"[^\n\0]+", data):  # zeros stand where a write failed
            with suppress(ValueError, KeyError, TypeError):  # struck off, or not whole
                note = json.loads(line.group())
                call = note["call"]
                if call == note["end"] and (call not in calls or note["state"] == "running"):
                    calls[call] = note
                    self._live[call] = [(line.start(), 0)]
        return calls

    def add(self, call: int, if_killed: str, line_at: tuple[int, int], *, running: bool) -> None:
        """Note a call, or note it anew; raises where that cannot be done."""
        state = "running" if running else "waiting"
        note = (
            f'{_BEGINS}{_written(line_at)}, "state": "{state}", "call": {call}, '
            f'"if_killed": {if_killed}, "end": {call}}}'
        ).encode()
        room = max(512, 1 << len(note).bit_length())
        with self.lock:
            notes = self._live.setdefault(call, [])  # first, so that the file stays from now on
            if self._fd < 0:
                self._create()
            if self._free[room]:
                start = self._free[room].pop()
            else:
                start, self._end = self._end, self._end + room
            notes.append((start, room))
        try:
            self._write(note.ljust(room - 1) + b"\n", start)
            self.wait_for_disk()
        except BaseException:  # the call will not go on, though what got there may read whole
            with suppress(OSError):
                self._write(b"#", start)
            raise
        if len(notes) > 1:
            self._clear(notes, but=1)

    def place(self, call: int, line_at: tuple[int, int]) -> None:
        """Note where the call's line is about to be written, so that nobody writes it twice."""
        for start, _ in self._live.get(call, [])[-1:]:
            self._write(_written(line_at).encode(), start + len(_BEGINS))

    def wait_for_disk(self) -> None:
        """Let what is noted survive a power cut, if that is wished."""
        if self.sync and self._fd >= 0:
            os.fsync(self._fd)

    def strike(self, call: int) -> None:
        """Take back what is noted of a call; with the last one goes the file."""
        self._clear(self._live.get(call, []))
        with self.lock:
            self._live.pop(call, None)
            if self._fd >= 0 and not (self._live or self._lingers()):
                self.remove_if_idle()

    def remove_if_idle(self) -> None:
        """Remove the file if nothing is in flight; if that fails, later calls use it and try."""
        with self.lock, suppress(OSError):
            self._sweeper = None
            if not self._live:
                self.remove()

    def remove(self) -> None:
        """Remove the file; it stays locked until it is gone, so that nobody takes it up."""
        if self._fd >= 0:
            if fcntl is None:  # Windows removes no open file
                self.release()
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self.release()
            self._removed_at = time.monotonic()

    def release(self) -> None:
        """Close the file and leave it: without unlocking, since after a fork the lock is shared."""
        # In one step, in which no signal's handler can come with a call of its own.
        fd, self._fd, self._end, self._live, self._free = self._fd, -1, 0, {}, defaultdict(list)
        if fd >= 0:
            os.close(fd)

    def _create(self) -> None:
        soon = time.monotonic() - self._removed_at < _SOON
        self._again = self._again + 1 if soon else 0
        while self._fd < 0:
            path = f"{self._log}.inflight-{os.getpid()}-{os.urandom(5).hex()}"
            fd = os.open(path, OPEN | os.O_CREAT | os.O_EXCL, self.mode)
            try:
                lock(fd)
                if self.sync:
                    sync_folder(path)
                there = fcntl is None or os.fstat(fd).st_nlink
                if there and self._fd < 0:
                    self._path, self._fd, fd = path, fd, -1
            finally:
                if fd >= 0:
                    # It failed; or it was taken for a dead process's before it was locked; or a
                    # signal came, and its handler's call has made one.
                    with suppress(OSError):
                        os.unlink(path)
                    os.close(fd)

    def _lingers(self) -> bool:
        """Whether the file is left to a sweeper, since calls come thick and fast.

        To make and remove it for each call costs more than all else that the log does.
        """
        # When the main thread is over, the program is ending, and may no longer wait for threads.
        if not self._sweeper and self._again >= _OFTEN and threading.main_thread().is_alive():
            self._sweeper = _Sweeper.begun(self)
        return self._sweeper is not None

    def _clear(self, notes: list[tuple[int, int]], *, but: int = 0) -> None:
        while len(notes) > but:
            self._write(b"#", notes[0][0])
            start, room = notes.pop(0)
            self._free[room].append(start)

    def _write(self, data: bytes, at: int) -> None:
        while data:
            written = os.pwrite(self._fd, data, at) if fcntl else _pwrite(self._fd, data, at)
            data, at = data[written:], at + written


class _Sweeper(threading.Thread):
    """Removes a journal's file, a moment after a call.

    Not a daemon: a program that ends waits for it, and leaves no file. A fork does too, since
    Python warns of a fork beside a thread.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(name="actionguard", daemon=False)
        self._journal = journal
        self._hurry = threading.Event()

    @classmethod
    def begun(cls, journal: Journal) -> _Sweeper | None:
        """One at work; None where there can be no more threads.

        It is not started by this thread: Ctrl-C in the midst of that may hang the new one.
        """
        sweeper, begins = cls(journal), threading.Lock()

        def begin() -> None:
            with suppress(RuntimeError):
                sweeper.start()
            begins.release()

        begins.acquire()
        with suppress(RuntimeError):
            _thread.start_new_thread(begin, ())
            begins.acquire()
        return sweeper if sweeper.is_alive() else None

    def run(self) -> None:
        lock = self._journal.lock
        while not self._hurry.wait(_SOON):
            # Without waiting for it: who forks may hold it, and waits for this thread.
            if lock.acquire(blocking=False):
                try:
                    self._journal.remove_if_idle()
                finally:
                    lock.release()
                break

    @classmethod
    def end_all(cls) -> None:
        for thread in threading.enumerate():
            if isinstance(thread, cls) and thread.is_alive():
                thread._hurry.set()
                thread._journal.remove_if_idle()
                thread.join(1)  # not for ever: its disk may hang


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_Sweeper.end_all)


def note_files(log: str) -> list[str]:
    """The note files beside a log, whichever process they belong to."""
    folder, name = os.path.split(log)
    with suppress(OSError):
        notes = [f"{folder}/{n}" for n in os.listdir(folder) if n.startswith(f"{name}.inflight-")]
        return [path for path in notes if os.path.isfile(path)]  # a pipe would be read for ever
    return []


def in_flight(log: str) -> list[dict[str, Any]]:
    """The records of all calls of living processes, as far as they are known."""
    calls: list[dict[str, Any]] = []
    for path in note_files(log):
        journal = Journal("")
        with suppress(OSError):
            journal._fd = os.open(path, os.O_RDONLY)
            if not lock(journal._fd, wait=False):
                calls += map(_in_flight, journal.calls().values())
        journal.release()
    return calls


def _in_flight(note: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = note["if_killed"]
    for unknown in ("executed", "result", "error"):
        del record[unknown]
    return {**record, "state": note["state"]}


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


def _written(line_at: tuple[int, int]) -> str:
    inode, offset = line_at
    return f"[{inode}, {offset}]".ljust(_ROOM)


def _pwrite(fd: int, data: bytes, at: int) -> int:
    with _seeking:  # Windows
        os.lseek(fd, at, os.SEEK_SET)
        return os.write(fd, data)
