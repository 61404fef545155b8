"""AuditLog: one call, one line, whatever happens to the call, the disk or the process."""

from __future__ import annotations

import atexit
import errno
import json
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from io import BufferedReader
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, final
from weakref import WeakValueDictionary

from actionguard import _journal
from actionguard._journal import Journal
from actionguard._values import cut, json_text, show
from actionguard.core import Action, Decision

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

T = TypeVar("T")

# What becomes of a call whose process is killed: executed, and the error.
_IF_WAITING = False, "the process ended while the call waited for a person; it was not executed"
_IF_RUNNING = None, "the process ended while the call ran; whether it took effect is unknown"

#: How many characters of a result are kept.
_RESULT_LIMIT = 2_000
#: How much of the end of a log is searched for equal calls, in bytes; and how many are returned.
_SEARCHED, _MOST_EARLIER = 1_000_000, 100
# Where the disk has less than _SCARCE bytes left, room for the line is tried out before the call
# runs: that of its note, and _SPARE for a result.
_SCARCE, _SPARE = 1_000_000, 16_384
#: How many jobs of the log's thread share one write.
_GROUP = 500


@final
class AuditLog:
    """A file that gets one line of JSON for every guarded call.

    Threads, processes and several AuditLogs may write to one file. Nothing is written before the
    first call, except for calls whose process was killed before it could write their lines.

    Args:
        path: The file. A relative path is resolved against the current directory; missing folders
            are made at the first call.
        enabled: Whether to write anything.
        fsync: Whether each call waits until its crash note and its line would survive a power
            cut; this then holds for every AuditLog on this file. Without it, they survive the end
            of the process, however that comes.

    Raises:
        TypeError: `path` is not a path.
        OSError: `path` is a folder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "actionguard_audit.jsonl",
        *,
        enabled: bool = True,
        fsync: bool = False,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"AuditLog() takes a path, not {path!r}")
        self.path = Path(_absolute(os.fspath(path)))
        self.enabled = enabled
        self.fsync = fsync
        self._writer = _writer_of(str(self.path))
        if fsync:
            self._writer.sync = True
        if enabled and not _on_event_loop():  # there, the first call does it
            _refuse_folder(str(self.path))
            self._writer.recover()

    def __init_subclass__(cls) -> None:
        # Type checkers know it from `@final`. A `record` of its own would never be called.
        raise TypeError(
            f"AuditLog cannot be subclassed, as {cls.__name__} does: a guarded call writes its own "
            "line. To keep the lines elsewhere or in another form, read them with records()"
        )

    def __repr__(self) -> str:
        return f"AuditLog({str(self.path)!r}, enabled={self.enabled}, fsync={self.fsync})"

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(AuditLog, enabled=self.enabled, fsync=self.fsync)
        return made, (str(self.path),)  # copies and unpickled logs share the writer

    def check(self) -> None:
        """Raise if the log could not be written; leaves nothing behind.

        Inside a running event loop it does nothing, since file work would block the loop: the first
        call finds out.

        Raises:
            OSError: Says what stands in the way.
        """
        if not self.enabled or _on_event_loop():
            return
        path = str(self.path)
        _refuse_folder(path)
        with suppress(FileNotFoundError, NotADirectoryError):  # the latter is told better below
            os.close(_opened(path))
        folder = os.path.dirname(path)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, "an audit log cannot be made below", folder)
        self._writer.try_notes(folder)

    def record(
        self,
        *,
        action: Action,
        needed_approval: bool,
        decision: Decision | None,
        executed: bool,
        result: object = None,
        error: object = None,
    ) -> dict[str, Any]:
        """Write the line of a call that is over, and return what it says.

        Raises:
            OSError: The line could not be written.
        """
        entry = Entry(self._writer, action.id, action.tool_name, action.args)
        record = entry.in_words(needed_approval, decision, executed, result, error)
        if self.enabled:
            entry.line = f"{record}\n".encode()
            self._writer.write(entry)
        return json.loads(record)  # type: ignore[no-any-return]

    def records(self, *, torn: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """The lines as records, oldest first; see `read_log`."""
        self._writer.flush()
        return read_log(self.path, torn=torn)

    def in_flight(self) -> list[dict[str, Any]]:
        """The calls that wait for a person or run right now, in whichever living process.

        Each is a record as far as it is known, with a `state`: "waiting" or "running".
        """
        if self.enabled:
            self._writer.flush()
            self._writer.recover()
        return in_flight(self.path)

    def entry(self, call_id: str, tool: str, args: Mapping[str, Any]) -> Entry | None:
        """Begin the record of a call with its arguments as they are now; writes nothing yet.

        None if the log is off.
        """
        return Entry(self._writer, call_id, tool, args) if self.enabled else None


def read_log(
    path: str | os.PathLike[str], *, torn: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The records of a log, oldest first; none if it does not exist yet.

    Args:
        path: The log's file.
        torn: Gets the text of every line that is not a record, because a crash or a full disk
            damaged it. Without it, each of them is a warning.
    """
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for number, found in enumerate(file, start=1):
            line = found if found.endswith(b"\n") else _while_nobody_writes(file, found)
            if not line:
                return
            record = _parsed(line)
            if record is not None:
                yield record
            elif torn is not None:
                torn.append(line.decode("utf-8", "backslashreplace"))
            else:
                _alarm(f"line {number} of {os.fspath(path)} is damaged and was skipped")


