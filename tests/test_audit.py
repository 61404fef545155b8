"""The log as a file: many writers, rotation, disks that are full or fail, and reading it back."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_values import odd_values

from actionguard import Action, ApprovalChannel, ApprovalPolicy, AuditLog, Decision, guard
from actionguard.audit import Entry, read_log
from actionguard.core import seconds_since
from actionguard.testing import AutoApproveChannel

Lines = Callable[[], list[dict[str, Any]]]
FREE = ApprovalPolicy(require_always=False)
YES = AutoApproveChannel()
#: Payloads from what fits into one write of a pipe to what fits into no buffer.
SIZES = (0, 100, 5_000, 300_000)
FORK = multiprocessing.get_context("fork")


def write(path: Path, writer: int, count: int = 40) -> None:
    """Make guarded calls, each with a number and a payload."""

    @guard(audit=path, channel=YES)
    def pay(writer: int, number: int, payload: str) -> int:
        return len(payload)

    for number in range(count):
        pay(writer, number, "x" * SIZES[number % len(SIZES)])


def check(records: list[dict[str, Any]], writers: int, count: int = 40) -> None:
    """All calls are there, once and whole, those of each writer in their order."""
    numbers: dict[int, list[int]] = {}
    for record in records:
        args = record["args"]
        numbers.setdefault(args["writer"], []).append(args["number"])
        assert record["executed"] is True
        assert record["result"] == str(len(args["payload"]))
    assert numbers == {writer: list(range(count)) for writer in range(writers)}


def run_all(*work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_child(body: Callable[[], object]) -> None:
    child = FORK.Process(target=body)
    child.start()
    child.join()
    assert child.exitcode == 0


def beside(path: Path) -> list[str]:
    """What is in the log's folder, but for this process's own notes."""
    own = f".inflight-{os.getpid()}-"
    return [file.name for file in path.parent.iterdir() if own not in file.name]


def entry(log: AuditLog, args: dict[str, Any], tool: str = "pay") -> Entry:
    made = log.entry(os.urandom(8).hex(), tool, args)
    assert made is not None
    return made


# --- many writers ----------------------------------------------------------------------------


def test_threads(log_path: Path, lines: Lines) -> None:
    """Threads that know the log by two names of its folder lose and mix nothing."""
    other = log_path.with_name("other")
    other.symlink_to(log_path.parent)
    paths = (log_path, other / log_path.name)

    run_all(*(lambda n=n: write(paths[n % 2], n) for n in range(8)))

    check(lines(), 8)


@pytest.mark.parametrize(("how", "count"), [("fork", 6), ("spawn", 3)])
def test_processes(how: str, count: int, log_path: Path, lines: Lines) -> None:
    """Processes, forked from one that uses the log or begun afresh, mix and leave nothing."""
    write(log_path, 0)
    if how == "spawn":
        code = "import sys, pathlib, test_audit as t; t.write(pathlib.Path(sys.argv[1]), {})"
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        env = {**os.environ, "PYTHONPATH": path}
        commands = ([sys.executable, "-c", code.format(n), log_path] for n in range(1, count))
        started = [subprocess.Popen(command, env=env) for command in commands]
        assert [process.wait() for process in started] == [0] * (count - 1)
    else:
        run_all(*(lambda n=n: in_child(lambda: write(log_path, n)) for n in range(1, count)))

    check(lines(), count)
    assert beside(log_path) == [log_path.name]


def test_fork_while_calls_are_in_flight(log_path: Path, lines: Lines) -> None:
    """A child writes its own lines only, and does not take its parent's calls for dead."""
    log = AuditLog(log_path)
    waiting = entry(log, {"n": 1})
    waiting.note(running=False, needed_approval=True)

    def child() -> None:
        write(log_path, 0, 5)
        with pytest.raises(OSError, match="before a fork"):
            waiting.note(running=True, needed_approval=True)
        waiting.end(waiting.in_words(needed_approval=True, decision=None, executed=True))

    in_child(child)

    assert len(lines()) == 5
    assert [call["args"] for call in log.in_flight()] == [{"n": 1}]
    waiting.end(waiting.in_words(needed_approval=True, decision=None, executed=False))
    assert [line["executed"] for line in lines()[5:]] == [False]
    assert log.in_flight() == []


