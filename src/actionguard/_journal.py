"""Crash notes: the calls that a process has in flight, kept in a file beside the log."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from contextlib import suppress
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where nothing here can tell whether another process still lives
    fcntl = None  # type: ignore[assignment]

#: Open for reading and writing, bytes as they are.
OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0)

#: Where a file's inode and size are noted, each a number of up to 20 digits.
Place = tuple[int, int]
_PLACE_AT, _PLACE_ROOM = len('{"log": '), 44


class Journal:
    """The notes of one process about one log, in a file of its own.

    The file is `<log>.inflight-<pid>-<random>`. Its process makes it at the first call, removes it
    at the end, and keeps it locked until then: one that can be locked was left by a dead process.

    Each line is the note of a call, in JSON: `log` (the inode and size of the log at that time, so
    that the call's line can only follow there), `state` ("waiting" for a person, or "running"),
    `record` (its audit line, should nobody write another) and `end` (its id again, without which
    the note is not whole). A line that begins with "#" was struck off; its room is used again.
    """

    def __init__(self, log: str) -> None:
        self._log = log
        self.path = ""
        self._fd = -1
        self._end = 0
        #: By room: where a note was struck off.
        self._free: defaultdict[int, list[int]] = defaultdict(list)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    @property
    def is_removed(self) -> bool:
        """Whether somebody removed the file, perhaps with its folder."""
        return self._fd >= 0 and fcntl is not None and os.fstat(self._fd).st_nlink == 0

    @classmethod
    def left_at(cls, path: str) -> Journal | None:
        """What a dead process left; None if it lives, or somebody else was first."""
        journal = cls("")
        with suppress(OSError):
            journal.path, journal._fd = path, os.open(path, OPEN)
            if lock(journal._fd, wait=False) and os.fstat(journal._fd).st_nlink:
                return journal
        journal.release()
        return None

    def create(self, mode: int) -> None:
        """Make the file, locked; whoever may read the log may read it.

        Raises:
            OSError: The folder cannot be written, or its disk has no room or no locks.
        """
        while self._fd < 0:
            path = f"{self._log}.inflight-{os.getpid()}-{os.urandom(5).hex()}"
            fd = os.open(path, OPEN | os.O_CREAT | os.O_EXCL, mode)
            try:
                lock(fd)
                # Before it was locked, it may have been taken for a dead process's. Or a signal
                # came, and its handler's call has made one.
                if (fcntl is None or os.fstat(fd).st_nlink) and self._fd < 0:
                    self.path, self._fd, self._end, fd = path, fd, 0, -1
            finally:
                if fd >= 0:
                    os.close(fd)
                    with suppress(FileNotFoundError):
                        os.unlink(path)

    def take(self, size: int) -> tuple[int, int]:
        """Room for a note of that size: where it starts, and how much it is."""
        room = max(512, 1 << size.bit_length())
        if self._free[room]:
            return self._free[room].pop(), room
        # One statement without a call: a signal's handler, whose call takes room too, cannot come
        # in the midst of it.
        start, self._end = self._end, self._end + room
        return start, room

    def write(self, note: bytes, start: int, room: int) -> None:
        """Write a note, padded to its room so that nothing of an older one stays there."""
        write_at(self._fd, note.ljust(room - 1) + b"\n", start)

    def place(self, start: int, place: Place) -> None:
        """Note anew where the call's line will be found, if it is written."""
        write_at(self._fd, _place(place).encode(), start + _PLACE_AT)

    def strike(self, start: int, room: int) -> None:
        """Take a note back."""
        write_at(self._fd, b"#", start)
        self._free[room].append(start)

    def try_room(self, size: int) -> None:
        """Raise if the disk has not that many bytes left."""
        try:
            write_at(self._fd, bytes(size), self._end)
        finally:
            os.ftruncate(self._fd, self._end)

    def sync(self) -> None:
        os.fsync(self._fd)

    def notes(self) -> list[tuple[int, dict[str, Any]]]:
        """The notes that are whole, with the places where they start."""
        return notes_in(_content(self._fd))

    def remove(self) -> None:
        """Remove the file; it stays locked until it is gone, so that nobody takes it up."""
        if fcntl is None:  # Windows removes no open file
            self.release()
        if self.path:
            with suppress(OSError):
                os.unlink(self.path)
        self.release()

    def release(self) -> None:
        """Close the file and leave it there, without unlocking: a fork shares the lock."""
        fd, self._fd, self._free = self._fd, -1, defaultdict(list)
        if fd >= 0:
            os.close(fd)


def note(place: Place, state: str, record: str, call_id: str) -> bytes:
    return (
        f'{{"log": {_place(place)}, "state": "{state}", "record": {record}, "end": {call_id}}}'
    ).encode()


def _place(place: Place) -> str:
    return f"[{place[0]}, {place[1]}]".ljust(_PLACE_ROOM)


def notes_in(data: bytes) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for line in re.finditer(rb"[^\n\0]+", data):  # zeros stand where nothing was written yet
        with suppress(ValueError, KeyError, TypeError):  # struck off, or not whole
            note = json.loads(line.group())
            if note["record"]["id"] == note["end"]:
                found.append((line.start(), note))
    return found


def beside(log: str) -> list[str]:
    """The note files of a log, whichever process they belong to."""
    folder, name = os.path.split(log)
    with suppress(OSError):
        notes = [f"{folder}/{n}" for n in os.listdir(folder) if n.startswith(f"{name}.inflight-")]
        return [path for path in notes if os.path.isfile(path)]  # a pipe would be read for ever
    return []


def noted_in(path: str, *, living: bool = True) -> bytes:
    """What stands in a note file that another process writes.

    It is read twice: a note may move to room that was read already. With `living`, nothing is
    returned if the process is dead.
    """
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            if not (living and lock(fd, wait=False, shared=True)):
                return _content(fd) + b"\n" + _content(fd)
        finally:
            os.close(fd)
    return b""


def _content(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def lock(fd: int, *, wait: bool = True, shared: bool = False) -> bool:
    """Take the file from all others, here and in other processes; False if one of them has it."""
    if fcntl is None:
        return wait
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let others have the file."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


def write_at(fd: int, data: bytes, start: int) -> None:
    while data:
        if fcntl is None:  # Windows
            os.lseek(fd, start, os.SEEK_SET)
            written = os.write(fd, data)
        else:
            written = os.pwrite(fd, data, start)
        data, start = data[written:], start + written


def sync_folder(path: str) -> None:
    """See to it that the name of a new file survives a power cut."""
    if fcntl is not None:
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
