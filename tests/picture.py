"""Take the picture of the prompt that the README shows: a real terminal session, drawn as SVG.

Run:  python tests/picture.py
It answers the two questions of examples/quickstart.py at a pseudo-terminal, and writes what the
screen then shows to examples/quickstart.svg.
"""

from __future__ import annotations

import re
import tempfile
from html import escape
from pathlib import Path

QUICKSTART = Path(__file__).resolve().parent.parent / "examples" / "quickstart.py"
PICTURE = QUICKSTART.with_suffix(".svg")
QUESTION = "[y/N] "
COLUMNS, ROWS = 80, 40
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def quickstart() -> str:
    """The session of the picture: the refund is approved, its duplicate denied."""
    from terminal import Terminal

    program = f"import runpy; runpy.run_path({str(QUICKSTART)!r}, run_name='__main__')"
    with (
        tempfile.TemporaryDirectory() as folder,
        Terminal(program, columns=COLUMNS, rows=ROWS, cwd=folder) as person,
    ):
        for typed in ("y", "no, a duplicate"):
            person.answer(f"{typed}\n")
        person.rest()
        assert person.process.returncode == 0, person.output
        shown = person.output
    assert "\x1b" not in shown, "the screen is more than its text"
    assert "\r" not in shown, "the screen is more than its text"
    return re.sub(r"ran \d+ s ago", "ran 3 s ago", shown)  # a person takes a moment


def svg(text: str) -> str:
    """The screen as a picture; what the person typed stands out."""
    lines = ["$ python examples/quickstart.py", *_wrapped(text)]
    cell, leading, margin = 8.4, 19, 16
    width, height = round(COLUMNS * cell + 2 * margin), len(lines) * leading + 2 * margin
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>A refund waits for approval at the terminal; its duplicate is denied</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#1c2128"/>',
        f'<g font-family="{FONTS}" font-size="14" fill="#d5dbe3" xml:space="preserve">',
    ]
    for number, line in enumerate(lines, start=1):
        said, question, typed = line.partition(QUESTION)
        inside = escape(said + question, quote=False)
        if typed:
            inside += f'<tspan fill="#f2cc60" font-weight="bold">{escape(typed)}</tspan>'
        y = margin + number * leading - 5
        drawn.append(f'<text x="{margin}" y="{y}">{inside}</text>')
    return "\n".join([*drawn, "</g>", "</svg>", ""])


def _wrapped(text: str) -> list[str]:
    """The lines as the terminal breaks them."""
    lines = []
    for line in text.rstrip("\n").split("\n"):
        lines += [line[at : at + COLUMNS] for at in range(0, max(len(line), 1), COLUMNS)]
    return lines


if __name__ == "__main__":
    PICTURE.write_text(svg(quickstart()), encoding="utf-8")
    print(f"wrote {PICTURE}")
