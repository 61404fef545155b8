"""Real processes, really killed: whatever the moment, each call has one line, and it is true."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actionguard import ApprovalPolicy, AuditLog, guard
from actionguard.audit import Entry
from actionguard.core import Decision
from actionguard.testing import AutoApproveChannel, read_log

#: More rounds for a longer stress: ACTIONGUARD_KILLS=2000 pytest tests/test_journal.py -k random
ROUNDS = int(os.environ.get("ACTIONGUARD_KILLS", "4"))
FREE = ApprovalPolicy(require_always=False)
YES = Decision(approved=True, comment="fine", source="test", metadata={"who": "Ann"})


def notes_beside(path: Path) -> list[str]:
    """The note files of other processes."""
    own = f".inflight-{os.getpid()}-"
    return [n for n in sorted(os.listdir(path.parent)) if ".inflight-" in n and own not in n]


def new_entry(path: Path, tool: str, args: dict[str, Any], *, fsync: bool = False) -> Entry:
    entry = AuditLog(path, fsync=fsync).entry(os.urandom(8).hex(), tool, args)
    assert entry is not None
    return entry


def in_child(body: Callable[[], object]) -> int:
    """Run the body in a process of its own; the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        try:
            body()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


STEPS = {
    os: (
        *("open", "close", "read", "write", "pwrite", "lseek", "ftruncate", "fsync"),
        *("stat", "fstat", "unlink", "makedirs", "listdir", "scandir"),
    ),
    fcntl: ("flock",),
}
WRITES = {os: ("write", "pwrite")}