def _while_nobody_writes(file: BufferedReader, line: bytes) -> bytes:
    """The last line once more: it is damaged, or was half there; nothing if somebody writes now."""
    with suppress(OSError):  # some network disks lock only what may be written
        if not _journal.lock(file.fileno(), wait=False):
            return b""
        file.seek(-len(line), os.SEEK_CUR)
        line = file.readline()
        _journal.unlock(file.fileno())
    return line


def in_flight(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The calls in flight in all living processes; see `AuditLog.in_flight`. Changes nothing."""
    noted = (_journal.noted_in(notes) for notes in _journal.beside(os.fspath(path)))
    return [record for data in noted for record in _as_records(data)]


def _as_records(data: bytes) -> list[dict[str, Any]]:
    by_id: dict[str, dict[str, Any]] = {}
    for _, note in _journal.notes_in(data):
        if note["state"] == "running" or note["end"] not in by_id:  # noted anew, old one not struck
            by_id[note["end"]] = _unfinished(note["record"], note["state"])
    return list(by_id.values())


def _unfinished(record: dict[str, Any], state: str) -> dict[str, Any]:
    for unknown in ("executed", "result", "error", "waited_s", "ran_s"):
        del record[unknown]
    return {**record, "state": state}


class Entry:
    """One call on its way to its line."""

    __slots__ = (
        "_begin",
        "_writer",
        "args_json",
        "call_id",
        "equals",
        "id_json",
        "journal",
        "line",
        "place",
        "record",
        "rooms",
        "state",
        "tried",
    )

    def __init__(self, writer: _Writer, call_id: str, tool: str, args: Mapping[str, Any]) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        #: What stands in the line for the arguments.
        self.args_json = json_text(args)
        #: The same text in the lines of equal calls, and nowhere in those of others.
        self.equals = f'"tool": {json_text(tool)}, "args": {self.args_json}, "needed_approval": '
        self._begin = f'{{"timestamp": "{now}", {self.equals}'
        self.call_id, self.id_json = call_id, json_text(call_id)
        self._writer = writer
        self.journal = writer.journal
        #: What is noted, and where in the journal: the line if the process is killed.
        self.state, self.record, self.rooms = "", "", list[tuple[int, int]]()
        #: The inode and size of the log before the line was written to it.
        self.place = (0, 0)
        #: What is to be written, once the call is over.
        self.line = b""
        #: Whether it may have been written already.
        self.tried = False

    def note(
        self, *, running: bool, needed_approval: bool, decision: Decision | None = None
    ) -> None:
        """Note that the call waits for a person or runs from now on, in case the process is killed.

        Raises:
            OSError: The call's line could not be guaranteed; the call must not run.
        """
        executed, error = _IF_RUNNING if running else _IF_WAITING
        record = self.in_words(needed_approval, decision, executed, None, error)
        self._writer.note(self, "running" if running else "waiting", record)

    def earlier(self, within: float | None = None) -> list[dict[str, Any]]:
        """The records of equal calls, newest first; those in flight have a `state`.

        Equal are the tool and the arguments as they are logged. Searched are the calls in flight
        in all processes and the end of the log (a megabyte, and at most 100 records). Call it
        after `note`, so that of two equal calls at once one finds the other.

        Args:
            within: Leave out calls that were over for more than so many seconds.
        """
        records = self._writer.equals_of(self)
        if within is not None:
            since = datetime.now(timezone.utc) - timedelta(seconds=within)
            records = [record for record in records if _over_since(record, since)]
        return sorted(records, key=lambda record: str(record.get("timestamp")), reverse=True)

    def close(
        self,
        *,
        needed_approval: bool,
        decision: Decision | None,
        executed: bool,
        result: object = None,
        error: str | None = None,
        waited_s: float | None = None,
        ran_s: float | None = None,
    ) -> None:
        """Write the line and strike the note.

        Raises nothing, since what the body did stands: a line that cannot be written is kept, and
        no other call of this log runs before it is written.
        """
        try:
            record = self.in_words(
                needed_approval, decision, executed, result, error, waited_s, ran_s
            )
            self.line = f"{record}\n".encode()
            self._writer.finish(self)
        except Exception as fault:
            self._writer.alarm(fault)

    def drop(self) -> None:
        """Strike the note and write no line: the call is paused, and will come again."""
        try:
            self._writer.strike(self)
        except OSError as fault:
            _alarm(f"a paused call is still noted beside {self._writer.path}: {fault!r}")

    async def aside(self, work: Callable[[], T]) -> T:
        """Run `work` in the log's thread, after what came before; raises what it raises.

        If the caller is cancelled, it is run all the same.
        """
        import asyncio

        done: Future[Any] = asyncio.get_running_loop().create_future()
        self._writer.later(work, done)
        value, error = await done
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def submit(self, work: Callable[[], object]) -> None:
        """Have `work` done as `aside` does, without waiting for it."""
        self._writer.later(work)

    def in_words(
        self,
        needed_approval: bool,
        decision: Decision | None,
        executed: bool | None,
        result: object,
        error: object,
        waited_s: float | None = None,
        ran_s: float | None = None,
    ) -> str:
        """The record as JSON."""
        answer, metadata = _NO_ANSWER, ""
        if decision is not None:
            answer = (
                f'"approved": {_JSON[decision.approved is True]}, '
                f'"decision_source": {json_text(decision.source)}, '
                f'"decision_comment": {json_text(decision.comment)}'
            )
            if decision.metadata:
                metadata = f', "decision_metadata": {json_text(decision.metadata)}'
        text = "null" if result is None else json_text(_in_short(result))
        return (
            f'{self._begin}{_JSON[needed_approval]}, {answer}, "executed": {_JSON[executed]}, '
            f'"result": {text}, "error": {"null" if error is None else json_text(error)}, '
            f'"id": {self.id_json}, "waited_s": {_seconds(waited_s)}, "ran_s": {_seconds(ran_s)}'
            f"{metadata}}}"
        )


_NO_ANSWER = '"approved": null, "decision_source": null, "decision_comment": null'
_JSON = {True: "true", False: "false", None: "null"}


def _seconds(seconds: float | None) -> str:
    return "null" if seconds is None else f"{seconds:.6f}"


def _in_short(result: object) -> str:
    text = result if isinstance(result, str) else show(result)
    return text if len(text) <= _RESULT_LIMIT else cut(text, _RESULT_LIMIT - 40)


def _over_since(record: dict[str, Any], since: datetime) -> bool:
    """Whether the call is in flight, or ended after that time."""
    try:
        took = timedelta(seconds=(record.get("waited_s") or 0) + (record.get("ran_s") or 0))
        return "state" in record or datetime.fromisoformat(record["timestamp"]) + took >= since
    except (TypeError, ValueError, KeyError):  # whoever wrote that
        return True


#: What the log's thread is to do, and the future of who waits for it, if anybody does.
_Job = tuple["_Writer", Callable[[], Any], "Future[Any] | None"]


class _Writer:
    """The one that writes a file in this process, for whichever AuditLogs are on it."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Whether notes and lines are to survive a power cut.
        self.sync = False
        self._fd = -1
        self._start()

    def _start(self) -> None:
        self.journal = Journal(self.path)
        #: One for all that touches the disk: a signal's handler that makes a guarded call in the
        #: midst of another's does not wait for it.
        self._lock = threading.RLock()
        #: What is in flight, by tool and arguments.
        self._live: dict[str, dict[Entry, None]] = {}
        #: What is to be written, oldest first.
        self._owed: dict[Entry, None] = {}
        #: Whether something is owed because it could not be written.
        self._stuck = False
        #: Whether lines are being written just now.
        self._writes = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        #: The thread whose calls' lines are written later, together.
        self._gatherer = 0
        self._ended = False
        self._close()

    def forget(self) -> None:
        """Begin anew in the child of a fork: what is open, in flight or owed is the parent's."""
        self.journal.release()
        self._start()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        self._identity = 0, 0  # device and inode of the open file
        self._size = -1  # as this writer left it
        if fd >= 0:
            os.close(fd)

    def end(self) -> None:
        """Do what is owed, and leave no notes but those of calls in flight."""
        thread, self._thread, self._ended = self._thread, None, True
        if thread is not None:
            self._jobs.put(None)
            thread.join()
        _work_off(self._jobs)
        with self._lock:
            try:
                self.settle()
            except OSError as fault:
                self.alarm(fault)
            self.leave()

    def leave(self) -> None:
        """Close the files; notes of calls in flight stay, for whoever comes after this process."""
        self._jobs.put(None)
        if self._live:
            self.journal.release()
        else:
            self.journal.remove()
        self._close()

    __del__ = leave

    # --- notes -------------------------------------------------------------------------------

    def try_notes(self, folder: str) -> None:
        """Raise if the first call could not keep its notes there; leaves nothing behind."""
        if self.journal.is_open:
            return
        journal = Journal(os.path.join(folder, os.path.basename(self.path)))
        try:
            journal.create(0o600)
            journal.try_room(_SPARE)
        except OSError as error:
            why = f"an audit log cannot be kept here: {error.strerror}"
            raise OSError(error.errno, why, folder) from error
        finally:
            journal.remove()

    def note(self, entry: Entry, state: str, record: str) -> None:
        """Keep the record as the call's line if the process is killed."""
        with self._lock:
            if entry.journal is not self.journal:
                raise OSError("the call was begun in the parent process, before a fork")
            found = self._ready()
            entry.place = found.st_ino, found.st_size
            self._put(entry, state, record)

    def _put(self, entry: Entry, state: str, record: str) -> None:
        note = _journal.note(entry.place, state, record, entry.id_json)
        if hasattr(os, "fstatvfs"):
            disk = os.fstatvfs(self._fd)
            if disk.f_bavail * disk.f_frsize < _SCARCE + len(note):
                self.journal.try_room(_SPARE + len(note))
        start, room = self.journal.take(len(note))
        entry.rooms.append((start, room))
        self._live.setdefault(entry.equals, {})[entry] = None
        try:
            self.journal.write(note, start, room)
            if self.sync:
                self.journal.sync()
        except BaseException:  # the call will not go on, though what got there may read whole
            with suppress(OSError):
                self.journal.strike(*entry.rooms.pop())
            raise
        entry.state, entry.record = state, record
        while len(entry.rooms) > 1:
            self.journal.strike(*entry.rooms[0])
            del entry.rooms[0]

    def _ready(self) -> os.stat_result:
        """The state of the log, if a note can be made and a line be written; else raises."""
        if self._writes and self._fd >= 0:  # a signal came, and its handler makes a call
            return os.fstat(self._fd)
        found = self._found()
        if self._stuck or found is None:
            self.settle()
            found = self._found() or self._open()
            self._renew_notes()
            self.recover()
        if not self.journal.is_open:
            self._create_journal(found)
        return found

    def _create_journal(self, found: os.stat_result) -> None:
        self.journal.create(found.st_mode & 0o666)
        if self.sync:
            _journal.sync_folder(self.path)
        processes = sys.modules.get("multiprocessing.process")
        if processes is not None and processes.parent_process() is not None:
            # multiprocessing ends a child that it forked without running `atexit`.
            sys.modules["multiprocessing.util"].Finalize(None, self.end, exitpriority=0)

    def _renew_notes(self) -> None:
        """Note all that is in flight anew if the notes were removed, perhaps with their folder."""
        if self.journal.is_removed:
            self.journal.release()
            self._create_journal(os.fstat(self._fd))
            for entry in [entry for equal in self._live.values() for entry in equal]:
                entry.rooms.clear()
                self._put(entry, entry.state, entry.record)

    def strike(self, entry: Entry) -> None:
        """Take back what is noted of a call."""
        with self._lock:
            if entry.journal is not self.journal:
                return
            while entry.rooms:
                self.journal.strike(*entry.rooms[0])
                del entry.rooms[0]
            equal = self._live.get(entry.equals, {})
            equal.pop(entry, None)
            if not equal:
                self._live.pop(entry.equals, None)
            if self._ended:
                self.leave()

    def recover(self) -> list[bytes]:
        """Write the lines that dead processes left unwritten; returns what living ones note."""
        living = []
        with self._lock:
            if self._writes:  # a signal came, and its handler opens the log
                return []
            self._writes = True
            try:
                for path in _journal.beside(self.path):
                    if path == self.journal.path:
                        continue
                    journal = Journal.left_at(path)
                    if journal is None:
                        living.append(_journal.noted_in(path, living=False))
                        continue
                    try:
                        self._append(list(self._left_over(journal)))
                        if self._fd >= 0:
                            os.fsync(self._fd)
                        journal.remove()
                    except Exception as fault:
                        _alarm(f"{self.path} still lacks the calls noted in {path}: {fault!r}")
                    finally:
                        journal.release()
            finally:
                self._writes = False
            if self._owed:
                self.settle()
        return living

    def _left_over(self, journal: Journal) -> Iterator[Entry]:
        """The calls whose process died before their lines were written."""
        calls: dict[str, Entry] = {}
        for start, note in journal.notes():
            if note["state"] != "running" and note["end"] in calls:
                continue
            entry = Entry(self, note["end"], "", {})
            entry.journal, entry.rooms = journal, [(start, 0)]
            entry.line = f"{json.dumps(note['record'])}\n".encode()
            entry.place, entry.tried = tuple(note["log"]), True
            calls[note["end"]] = entry
        yield from calls.values()

    def equals_of(self, entry: Entry) -> list[dict[str, Any]]:
        """The records of equal calls, in flight or at the end of the log."""
        found: dict[Any, dict[str, Any]] = {}
        needle = entry.equals.encode()
        with self._lock:
            for data in self.recover():
                if needle in data:
                    records = _as_records(data)
                    found.update((r["id"], r) for r in records if _equals(r) == entry.equals)
            for other in self._live.get(entry.equals, ()):
                if other.state:
                    record = _unfinished(json.loads(other.record), other.state)
                    found[other.call_id] = record
        # In this order: a call that ends meanwhile has its line before its note is struck.
        for record in self._at_the_end(needle, entry.equals):
            found[record.get("id") or len(found)] = record
        found.pop(entry.call_id, None)
        return list(found.values())

    def _at_the_end(self, needle: bytes, equals: str) -> Iterator[dict[str, Any]]:
        with suppress(FileNotFoundError), open(self.path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _SEARCHED))
            data = file.read(_SEARCHED)
            at, left = len(data), _MOST_EARLIER
            while left and (at := data.rfind(needle, 0, at)) >= 0:
                at = data.rfind(b"\n", 0, at) + 1
                record = _parsed(data[at : data.find(b"\n", at) + 1])
                if record is not None and _equals(record) == equals:
                    left -= 1
                    yield record

    # --- lines -------------------------------------------------------------------------------

    def write(self, entry: Entry) -> None:
        """Write the entry's line now, or raise and forget it."""
        self._owed[entry] = None
        try:
            self.settle()
        except BaseException:
            self._owed.pop(entry, None)
            raise

    def finish(self, entry: Entry) -> None:
        """Write the entry's line now, or raise and do it before another call runs."""
        if entry.journal is self.journal:
            self._owed[entry] = None
            if self._gatherer != threading.get_ident():
                self.settle()

    def settle(self) -> None:
        """Write what is owed, oldest first: also for the threads that wait here to do it."""
        with self._lock:
            if self._writes:
                return  # a signal came in the midst of it: what its handler did is owed now
            self._writes = True
            try:
                while self._owed:
                    entries = list(self._owed)
                    self._append(entries)
                    for entry in entries:
                        self.strike(entry)
                        self._owed.pop(entry, None)
                self._stuck = False
                _owing.discard(self)
            except BaseException:
                self._stuck = True
                _owing.add(self)  # until the last chance, at the end
                for entry in (owed for owed in self._owed if owed.rooms):
                    with suppress(OSError):  # if the process ends before, this is its line
                        self._put(entry, entry.state, entry.line[:-1].decode())
                raise
            finally:
                self._writes = False

    def _append(self, entries: list[Entry]) -> None:
        """Write the lines of calls in one go."""
        if not entries:
            return
        try:
            size = self._lock_file()
            tried = [entry for entry in entries if entry.tried]
            if tried:  # an earlier attempt may have got so far, before it failed or was killed
                written = self._written(tried)
                entries = [entry for entry in entries if entry.call_id not in written]
            # What a crash or a full disk damaged ends here.
            lines = [] if size in (0, self._size) or self._ends_well() else [b"\n"]
            for entry in entries:
                inode, noted_size = entry.place
                if inode != self._identity[1] or noted_size > size:  # rotated since it was noted
                    entry.place = self._identity[1], size
                    for start, _ in entry.rooms:
                        entry.journal.place(start, entry.place)
                entry.tried = True
                lines.append(entry.line)
            data = b"".join(lines)
            self._size = -1
            try:
                self._write(data)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(self._fd, size)
                raise
            self._size = size + len(data)
        finally:
            if self._fd >= 0:
                _journal.unlock(self._fd)
        if self.sync:
            os.fsync(self._fd)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def _lock_file(self) -> int:
        """Lock the file that stands at the path, and say how long it is."""
        while True:
            if self._fd >= 0:
                _journal.lock(self._fd)
                found = self._found()
                if found is not None:
                    return found.st_size
            self._open()  # for the first time, or it was renamed or removed

    def _found(self) -> os.stat_result | None:
        """The state of the open file, if it still is what stands at the path."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found if (found.st_dev, found.st_ino) == self._identity else None

    def _open(self) -> os.stat_result:
        # Who might not read the log before it was rotated may not read the new one.
        mode = 0o666 if self._fd < 0 else os.fstat(self._fd).st_mode & 0o666
        self._close()
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self._fd = _opened(self.path, os.O_CREAT, mode)
        found = os.fstat(self._fd)
        self._identity = found.st_dev, found.st_ino
        if self.sync:
            _journal.sync_folder(self.path)
        return found

    def _ends_well(self) -> bool:
        os.lseek(self._fd, -1, os.SEEK_END)
        return os.read(self._fd, 1) == b"\n"

    def _written(self, entries: list[Entry]) -> set[str]:
        """Those of the calls' ids that stand in the log already, in whichever file it is by now."""
        inodes = {entry.place[0] for entry in entries}
        start = min(entry.place[1] for entry in entries)
        wanted = {entry.call_id for entry in entries}
        folder, name = os.path.split(os.path.realpath(self.path))
        files: list[int | str] = [os.dup(self._fd)]  # whose name may be another's in a moment
        with suppress(OSError), os.scandir(folder) as beside:
            likely = (f for f in beside if f.inode() in inodes or f.name.startswith(name))
            # To open a pipe would wait for ever.
            files += [file.path for file in likely if os.path.isfile(file.path)]
        written: set[str] = set()
        for found in files:
            with suppress(OSError), open(found, "rb") as file:
                file.seek(start)
                for line in file:
                    if wanted.intersection(_ids_in(line)):  # perhaps in its arguments only
                        written |= wanted.intersection([(_parsed(line) or {}).get("id")])
        return written

    # --- the log's thread --------------------------------------------------------------------

    def later(self, work: Callable[[], object], done: Future[Any] | None = None) -> None:
        """Have the work done by the log's thread; takes no lock that is held during file work."""
        self._jobs.put((self, work, done))
        if self._thread is None:
            try:
                with _starting:
                    if self._thread is None and not self._ended:
                        self._thread = threading.Thread(
                            target=_serve, args=(self._jobs,), name="actionguard", daemon=True
                        )
                        self._thread.start()
            except RuntimeError:
                self._thread = None
            if self._thread is None:  # the program is ending, or can have no more threads
                _work_off(self._jobs)

    def flush(self) -> None:
        """Wait until the log's thread has done what it was given so far."""
        if self._thread not in (None, threading.current_thread()):
            done = threading.Event()
            self.later(done.set)
            done.wait()
            self.settle()

    def do(self, jobs: list[_Job]) -> None:
        """Do the jobs, write their lines together, and tell those who wait."""
        told: dict[AbstractEventLoop, list[tuple[Future[Any], Any]]] = {}
        self._gatherer = threading.get_ident()
        try:
            for _, work, done in jobs:
                value = error = None
                try:
                    value = work()
                except BaseException as raised:
                    error = raised
                if done is not None:
                    told.setdefault(done.get_loop(), []).append((done, (value, error)))
        finally:
            self._gatherer = 0
        try:
            if self._owed:
                self.settle()
        except Exception as fault:
            self.alarm(fault)
        for loop, answers in told.items():
            with suppress(RuntimeError):  # it was closed meanwhile
                loop.call_soon_threadsafe(_tell, answers)

    def alarm(self, fault: Exception) -> None:
        _alarm(
            f"the line of a call could not be written to {self.path} ({fault!r}). Until it can be, "
            "no other guarded call of this log runs"
        )


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while _work_off(jobs, wait=True):
        pass


