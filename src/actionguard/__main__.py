"""Shows the last calls of an audit log, then those in flight. Changes nothing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from actionguard._journal import in_flight, left_behind
from actionguard._values import cut, escape
from actionguard.audit import read_log

_KINDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "held": lambda record: record.get("needed_approval") is True,
    "denied": lambda record: record.get("approved") is False,
    "failed": lambda record: record.get("error") is not None,
}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_HEADINGS = ["time (UTC)", "outcome", "tool", "args", "who", "how long", "comment"]


def main(argv: list[str] | None = None) -> int:
    """Print the calls; returns the exit code: 1 if lines are damaged, 2 if there is no log."""
    parser = argparse.ArgumentParser(prog="python -m actionguard", description=__doc__)
    add = parser.add_argument
    log = "actionguard_audit.jsonl"
    add("log", nargs="?", default=log, metavar="LOG", help=f"the log's path (default: {log})")
    for kind, fits in _KINDS.items():
        add(f"--{kind}", dest="kinds", action="append_const", const=fits, help=f"{kind} calls")
    add("--tool", metavar="NAME", help="calls of this tool")
    add("--since", type=age, metavar="AGE", help="calls of the last AGE: 30s, 5m, 1h or 2d")
    add(
        "--last",
        type=int,
        default=20,
        metavar="N",
        help="how many calls the table shows (default: 20)",
    )
    add("--json", action="store_true", help="all calls, one JSON object per line")
    asked = parser.parse_args(argv)
    try:
        return _report(asked)
    except BrokenPipeError:  # `| head`; Python would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"actionguard: cannot read {asked.log}: {error.strerror}", file=sys.stderr)
        return 2


def age(text: str) -> str:
    """The time so long ago, as a log has it. argparse names this function in its error."""
    ago = timedelta(**{_UNITS.get(text[-1:], ""): int(text[:-1])})
    return (datetime.now(timezone.utc) - ago).isoformat("T", "microseconds")


def _report(asked: argparse.Namespace) -> int:
    # The terminal may not have every character of a tool's name.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    torn: list[str] = []
    wanted = (record for record in _records(asked.log, torn) if _is_wanted(record, asked))
    if asked.json:
        for record in wanted:
            print(json.dumps(record))
    else:
        _print_table(deque(wanted, maxlen=max(0, asked.last)))
    if torn:
        print(f"actionguard: damaged lines that were skipped: {len(torn):,}", file=sys.stderr)
    sys.stdout.flush()
    return 1 if torn else 0


def _records(log: str, torn: list[str]) -> Iterator[dict[str, Any]]:
    """The calls of the log, those of killed processes, and those in flight."""
    os.stat(log)  # `read_log` takes a missing log for an empty one
    # Notes first, so that a call that ends meanwhile is not left out.
    path = os.path.abspath(log)
    noted = {call["id"]: call for call in [*in_flight(path), *left_behind(path)]}
    for record in read_log(log, torn=torn):
        noted.pop(str(record.get("id")), None)
        yield record
    yield from noted.values()


def _is_wanted(record: dict[str, Any], asked: argparse.Namespace) -> bool:
    return (
        (not asked.kinds or any(fits(record) for fits in asked.kinds))
        and asked.tool in (None, record.get("tool"))
        and str(record.get("timestamp") or "") >= (asked.since or "")
    )


def _print_table(records: Iterable[dict[str, Any]]) -> None:
    rows = [_HEADINGS, *([escape(cut(text, 80)) for text in _row(record)] for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _row(record: dict[str, Any]) -> list[str]:
    who = [(record.get("decision_metadata") or {}).get("who"), record.get("decision_source")]
    took = [(word, record.get(f"{word}_s")) for word in ("waited", "ran")]
    return [
        str(record.get("timestamp"))[:19].replace("T", " "),
        _outcome(record),
        str(record.get("tool")),
        json.dumps(record.get("args")),
        ", ".join(str(name) for name in who if name is not None),
        ", ".join(f"{word} {s:,.1f} s" for word, s in took if s is not None),
        str(record.get("decision_comment") or record.get("error") or ""),
    ]


def _outcome(record: dict[str, Any]) -> str:
    if record.get("executed") is None:
        return str(record.get("state", "unknown"))
    if record["executed"]:
        return "ran" if record.get("error") is None else "failed"
    return "denied" if record.get("approved") is False else "not run"


if __name__ == "__main__":
    sys.exit(main())