def test_forks_while_threads_work(log_path: Path, lines: Lines) -> None:
    """Wherever a thread is in the midst of a call, a child that is forked then can make its own."""
    over = threading.Event()
    made = [0, 0, 0]
    pay = guard(lambda writer, number: None, audit=log_path, policy=FREE)

    def work(writer: int) -> None:
        while not over.is_set():
            made[writer] += 1
            pay(writer, made[writer])

    def fork() -> None:
        for number in range(30):
            child = os.fork()
            if not child:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's runs more tests
                signal.alarm(120)  # a lock that nobody holds any more
                pay(3, number)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        over.set()

    run_all(fork, *(lambda n=n: work(n) for n in range(3)))

    calls = Counter((line["args"]["writer"], line["args"]["number"]) for line in lines())
    expected = {(n, number + 1) for n in range(3) for number in range(made[n])}
    assert calls == Counter(expected | {(3, number) for number in range(30)})


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_rotated_under_load(how: str, log_path: Path) -> None:
    """A log that is renamed under its writers is made anew; none of its lines is lost or torn."""
    over = threading.Event()
    kept = []

    def rotate() -> None:
        for number in itertools.takewhile(lambda _: not over.wait(0.002), itertools.count()):
            with suppress(FileNotFoundError):
                kept.append(log_path.open("rb"))  # what was removed can be read while it is open
                if how == "removed":
                    log_path.unlink()
                else:
                    log_path.rename(f"{log_path}.{number}")

    rotating = threading.Thread(target=rotate)
    rotating.start()
    run_all(*(lambda n=n: write(log_path, n) for n in range(4)))
    over.set()
    rotating.join()

    if log_path.exists():
        kept.append(log_path.open("rb"))
    records = [json.loads(line) for file in kept for line in file]
    assert Counter((r["args"]["writer"], r["args"]["number"]) for r in records) == Counter(
        itertools.product(range(4), range(40))
    )
    for file in kept:
        file.close()


def test_emptied_log(log_path: Path, lines: Lines) -> None:
    """After `copytruncate`, lines begin at the start of the file."""
    write(log_path, 0, 3)
    os.truncate(log_path, 0)
    write(log_path, 0, 1)

    assert len(lines()) == 1


@pytest.mark.parametrize("threads", [0, 2])
def test_calls_of_a_signal_handler(threads: int, log_path: Path, lines: Lines) -> None:
    """A handler that makes calls in the midst of others neither hangs, loses nor mixes a line."""
    made: Counter[str] = Counter()
    over = threading.Event()
    handlers = 0
    pay = guard(lambda who, number: None, audit=log_path, policy=FREE)

    def work(who: str) -> None:
        made[who] += 1
        pay(who, made[who])

    def work_on(who: str) -> None:
        while not over.is_set():
            work(who)

    def handle(*_: object) -> None:
        # One more may come in the midst of this one, and the next after it: where a call takes
        # longer than the timer, handlers in handlers would never end.
        nonlocal handlers
        if over.is_set():
            return
        handlers += 1
        if handlers == 1:
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
        work("handler")
        handlers -= 1
        if handlers == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.0005)

    others = [threading.Thread(target=work_on, args=(f"thread {n}",)) for n in range(threads)]
    before = signal.signal(signal.SIGALRM, handle)
    for thread in others:
        thread.start()
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    try:
        for _ in range(300 if threads else 3_000):
            work("main")
    finally:
        over.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        for thread in others:
            thread.join()

    calls = Counter((line["args"]["who"], line["args"]["number"]) for line in lines())
    assert calls == Counter((who, n + 1) for who, count in made.items() for n in range(count))
    assert AuditLog(log_path).in_flight() == []


# --- what is made where ----------------------------------------------------------------------