def _work_off(jobs: SimpleQueue[_Job | None], *, wait: bool = False) -> bool:
    """Do what waits to be done; False if there is an end to it."""
    taken: list[_Job | None] = []
    with suppress(Empty):
        while len(taken) < _GROUP:
            taken.append(jobs.get(wait and not taken))
    work = [job for job in taken if job is not None]
    if work:
        work[0][0].do(work)
    return None not in taken


def _tell(answers: list[tuple[Future[Any], Any]]) -> None:
    for done, answer in answers:
        if not done.done():  # else its task was cancelled
            done.set_result(answer)


_writers: WeakValueDictionary[str, _Writer] = WeakValueDictionary()
_writers_lock = threading.RLock()
#: Held while a log's thread is started.
_starting = threading.Lock()
#: Writers with lines that could not be written yet.
_owing: set[_Writer] = set()


def _writer_of(path: str) -> _Writer:
    with _writers_lock:
        return _writers.get(path) or _writers.setdefault(path, _Writer(path))


def _after_fork() -> None:
    global _writers_lock, _starting
    _writers_lock, _starting = threading.RLock(), threading.Lock()
    for writer in list(_writers.values()):
        writer.forget()
    _owing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register  # first, and so run after what the program registered
def _end_all() -> None:
    for writer in list(_writers.values()):
        writer.end()


