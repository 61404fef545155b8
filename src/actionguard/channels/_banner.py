"""The request as a person reads it at a terminal: nothing forged, and nothing cut unsaid."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from actionguard._render import cut, escape, show
from actionguard.core import Action, Decision

QUESTION = "Approve this action? [y/N] "

#: The rules are as wide as this, or as the window.
_RULE = 62
#: How many lines a request takes at most where it can be scrolled.
_MOST_LINES = 120
#: An argument that is cut keeps this many cells at least: a head, what is left out, a tail.
_LEAST_CELLS = 24
_NAME_LIMIT = 60
#: The arguments get this many lines at least, if need be in place of the description.
_FEW_LINES = 4


class Glyphs(NamedTuple):
    """The characters of the banner itself."""

    rule: str
    stop: str
    dash: str
    line: str  # stands before each line of a text of several lines
    wrap: str  # stands before the rest of a line that is too long
    gap: str
    yes: str
    no: str


UNICODE = Glyphs("─", "🛑", "—", "│", "┆", "…", "✅", "⛔")
ASCII = Glyphs("-", "!!", "-", "|", ":", "...", "->", "->")


#: Label, value, and the rows of its text.
_Argument = tuple[str, object, list[str]]


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
        drawn = "".join(UNICODE)
        self.glyphs = ASCII if dumb or self._sayable(drawn) != drawn else UNICODE

    def text(self, action: Action, waiting: int | None) -> str:
        """The request, up to the question.

        What is longer than the window is shown twice: in full, to scroll back to, and then cut
        so that the tool's name, each argument and the question are on the screen together.
        """
        arguments = [
            (self._label(name), value, self._in_rows(value))
            for name, value in list(action.args.items())[:_MOST_LINES]
        ]
        lines = self._lines(action, arguments, waiting, _MOST_LINES)
        if self._rows:
            room = self._rows - len(self._wrap(QUESTION + "yes", "", "")) - 1  # the outcome's line
            if len(lines) > room:
                lines += ["", *self._lines(action, arguments, waiting, room, " (in short)")]
        return "\n" + "".join(line + "\n" for line in lines)

    def outcome(self, decision: Decision) -> str:
        """What became of the request, for the line after the answer."""
        if decision.approved is True:
            return f" {self.glyphs.yes} approved"
        if not decision.unanswered:
            return f" {self.glyphs.no} denied"
        lines = self._wrap(f"{self.glyphs.no} not approved: {decision.comment}", " ", "    ")
        return "\n" + "\n".join(lines)

    def _lines(
        self,
        action: Action,
        arguments: list[_Argument],
        waiting: int | None,
        room: int,
        note: str = "",
    ) -> list[str]:
        glyphs = self.glyphs
        rule = glyphs.rule * min(_RULE, self._width)
        title = f"{glyphs.stop} actionguard {glyphs.dash} approval required{note}"
        head = [rule, *self._wrap(title, " ", "    "), rule]
        tool = self._fit(escape(action.tool_name), " Tool: ", 2)
        about = self._about(action)
        end = [rule]
        if waiting is not None:
            requests = "request waits" if waiting == 1 else "requests wait"
            count = f"{waiting:,}" if waiting else "No"
            end += self._wrap(f"{count} more {requests} behind this one.", " ", " ")
        room -= len(tool) + 1
        # In a small window, the arguments come first.
        for part in (end, head, about):
            if room - len(part) < _FEW_LINES:
                part.clear()
            room -= len(part)
        lines = self._arguments(arguments, len(action.args), max(room, 1))
        return [*head, *tool, *about, " Args:", *lines, *end]

    def _about(self, action: Action) -> list[str]:
        text = str.__str__(action.tool_description or "").strip()
        paragraph = re.split(r"\n\s*\n", text, maxsplit=1)[0]
        return self._fit(escape(" ".join(paragraph.split())), " About: ", 3) if paragraph else []

    def _label(self, name: str) -> str:
        # Quoted, unless it is a plain name: it must not read like `amount = 5`.
        plain = type(name) is str and name.isascii() and name.isidentifier()
        return cut(name if plain else show(name), _NAME_LIMIT)

    def _arguments(self, arguments: list[_Argument], count: int, room: int) -> list[str]:
        needs = [len(self._argument(*argument, room)) for argument in arguments[:room]]
        least = -(-_LEAST_CELLS // (self._width - 8))
        while needs and sum(min(need, least) for need in needs) > room - (len(needs) < count):
            needs.pop()
        left = count - len(needs)
        lines = []
        for argument, share in zip(arguments, _shares(needs, room - bool(left)), strict=False):
            lines += self._argument(*argument, share)
        if left:
            noun = " argument" if left == 1 else " arguments"
            room_for_it = self._width > 30
            lines.append(f"    {self.glyphs.gap} {left:,} more{noun if room_for_it else ''}")
        return lines or ["    (none)"]

    def _in_rows(self, value: object) -> list[str]:
        """The value as text; a text of several lines as such, its backslashes as in a repr."""
        if type(value) is str and "\n" in value.strip("\n"):
            rows = value.replace("\\", "\\\\").split("\n")
            return self._sayable("\n".join(map(escape, rows))).split("\n")
        return [show(value)]

    def _argument(self, label: str, value: object, rows: list[str], room: int) -> list[str]:
        if len(rows) > 1:
            title = self._fit(f"{label} =", "    ", 2)
            lines = title + self._text(rows, max(room, _FEW_LINES + 1) - len(title))
            if len(lines) <= room:
                return lines
        shown = show(value) if len(rows) > 1 else rows[0]
        return self._fit(f"{label} = {shown}", "    ", room)

    def _text(self, rows: list[str], room: int) -> list[str]:
        newline, wrapped = f"      {self.glyphs.line} ", f"      {self.glyphs.wrap} "
        most = room * self._width  # of one row: more than will be seen of it

        def laid_out(rows: list[str]) -> list[str]:
            return [line for row in rows for line in self._wrap(row, newline, wrapped)]

        lines = laid_out([row[:most] for row in rows[: room + 1]])
        if len(lines) > room:
            head = lines[: room // 2]
            tail = laid_out([row[-most:] for row in rows[-room:]])[-((room - 1) // 2) :]
            # The mark of a line stands for the newline before it.
            seen = sum(len(line) - len(newline) + line.startswith(newline) for line in head + tail)
            left_out = self._left_out(sum(map(len, rows)) + len(rows) - seen, self._width)
            lines = [*head, f"      {left_out.strip()}", *tail]
        return lines

    def _fit(self, text: str, first: str, room: int) -> list[str]:
        """The text in at most so many lines; cut in its middle if it is too long for them."""
        rest = f"      {self.glyphs.wrap} ".rjust(len(first))
        text = self._sayable(text)
        cells = self._width - len(first) + (room - 1) * (self._width - len(rest))
        if len(text) <= cells:
            lines = self._wrap(text, first, rest)
            if len(lines) <= room:
                return lines
        # A double-width character may leave the last cell of each line empty.
        return self._wrap(self._squeeze(text, cells - room), first, rest, words=False)

    def _squeeze(self, text: str, cells: int) -> str:
        """Head and tail of the text in so many cells, and how much was left out between them."""
        if sum(map(_cells, text[: cells + 1])) <= cells:
            return text
        room = cells - sum(map(_cells, self._left_out(len(text), cells)))
        head = _reach(text, 0, room - room // 3)
        tail = _reach(text[: -room - 1 : -1], 0, room // 3)
        note = self._left_out(len(text) - head - tail, cells)
        return f"{text[:head]}{note}{text[len(text) - tail:]}"

    def _left_out(self, characters: int, cells: int) -> str:
        gap = self.glyphs.gap
        if cells < 2 * _LEAST_CELLS:
            return f" {gap}+{characters:,}{gap} "
        return f" {gap} {characters:,} characters left out {gap} "

    def _wrap(self, text: str, first: str, rest: str, *, words: bool = True) -> list[str]:
        """The text in lines of the window's width, so that the terminal itself never wraps one."""
        text, lines, start = self._sayable(text), [first], 0
        while start < len(text):
            if start:
                lines.append(rest)
            end = _reach(text, start, self._width - len(lines[-1]))
            if words and end < len(text):
                end = text.rfind(" ", (start + end) // 2, end) + 1 or end
            lines[-1] += text[start:end]
            start = end
        return lines

    def _sayable(self, text: str) -> str:
        try:
            return text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        except LookupError:
            return ascii(text)[1:-1]


def _reach(text: str, start: int, cells: int) -> int:
    """How far one gets in the text with so many cells; always one character at least."""
    part = text[start : start + max(cells, 1)]  # no character takes less than a cell
    if part.isascii():
        return start + max(len(part), 1)
    end = start
    for char in part:
        cells -= _cells(char)
        if cells < 0:
            break
        end += 1
    return max(end, start + 1)


def _cells(char: str) -> int:
    """How many cells a terminal may use for a character: rather one too many than one too few."""
    if char.isascii():
        return 1
    width = unicodedata.east_asian_width(char)
    return 2 if width in "WF" or (width == "A" and not char.isalpha()) else 1


def _shares(needs: list[int], room: int) -> list[int]:
    """Lines for each: the short ones get all they need, the long ones equal parts of the rest."""
    shares = [0] * len(needs)
    for done, index in enumerate(sorted(range(len(needs)), key=needs.__getitem__)):
        shares[index] = min(needs[index], room // (len(needs) - done))
        room -= shares[index]
    return shares
