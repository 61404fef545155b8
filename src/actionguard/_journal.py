"""Crash notes: the calls that a process has in flight, kept in a file beside the log."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: no notes, as nothing could tell whether their process is alive
    fcntl = None  # type: ignore[assignment]

#: A file larger than this, in bytes, is emptied when nothing is in flight.
_LARGE = 65_536


class Call:
    """What the log and the journal need to know of a call."""

    #: Its note: "waiting" or "running", and the record to write if the process is killed.
    state = record = ""
    #: The inode and the size that the log had before the line was written.
    place = (0, 0)
    #: The line to write, once the call is over.
    line = b""

    def __init__(self, call_id: str, equals: str = "", journal: Journal | None = None) -> None:
        self.id = call_id
        #: The same text for equal calls, and only for them.
        self.equals = equals
        #: Where its notes are kept: the parent's, if the process was forked meanwhile.
        self.journal = journal
        #: Where its notes start in the journal, and how much room they take.
        self.rooms: list[tuple[int, int]] = []


class Journal:
    """The notes of one process about one log.

    They are kept in a file, `<log>.inflight-<pid>-<random>`. The process creates it at its first
    call, keeps it locked, and removes it at its end: if it can be locked, its process is dead.
    Each line is the note of a call, in JSON: `log` (the inode and size of the log at the time: the
    call's line can only come after that), `state` ("waiting" for a person, or "running"), `record`
    (the audit line if the process is killed), and before and behind them, as `start` and `end`, the
    call's id: if they differ, a kill cut the note short over an older one. A line that begins with
    "#" was struck off; its room is used again.
    """

    def __init__(self, log: str) -> None:
        self._log = log
        self.path = ""
        self._fd = -1
        self._end = 0
        #: By room: where notes were struck off.
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        #: The calls in flight, by `Call.equals`.
        self.live: defaultdict[str, dict[Call, None]] = defaultdict(dict)
        #: Whether to remove the file with its last note.
        self.closing = False

    def open(self, mode: int) -> None:
        """Create the file, locked, unless it is there already.

        Args:
            mode: Its permissions.

        Raises:
            OSError: The folder cannot be written, or its disk has no room or no locks.
        """
        while fcntl is not None and not (self._fd >= 0 and os.fstat(self._fd).st_nlink):
            path = f"{self._log}.inflight-{os.getpid()}-{os.urandom(5).hex()}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            try:
                lock(fd)  # until then, it may be taken for a dead process's and removed
            except OSError:
                os.close(fd)
                os.unlink(path)
                raise
            self.remove()  # a signal handler's call may have made one meanwhile
            self.path, self._fd, self._end, self._free = path, fd, 0, defaultdict(list)
            for call in [call for equal in self.live.values() for call in equal]:
                call.rooms.clear()  # somebody removed the file that had them
                self.note(call)

    def note(self, call: Call, *, sync: bool = False) -> None:
        """Note a call, in place of its earlier note.

        Raises:
            OSError: It could not be written.
        """
        self.live[call.equals][call] = None
        if fcntl is None:
            return
        note = (
            f'{{"start": {quoted(call.id)}, "log": {list(call.place)}, "state": "{call.state}", '
            f'"record": {call.record}, "end": {quoted(call.id)}}}'
        )  # ASCII, so its length is its size
        room = 512
        while room <= len(note):
            room += room // 4
        if self._free[room]:
            start = self._free[room].pop()
        else:
            # No function is called in this line, so no signal handler, which may take room too, can
            # interrupt it.
            start, self._end = self._end, self._end + room
        call.rooms.append((start, room))
        self._write(f"{note:<{room - 1}}\n".encode(), start)
        if sync:
            os.fsync(self._fd)
        self._clear(call.rooms, but=1)

    def strike(self, call: Call) -> None:
        """Strike off what is noted of a call."""
        self._clear(call.rooms)
        self.live[call.equals].pop(call, None)
        if not self.live[call.equals]:
            del self.live[call.equals]
        if self.live:
            return
        if self.closing:
            self.remove()
        elif self._end > _LARGE:  # after a burst, or a large call
            os.ftruncate(self._fd, 0)
            self._end, self._free = 0, defaultdict(list)

    def try_room(self, size: int) -> None:
        """Raise if the disk has no room for so many bytes."""
        try:
            self._write(bytes(size), self._end)
        finally:
            os.ftruncate(self._fd, self._end)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self.path:
            with suppress(OSError):
                os.unlink(self.path)
            self.path = ""
            self.release()

    def release(self) -> None:
        """Close the file and leave it there. Unlocking it would unlock it for the parent, too."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

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


# --- other processes -------------------------------------------------------------------------


def beside(log: str) -> list[str]:
    """The note files of a log, whichever process they belong to."""
    folder, name = os.path.split(log)
    with suppress(OSError):
        notes = [f"{folder}/{n}" for n in os.listdir(folder) if n.startswith(f"{name}.inflight-")]
        return [path for path in notes if os.path.isfile(path)]  # reading a pipe would block
    return []


@contextmanager
def left_by_the_dead(path: str) -> Iterator[list[Call]]:
    """The calls that a dead process had in flight; afterwards, its notes are removed.

    There are none if it is alive, or if another process was first.
    """
    calls = []
    fd = os.open(path, os.O_RDWR)
    try:
        is_dead = lock(fd, wait=False) and os.fstat(fd).st_nlink
        for call_id, note in _notes_in(fd).items() if is_dead else ():
            call = Call(call_id)
            call.line, call.place = f"{json.dumps(note['record'])}\n".encode(), tuple(note["log"])
            calls.append(call)
        yield calls
        if is_dead:
            os.unlink(path)
    finally:
        os.close(fd)


def in_flight(log: str, having: bytes = b"{", *, but: str = "") -> list[dict[str, Any]]:
    """The records of the calls of all living processes; changes nothing on the disk.

    Args:
        log: The log's path.
        having: Only those with this text in their notes.
        but: Notes that are left out.
    """
    return [
        unfinished(note["record"], note["state"])
        for path in beside(log)
        for note in (_notes_at(path, having, of_dead=False) if path != but else ())
    ]


def left_behind(log: str) -> list[dict[str, Any]]:
    """The lines that the next process will write for calls of dead ones; changes nothing."""
    return [note["record"] for path in beside(log) for note in _notes_at(path, of_dead=True)]


def _notes_at(path: str, having: bytes = b"{", *, of_dead: bool) -> list[dict[str, Any]]:
    notes: dict[str, dict[str, Any]] = {}
    with suppress(OSError), open(path, "rb") as file:
        if lock(file.fileno(), wait=False, shared=True) is of_dead:
            for _ in range(2):  # twice, as a note may move to room that was read already
                notes.update(_notes_in(file.fileno(), having))
    return list(notes.values())


def unfinished(record: dict[str, Any], state: str) -> dict[str, Any]:
    """What is known of a record while its call is in flight."""
    for unknown in ("executed", "result", "error", "waited_s", "ran_s"):
        del record[unknown]
    return {**record, "state": state}


def _notes_in(fd: int, having: bytes = b"{") -> dict[str, dict[str, Any]]:
    """The complete notes in a file, by the call's id."""
    notes: dict[str, dict[str, Any]] = {}
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    # There are zeros where a write failed.
    for line in content.replace(b"\0", b"\n").split(b"\n") if having in content else ():
        if having in line and not line.startswith(b"#"):
            with suppress(ValueError, KeyError, TypeError):  # incomplete
                note = json.loads(line)
                is_whole = note["start"] == note["record"]["id"] == note["end"]
                if is_whole and (note["state"] == "running" or note["end"] not in notes):
                    notes[note["end"]] = note
    return notes


def lock(fd: int, *, wait: bool = True, shared: bool = False) -> bool:
    """Lock the file; False if somebody else has it and `wait` is False."""
    if fcntl is not None:
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(fd, how if wait else how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def unlock(fd: int) -> None:
    """Release the file's lock."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


def sync_folder(path: str) -> None:
    """Make sure that the name of a new file survives a power cut."""
    if fcntl is not None:
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