def _absolute(path: str) -> str:
    if not os.path.isabs(path):
        # Not `os.path.abspath`, which `langgraph dev` forbids on an event loop. (It asks the system
        # for the same, by a name that is on its list.)
        path = os.path.join(os.fsdecode(os.getcwdb()), path)
    return os.path.normpath(path)


def _on_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _refuse_folder(path: str) -> None:
    if os.path.isdir(path):
        fault = "an audit log is a file, and this is a folder"
        raise IsADirectoryError(errno.EISDIR, fault, path)


def _opened(path: str, flags: int = 0, mode: int = 0o666) -> int:
    fd = os.open(path, _journal.OPEN | os.O_APPEND | flags, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "an audit log has to be a regular file", path)
    return fd


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _ids_in(line: bytes) -> list[str]:
    return [json.loads(found) for found in re.findall(rb'"id": ("(?:[^"\\]|\\.)*")', line)]


def _equals(record: dict[str, Any]) -> str:
    """As `Entry.equals`."""
    tool, args = json_text(record.get("tool")), json_text(record.get("args"))
    return f'"tool": {tool}, "args": {args}, "needed_approval": '


def _alarm(message: str) -> None:
    with suppress(Exception):
        import logging

        logging.getLogger("actionguard").error(message)
    with suppress(Exception):  # not even where warnings are errors
        warnings.warn(message, RuntimeWarning, stacklevel=2)
