"""`python -m actionguard [LOG]`: the last calls of a log, and those in flight."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from actionguard._journal import in_flight, left_behind
from actionguard._values import cut, escape
from actionguard.audit import parsed_lines

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_HEADINGS = ["time (UTC)", "outcome", "tool", "who", "how long", "comment"]


def main(argv: list[str] | None = None) -> int:
    """Print the calls; returns the exit code: 1 if lines are damaged, 2 if there is no log."""
    asked = _parser().parse_args(argv)
    try:
        damaged = _report(asked)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`; Python would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"actionguard: cannot read {asked.log}: {error.strerror}", file=sys.stderr)
        return 2
    if damaged:
        print(f"actionguard: damaged lines that were skipped: {damaged:,}", file=sys.stderr)
    return 1 if damaged else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m actionguard",
        description="Show the last calls of an audit log, then those in flight. Changes nothing.",
    )
    parser.add_argument("log", nargs="?", default="actionguard_audit.jsonl", metavar="LOG")
    parser.add_argument("--held", action="store_true", help="calls that needed approval")
    parser.add_argument("--denied", action="store_true", help="calls that were not approved")
    parser.add_argument("--failed", action="store_true", help="calls with an error")
    parser.add_argument("--tool", metavar="NAME", help="calls of this tool")
    parser.add_argument(
        "--since", type=_ago, metavar="AGE", help="calls of the last 30s, 5m, 1h, 2d"
    )
    parser.add_argument("--last", type=int, default=20, metavar="N", help="how many (default: 20)")
    parser.add_argument("--json", action="store_true", help="all calls, each as a line of JSON")
    return parser


def _ago(age: str) -> float:
    if not re.fullmatch("[0-9]+[smhd]", age):
        raise argparse.ArgumentTypeError(f"write it like 30s, 5m, 1h or 2d, not {age!r}")
    return time.time() - int(age[:-1]) * _UNITS[age[-1]]


def _report(asked: argparse.Namespace) -> int:
    """Print what was asked for; returns the number of damaged lines."""
    # First, so that a call that ends meanwhile is not left out.
    path = os.path.abspath(asked.log)
    flying = {call["id"]: call for call in [*in_flight(path), *left_behind(path)]}
    last: deque[dict[str, Any]] = deque(maxlen=max(0, asked.last))
    damaged = 0
    for line in parsed_lines(asked.log):
        if isinstance(line, bytes):
            damaged += 1
            continue
        flying.pop(str(line.get("id")), None)
        if not _is_wanted(line, asked):
            continue
        if asked.json:
            print(json.dumps(line))
        else:
            last.append(line)
    noted = [call for call in flying.values() if _is_wanted(call, asked)]
    if asked.json:
        for call in noted:
            print(json.dumps(call))
        return damaged
    last.extend(call for call in noted if "state" not in call)  # its process died
    _print_table(last)
    if waiting := [call for call in noted if "state" in call]:
        print("\nin flight:")
        _print_table(waiting)
    return damaged


def _is_wanted(record: dict[str, Any], asked: argparse.Namespace) -> bool:
    kinds = {
        "held": record.get("needed_approval") is True,
        "denied": record.get("approved") is False,
        "failed": record.get("error") is not None,
    }
    chosen = [fits for kind, fits in kinds.items() if getattr(asked, kind)]
    if (chosen and not any(chosen)) or asked.tool not in (None, record.get("tool")):
        return False
    try:
        began = datetime.fromisoformat(record["timestamp"]).timestamp() if asked.since else 0
    except (KeyError, TypeError, ValueError):  # another program wrote that
        return False
    return began >= (asked.since or 0)


def _print_table(records: Iterable[dict[str, Any]]) -> None:
    rows = [_HEADINGS, *([escape(cut(text, 80)) for text in _row(record)] for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(map(str.ljust, row, widths)).rstrip()
        # The terminal may not have every character of a tool's name.
        encoding = sys.stdout.encoding or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def _row(record: dict[str, Any]) -> list[str]:
    metadata = record.get("decision_metadata")
    who = [
        metadata.get("who") if isinstance(metadata, dict) else None,
        record.get("decision_source"),
    ]
    took = [(word, record.get(f"{word}_s")) for word in ("waited", "ran")]
    return [
        str(record.get("timestamp"))[:19].replace("T", " "),
        _outcome(record),
        str(record.get("tool")),
        ", ".join(str(name) for name in who if name is not None),
        ", ".join(f"{word} {s:,.1f} s" for word, s in took if isinstance(s, (int, float))),
        str(record.get("decision_comment") or record.get("error") or ""),
    ]


def _outcome(record: dict[str, Any]) -> str:
    if "state" in record:
        return str(record["state"])
    if record.get("executed") is None:
        return "unknown"
    if record["executed"]:
        return "ran" if record.get("error") is None else "failed"
    return "denied" if record.get("approved") is False else "not run"


if __name__ == "__main__":
    sys.exit(main())