def die_at(step: int, *, halfway: bool) -> None:
    """Make this process kill itself before its n-th step, or halfway through its n-th write."""
    left = step

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if halfway:
                    real(args[0], args[1][: len(args[1]) // 2], *args[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for module, names in (WRITES if halfway else STEPS).items():
        for name in names:
            setattr(module, name, deadly(getattr(module, name)))


def killed_at_each_step(body: Callable[[], object]) -> Iterator[str]:
    """Run the body in a process that is killed at its first step, its second, and so on."""
    for halfway in (False, True):
        for step in range(1, 200):

            def dies(step: int = step, halfway: bool = halfway) -> None:
                die_at(step, halfway=halfway)
                body()

            ended = in_child(dies)
            yield f"{'halfway through write' if halfway else 'before step'} {step}"
            if not ended:
                break
        else:
            raise AssertionError("it never came to its end")


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_killed_at_any_step_of_a_call(log_path: Path, held: bool, fsync: bool) -> None:
    """Whenever a process is killed, its call has one line, that says what is known."""
    got_to, says = os.pipe()
    write = os.write

    def call() -> None:
        entry = new_entry(log_path, "refund", {"amount": 50}, fsync=fsync)
        if held:
            entry.note(running=False, needed_approval=True)
            write(says, b"w")
        decision = YES if held else None
        waited_s = 2.5 if held else None
        entry.note(running=True, needed_approval=held, decision=decision, waited_s=waited_s)
        write(says, b"r")
        entry.end(
            entry.in_words(needed_approval=held, decision=decision, executed=True, result="done")
        )
        write(says, b"c")

    seen = set()
    for when in killed_at_each_step(call):
        write(says, b".")
        stage = os.read(got_to, 10).decode().rstrip(".")[-1:]
        AuditLog(log_path)
        torn: list[str] = []
        records = list(read_log(log_path, torn=torn))

        assert notes_beside(log_path) == [], when
        if stage in ("", "w") and not records:
            assert stage != "w"  # once it is noted that it waits, it has its line
            continue
        [record] = records
        seen.add((stage, record["executed"]))
        assert record["tool"], record["args"] == ("refund", {"amount": 50})
        assert record["needed_approval"] is held
        if record["executed"] is False:
            assert stage in ("", "w")
            assert "waited for a person" in record["error"]
        elif record["executed"] is None:
            assert stage in ("", "w", "r")
            assert "unknown" in record["error"]
            assert record["approved"] is (True if held else None)
            assert record["waited_s"] == (2.5 if held else None)
            assert record.get("decision_metadata") == ({"who": "Ann"} if held else None)
        else:
            assert record["result"] == "done"
        log_path.unlink()
    expected = {("c", True), ("r", True), ("r", None)}
    held_too = {("w", False), ("w", None)}
    assert seen >= (expected | held_too if held else expected)


def test_killed_while_recovering(log_path: Path) -> None:
    """A process that dies while it writes a dead one's lines leaves none out, and none twice."""

    def crash() -> None:
        for number in range(3):
            new_entry(log_path, "t", {"number": number}).note(
                running=number > 0, needed_approval=False
            )
        os.kill(os.getpid(), signal.SIGKILL)

    def recover() -> None:
        AuditLog(log_path)

    in_child(crash)
    steps = 0
    for when in killed_at_each_step(recover):
        steps += 1
        AuditLog(log_path)
        records = list(read_log(log_path, torn=[]))

        assert Counter(r["args"]["number"] for r in records) == {0: 1, 1: 1, 2: 1}, when
        assert {r["executed"] for r in records if r["args"]["number"]} == {None}, when
        assert notes_beside(log_path) == []
        log_path.unlink()
        in_child(crash)
    assert steps > 25


@pytest.mark.parametrize("rotated", [False, True])
def test_random_kills(log_path: Path, rotated: bool) -> None:
    """Equal calls in processes killed at any time: each has one line, and it is true."""

    def work(says: int) -> None:
        for number in itertools.count():
            call, held = new_entry(log_path, "pay", {"amount": 50}), number % 2 == 0
            for running in (False, True) if held else (True,):
                call.note(running=running, needed_approval=held)
                os.write(says, f"{int(running)}{call.id}\n".encode())
            call.end(call.in_words(needed_approval=held, decision=None, executed=True))
            os.write(says, f"2{call.id}\n".encode())

    stages: dict[str, int] = {}  # how far each call got: 0 waits, 1 runs, 2 is over
    for _ in range(ROUNDS):
        running = []
        for _ in range(4):
            reports, says = os.pipe()
            child = os.fork()
            if not child:
                try:
                    work(says)
                finally:
                    os._exit(99)
            os.close(says)
            running.append((child, reports))
        for child, reports in running:  # one after the other, while the others go on
            with open(reports, "rb") as pipe:
                said = pipe.read(random.randrange(1, 5_000))
                os.kill(child, signal.SIGKILL)
                said += pipe.read()
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
            if rotated and log_path.exists():
                log_path.rename(f"{log_path}.{child}")
            stages.update((line[1:], int(line[0])) for line in said.decode().split())
    AuditLog(log_path)

    records = [r for file in log_path.parent.iterdir() for r in read_log(file, torn=[])]
    found = {record["id"]: record["executed"] for record in records}
    assert len(found) == len(records), "a call has two lines"
    assert stages.keys() <= found.keys(), "a call has no line"
    possible = {0: {False, None}, 1: {None, True}, 2: {True}}
    assert [call for call, got_to in stages.items() if found[call] not in possible[got_to]] == []
    assert len([ran for ran in found.values() if ran is not True]) <= ROUNDS * 4
    assert notes_beside(log_path) == []


def crash_after_its_line(path: Path) -> None:
    """Leave a call whose line is written, but whose note is not struck off."""

    def crash() -> None:
        entry = new_entry(path, "refund", {"amount": 50})
        entry.note(running=True, needed_approval=False)
        os.pwrite = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        entry.end(
            entry.in_words(needed_approval=False, decision=None, executed=True, result="done")
        )

    assert in_child(crash) == signal.SIGKILL
    assert len(list(read_log(path))) == len(notes_beside(path)) == 1


def renamed(path: Path) -> None:
    path.rename(path.with_name("last-week"))


def copied_and_emptied(path: Path) -> None:
    shutil.copy(path, f"{path}.1")
    os.truncate(path, 0)


@pytest.mark.parametrize("rotate", [None, renamed, copied_and_emptied])
@pytest.mark.parametrize("linked", [False, True])
def test_line_that_is_found(log_path: Path, rotate: Any, linked: bool) -> None:
    """A dead process's line is not written again, also where its log was rotated meanwhile."""
    path = log_path.with_name("link.jsonl") if linked else log_path
    if linked:
        log_path.parent.joinpath("elsewhere").mkdir()
        log_path = log_path.parent / "elsewhere" / "audit.jsonl"
        path.symlink_to(log_path)
    crash_after_its_line(path)
    if rotate is not None:
        rotate(log_path)

    AuditLog(path)

    files = [file for file in log_path.parent.iterdir() if file.is_file()]
    assert [r["executed"] for file in files for r in read_log(file)] == [True]
    assert notes_beside(path) == []


def test_line_in_a_log_that_is_rotated_just_then(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead process's line is found where its log gets another name while it is looked for."""
    crash_after_its_line(log_path)
    scandir = os.scandir

    def rotated_behind(folder: str) -> Any:
        monkeypatch.undo()
        with scandir(folder) as files:
            found = list(files)
        renamed(log_path)
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", rotated_behind)
    AuditLog(log_path)

    files = (file for file in log_path.parent.iterdir() if file.is_file())
    assert [r["executed"] for file in files for r in read_log(file)] == [True]
    assert notes_beside(log_path) == []


def test_note_that_was_cut_short_over_an_older_one(log_path: Path) -> None:
    """The beginning of one note and the end of another are not a call, and get no line."""

    def crash() -> None:
        for text in ("a", "b"):
            entry = new_entry(log_path, "refund", {"text": text * 20_000})
            entry.note(running=True, needed_approval=False)
        os.kill(os.getpid(), signal.SIGKILL)

    in_child(crash)
    (name,) = notes_beside(log_path)
    notes = (log_path.parent / name).read_bytes()
    older, newer = notes[: len(notes) // 2], notes[len(notes) // 2 :]
    (log_path.parent / name).write_bytes(newer[:10_000] + older[10_000:])

    assert AuditLog(log_path).in_flight() == list(read_log(log_path)) == []
    assert notes_beside(log_path) == []


def test_room_is_used_again(log_path: Path) -> None:
    """However many calls are made while one waits, the notes take little room, then none."""
    log = AuditLog(log_path)
    waiting = new_entry(log_path, "wait", {})
    waiting.note(running=False, needed_approval=True)
    for number in range(200):
        call = new_entry(log_path, "pay", {"text": "x" * 500 * (number % 3)})
        call.note(running=False, needed_approval=True)
        call.note(running=True, needed_approval=True)
        call.end(call.in_words(needed_approval=True, decision=None, executed=True))
    (notes,) = log_path.parent.glob("*.inflight-*")

    assert notes.stat().st_size <= 20_000
    assert [call["tool"] for call in log.in_flight()] == ["wait"]
    large = new_entry(log_path, "pay", {"text": "x" * 500_000})
    large.note(running=False, needed_approval=True)
    for call in (waiting, large):
        call.drop()
    assert notes.stat().st_size == 0
    assert log.in_flight() == []
    assert len(list(log.records())) == 200


def test_log_that_is_open_already(log_path: Path) -> None:
    """A process that uses a log writes a dead one's line when the log is opened once more."""
    guard(lambda: None, policy=FREE, audit=log_path)()
    os.mkfifo(f"{log_path}.pipe")  # to look for the line in it would take for ever
    os.mkfifo(f"{log_path}.inflight-pipe")  # to look for notes, too
    os.symlink(f"{log_path}.inflight-loop", f"{log_path}.inflight-loop")

    in_child(lambda: guard(os._exit, policy=FREE, audit=log_path)(0))
    assert AuditLog(log_path).in_flight() == []

    assert [record["executed"] for record in read_log(log_path)] == [True, None]


def test_what_is_in_flight_elsewhere(log_path: Path) -> None:
    """A person, and another process, can read what waits and what runs right now."""
    ready, says = os.pipe()
    child = os.fork()
    if not child:
        refund, delete = (new_entry(log_path, n, {"who": "ü"}) for n in ("refund", "delete"))
        refund.note(running=False, needed_approval=True)
        delete.note(running=True, needed_approval=True, decision=YES)
        os.write(says, b".")
        signal.pause()
    os.read(ready, 1)

    waiting, running = AuditLog(log_path).in_flight()
    [notes] = notes_beside(log_path)
    file = [json.loads(line) for line in (log_path.parent / notes).read_text().splitlines()]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert (waiting["tool"], waiting["state"]) == ("refund", "waiting")
    assert (running["args"], running["state"]) == ({"who": "ü"}, "running")
    assert running["decision_metadata"] == {"who": "Ann"}
    assert [(note["record"]["tool"], note["state"]) for note in file] == [
        ("refund", "waiting"),
        ("delete", "running"),
    ]
    assert AuditLog(log_path).in_flight() == []
    assert [(r["tool"], r["executed"]) for r in read_log(log_path)] == [
        ("refund", False),
        ("delete", None),
    ]


def test_waiting_time_of_a_call_that_was_killed_later(log_path: Path) -> None:
    """The line of a call that was killed while it ran says how long the answer took."""

    def refund() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(guard(refund, channel=AutoApproveChannel(), audit=log_path)) == signal.SIGKILL

    [record] = AuditLog(log_path).records()
    assert record["executed"] is None
    assert record["waited_s"] is not None


def test_collected_logs_leave_no_notes(tmp_path: Path) -> None:
    """Whatever the order in which the collector ends the parts of a log."""
    for number in range(200):
        guard(lambda: None, policy=FREE, audit=tmp_path / str(number))()
    gc.collect()

    assert [name for name in os.listdir(tmp_path) if ".inflight-" in name] == []
