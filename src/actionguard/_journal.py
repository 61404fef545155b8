"""Crash notes: the calls that a process has in flight, kept in a file beside the log."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from contextlib import suppress
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: no notes, since nothing could tell whether their process lives
    fcntl = None  # type: ignore[assignment]

#: A file of so many bytes is emptied when nothing is in flight.
_LARGE = 65_536


class Call:
    """A call as far as log and journal need to know it."""

    #: What is noted: whether it is "waiting" or "running", and its line if the process is killed.
    state = record = ""
    #: The inode and the size that the log had before the line was written.
    place = (0, 0)
    #: What is to be written, once the call is over.
    line = b""
    #: Whether it may have been written already.
    tried = False

    def __init__(self, call_id: str, equals: str, journal: Journal) -> None:
        self.id = call_id
        #: The same text for equal calls only.
        self.equals = equals
        self.journal = journal
        #: Where the notes start in the journal, and the room they take.
        self.rooms: list[tuple[int, int]] = []


class Journal:
    """The notes of one process about one log.

    They are kept in a file, `<log>.inflight-<pid>-<random>`. Its process makes it at the first
    call, keeps it locked, and removes it at the end: one that can be locked was left by a dead
    process. Each line is the note of a call, in JSON: `log` (the inode and size that the log had:
    the call's line can only follow there), `state` ("waiting" for a person, or "running"),
    `record` (its audit line, should nobody write another) and `end` (its id, without which the
    note is not whole). A line that begins with "#" was struck off; its room is used again.
    """

    def __init__(self, log: str, *, closing: bool = False) -> None:
        self._log = log
        self.path = ""
        #: The process that it belongs to; the child of a fork leaves it alone.
        self.pid = os.getpid()
        self._fd = -1
        self._end = 0
        #: By room: where a note was struck off.
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        #: The calls in flight, by what equal ones share.
        self.live: defaultdict[str, dict[Call, None]] = defaultdict(dict)
        #: Whether the file goes with its last note.
        self._closing = closing

    @classmethod
    def left_at(cls, path: str) -> Journal | None:
        """What a dead process left; None if it lives, or somebody else was first."""
        journal = cls("")
        with suppress(OSError, KeyError, TypeError, ValueError):
            journal.path, journal._fd = path, os.open(path, os.O_RDWR)
            if lock(journal._fd, wait=False) and journal.is_open:
                content = _content(journal._fd)
                journal._end = len(content)
                for call_id, note in _notes_in(content).items():
                    call = Call(call_id, "", journal)
                    call.state, call.record = note["state"], json.dumps(note["record"])
                    call.rooms, call.place, call.tried = note["rooms"], tuple(note["log"]), True
                    call.line = f"{call.record}\n".encode()
                    journal.live[""][call] = None
                return journal
        return None

    @property
    def is_open(self) -> bool:
        """Whether the file is there, and was not removed by somebody else."""
        return fcntl is None or (self._fd >= 0 and os.fstat(self._fd).st_nlink > 0)

    def open(self, mode: int) -> None:
        """Make the file, locked; whoever may read the log may read it.

        Raises:
            OSError: The folder cannot be written, or its disk has no room or no locks.
        """
        while not self.is_open:
            self.release()
            self.path = f"{self._log}.inflight-{os.getpid()}-{os.urandom(5).hex()}"
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            try:
                lock(self._fd)  # before, it may have been taken for a dead process's and removed
            except OSError:
                self.close()
                raise

    def note(self, call: Call, *, sync: bool) -> None:
        """Note a call, or note it anew; raises where that cannot be done."""
        self.live[call.equals][call] = None
        if fcntl is None:
            return
        note = (
            f'{{"log": {list(call.place)}, "state": "{call.state}", "record": {call.record}, '
            f'"end": {quoted(call.id)}}}'
        ).encode()
        room = max(512, 1 << len(note).bit_length())
        if self._free[room]:
            start = self._free[room].pop()
        else:
            # In this line is no call, so that a signal's handler, which may take room too, cannot
            # come in the midst of it.
            start, self._end = self._end, self._end + room
        call.rooms.append((start, room))
        self._write(note.ljust(room - 1) + b"\n", start)
        if sync:
            os.fsync(self._fd)
        self._clear(call.rooms, but=1)

    def strike(self, call: Call) -> None:
        """Take back what is noted of a call."""
        self._clear(call.rooms)
        self.live[call.equals].pop(call, None)
        if not self.live[call.equals]:
            del self.live[call.equals]
        if self._closing:
            self.close()
        elif self._end > _LARGE and not self.live:  # after a burst, or a large call
            os.ftruncate(self._fd, 0)
            self._end, self._free = 0, defaultdict(list)

    def close(self) -> None:
        """Remove the file, now or with its last note; it stays locked until it is gone."""
        self._closing = True
        if self._fd >= 0 and not self.live:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            self.release()

    def try_room(self, size: int) -> None:
        """Raise if the disk has not that many bytes left."""
        try:
            self._write(bytes(size), self._end)
        finally:
            os.ftruncate(self._fd, self._end)

    def release(self) -> None:
        """Leave the file there. It is not unlocked, since a fork shares the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = release

    def _clear(self, rooms: list[tuple[int, int]], *, but: int = 0) -> None:
        while len(rooms) > but:
            start, room = rooms[0]
            self._write(b"#", start)
            self._free[room].append(start)
            del rooms[0]

    def _write(self, data: bytes, start: int) -> None:
        while data:
            written = os.pwrite(self._fd, data, start)
            data, start = data[written:], start + written


def beside(log: str) -> list[str]:
    """The note files of a log, whichever process they belong to."""
    folder, name = os.path.split(log)
    with suppress(OSError):
        notes = [f"{folder}/{n}" for n in os.listdir(folder) if n.startswith(f"{name}.inflight-")]
        return [path for path in notes if os.path.isfile(path)]  # a pipe would be read for ever
    return []


def in_flight(log: str) -> list[dict[str, Any]]:
    """The records of the calls of all living processes; changes nothing on the disk."""
    return [record for path in beside(log) for record in noted_in(path)]


def noted_in(path: str, having: bytes = b"{", *, if_alive: bool = True) -> list[dict[str, Any]]:
    """The records of what a process has in flight.

    Args:
        path: Its notes.
        having: Only those with this text in their notes.
        if_alive: Only if the process is alive.
    """
    with suppress(OSError), open(path, "rb") as file:
        if not (if_alive and lock(file.fileno(), wait=False, shared=True)):
            notes: dict[str, dict[str, Any]] = {}
            for _ in range(2):  # a note may move to room that was read already
                notes.update(_notes_in(_content(file.fileno()), having))
            return [unfinished(note["record"], note["state"]) for note in notes.values()]
    return []


def unfinished(record: dict[str, Any], state: str) -> dict[str, Any]:
    """A record as far as it is known while the call is in flight."""
    for unknown in ("executed", "result", "error", "waited_s", "ran_s"):
        del record[unknown]
    return {**record, "state": state}


def _notes_in(content: bytes, having: bytes = b"{") -> dict[str, dict[str, Any]]:
    """By the calls' ids: the notes that are whole, and the `rooms` that they take."""
    notes: dict[str, dict[str, Any]] = {}
    start = 0
    lines = content.replace(b"\0", b"\n").split(b"\n") if having in content else ()
    for line in lines:  # zeros are where a write failed
        if having in line and not line.startswith(b"#"):
            with suppress(ValueError, KeyError, TypeError):  # not whole
                note = json.loads(line)
                if note["end"] == note["record"]["id"]:
                    known = notes.setdefault(note["end"], {"rooms": []})
                    known["rooms"].append((start, 0))
                    if note["state"] == "running" or "state" not in known:
                        known.update(note)
        start += len(line) + 1
    return notes


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def lock(fd: int, *, wait: bool = True, shared: bool = False) -> bool:
    """Take the file from all others, here and in other processes; False if one of them has it."""
    if fcntl is not None:
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(fd, how if wait else how | fcntl.LOCK_NB)
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
        os.fsync(fd)
        os.close(fd)
