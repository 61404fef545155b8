"""The request as a person reads it at a terminal: nothing forged, and nothing cut unsaid."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice, takewhile

from actionguard._values import cut, escape, label, shares, show
from actionguard.core import Action, Decision

QUESTION = "Approve this action? [y/N] "

#: The rules are as wide as this, or as the window.
_RULE = 62
#: How many lines a request takes at most where it can be scrolled.
_MOST_LINES = 120
_NAME_LIMIT = 60
#: The arguments get this many lines at least, if need be in place of the description.
_FEW_LINES = 4
#: A text that has fewer cells than this says in short how much of it is left out.
_FEW_CELLS = 48

#: What the banner itself draws, and what stands for it where there is no more than ASCII.
_ASCII = str.maketrans(
    {"─": "-", "🛑": "!!", "—": "-", "│": "|", "┆": ":", "…": "...", "✅": "->", "⛔": "->"}
)


class Banner:
    """Lays requests out for one window.

    Args:
        columns: Width of the window; taken for 20 if it is less.
        rows: Height of the window; None where there is none.
        encoding: Characters that it cannot say are shown as escapes.
        dumb: Whether the terminal is known to draw no more than ASCII.
    """

    def __init__(self, columns: int, rows: int | None, encoding: str, *, dumb: bool) -> None:
        self._width = max(columns, 20) - 1  # terminals differ in what the last column does
        self._rows = rows
        self._encoding = encoding
        drawn = "".join(map(chr, _ASCII))
        self._plain = dumb or self._sayable(drawn) != drawn

    def text(self, action: Action, waiting: int | None) -> str:
        """The request, up to the question.

        What is longer than the window is shown twice: in full, to scroll back to, and then cut
        so that the tool's name, each argument and the question are on the screen together.
        """
        arguments = [_forms(*item) for item in islice(action.args.items(), _MOST_LINES)]
        lines = self._lines(action, arguments, waiting, _MOST_LINES)
        if self._rows:
            # Besides, the question takes a line or two, and the outcome one.
            room = self._rows - 2 - len(QUESTION + "yes") // self._width
            if len(lines) > room:
                lines += ["", *self._lines(action, arguments, waiting, room, " (in short)")]
        return "\n" + "".join(line + "\n" for line in lines)

    def outcome(self, decision: Decision) -> str:
        """What became of the request, for the line after the answer."""
        if decision.approved:
            return self._drawn(" ✅ approved")
        if not decision.unanswered:
            return self._drawn(" ⛔ denied")
        text = f"{self._drawn('⛔')} not approved: {decision.comment}"
        return "\n" + "\n".join(self._wrap(text, " ", "    "))

    def _lines(
        self,
        action: Action,
        arguments: list[tuple[str, str]],
        waiting: int | None,
        room: int,
        note: str = "",
    ) -> list[str]:
        rule = self._drawn("─") * min(_RULE, self._width)
        title = self._drawn("🛑 actionguard — approval required") + note
        head = [rule, *self._wrap(title, " ", "    "), rule]
        tool = self._fit(escape(action.tool_name), " Tool: ", 2)
        summary = _summary(action)
        about = self._fit(summary, " About: ", 3) if summary else []
        end = [rule]
        if waiting is not None:
            end += self._wrap(f"Waiting behind this one: {waiting:,}", " ", "    ")
        room -= len(tool) + 1
        # In a small window, the arguments come first.
        for part in (end, head, about):
            if room - len(part) < _FEW_LINES:
                part.clear()
            room -= len(part)
        lines = self._arguments(arguments, len(action.args), max(room, 1))
        return [*head, *tool, *about, " Args:", *lines, *end]

    def _arguments(self, arguments: list[tuple[str, str]], count: int, room: int) -> list[str]:
        if not count:
            return ["    (none)"]
        if count > room:
            arguments = arguments[: room - 1]
        left = count - len(arguments)
        needs = [len(list(islice(self._rows_of(rows, "    "), room + 1))) for rows, _ in arguments]
        rooms = shares(needs, room - bool(left))
        lines = []
        for (rows, row), need, share in zip(arguments, needs, rooms, strict=True):
            in_rows = share == need or share > _FEW_LINES
            lines += self._fit(rows if in_rows else row, "    ", share)
        return [*lines, f"    {self._drawn('…')} {left:,} more"] if left else lines

    def _fit(self, text: str, first: str, room: int) -> list[str]:
        """The text in at most so many lines; cut in its middle if it is too long for them."""
        text, gap = self._sayable(text), self._drawn("…")
        wide = room * (self._width - 8) >= _FEW_CELLS  # beside the marks of its rows

        def lines_of(text: str) -> list[str]:
            return list(islice(self._rows_of(text, first), room + 1))

        def shortened(kept: int) -> str:
            left, tail = len(text) - kept, kept // 3
            note = f"{gap} {left:,} characters left out {gap}" if wide else f"{gap}+{left:,}{gap}"
            return f"{text[: kept - tail]} {note} {text[len(text) - tail :]}"

        lines = lines_of(text)
        if len(lines) <= room:
            return lines
        # By trial: how far characters reach depends on their width, on words and on newlines.
        sizes = range(min(len(text), room * self._width))
        size = bisect_right(sizes, room, key=lambda kept: len(lines_of(shortened(kept))))
        return lines_of(shortened(max(size - 1, 0)))

    def _rows_of(self, text: str, first: str) -> Iterator[str]:
        """The lines of a text of one row or several, each marked as what it continues."""
        for row in text.split("\n"):
            yield from self._wrap(row, first, self._drawn("      ┆ "))
            first = self._drawn("      │ ")

    def _wrap(self, text: str, first: str, rest: str) -> Iterator[str]:
        """The text in lines of the window's width, so that the terminal itself never wraps one."""
        text, start = self._sayable(text), 0
        while True:
            end = _reach(text, start, self._width - len(first))
            if end < len(text):
                end = text.rfind(" ", (start + end) // 2, end) + 1 or end
            yield first + text[start:end]
            if end >= len(text):
                return
            first, start = rest, end

    def _drawn(self, text: str) -> str:
        return text.translate(_ASCII) if self._plain else text

    def _sayable(self, text: str) -> str:
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)


def _summary(action: Action) -> str:
    """The first paragraph of the description, as one line."""
    text = str.__str__(action.tool_description or "").strip()
    paragraph = " ".join(takewhile(str.strip, text.split("\n")))
    return escape(" ".join(paragraph.split()))


def _forms(name: str, value: object) -> tuple[str, str]:
    """An argument in two forms: with a text of several lines in as many rows, and in one row."""
    named = cut(label(name), _NAME_LIMIT)
    row = f"{named} = {show(value)}"
    if type(value) is str and "\n" in value.strip("\n"):
        rows = value.replace("\\", "\\\\").split("\n")  # its backslashes as in a repr
        return "\n".join([f"{named} =", *map(escape, rows)]), row
    return row, row


def _reach(text: str, start: int, cells: int) -> int:
    """How far one gets in the text with so many cells; always one character at least."""
    end = start
    for char in text[start : start + max(cells, 1)]:  # none takes less than a cell
        cells -= _cells(char)
        if cells < 0:
            break
        end += 1
    return max(end, start + 1)


def _cells(char: str) -> int:
    """How many cells a terminal may use for a character: rather one too many than one too few."""
    if char.isascii():
        return 1
    # Flags and hexagrams, say, are narrow by the table, and wide in many a terminal.
    is_symbol = unicodedata.category(char)[0] in "SPN"
    return 2 if is_symbol or unicodedata.east_asian_width(char) in "WF" else 1