def test_private_log_stays_private(log_path: Path) -> None:
    """Nobody who may not read the log may read its notes, or the log that follows it."""
    log_path.touch(mode=0o600)
    modes = []

    @guard(audit=log_path, policy=FREE)
    def pay() -> None:
        modes.extend(stat.S_IMODE(file.stat().st_mode) for file in log_path.parent.iterdir())

    pay()
    log_path.unlink()
    pay()

    assert modes == [0o600] * 4


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is resolved when the log is made, wherever the program goes."""
    monkeypatch.chdir(tmp_path)
    log = AuditLog("a/../logs/audit.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    guard(lambda: None, audit=log, policy=FREE)()

    assert log.path == tmp_path / "logs/audit.jsonl"
    assert len(list(log.records())) == 1


def test_nothing_is_made_by_guarding(tmp_path: Path) -> None:
    """A module with guarded functions can be imported anywhere, and leaves no trace there."""
    guard(lambda: None, audit=tmp_path / "logs" / "audit.jsonl")
    guard(lambda: None, audit=tmp_path / "audit.jsonl")

    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_removed(tmp_path: Path) -> None:
    """A log, and notes, whose folder is removed are made anew, also while calls are in flight."""
    log = AuditLog(tmp_path / "logs" / "audit.jsonl")
    first, second = entry(log, {"n": 1}), entry(log, {"n": 2})
    first.note(running=False, needed_approval=True)
    for file in (tmp_path / "logs").iterdir():
        file.unlink()
    (tmp_path / "logs").rmdir()

    second.note(running=True, needed_approval=False)

    assert [call["args"] for call in log.in_flight()] == [{"n": 1}, {"n": 2}]
    for each in (first, second):
        each.end(each.in_words(needed_approval=False, decision=None, executed=True))
    assert [record["args"] for record in log.records()] == [{"n": 1}, {"n": 2}]
    assert log.in_flight() == []


def test_descriptors_are_given_back() -> None:
    """Logs that nobody holds any more hold no file open, and leave no notes."""
    with tempfile.TemporaryDirectory() as folder:

        def use(number: int) -> list[str]:
            guard(lambda: None, audit=f"{folder}/{number}.jsonl", policy=FREE)()
            gc.collect()
            return os.listdir("/proc/self/fd") if os.path.isdir("/proc") else []

        before = len(use(0))
        assert len(use(1)) <= before
        assert sorted(os.listdir(folder)) == ["0.jsonl", "1.jsonl"]


# --- what is torn, full or broken ------------------------------------------------------------


def test_a_line_too_deep_to_read_is_damaged(log_path: Path) -> None:
    """Whatever stands in the file, its reader goes on to the next line."""
    log_path.write_text("[" * 200_000 + '\n{"tool": "refund"}\n')

    torn: list[str] = []
    assert list(read_log(log_path, torn=torn)) == [{"tool": "refund"}]
    assert len(torn) == 1


def test_torn_line_is_closed_off(log_path: Path) -> None:
    """What a crash left without an end swallows no line that comes after it."""
    log_path.write_bytes(b'{"timestamp": "2026-')

    guard(lambda: "done", audit=log_path, policy=FREE)()

    torn: list[str] = []
    assert [record["result"] for record in read_log(log_path, torn=torn)] == ["done"]
    assert torn == ['{"timestamp": "2026-\n']
    with pytest.warns(RuntimeWarning, match="line 1 of .* is damaged and was skipped"):
        assert len(list(read_log(log_path))) == 1


def test_read_while_a_line_is_written(log_path: Path) -> None:
    """A line that is half there is not called torn, nor read in halves, while it is written."""
    guard(lambda: "done", audit=log_path, policy=FREE)()
    whole = log_path.read_bytes()
    torn: list[str] = []

    def read() -> Iterator[Any]:
        return (record["result"] for record in read_log(log_path, torn=torn))

    with log_path.open("ab", buffering=0) as file:
        file.write(whole[:100])
        while_it_is_written = list(read())
        until_it_is_written = read()
        next(until_it_is_written)
        file.write(whole[100:])

        assert while_it_is_written == ["done"]
        assert list(until_it_is_written) == ["done"]
        assert torn == []

    assert list(read()) == ["done", "done"]


def pay_until_refused(log: Path, amounts: range) -> tuple[list[int], list[int]]:
    """What ran, and what was refused, of calls on a disk that fills."""
    ran: list[int] = []
    refused: list[int] = []

    @guard(audit=log, channel=YES)
    def pay(amount: int, note: str) -> str:
        ran.append(amount)
        return "r" * 3_000

    for amount in amounts:
        before = len(ran)
        try:
            assert pay(amount, "n" * 500) == "r" * 3_000  # what ran has its result
        except OSError:
            refused.append(amount)
            assert len(ran) == before
    return ran, refused


def test_limited_file_size(log_path: Path, lines: Lines) -> None:
    """Where the file may not grow, results stand, then calls are refused; later all goes on."""

    def limited() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.warns(RuntimeWarning, match="could not be written to .*audit.jsonl"):
            ran, refused = pay_until_refused(log_path, range(20))
        assert ran
        assert refused
        assert ran + refused == list(range(20))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        ran_later, none = pay_until_refused(log_path, range(20, 25))
        assert (ran_later, none) == (list(range(20, 25)), [])
        Path(f"{log_path}.ran").write_text(json.dumps(ran + ran_later))

    in_child(limited)

    executed = [line["args"]["amount"] for line in lines() if line["executed"]]
    assert executed == json.loads(Path(f"{log_path}.ran").read_text())
    assert len(lines()) == 25


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield tmp_path
    gc.collect()
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.filterwarnings("ignore:the line of a call could not be written")
def test_full_disk(small_disk: Path) -> None:
    """On a disk without room calls are refused, and once there is room again, all goes on."""
    filler = small_disk / "filler"
    log = small_disk / "audit.jsonl"
    filler.write_bytes(b"x" * 30_000)
    ran, refused = pay_until_refused(log, range(20))
    assert ran
    assert ran + refused == list(range(20))
    filler.unlink()
    later, none = pay_until_refused(log, range(20, 23))

    records = list(read_log(log))
    assert (later, none) == ([20, 21, 22], [])
    assert [r["args"]["amount"] for r in records if r["executed"]] == ran + later
    assert beside(log) == [log.name]


@pytest.mark.filterwarnings("ignore:the line of a call could not be written")
def test_disk_that_gets_full(small_disk: Path) -> None:
    """It is noticed before the call runs, also by a process that has used the log."""
    log = small_disk / "audit.jsonl"
    used = AuditLog(log)
    pay_until_refused(log, range(1))
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"x" * 1_000)

    assert pay_until_refused(used.path, range(1, 3)) == ([], [1, 2])


@pytest.mark.parametrize(
    "step",
    ["open", "write", "pwrite", "ftruncate", "stat", "fstat", "lseek", "unlink", "fsync", "flock"],
)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.filterwarnings("ignore:the line of a call could not be written")
def test_failing_disk(
    step: str, when: str, log_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing step before the body refuses the call, and afterwards never hides its result."""
    broken = False
    ran = []
    module = fcntl if step == "flock" else os
    real = getattr(module, step)

    def failing(*args: Any, **kwargs: Any) -> Any:
        # The log's own steps only: whatever else runs here may need its files.
        if broken and (isinstance(args[0], int) or str(args[0]).startswith(str(log_path))):
            raise OSError(errno.EIO, "Input/output error")
        return real(*args, **kwargs)

    monkeypatch.setattr(module, step, failing)

    @guard(audit=AuditLog(log_path, fsync=step == "fsync"), channel=YES)
    def pay(amount: int) -> str:
        nonlocal broken
        ran.append(amount)
        broken = broken or (when == "after" and amount == 2)
        return f"paid {amount}"

    assert pay(1) == "paid 1"
    broken = when == "before"
    try:
        result = pay(2)
    except OSError:
        result = "refused"
    broken = False
    assert pay(3) == "paid 3"

    assert (result == "paid 2") == (2 in ran)
    assert when == "before" or result == "paid 2"
    found = [(line["args"]["amount"], line["executed"]) for line in lines()]
    assert [amount for amount, executed in found if executed] == ran
    assert len(found) == len({amount for amount, _ in found})
    assert beside(log_path) == [log_path.name]


