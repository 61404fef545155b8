"""AuditLog: one call, one line, whatever happens to the call, the disk or the process."""

from __future__ import annotations

import atexit
import errno
import itertools
import json
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, final
from weakref import WeakValueDictionary

from actionguard import _journal
from actionguard._journal import Journal
from actionguard._render import json_text
from actionguard.core import Action, Decision

# What becomes of a call whose process is killed: executed, and the error.
_IF_WAITING = False, "the process ended while the call waited for a person; it was not executed"
_IF_RUNNING = None, "the process ended while the call ran; whether it took effect is unknown"


@final
class AuditLog:
    """A file that gets one line of JSON for every guarded call.

    Threads, processes and several AuditLogs may write to one file. Nothing is made on the disk
    before the first call, save the lines that a dead process left unwritten in this log.

    Args:
        path: The file. A relative path is meant from the directory that is current now; missing
            folders are made.
        enabled: Whether to write anything.
        fsync: Whether each call waits until its crash note and its line would survive a power
            cut; it then does so for every AuditLog on this file. Without, they survive the end of
            the process, however that comes.

    Raises:
        TypeError: `path` is none.
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
        self.path = Path(os.path.abspath(path))
        self.enabled = enabled
        self.fsync = fsync
        self._writer = _writer_of(str(self.path))
        if fsync:
            self._writer.sync = True
        if enabled:
            self._writer.recover()

    def __init_subclass__(cls) -> None:
        # Type checkers know it from `@final`. A `record` of its own would never be called.
        raise TypeError(
            f"AuditLog cannot be subclassed, as {cls.__name__} does: a guarded call writes its own "
            "line. To keep the lines elsewhere or otherwise, read them with records()"
        )

    def __repr__(self) -> str:
        return f"AuditLog({str(self.path)!r}, enabled={self.enabled}, fsync={self.fsync})"

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(AuditLog, enabled=self.enabled, fsync=self.fsync)
        return made, (str(self.path),)  # copies and unpickled logs share the writer

    def check(self) -> None:
        """Raise if the log could not be written; makes nothing.

        Raises:
            OSError: Says what stands in the way.
        """
        if not self.enabled:
            return
        path = str(self.path)
        if os.path.isdir(path):
            fault = "an audit log is a file, and this is a folder"
            raise IsADirectoryError(errno.EISDIR, fault, path)
        with suppress(FileNotFoundError, NotADirectoryError):  # the latter is told better below
            os.close(_opened(path))
        folder = os.path.dirname(path)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, "an audit log cannot be made below", folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "an audit log cannot be made in", folder)

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
        entry = Entry(self._writer, action.tool_name, action.args)
        record = entry.in_words(needed_approval, decision, executed, result, error)
        if self.enabled:
            entry.line = f"{record}\n".encode()
            self._writer.write(entry)
        return json.loads(record)  # type: ignore[no-any-return]

    def records(self, *, torn: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """The lines as records, oldest first; see `read_log`."""
        return read_log(self.path, torn=torn)

    def in_flight(self) -> list[dict[str, Any]]:
        """The calls that wait for a person or run right now, in whichever living process.

        Each is a record as far as it is known, with a `state`: "waiting" or "running".
        """
        if self.enabled:
            self._writer.recover()
        return _journal.in_flight(str(self.path))

    def entry(self, tool: str, args: Mapping[str, Any]) -> Entry | None:
        """Begin the record of a call with its arguments as they are now; writes nothing yet.

        None if the log is off.
        """
        return Entry(self._writer, tool, args) if self.enabled else None


def read_log(
    path: str | os.PathLike[str], *, torn: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The records of a log, oldest first; none if it does not exist yet.

    Args:
        path: The log's file.
        torn: Gets the text of every line that is no record, since a crash or a full disk tore it;
            without it, each is warned of.
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
                _alarm(f"line {number} of {os.fspath(path)} is torn, and no record")


def _while_nobody_writes(file: BufferedReader, line: bytes) -> bytes:
    """The last line once more: it is torn, or was half there; nothing if somebody writes now."""
    with suppress(OSError):  # some network disks lock only what may be written
        if not _journal.lock(file.fileno(), wait=False):
            return b""
        file.seek(-len(line), os.SEEK_CUR)
        line = file.readline()
        _journal.unlock(file.fileno())
    return line


class Entry:
    """One call on its way to its line."""

    __slots__ = ("_call", "_writer", "journal", "line", "line_at", "number", "tried")

    def __init__(self, writer: _Writer, tool: str, args: Mapping[str, Any]) -> None:
        now = datetime.now(timezone.utc).isoformat()
        self._call = f'"timestamp": "{now}", "tool": {json_text(tool)}, "args": {json_text(args)}'
        self._writer = writer
        self.journal = writer.journal
        self.number = next(_numbers)
        #: What is to be written, once the call is over.
        self.line = b""
        #: The inode and offset where it will stand in the log.
        self.line_at = (0, 0)
        #: Whether it may stand there already.
        self.tried = False

    def note(
        self, *, running: bool, needed_approval: bool, decision: Decision | None = None
    ) -> None:
        """Note, lest the process be killed, that the call waits for a person, or runs from now on.

        Raises:
            OSError: Neither this nor a line can be written; the call must not run.
        """
        self.line_at = self._writer.get_ready(self)
        executed, error = _IF_RUNNING if running else _IF_WAITING
        if_killed = self.in_words(needed_approval, decision, executed, None, error)
        self.journal.add(self.number, if_killed, self.line_at, running=running)

    def close(
        self,
        *,
        needed_approval: bool,
        decision: Decision | None,
        executed: bool,
        result: object = None,
        error: str | None = None,
    ) -> None:
        """Write the line and strike the note.

        Raises nothing, since what the body did stands: a line that cannot be written is kept, and
        no other call of this log runs before it is.
        """
        try:
            record = self.in_words(needed_approval, decision, executed, result, error)
            self.line = f"{record}\n".encode()
            self._writer.finish(self)
        except Exception as fault:
            _alarm(f"a call's line is not in {self._writer.path} yet, so no other runs: {fault!r}")

    def drop(self) -> None:
        """Strike the note and write no line: the call is paused, and will come again."""
        try:
            self.journal.strike(self.number)
        except OSError as fault:
            _alarm(f"a paused call is still noted beside {self._writer.path}: {fault!r}")

    def in_words(
        self,
        needed_approval: bool,
        decision: Decision | None,
        executed: bool | None,
        result: object,
        error: object,
    ) -> str:
        """The record as JSON."""
        answer = '"approved": null, "decision_source": null, "decision_comment": null'
        metadata = ""
        if decision is not None:
            answer = (
                f'"approved": {json_text(decision.approved is True)}, '
                f'"decision_source": {json_text(decision.source)}, '
                f'"decision_comment": {json_text(decision.comment)}'
            )
            if decision.metadata:
                metadata = f', "decision_metadata": {json_text(decision.metadata)}'
        return (
            f'{{{self._call}, "needed_approval": {json_text(needed_approval)}, {answer}, '
            f'"executed": {json_text(executed)}, "result": {json_text(result)}, '
            f'"error": {json_text(error)}{metadata}}}'
        )


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
        self._lock = self.journal.lock
        #: What is to be written, oldest first; a dict, since an interrupted call comes twice.
        self._owed: dict[Entry, None] = {}
        #: Whether something is owed since it could not be written.
        self._stuck = False
        self._settles = False
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

    __del__ = _close

    def get_ready(self, entry: Entry) -> tuple[int, int]:
        """Where the entry's line would stand now; raises if no line could be written."""
        if entry.journal is not self.journal:
            raise OSError("the call was begun in the parent process, before a fork")
        found = self._found()
        if self._stuck or found is None:
            with self._lock:
                self.settle()
                found = self._found() or self._open()
                self.journal.remove_if_idle()  # it may have been removed with the log's folder
                self.recover()
        self.journal.mode, self.journal.sync = found.st_mode & 0o666, self.sync
        return found.st_ino, found.st_size

    def write(self, entry: Entry) -> None:
        """Write the entry's line now, or raise and forget it."""
        self._owed[entry] = None
        with self._lock:
            try:
                self.settle()
            except BaseException:
                self._owed.pop(entry, None)
                raise

    def finish(self, entry: Entry) -> None:
        """Write the entry's line now, or raise and do it before another call runs."""
        if entry.journal is self.journal:
            self._owed[entry] = None
            self.settle()

    def settle(self) -> None:
        """Write what is owed, oldest first: also for the threads that wait here to do it."""
        with self._lock:
            if self._settles:
                return  # a signal came in the midst of it: what its handler did is owed now
            self._settles = True
            try:
                # No `while self._owed`: its last step is in no block, and Ctrl-C just then would
                # leave the lock held (https://github.com/python/cpython/issues/130279).
                for entries in iter(lambda: list(self._owed), []):
                    self._append(entries)
                    for entry in entries:
                        entry.journal.strike(entry.number)
                        self._owed.pop(entry, None)
                self._stuck = False
            except BaseException:
                self._stuck = True
                atexit.unregister(self.settle)
                atexit.register(self.settle)  # the last chance
                raise
            finally:
                self._settles = False

    def recover(self) -> None:
        """Write the lines that dead processes left unwritten."""
        with self._lock:
            for path in _journal.note_files(self.path):
                journal = Journal.adopt(path)
                if journal is None:
                    continue
                try:
                    calls = journal.calls().items()
                    self._append([self._left_over(journal, *call) for call in calls])
                    if self._fd >= 0:
                        os.fsync(self._fd)
                    journal.remove()
                except Exception as fault:
                    _alarm(f"{self.path} still lacks the calls noted in {path}: {fault!r}")
                finally:
                    journal.release()

    def _left_over(self, journal: Journal, number: int, note: dict[str, Any]) -> Entry:
        """A call whose process died before the line was written."""
        entry = Entry(self, "", {})
        entry.journal, entry.number = journal, number
        entry.line = f"{json.dumps(note['if_killed'])}\n".encode()
        entry.line_at, entry.tried = tuple(note["line_at"]), True
        return entry

    def _append(self, entries: list[Entry]) -> None:
        """Write the lines of calls in one go."""
        if not entries:
            return
        try:
            size = self._lock_file()
            # An earlier attempt may have got so far, before it failed or was killed.
            entries = [entry for entry in entries if not (entry.tried and self._holds(entry))]
            # What a crash or a full disk tore ends here.
            lines = [] if size in (0, self._size) or self._ends_well() else [b"\n"]
            end = size + len(lines)
            moved = False
            for entry in entries:
                line_at = self._identity[1], end
                if line_at != entry.line_at:
                    entry.journal.place(entry.number, line_at)
                    entry.line_at, moved = line_at, True
                entry.tried = True
                lines.append(entry.line)
                end += len(entry.line)
            if moved:
                self.journal.wait_for_disk()
            self._size = -1
            try:
                self._write(b"".join(lines))
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(self._fd, size)
                raise
            self._size = end
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

    def _holds(self, entry: Entry) -> bool:
        """Whether the entry's line stands where it was to, in whichever file that is by now."""
        inode, offset = entry.line_at
        call = entry.line[: entry.line.index(b', "needed_approval": ')]
        folder, name = os.path.split(os.path.realpath(self.path))
        files: list[int | str] = [os.dup(self._fd)]  # whose name may be another's in a moment
        with suppress(OSError), os.scandir(folder) as beside:
            likely = (f for f in beside if f.inode() == inode or f.name.startswith(name))
            # To open a pipe would wait for ever.
            files += [file.path for file in likely if os.path.isfile(file.path)]
        for found in files:
            with suppress(OSError), open(found, "rb") as file:
                file.seek(offset)
                if file.read(len(call)) == call:
                    return _parsed(call + file.readline()) is not None  # else it is torn
        return False


_numbers = itertools.count(1)

_writers: WeakValueDictionary[str, _Writer] = WeakValueDictionary()
_writers_lock = threading.RLock()


def _writer_of(path: str) -> _Writer:
    with _writers_lock:
        return _writers.get(path) or _writers.setdefault(path, _Writer(path))


def _after_fork() -> None:
    global _writers_lock
    _writers_lock = threading.RLock()
    for writer in list(_writers.values()):
        writer.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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


def _alarm(message: str) -> None:
    with suppress(Exception):
        import logging

        logging.getLogger("actionguard").error(message)
    with suppress(Exception):  # not even where warnings are errors
        warnings.warn(message, RuntimeWarning, stacklevel=2)
