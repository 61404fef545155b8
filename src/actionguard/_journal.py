"""Crash notes: what a process has in flight, kept beside the log for whoever comes after it."""

from __future__ import annotations

import itertools
import json
import os
import re
from contextlib import suppress
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where nothing here can tell whether another process still lives
    fcntl = None  # type: ignore[assignment]

#: Open for reading and writing, bytes as they are.
OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0)
#: The room for `line_at`: two numbers of up to 20 digits each.
_ROOM = 44
_NOWHERE = "null".ljust(_ROOM) + "}"

_count = itertools.count()


class Journal:
    """The notes of one process about one log; its writer sees to it that threads take turns.

    They stand in a file of their own, `<log>.inflight-<pid>-<random>`, which exists while something
    is in flight. Its process keeps it locked: one that can be locked was left by a dead process.
    Each line is a call, in JSON: the fields of its audit line as far as they are known, then
    `state` ("waiting" for a person, or "running"), `call` (one that has two notes is running) and
    `line_at` (null, or [inode, offset] of its audit line, once that is being written). A line that
    begins with "#" was struck off, and will be written over.
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
                    line_at = line.start() + len(line.group().rstrip()) - len(_NOWHERE)
                    self._live[note["call"]] = [(line.start(), 0, line_at)]
        return calls

    def add(self, call: int, fields: str, *, running: bool, sync: bool) -> None:
        """Note a call, or note it anew; raises where that cannot be done."""
        if self._fd < 0:
            try:
                self._create(sync)
            except BaseException:
                self.remove()
                raise
        state = "running" if running else "waiting"
        note = f'{{{fields}, "state": "{state}", "call": {call}, "line_at": {_NOWHERE}'.encode()
        room = max(512, 1 << len(note).bit_length())
        free = self._free.get(room)
        start = free.pop() if free else self._end
        self._end = max(self._end, start + room)
        notes = self._live.setdefault(call, [])
        notes.append((start, room, start + len(note) - len(_NOWHERE)))
        self._write(note.ljust(room - 1) + b"\n", start, sync)
        while len(notes) > 1:
            self._clear(*notes.pop(0))

    def place(self, call: int, inode: int, offset: int, *, sync: bool) -> None:
        """Note where the call's line is about to be written, so that nobody writes it twice."""
        if call in self._live:
            _, _, line_at = self._live[call][-1]
            self._write((b"[%d, %d]" % (inode, offset)).ljust(_ROOM), line_at, sync)

    def strike(self, call: int) -> None:
        """Take back what is noted of a call; with the last one goes the file."""
        notes = self._live.pop(call, [])
        if not self._live:
            self.remove()
        else:
            for note in notes:
                self._clear(*note)

    def remove(self) -> None:
        """Remove the file; it stays locked until it is gone, so that nobody takes it up."""
        if self._fd >= 0:
            if fcntl is None:  # Windows removes no open file
                self.release()
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self.release()

    def _create(self, sync: bool) -> None:
        self._path = f"{self._prefix}{next(_count):x}"
        while self._fd < 0:
            self._fd = os.open(self._path, OPEN | os.O_CREAT | os.O_EXCL, 0o666)
            lock(self._fd)
            if fcntl is not None and not os.fstat(self._fd).st_nlink:
                self.release()  # taken for a dead process's before it was locked, and removed
        if sync:
            sync_folder(self._path)

    def release(self) -> None:
        """Close the file and leave it: without unlocking, since after a fork the lock is shared."""
        fd, self._fd, self._end = self._fd, -1, 0
        self._live.clear()
        self._free.clear()
        if fd >= 0:
            os.close(fd)

    def _clear(self, start: int, room: int, _: int) -> None:
        self._write(b"#", start, sync=False)
        self._free.setdefault(room, []).append(start)

    def _write(self, data: bytes, at: int, sync: bool) -> None:
        while data:
            written = _pwrite(self._fd, data, at)
            data, at = data[written:], at + written
        if sync:
            os.fsync(self._fd)


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
            journal._fd = os.open(path, OPEN)
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


def _pwrite(fd: int, data: bytes, at: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, at)
    os.lseek(fd, at, os.SEEK_SET)  # Windows
    return os.write(fd, data)


def sync_folder(path: str) -> None:
    """See to it that the name of a new file survives a power cut."""
    if fcntl is not None:
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