@pytest.mark.parametrize("away", [os.unlink, lambda path: os.rename(path, f"{path}.1")])
@pytest.mark.filterwarnings("ignore:the line of a call could not be written")
def test_path_that_becomes_a_folder(away: Callable[[Path], object], log_path: Path) -> None:
    """Where no log can be written any more, no call runs."""
    ran: list[int] = []
    pay = guard(ran.append, audit=log_path, policy=FREE)
    pay(1)
    away(log_path)
    log_path.mkdir()

    with pytest.raises(OSError):
        pay(2)

    assert ran == [1]
    log_path.rmdir()
    pay(3)
    assert ran == [1, 3]
    assert [record["args"]["object"] for record in read_log(log_path)][-1] == 3


def test_unwritable_log_is_loud_and_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be a log is refused when something is guarded with it, and leaves nothing."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    for path in (tmp_path / "file" / "audit.jsonl", tmp_path / "folder", "/dev/null"):
        with pytest.raises(OSError):
            guard(lambda: None, audit=path)
    with pytest.raises(IsADirectoryError):
        AuditLog(tmp_path)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for path in (tmp_path / "audit.jsonl", tmp_path / "new" / "audit.jsonl"):
        with pytest.raises(OSError, match="an audit log cannot be kept here: No locks available"):
            guard(lambda: None, audit=path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# --- the interface ---------------------------------------------------------------------------


def test_record(log_path: Path, lines: Lines) -> None:
    """`record` writes a line and returns what it says; a log that is off writes nothing."""
    said: Any = {"needed_approval": True, "executed": False, "error": "declined"}
    decision = Decision(False, "no", "ann", {"ticket": 7})
    action = Action("refund", {"amount": 50})

    record = AuditLog(log_path).record(action=action, decision=decision, **said)
    off = AuditLog(log_path, enabled=False).record(action=action, decision=None, **said)

    assert lines() == [record]
    assert len(record.pop("timestamp")) == len("2026-06-01T12:00:00.000000+00:00")
    assert record == {
        "tool": "refund",
        "args": {"amount": 50},
        "needed_approval": True,
        "approved": False,
        "decision_source": "ann",
        "decision_comment": "no",
        "executed": False,
        "result": None,
        "error": "declined",
        "id": action.id,
        "waited_s": None,
        "ran_s": None,
        "decision_metadata": {"ticket": 7},
    }
    assert off["approved"] is None


@pytest.mark.parametrize(
    ("result", "logged"),
    [
        (None, None),
        ("text", "text"),
        ({"a": 1}, "{'a': 1}"),
        ("x" * 2_000, "x" * 2_000),
        ("x" * 5_000, "x" * 1_960 + "... (3,040 more characters)"),
    ],
)
def test_result_is_text(result: object, logged: str | None, log_path: Path, lines: Lines) -> None:
    """A result is null or text of at most 2,000 characters, with the cut stated."""
    guard(lambda: result, audit=log_path, policy=FREE)()

    assert lines()[0]["result"] == logged


@settings(deadline=None, max_examples=40)
@given(odd_values, odd_values, odd_values, st.text(st.characters()), st.booleans())
def test_any_call(value: object, result: object, said: Any, name: str, raises: bool) -> None:
    """Whatever a call, a channel and a body give to the log, it gets one line with all its keys."""

    class Odd(Exception):
        def __str__(self) -> str:
            return said  # type: ignore[no-any-return]

    class Channel(ApprovalChannel):
        def request_approval(self, action: Action) -> Decision:
            return Decision(True, said, None, {"said": said})

    def body(value: object, **more: object) -> object:
        if raises:
            raise Odd
        return result

    body.__name__ = name
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "audit.jsonl")
        with suppress(Odd):
            guard(body, audit=log, channel=Channel())(value, other=value)
        line = log.path.read_bytes()

    assert line.isascii()
    assert line.count(b"\n") == 1
    record = json.loads(line, parse_constant=pytest.fail)
    assert list(record) == [
        *("timestamp", "tool", "args", "needed_approval", "approved", "decision_source"),
        *("decision_comment", "executed", "result", "error", "id", "waited_s", "ran_s"),
        "decision_metadata",
    ]
    assert isinstance(record["result"], (str, type(None)))


