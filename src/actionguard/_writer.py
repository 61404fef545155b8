"""Writes a log: its lines, and the notes that guarantee them."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from actionguard import _journal
from actionguard._journal import Call, Journal

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")

# If the disk has fewer than _SCARCE bytes left, the call runs only if there is room for its line:
# the size of its note, and _SPARE for the result.
_SCARCE, _SPARE = 1_000_000, 8_192
_ID = re.compile(rb'"id": "([^"]*)"')


class Writer:
    """Writes one file, for all AuditLogs of this process that use it."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Whether notes and lines must survive a power cut.
        self.sync = False
        self._checked = False
        self._fd = -1
        self._start()

    def _start(self) -> None:
        self.journal = Journal(self.path)
        #: One lock for everything that touches the disk, and reentrant: a signal handler may make
        #: a guarded call while its thread is in the middle of another.
        self.lock = threading.RLock()
        #: The calls whose lines must still be written, oldest first.
        self._owed: dict[Call, None] = {}
        #: Whether lines are being written; whether an attempt at those owed did not get to its end.
        self._writes = self._unsure = False
        self._pool: ThreadPoolExecutor | None = None
        self._close()

    def forget(self) -> None:
        """Start over in a forked child: all files, calls and lines so far belong to the parent."""
        self.journal.release()
        self._start()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        self._identity = 0, 0  # the device and inode of the open file
        self._size = -1  # when this writer last wrote to it
        if fd >= 0:
            os.close(fd)

    def end(self) -> None:
        """Write what is owed, and keep only the notes of calls in flight."""
        with self.lock:
            self._settle_or_warn()
            self.journal.closing = True
            if not self.journal.live:
                self.journal.remove()

    def __del__(self) -> None:
        with suppress(Exception):  # `langgraph dev` does not allow this on an event loop
            self.end()
        self.journal.release()
        self._close()

    # --- notes -------------------------------------------------------------------------------

    def note(self, call: Call) -> None:
        """Keep the call's record, to be its line if the process is killed.

        Raises:
            OSError: The line could not be guaranteed.
        """
        with self.lock:
            if call.journal is not self.journal:
                raise OSError("the call began in the parent process, before a fork")
            found = self._ready()
            call.place = found.st_ino, found.st_size
            self.journal.note(call, sync=self.sync)
            disk = os.fstatvfs(self._fd) if hasattr(os, "fstatvfs") else None
            if disk and disk.f_bavail * disk.f_frsize < _SCARCE:
                self.journal.try_room(len(call.record) + _SPARE)

    def _ready(self) -> os.stat_result:
        """Open what a note and a line need; returns the state of the log."""
        if self._writes and self._fd >= 0:  # a signal handler makes a call
            return os.fstat(self._fd)
        found = self._found()
        if found is None or self._owed or not self.journal.path:
            self._settle()
            found = self._found() or self._open()
            self.journal.open(found.st_mode & 0o666)
            if self.sync:
                _journal.sync_folder(self.path)
            _end_with_child()
            self.recover()
        return found

    def check_notes(self, folder: str) -> None:
        """Raise if notes could not be kept in the folder; leaves nothing behind."""
        if not self._checked:
            trial = Journal(os.path.join(folder, os.path.basename(self.path)))
            try:
                trial.open(0o600)
                trial.try_room(_SPARE)
            except OSError as error:
                why = f"an audit log cannot be kept here: {error.strerror}"
                raise OSError(error.errno, why, folder) from error
            finally:
                trial.remove()
            self._checked = True  # once is enough: it takes as long as the rest of `guard`

    def drop(self, call: Call) -> None:
        """Strike the call's note and write no line."""
        with self.lock, suppress(OSError):
            if call.journal is self.journal:
                self.journal.strike(call)

    def recover(self) -> None:
        """Write the lines of calls whose process died."""
        with self.lock:
            for path in [] if self._writes else _journal.beside(self.path):
                if path != self.journal.path:
                    self._recover(path)

    def _recover(self, path: str) -> None:
        self._writes = True
        try:
            with _journal.left_by_the_dead(path) as calls:
                self._append(self._missing(calls))
        except FileNotFoundError:  # its process has just ended, or another wrote the lines
            pass
        except OSError as fault:
            alarm(f"the crash notes in {path} could not be written to {self.path} ({fault!r})")
        finally:
            self._writes = False

    # --- lines -------------------------------------------------------------------------------

    def write(self, call: Call) -> None:
        """Write the call's line now, or raise and give it up."""
        with self.lock:
            self._owed[call] = None
            try:
                self._settle()
            except BaseException:
                self._owed.pop(call, None)
                raise

    def finish(self, call: Call) -> None:
        """Write the call's line now, or warn and write it before another call runs."""
        with self.lock:
            if call.journal is self.journal:
                self._owed[call] = None
                self._settle_or_warn()

    def _settle_or_warn(self) -> None:
        try:
            self._settle()
        except Exception as fault:
            alarm(
                f"the line of a call could not be written to {self.path} ({fault!r}). Until it "
                "is, no other guarded call of this log runs"
            )

    def _settle(self) -> None:
        """Write what is owed, oldest first."""
        if self._writes:
            return  # in a signal handler: the loop below, which it interrupted, goes on
        unsure, self._writes, self._unsure = self._unsure, True, True
        try:
            while self._owed:
                calls = list(self._owed)
                self._append(self._missing(calls) if unsure else calls)
                for call in calls:
                    self.journal.strike(call)
                    self._owed.pop(call, None)
            self._unsure = False
        finally:
            self._writes = False

    def _append(self, calls: list[Call]) -> None:
        """Write the lines of calls in one go."""
        if not calls:
            return
        try:
            size = self._lock_file()
            # Close off a line that a crash or a full disk damaged.
            data = b"" if size in (0, self._size) or self._ends_well(size) else b"\n"
            data += b"".join(call.line for call in calls)
            self._size, end = -1, size + len(data)
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
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

    def _lock_file(self) -> int:
        """Lock the file that is at the path now; returns its size."""
        while True:
            if self._fd >= 0:
                _journal.lock(self._fd)
                if found := self._found():
                    return found.st_size
            self._open()  # the first time, or because it was renamed or removed

    def _found(self) -> os.stat_result | None:
        """The state of the open file, if it is still the one at the path."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found if (found.st_dev, found.st_ino) == self._identity else None

    def _open(self) -> os.stat_result:
        # A private log stays private when it is rotated.
        mode = 0o666 if self._fd < 0 else os.fstat(self._fd).st_mode & 0o666
        self._close()
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self._fd = opened(self.path, os.O_CREAT, mode)
        found = os.fstat(self._fd)
        self._identity = found.st_dev, found.st_ino
        if self.sync:
            _journal.sync_folder(self.path)
        return found

    def _ends_well(self, size: int) -> bool:
        os.lseek(self._fd, size - 1, os.SEEK_SET)
        return os.read(self._fd, 1) in (b"\n", b"")  # nothing if it was truncated just now

    def _missing(self, calls: list[Call]) -> list[Call]:
        """Those whose lines do not exist yet, neither here nor in files that were rotated away."""
        if not calls:
            return []
        missing = {call.id.encode(): call for call in calls}
        places = [call.place for call in calls]
        began = min(json.loads(call.line)["timestamp"] for call in calls)
        inodes = [inode for inode, _ in places]
        # First the log, and only then the folder: it may be copied or renamed meanwhile.
        log: list[int | str] = [os.dup(self._fd) if self._fd >= 0 else self.path]
        for file in chain(log, self.rotated(datetime.fromisoformat(began).timestamp(), inodes)):
            with suppress(OSError), open(file, "rb") as lines:
                found = os.fstat(lines.fileno())
                start = min(size if inode == found.st_ino else 0 for inode, size in places)
                lines.seek(start if start <= found.st_size else 0)  # it may have been emptied
                for line in lines:
                    for known in missing.keys() & set(_ID.findall(line)):
                        with suppress(ValueError, KeyError, TypeError):  # it is in its arguments
                            if json.loads(line)["id"].encode() == known:
                                del missing[known]
        return list(missing.values())

    def rotated(self, began: float, inodes: Sequence[int] = ()) -> Iterator[str]:
        """The files beside the log that may have lines from after this time."""
        folder, name = os.path.split(os.path.realpath(self.path))
        with os.scandir(folder) as beside:
            for file in beside:
                likely = file.name.startswith(name) or file.inode() in inodes
                with suppress(OSError):  # it was removed meanwhile
                    # Opening a pipe would block. The minute allows for clocks that are adjusted.
                    if likely and file.is_file() and file.stat().st_mtime > began - 60:
                        yield file.path

    # --- the log's thread --------------------------------------------------------------------

    def later(self, work: Callable[[], T]) -> Future[T]:
        """Have the log's thread do the work, in order, without waiting for it."""
        from concurrent.futures import Future, ThreadPoolExecutor

        try:
            with _writers_lock:
                self._pool = self._pool or ThreadPoolExecutor(1, "actionguard")
            return self._pool.submit(work)
        except RuntimeError:  # the program is ending, or cannot start a thread
            done: Future[T] = Future()
            done.set_result(work())
            return done

    def flush(self) -> None:
        """Wait until the log's thread has done its work so far."""
        if self._pool is not None:
            self.later(int).result()


_writers: WeakValueDictionary[str, Writer] = WeakValueDictionary()
_writers_lock = threading.RLock()


def writer_of(path: str) -> Writer:
    with _writers_lock:
        return _writers.get(path) or _writers.setdefault(path, Writer(path))


def _after_fork() -> None:
    global _writers_lock
    _writers_lock = threading.RLock()
    for writer in list(_writers.values()):
        writer.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register  # at import, so it runs after what the program registers later
def _at_the_end() -> None:
    for writer in list(_writers.values()):
        writer.end()


def _end_with_child() -> None:
    """In a child of multiprocessing, which does not run `atexit`, register the same."""
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        sys.modules["multiprocessing.util"].Finalize(None, _at_the_end, exitpriority=0)


def opened(path: str, flags: int = 0, mode: int = 0o666) -> int:
    """Open a log.

    Raises:
        OSError: Also if it is not a regular file.
    """
    flags |= os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "an audit log has to be a regular file", path)
    return fd


def alarm(message: str) -> None:
    """Tell the operator, by a warning and on the logger."""
    with suppress(Exception):
        import logging

        logging.getLogger("actionguard").error(message)
    with suppress(Exception):  # not even where warnings are errors
        warnings.warn(message, RuntimeWarning, stacklevel=2)
