"""The request as a person reads it at a terminal: nothing forged, and every cut stated."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, takewhile

from actionguard._values import escape, label, shares, show
from actionguard.channels.base import earlier_line
from actionguard.core import Action, Decision

QUESTION = "Approve this action? [y/N] "
_HINT = "y approves, Enter denies, other text denies with that reason"

#: The rules are as wide as this, or as the window.
_RULE = 62
#: How many lines a request takes at most where there is no window.
_MOST_LINES = 120
_NO_LIMIT = 10**9
#: The arguments get this many lines at least, if need be in place of the description.
_FEW_LINES = 4

#: What the banner itself draws, and what stands for it where there is no more than ASCII.
_ASCII = str.maketrans(
    {"─": "-", "—": "-", "│": "|", "┆": ":", "…": "..."}
    | {"🛑": "!!", "⚠": "!!", "✅": "->", "⛔": "->"}
)


class Banner:
    """Lays a request out for one window.

    Args:
        action: The request.
        columns: Width of the window; taken for 20 if it is less.
        rows: Height of the window; None where there is none.
        encoding: Characters that it cannot say are shown as escapes.
    """

    def __init__(self, action: Action, columns: int, rows: int | None, encoding: str) -> None:
        self._action = action
        self._width = max(columns, 20) - 1  # terminals differ in what the last column does
        self._encoding = encoding
        # The question takes a line or two, and the outcome one.
        self._room = rows - 2 - len(QUESTION + "yes") // self._width if rows else _MOST_LINES
        drawn = "".join(map(chr, _ASCII))
        self._plain = self._sayable(drawn) != drawn
        self._rule = self._drawn("─") * min(_RULE, self._width)
        self._about = str.__str__(action.tool_description or "").strip().split("\n")
        #: Whether something was left out of what was laid out last.
        self.is_cut = False

    def request(self, waiting: int) -> str:
        """The request, cut to fit the window together with the question.

        Args:
            waiting: How many requests wait behind this one.
        """
        self.is_cut = False
        action, earlier = self._action, earlier_line(self._action)
        summary = " ".join(" ".join(takewhile(str.strip, self._about)).split())
        tool = self._fit(escape(action.tool_name), " Tool: ", 2)
        about = self._fit(escape(summary), " About: ", 3) if summary else []
        title = self._fit(self._drawn("🛑 actionguard — approval required"))
        head, end = [self._rule, *title, self._rule], [self._rule]
        known = self._fit(self._drawn(f"⚠ {earlier}.")) if earlier else []
        known += self._fit(f"{waiting:,} more waiting") if waiting else []
        hint = self._fit(f"{_HINT}; v shows all")
        room = self._room - len(tool) - 1
        # In a small window, the arguments come first.
        for part in (end, known, hint, head, about):
            if room - len(part) < _FEW_LINES:
                self.is_cut |= part is about and bool(about)
                part.clear()
            room -= len(part)
        arguments = self._arguments(max(room, 1))
        if hint and not self.is_cut:
            hint = self._fit(_HINT)
        parts = ["", *head, *tool, *about, " Args:", *arguments, *end, *known, *hint]
        return "\n".join([*parts, ""])

    def everything(self) -> str:
        """All of the request, for a pager."""
        tool = self._fit(escape(self._action.tool_name), " Tool: ")
        text = "\n".join(map(escape, self._about))
        about = self._fit(text, " About: ") if text else []
        return "\n".join([*tool, *about, " Args:", *self._arguments(_NO_LIMIT), ""])

    def outcome(self, decision: Decision) -> str:
        """What became of the request, for the line after the answer."""
        said = self._drawn("✅ approved")
        if not decision.approved:
            said = self._drawn("⛔ not approved" if decision.unanswered else "⛔ denied")
            said += f": {escape(decision.comment)}" if decision.comment else ""
        return "\n" * decision.unanswered + "\n".join(self._fit(said))

    def _arguments(self, room: int) -> list[str]:
        count = len(self._action.args)
        if not count:
            return ["    (none)"]
        texts = [_argument(*item) for item in islice(self._action.args.items(), room)]
        needs = [len(list(islice(self._rows(text, "    "), room + 1))) for text in texts]
        # One that is cut takes two lines, and those that are left out take one.
        while sum(min(need, 2) for need in needs) > room - (len(needs) < count):
            needs.pop()
        left = count - len(needs)
        lines = []
        for text, share in zip(texts, shares(needs, room - bool(left)), strict=False):
            lines += self._fit(text, "    ", share)
        if left:
            self.is_cut = True
            lines.append(f"    {self._drawn('…')} {left:,} more")
        return lines

    def _fit(self, text: str, first: str = " ", room: int = _NO_LIMIT) -> list[str]:
        """The text in at most so many lines; if it is too long, the last says what is left out."""
        rows = list(islice(self._rows(text, first), room + 1))
        lines = [line for line, _ in rows]
        if len(rows) > room:
            self.is_cut = True
            left = self._sayable(text)[rows[room - 2][1] :]
            is_whole = left.startswith("\n")  # the last line that is shown
            number = f"{left.count(left[0]):,} lines" if is_whole else f"{len(left):,} characters"
            lines[room - 1 :] = [self._drawn(f"      … {number} left out")[: self._width]]
        return lines

    def _rows(self, text: str, first: str) -> Iterator[tuple[str, int]]:
        """Lines that the terminal need not wrap, and where in the text each ends.

        Those that continue a row of the text are marked, and so are those that begin its next one.
        """
        text = self._sayable(text)
        begin, end = 0, -1
        while end < len(text):
            end, cells = begin, self._width - len(first)
            # Terminals differ in what takes two cells; but a line that wraps may be forged.
            while text[end : end + 1] not in ("", "\n") and cells > 1:
                cells -= 1 if text[end].isascii() else 2
                end += 1
            is_row = text[end : end + 1] in ("", "\n")
            if not is_row:
                end = text.rfind(" ", (begin + end) // 2, end) + 1 or end
            yield first + text[begin:end], end
            begin = end + is_row
            first = self._drawn("      │ " if is_row else "      ┆ ")

    def _drawn(self, text: str) -> str:
        return text.translate(_ASCII) if self._plain else text

    def _sayable(self, text: str) -> str:
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)


def _argument(name: str, value: object) -> str:
    """An argument; a text of several lines in as many rows."""
    if type(value) is str and "\n" in value.strip("\n"):
        rows = value.replace("\\", "\\\\").split("\n")  # its backslashes as in a repr
        return "\n".join([f"{label(name)} =", *map(escape, rows)])
    return f"{label(name)} = {show(value)}"
