"""AuditLog: one call, one line, whatever happens to the call, the disk or the process."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from itertools import chain, islice
from pathlib import Path
from time import time
from typing import Any, TypeVar, final

from actionguard import _journal
from actionguard._journal import Call
from actionguard._values import cut, json_text, show
from actionguard._writer import Writer, alarm, opened, writer_of
from actionguard.core import Action, Decision, may_have_run, seconds_since

T = TypeVar("T")

# What becomes of a call whose process is killed: executed, and the error.
_IF_WAITING = False, "the process ended while the call waited for a person; it was not executed"
_IF_RUNNING = None, "the process ended while the call ran; whether it took effect is unknown"

#: How many characters of a result are kept.
_RESULT_LIMIT = 2_000
#: How much of the end of a log is searched for equal calls, in bytes, and how many are found
#: there and in flight.
_SEARCHED, _MOST_EARLIER = 1_000_000, 20


@final
class AuditLog:
    """A file that gets one line of JSON for every guarded call.

    Threads, processes and several AuditLogs can share a file. Nothing is written before the first
    call, except the lines of calls whose process was killed.

    Args:
        path: The file. A relative path is resolved against the current directory; missing folders
            are created at the first call.
        enabled: Whether to write anything.
        fsync: Whether each call waits until its crash note and its line would survive a power
            cut; this applies to every AuditLog on the file. Without it, they only survive a crash
            of the process.

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
        self._writer = writer_of(str(self.path))
        if fsync:
            self._writer.sync = True
        if enabled and not _on_event_loop():  # there, the first call does it
            _refuse_folder(str(self.path))
            self._writer.recover()

    def __init_subclass__(cls) -> None:
        # Type checkers know it from `@final`. An overridden `record` would never be called.
        raise TypeError(
            f"AuditLog cannot be subclassed, as {cls.__name__} does: guarded calls would never use "
            "its record(). To keep the lines elsewhere or in another form, read them with records()"
        )

    def __repr__(self) -> str:
        return f"AuditLog({str(self.path)!r}, enabled={self.enabled}, fsync={self.fsync})"

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(AuditLog, enabled=self.enabled, fsync=self.fsync)
        return made, (str(self.path),)  # copies and unpickled logs share the writer

    def check(self) -> None:
        """Raise an error if the log cannot be written; leaves no files behind.

        Inside a running event loop it does nothing, since file work would block the loop; there,
        the first call finds out.

        Raises:
            OSError: The log cannot be written; the message says why.
        """
        if not self.enabled or _on_event_loop():
            return
        path = str(self.path)
        _refuse_folder(path)
        with suppress(FileNotFoundError, NotADirectoryError):  # told below
            os.close(opened(path))
        folder = os.path.dirname(path)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        self._writer.check_notes(folder)

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
        """Write the line of a finished call, and return the record.

        Raises:
            OSError: The line could not be written.
        """
        entry = self.entry(action.id, action.tool_name, action.args)
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
        """The calls that are waiting for a person or running now, in all processes.

        Each is the record as far as it is known, with a `state`: "waiting" or "running".
        """
        if self.enabled:
            self._writer.flush()
            self._writer.recover()
        return _journal.in_flight(str(self.path))

    def entry(self, call_id: str, tool: str, args: Mapping[str, Any]) -> Entry:
        """Begin a call's record with its arguments as they are now, without writing anything."""
        return Entry(self._writer, call_id, tool, args)


