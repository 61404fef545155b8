"""The log as a file: many writers, rotation, disks that are full or fail, and reading it back."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
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
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_values import odd_values

from actionguard import Action, ApprovalChannel, AuditLog, Decision, audit, guard
from actionguard.audit import read_log
from actionguard.testing import AutoApproveChannel

Lines = Callable[[], list[dict[str, Any]]]
YES = AutoApproveChannel()
#: Payloads from what fits into one write of a pipe to what fits into no buffer.
SIZES = (0, 100, 5_000, 300_000)


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
        assert record["executed"] is True and record["result"] == str(len(args["payload"]))
    assert numbers == {writer: list(range(count)) for writer in range(writers)}


def only_file(path: Path) -> bool:
    AuditLog(path)  # takes up the notes of processes that are over
    own = f".inflight-{os.getpid()}-"
    return [file.name for file in path.parent.iterdir() if own not in file.name] == [path.name]


# --- many writers ----------------------------------------------------------------------------


def test_sixteen_threads(log_path: Path, lines: Lines) -> None:
    """Threads, each with an AuditLog of its own on the path, lose and mix nothing."""
    threads = [threading.Thread(target=write, args=(log_path, n)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    check(lines(), 16)
    assert only_file(log_path)


@pytest.mark.parametrize(("how", "count"), [("fork", 8), ("spawn", 3)])
def test_processes(how: str, count: int, log_path: Path, lines: Lines) -> None:
    """Processes, forked from one that uses the log or begun afresh, lose and mix nothing."""
    write(log_path, 0)
    if how == "spawn":
        code = "import sys, pathlib, test_audit as t; t.write(pathlib.Path(sys.argv[1]), {})"
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code.format(n), log_path],
                env={**os.environ, "PYTHONPATH": path},
            )
            for n in range(1, count)
        ]
        assert [process.wait() for process in started] == [0] * (count - 1)
    else:
        context = multiprocessing.get_context("fork")
        forked = [context.Process(target=write, args=(log_path, n)) for n in range(1, count)]
        for process in forked:
            process.start()
        for process in forked:
            process.join()
        assert [process.exitcode for process in forked] == [0] * (count - 1)

    check(lines(), count)
    assert only_file(log_path)


def test_fork_while_calls_are_in_flight(log_path: Path, lines: Lines) -> None:
    """A child writes its own lines only, and does not take its parent's calls for dead."""
    waiting, answer = threading.Event(), threading.Event()

    class Slow(ApprovalChannel):
        def request_approval(self, action: Action) -> Decision:
            waiting.set()
            answer.wait(120)
            return Decision.approve()

    @guard(audit=log_path, channel=Slow())
    def held(writer: int) -> str:
        return "held"

    thread = threading.Thread(target=held, args=(1,))
    thread.start()
    assert waiting.wait(120)
    child = multiprocessing.get_context("fork").Process(target=write, args=(log_path, 0, 5))
    child.start()
    child.join()

    assert child.exitcode == 0
    assert len(lines()) == 5
    assert [call["args"] for call in AuditLog(log_path).in_flight()] == [{"writer": 1}]
    answer.set()
    thread.join()
    assert [line["result"] for line in lines()[5:]] == ["held"]
    assert only_file(log_path)


def test_forks_while_threads_work(log_path: Path, lines: Lines) -> None:
    """Wherever a thread is in the midst of a call, a child that is forked then can make its own."""
    over = threading.Event()
    made = [0, 0, 0]

    class Yes(ApprovalChannel):  # with no lock that a thread may hold at the time
        def request_approval(self, action: Action) -> Decision:
            return Decision.approve()

    @guard(audit=log_path, channel=Yes())
    def pay(writer: int, number: int) -> None: ...

    def work(writer: int) -> None:
        while not over.is_set():
            made[writer] += 1
            pay(writer, made[writer])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for number in range(30):
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would run more tests
            signal.alarm(120)  # a lock that nobody holds any more
            pay(3, number)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    over.set()
    for thread in threads:
        thread.join()

    calls = Counter((line["args"]["writer"], line["args"]["number"]) for line in lines())
    expected = {(n, number + 1) for n in range(3) for number in range(made[n])}
    assert calls == Counter(expected | {(3, number) for number in range(30)})