def test_history_is_what_was_decided_on(log_path: Path, lines: Lines) -> None:
    """A body that changes its arguments does not change what the log says of them."""
    items = [1, 2]

    guard(list.clear, audit=log_path, policy=FREE)(items)

    assert items == []
    assert list(lines()[0]["args"].values()) == [[1, 2]]


def test_pickled_log_is_the_same_log(log_path: Path) -> None:
    """A log that came from another process, or is a copy, writes to the same file."""
    log = pickle.loads(pickle.dumps(AuditLog(log_path, fsync=True)))

    assert (log.path, log.enabled, log.fsync) == (log_path, True, True)


def test_log_that_is_no_base_class() -> None:
    """A subclass would never be asked to record; saying so is better than that."""
    with pytest.raises(TypeError, match="cannot be subclassed, as Mine does"):
        type("Mine", (AuditLog,), {})


def test_fsync(log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fsync, note and line are on the disk before the call goes on; without, nothing waits."""
    synced: list[str] = []
    real = os.fsync

    def record(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}").split("/")[-1].split("-")[0])
        real(fd)

    monkeypatch.setattr(os, "fsync", record)
    seen: list[list[str]] = []
    for fsync in (False, True):
        log = AuditLog(log_path, fsync=fsync)
        guard(lambda: seen.append(synced.copy()), audit=log, channel=YES)()
        seen.append(synced.copy())

    before, after, before_synced, after_synced = seen
    assert before == after == []
    assert before_synced.count("audit.jsonl.inflight") == 2  # waits, runs
    assert after_synced[len(before_synced) :] == ["audit.jsonl"]


# --- equal calls -----------------------------------------------------------------------------


def over(log: AuditLog, args: dict[str, Any], tool: str = "pay", **said: Any) -> None:
    call = entry(log, args, tool)
    call.note(running=True, needed_approval=False)
    call.end(call.in_words(needed_approval=False, decision=None, executed=True, **said))


def test_earlier(log_path: Path) -> None:
    """Equal calls are found in the log and in flight, newest first, and never the call itself."""
    log = AuditLog(log_path)
    forged = {"timestamp": "", "tool": "pay", "args": {"n": 1}, "needed_approval": True}
    over(log, {"n": 1}, error="ValueError")
    over(log, {"n": 2})
    over(log, {"n": 1}, "tell")
    over(log, forged)
    over(log, {"text": json.dumps(forged)})
    with log_path.open("a") as file:
        file.write('{"tool": "pay", "args": {"n": 1}, "needed_approval": \n')  # torn
    waiting, itself = entry(log, {"n": 1}), entry(log, {"n": 1})
    for each in (waiting, itself):
        each.note(running=False, needed_approval=True)

    found = itself.earlier()

    assert [r.get("state", r.get("error")) for r in found] == ["waiting", "ValueError"]
    assert found[0]["id"] == waiting.id
    assert entry(AuditLog(log_path.with_name("new")), {"n": 1}).earlier() == []


def test_age_of_a_call_counts_from_its_end() -> None:
    """A call that ended just now is a repeat, however long it waited and ran before."""
    began = datetime.now(timezone.utc) - timedelta(seconds=1_000)
    record = {"timestamp": began.isoformat(), "waited_s": 600.0, "ran_s": 300.0}

    assert 100 <= seconds_since(record) < 200


def test_earlier_reads_the_end_only(log_path: Path) -> None:
    """Only the last megabyte counts, so a held call costs the same at the end of any log."""
    log = AuditLog(log_path)
    over(log, {"n": 1})
    with log_path.open("a") as file:
        file.write('{"filler": 1}\n' * 100_000)
    over(log, {"n": 2})

    assert [len(entry(log, {"n": n}).earlier()) for n in (1, 2)] == [0, 1]


def test_of_two_equal_calls_one_sees_the_other(log_path: Path) -> None:
    """Processes that note a call first and look then never both see none."""
    go: Any = FORK.Barrier(2)
    alone = FORK.Queue()

    def call() -> None:
        log = AuditLog(log_path)
        for n in range(200):
            go.wait(60)
            mine = entry(log, {"n": n})
            mine.note(running=False, needed_approval=False)
            if not mine.earlier():
                mine.note(running=True, needed_approval=False)
                alone.put(n)
            mine.end(mine.in_words(needed_approval=False, decision=None, executed=True))

    run_all(*(lambda: in_child(call) for _ in range(2)))

    ran = [alone.get() for _ in range(alone.qsize())]
    assert len(ran) == len(set(ran))


# --- the log's thread ------------------------------------------------------------------------


@pytest.fixture
def no_file_work_on_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `langgraph dev`, but stricter."""
    gc.collect()  # logs of other tests

    def forbid(module: Any, name: str) -> None:
        real = getattr(module, name)

        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return real(*args, **kwargs)
            raise AssertionError(f"{name} on the event loop")

        monkeypatch.setattr(module, name, checked)

    for name in (
        *("open", "close", "write", "pwrite", "read", "lseek", "ftruncate", "fsync", "fstatvfs"),
        *("stat", "fstat", "lstat", "access", "listdir", "scandir", "getcwd", "mkdir", "unlink"),
    ):
        forbid(os, name)
    forbid(fcntl, "flock")


@pytest.mark.usefixtures("no_file_work_on_a_loop")
def test_nothing_blocks_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log can be made, guarded with and written inside a running loop."""
    monkeypatch.chdir(tmp_path)

    async def pay(amount: int) -> int:
        return amount

    async def main() -> AuditLog:
        log = AuditLog("logs/audit.jsonl")
        log.check()
        held, free = guard(pay, audit=log, channel=YES), guard(pay, audit=log, policy=FREE)
        await asyncio.gather(*(each(n) for n in range(20) for each in (held, free)))
        return log

    log = asyncio.run(main())

    assert log.path == tmp_path / "logs" / "audit.jsonl"
    assert len(list(log.records())) == 40


def test_aside(log_path: Path) -> None:
    """Jobs run in one thread in order, also when a caller was cancelled or the loop was closed."""
    log = AuditLog(log_path)
    call = entry(log, {})
    went: list[Any] = []

    async def main() -> None:
        assert await call.aside(threading.current_thread) is not threading.main_thread()
        with pytest.raises(ZeroDivisionError):
            await call.aside(lambda: 1 / 0)
        hold = threading.Event()
        jobs = [hold.wait, *(lambda n=n: went.append(n) for n in range(1_000))]
        tasks = [asyncio.ensure_future(call.aside(job)) for job in jobs]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        hold.set()

    asyncio.run(main())
    asyncio.run(call.aside(lambda: went.append("last")))  # type: ignore[arg-type]

    assert went == [*range(1_000), "last"]


@pytest.mark.filterwarnings("ignore:the line of a call could not be written")
def test_async_calls_on_a_log_that_fails(log_path: Path) -> None:
    """Lines that are written together fail together, and then no call runs until they are."""
    ran = []

    async def pay(n: int) -> int:
        ran.append(n)
        if n == 1:
            os.unlink(log_path)
            os.mkdir(log_path)
        return n

    paid = guard(pay, audit=log_path, policy=FREE)

    async def main() -> None:
        assert await paid(0) == 0
        assert await paid(1) == 1
        assert [
            type(e) for e in await asyncio.gather(paid(2), paid(3), return_exceptions=True)
        ] == [IsADirectoryError] * 2
        os.rmdir(log_path)
        assert await paid(4) == 4

    asyncio.run(main())

    assert ran == [0, 1, 4]
    found = {record["args"]["n"]: record["executed"] for record in read_log(log_path)}
    assert found == {1: True, 2: False, 3: False, 4: True}


def test_what_is_owed_when_the_program_ends(log_path: Path, lines: Lines) -> None:
    """Jobs that nobody waits for any more are done at the end, and no notes are left."""
    code = f"""
import asyncio, time
from actionguard import AuditLog
call = AuditLog({str(log_path)!r}).entry("1", "pay", {{}})
def close():
    call.note(running=True, needed_approval=False)
    call.end(call.in_words(needed_approval=False, decision=None, executed=True))
async def main():
    asyncio.ensure_future(call.aside(lambda: time.sleep(0.1)))
    asyncio.ensure_future(call.aside(close))
    await asyncio.sleep(0)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})

    assert len(lines()) == 1
    assert beside(log_path) == [log_path.name]