def read_log(
    path: str | os.PathLike[str], *, torn: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The records of a log, oldest first; none if it does not exist yet.

    Args:
        path: The log's file.
        torn: A list that gets the text of every line that a crash or a full disk damaged. Without
            it, each such line causes a warning. An unfinished last line is left out, because
            somebody may still be writing it.
    """
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            record = _parsed(line)
            if record is not None:
                yield record
            elif not line.endswith(b"\n"):
                return  # somebody is writing it now, or it is damaged: the next call closes it off
            elif torn is not None:
                torn.append(line.decode("utf-8", "backslashreplace"))
            else:
                alarm(f"line {number} of {os.fspath(path)} is damaged and was skipped")


class Entry(Call):
    """One call on its way to its line."""

    def __init__(self, writer: Writer, call_id: str, tool: str, args: Mapping[str, Any]) -> None:
        now = datetime.now(timezone.utc).isoformat("T", "microseconds")
        self._tool = tool
        self.take(json_text(args))
        super().__init__(call_id, self._call, writer.journal)
        self._begin = f'{{"timestamp": "{now}", '
        self._writer = writer

    def take(self, args_json: str) -> None:
        """Take these arguments for the line."""
        self.args_json = args_json
        self._call = _equals(self._tool, args_json)

    def note(
        self,
        running: bool,
        needed_approval: bool,
        decision: Decision | None = None,
        waited_s: float | None = None,
    ) -> None:
        """Note that the call waits for a person or runs from now on, in case the process is killed.

        Raises:
            OSError: The call's line could not be guaranteed; the call must not run.
        """
        executed, error = _IF_RUNNING if running else _IF_WAITING
        self.record = self.in_words(needed_approval, decision, executed, None, error, waited_s)
        self.state = "running" if running else "waiting"
        self._writer.note(self)

    def earlier(self, within: float | None = None) -> list[dict[str, Any]]:
        """The records of equal calls, newest first; those in flight have a `state`.

        Calls are equal if the log has the same tool and arguments for them. This looks at the calls
        in flight in all processes and at the last megabyte of the log, and stops after about 20
        that may have run. Call it after `note`, so that of two equal calls at once one finds the
        other.

        Args:
            within: So many seconds are searched whole, also in files that were rotated meanwhile.
        """
        writer, journal = self._writer, self._writer.journal
        with writer.lock:
            writer.recover()
            equal = journal.live.get(self.equals, {})
            own = [(call.record, call.state) for call in islice(reversed(equal), _MOST_EARLIER)]
        records = [_journal.unfinished(json.loads(record), state) for record, state in own]
        records += _journal.in_flight(writer.path, self.equals.encode(), but=journal.path)
        # In this order: the line of a call that ends meanwhile is written before its note goes.
        rotated = () if within is None else writer.rotated(time() - within)
        for path in chain([writer.path], rotated):  # the log is read before the folder
            records += self._at_the_end(path, within)
        found = {
            str(record.get("id", number)): record
            for number, record in enumerate(records)
            if self._is_equal(record)
        }
        found.pop(self.id, None)
        return sorted(found.values(), key=lambda record: str(record["timestamp"]), reverse=True)

    def _at_the_end(self, path: str, within: float | None) -> Iterator[dict[str, Any]]:
        """The newest records of equal calls, in the last megabyte or so many seconds of a file."""
        needle = self.equals.encode()
        with suppress(FileNotFoundError), open(path, "rb") as file:
            start, cut, left = file.seek(0, os.SEEK_END), b"", _MOST_EARLIER
            while start and left:
                end, start = start, max(0, start - _SEARCHED)
                file.seek(start)
                data = file.read(end - start) + cut
                at = len(data)
                while left and (at := data.rfind(needle, 0, at)) >= 0:
                    at = data.rfind(b"\n", 0, at) + 1
                    record = _parsed(data[at : data.find(b"\n", at) + 1])
                    if record is not None and self._is_equal(record):
                        yield record
                        left -= may_have_run(record)  # behind many denials, one ran
                cut = data[: data.find(b"\n") + 1]  # its beginning was not read yet
                oldest = _parsed(data[len(cut) : data.find(b"\n", len(cut)) + 1]) or {}
                if within is None or ("timestamp" in oldest and seconds_since(oldest) > within):
                    return

    def _is_equal(self, record: dict[str, Any]) -> bool:
        """Whether a record that contains `equals` has it at its top, and not in an argument."""
        return _equals(record.get("tool"), json_text(record.get("args"))) == self.equals

    def end(self, record: str) -> None:
        """Write this record as the line, and strike the note.

        Never raises, since the body has run: a line that cannot be written is kept, and no other
        call of this log runs until it is written.
        """
        self.line = f"{record}\n".encode()
        self._writer.finish(self)

    def drop(self) -> None:
        """Strike the note and write no line: the call is paused, and will be made again."""
        self._writer.drop(self)

    async def aside(self, work: Callable[[], T]) -> T:
        """Run `work` in the log's thread, in order, and return or raise what it does.

        It runs even if the caller is cancelled meanwhile.
        """
        import asyncio

        return await asyncio.shield(asyncio.wrap_future(self._writer.later(work)))

    def submit(self, work: Callable[[], object]) -> None:
        """Run `work` like `aside`, without waiting for it."""
        self._writer.later(work)

    def in_words(
        self,
        needed_approval: bool,
        decision: Decision | None,
        executed: bool | None,
        result: object = None,
        error: object = None,
        waited_s: float | None = None,
        ran_s: float | None = None,
    ) -> str:
        """The record as JSON."""
        answer, metadata = _NO_ANSWER, ""
        if decision is not None:
            answer = (
                f'"approved": {json_text(decision.approved is True)}, '
                f'"decision_source": {json_text(decision.source)}, '
                f'"decision_comment": {json_text(decision.comment)}'
            )
            if decision.metadata:
                metadata = f', "decision_metadata": {json_text(decision.metadata)}'
        return (
            f'{self._begin}{self._call}"needed_approval": {json_text(needed_approval)}, {answer}, '
            f'"executed": {json_text(executed)}, "result": {json_text(_in_short(result))}, '
            f'"error": {json_text(error)}, "id": {json_text(self.id)}, '
            f'"waited_s": {_seconds(waited_s)}, "ran_s": {_seconds(ran_s)}{metadata}}}'
        )


_NO_ANSWER = '"approved": null, "decision_source": null, "decision_comment": null'


def _seconds(seconds: float | None) -> str:
    return "null" if seconds is None else f"{seconds:.6f}"


def _equals(tool: object, args_json: str) -> str:
    """The same text for equal calls, as it stands in their records."""
    return f'"tool": {json_text(tool)}, "args": {args_json}, '


def _in_short(result: object) -> str | None:
    if result is None:
        return None
    text = str.__str__(result) if issubclass(type(result), str) else show(result)
    return text if len(text) <= _RESULT_LIMIT else cut(text, _RESULT_LIMIT - 40)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _absolute(path: str) -> str:
    if not os.path.isabs(path):
        # `os.path.abspath` calls `os.getcwd`, which `langgraph dev` forbids on an event loop.
        path = os.path.join(os.fsdecode(os.getcwdb()), path)
    return os.path.normpath(path)


def _on_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _refuse_folder(path: str) -> None:
    if os.path.isdir(path):
        fault = "an audit log must be a file, but this is a folder"
        raise IsADirectoryError(errno.EISDIR, fault, path)