@pytest.mark.parametrize("away", [os.unlink, lambda path: os.rename(path, f"{path}.{next(AWAY)}")])
def test_rotated_under_load(away: Any, log_path: Path) -> None:
    """A log that is renamed under its writers is made anew; none of its lines is lost or torn."""
    over = threading.Event()
    removed: list[bytes] = []

    def rotate() -> None:
        while not over.wait(0.002):
            if log_path.exists():
                if away is os.unlink:  # what was removed can be read while it is open
                    with open(log_path, "rb") as file:
                        kept.append(os.dup(file.fileno()))
                away(log_path)

    kept: list[int] = []
    rotating = threading.Thread(target=rotate)
    rotating.start()
    threads = [threading.Thread(target=write, args=(log_path, n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    rotating.join()

    for fd in kept:
        with open(fd, "rb") as file:
            file.seek(0)
            removed.append(file.read())
    # In a burst like this one, the note file stays for a moment.
    files = [path for path in log_path.parent.iterdir() if ".inflight-" not in path.name]
    text = b"".join([*removed, *(path.read_bytes() for path in files)])
    calls = Counter(
        (line["args"]["writer"], line["args"]["number"])
        for line in map(json.loads, text.splitlines())
    )
    assert calls == Counter((writer, number) for writer in range(4) for number in range(40))


AWAY: Iterator[int] = iter(range(100_000))


@pytest.mark.parametrize("threads", [0, 3])
def test_calls_of_a_signal_handler(threads: int, log_path: Path, lines: Lines) -> None:
    """A handler that makes calls in the midst of others neither hangs, loses nor mixes a line."""
    made: Counter[str] = Counter()
    over = threading.Event()
    handlers = 0

    @guard(audit=log_path, channel=YES)
    def pay(who: str, number: int) -> None: ...

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
        for _ in range(1500 if threads else 3000):
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


def test_log_made_in_the_midst_of_another(log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that looks at what is in flight does not wait for the log that is being made."""
    journal = audit.Journal

    def interrupted(path: str) -> Any:
        monkeypatch.undo()
        assert AuditLog(log_path).in_flight() == []  # as a signal's handler might, just now
        return journal(path)

    monkeypatch.setattr(audit, "Journal", interrupted)

    assert AuditLog(log_path).path == log_path


@pytest.mark.parametrize("spelling", ["folder", "file"])
def test_two_names_of_one_log(spelling: str, log_path: Path, lines: Lines) -> None:
    """Threads that know the log by different names write to one file."""
    other = log_path.with_name("other")
    other.symlink_to(log_path.parent if spelling == "folder" else log_path)
    paths = [log_path, other / log_path.name if spelling == "folder" else other]
    threads = [threading.Thread(target=write, args=(paths[n % 2], n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    check(lines(), 4)


def test_private_log_stays_private(log_path: Path) -> None:
    """Nobody who may not read the log may read its notes, or the log that follows it."""
    log_path.touch(mode=0o600)
    modes = []

    @guard(audit=log_path, channel=YES)
    def pay() -> None:
        modes.extend(stat.S_IMODE(file.stat().st_mode) for file in log_path.parent.iterdir())

    pay()
    log_path.unlink()
    pay()

    assert modes == [0o600] * 4


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is meant from where the log was made, wherever the program goes."""
    monkeypatch.chdir(tmp_path)
    log = AuditLog("logs/audit.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    guard(lambda: None, audit=log, channel=YES)()

    assert log.path == tmp_path / "logs/audit.jsonl"
    assert len(list(log.records())) == 1


def test_nothing_is_made_by_guarding(tmp_path: Path) -> None:
    """A module with guarded functions can be imported anywhere, and leaves no trace there."""
    guard(lambda: None, audit=tmp_path / "logs" / "audit.jsonl")

    assert list(tmp_path.iterdir()) == []


def test_descriptors_are_given_back() -> None:
    """Logs that nobody holds any more hold no file open."""

    def use(number: int) -> None:
        guard(lambda: None, audit=f"{folder}/{number}.jsonl", channel=YES)()

    with tempfile.TemporaryDirectory() as folder:
        use(0)
        gc.collect()
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
        for number in range(50):
            use(number)
        gc.collect()
        after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
    assert after <= before


# --- what is torn, full or broken ------------------------------------------------------------


def test_torn_line_is_closed_off(log_path: Path) -> None:
    """What a crash left without an end swallows no line that comes after it."""
    log_path.write_bytes(b'{"timestamp": "2026-')

    guard(lambda: "done", audit=log_path, channel=YES)()

    torn: list[str] = []
    assert [record["result"] for record in read_log(log_path, torn=torn)] == ["done"]
    assert torn == ['{"timestamp": "2026-\n']
    with pytest.warns(RuntimeWarning, match="line 1 of .* is damaged"):
        assert len(list(read_log(log_path))) == 1


def test_read_while_a_line_is_written(log_path: Path) -> None:
    """A line that is half there is not called torn, nor read in halves, while it is written."""
    guard(lambda: "done", audit=log_path, channel=YES)()
    whole = log_path.read_bytes()
    torn: list[str] = []

    def read() -> Iterator[Any]:
        return (record["result"] for record in read_log(log_path, torn=torn))

    with log_path.open("ab", buffering=0) as file:
        file.write(whole[:100])
        fcntl.flock(file, fcntl.LOCK_EX)
        while_it_is_written = list(read())
        fcntl.flock(file, fcntl.LOCK_UN)
        until_it_is_written = read()
        next(until_it_is_written)
        file.write(whole[100:])

        assert while_it_is_written == ["done"]
        assert list(until_it_is_written) == ["done"]
        assert torn == []

        file.write(whole[:100])

    assert list(read()) == ["done", "done"]
    assert torn == [whole[:100].decode()]


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
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ran, refused = pay_until_refused(log_path, range(20))
        assert ran and refused and ran + refused == list(range(20))
        assert any("could not be written" in str(warning.message) for warning in caught)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        ran_later, none = pay_until_refused(log_path, range(20, 25))
        assert (ran_later, none) == (list(range(20, 25)), [])
        Path(f"{log_path}.ran").write_text(json.dumps(ran + ran_later))

    child = multiprocessing.get_context("fork").Process(target=limited)
    child.start()
    child.join()

    assert child.exitcode == 0
    executed = [line["args"]["amount"] for line in lines() if line["executed"]]
    assert executed == json.loads(Path(f"{log_path}.ran").read_text())
    assert all(
        line["executed"] is False for line in lines() if line["args"]["amount"] not in executed
    )


def test_full_disk(tmp_path: Path) -> None:
    """On a disk without room the same holds, and once there is room again, all goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        filler = disk / "filler"
        filler.write_bytes(b"x" * 40_000)
        log = disk / "audit.jsonl"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ran, refused = pay_until_refused(log, range(20))
        assert ran and refused and ran + refused == list(range(20))
        filler.unlink()
        later, none = pay_until_refused(log, range(20, 25))

        records = list(read_log(log))
        assert (later, none) == (list(range(20, 25)), [])
        assert [r["args"]["amount"] for r in records if r["executed"]] == ran + later
        assert only_file(log)
    finally:
        gc.collect()
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    "step",
    ["open", "write", "pwrite", "ftruncate", "stat", "fstat", "lseek", "unlink", "fsync", "flock"],
)
@pytest.mark.parametrize("when", ["before", "after"])
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
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
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
    assert only_file(log_path)


@pytest.mark.parametrize("away", [os.unlink, lambda path: os.rename(path, f"{path}.1")])
def test_path_that_becomes_a_folder(away: Callable[[Path], object], log_path: Path) -> None:
    """Where no log can be written any more, no call runs."""
    ran: list[int] = []
    pay = guard(ran.append, audit=log_path, channel=YES)
    pay(1)
    away(log_path)
    log_path.mkdir()

    with pytest.raises(OSError):
        pay(2)

    assert ran == [1]
    log_path.rmdir()
    pay(3)
    assert ran == [1, 3] and [r["args"] for r in read_log(log_path)][-1] == {"object": 3}


def test_unwritable_log_is_loud_and_early(tmp_path: Path) -> None:
    """What cannot be a log is refused when something is guarded with it."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    for path in (tmp_path / "file" / "audit.jsonl", tmp_path / "folder", "/dev/null"):
        with pytest.raises(OSError):
            guard(lambda: None, audit=path)


def test_a_body_that_ends_the_process(log_path: Path, lines: Lines) -> None:
    """os._exit in the body leaves what SIGKILL leaves: a call of which the outcome is unknown."""

    def ends() -> None:
        guard(os._exit, audit=log_path, channel=YES)(0)

    child = multiprocessing.get_context("fork").Process(target=ends)
    child.start()
    child.join()
    AuditLog(log_path)

    (line,) = lines()
    assert line["executed"] is None and "unknown" in line["error"]
    assert only_file(log_path)


# --- the interface ---------------------------------------------------------------------------


def test_record(log_path: Path, lines: Lines) -> None:
    """`record` writes a line and returns what it says; a log that is off writes nothing."""
    said = {"needed_approval": True, "executed": False, "error": "declined"}
    decision = Decision(False, "no", "ann", {"ticket": 7})
    action = Action("refund", {"amount": 50})

    record = AuditLog(log_path).record(action=action, decision=decision, **said)  # type: ignore[arg-type]
    off = AuditLog(log_path, enabled=False).record(action=action, decision=None, **said)  # type: ignore[arg-type]

    assert lines() == [record]
    assert record.pop("timestamp").endswith("+00:00")
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

    assert line.isascii() and line.endswith(b"\n") and line.count(b"\n") == 1
    assert list(json.loads(line, parse_constant=pytest.fail)) == [
        *("timestamp", "tool", "args", "needed_approval", "approved", "decision_source"),
        *("decision_comment", "executed", "result", "error", "id", "waited_s", "ran_s"),
        "decision_metadata",
    ]


def test_history_is_what_was_decided_on(log_path: Path, lines: Lines) -> None:
    """A body that changes its arguments does not change what the log says of them."""
    items = [1, 2]

    guard(list.clear, audit=log_path, channel=YES)(items)

    assert items == [] and list(lines()[0]["args"].values()) == [[1, 2]]


def test_pickled_log_is_the_same_log(log_path: Path) -> None:
    """A log that came from another process, or is a copy, writes to the same file."""
    log = pickle.loads(pickle.dumps(AuditLog(log_path, fsync=True)))

    assert (log.path, log.enabled, log.fsync) == (log_path, True, True)


@pytest.mark.parametrize("value", ["yes", 1])
def test_fsync(value: object, log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fsync, note and line are on the disk before the call goes on; without, nothing waits."""
    synced: list[str] = []
    real = os.fsync

    def record(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}").split("/")[-1].split("-")[0])
        real(fd)

    monkeypatch.setattr(os, "fsync", record)
    seen: list[list[str]] = []
    for fsync in (False, True):
        body = guard(
            lambda: seen.append(synced.copy()),
            audit=AuditLog(log_path, fsync=fsync),
            channel=YES,
        )
        body()
        seen.append(synced.copy())

    before, after, before_synced, after_synced = seen
    assert before == after == []
    assert before_synced.count("audit.jsonl.inflight") == 2  # waits, runs
    assert after_synced[-1] == "audit.jsonl" or "audit.jsonl" in after_synced[len(before_synced) :]


# --- equal calls, and the log's thread -------------------------------------------------------


def entry(log: AuditLog, args: dict[str, Any], tool: str = "pay") -> Any:
    return log.entry(os.urandom(8).hex(), tool, args)


def test_earlier(log_path: Path) -> None:
    """Equal calls are found in the log and in flight, newest first, and never the call itself."""
    log = AuditLog(log_path)
    forged = {"timestamp": "", "tool": "pay", "args": {"n": 1}, "needed_approval": True}
    for tool, args in [("pay", {"n": 1}), ("pay", {"n": 2}), ("tell", {"n": 1}), ("pay", forged)]:
        over = entry(log, args, tool)
        over.note(running=True, needed_approval=False)
        over.close(needed_approval=False, decision=None, executed=True, error="ValueError")
    waiting, itself = entry(log, {"n": 1}), entry(log, {"n": 1})
    for each in (waiting, itself):
        each.note(running=False, needed_approval=True)

    found = itself.earlier()

    assert [(r.get("state"), r.get("error")) for r in found] == [
        ("waiting", None),
        (None, "ValueError"),
    ]
    assert found[0]["id"] == waiting.call_id
    assert len(itself.earlier(within=600)) == 2
    assert [r["state"] for r in itself.earlier(within=0)] == ["waiting"]


def test_aside(log_path: Path) -> None:
    """Jobs run in one thread in order, also when a caller was cancelled or the loop was closed."""
    log = AuditLog(log_path)
    went: list[Any] = []

    async def fails() -> None:
        await entry(log, {}).aside(lambda: 1 / 0)

    async def main() -> None:
        assert await entry(log, {}).aside(threading.current_thread) is not threading.main_thread()
        with pytest.raises(ZeroDivisionError):
            await fails()
        hold = threading.Event()
        tasks = [
            asyncio.ensure_future(entry(log, {}).aside(work))
            for work in (hold.wait, *(lambda n=n: went.append(n) for n in range(1_000)))
        ]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        hold.set()

    asyncio.run(main())
    asyncio.run(entry(log, {}).aside(lambda: went.append("last")))  # type: ignore[arg-type]

    assert went == [*range(1_000), "last"]
