"""Run a command at a pseudo-terminal, and type an answer at each question.

Run:  python .ci/at_terminal.py "y n" COMMAND...
It prints what the terminal shows, and needs nothing but Python.
"""

import os
import subprocess
import sys

QUESTION = b"[y/N] "

answers = sys.argv[1].split()
person, terminal = os.openpty()
process = subprocess.Popen(
    sys.argv[2:], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
)
os.close(terminal)
shown, asked = b"", 0
while True:
    try:
        part = os.read(person, 4096)
    except OSError:  # on Linux, how a terminal says that nobody is left at its other end
        part = b""
    if not part:
        break
    sys.stdout.buffer.write(part.replace(b"\r\n", b"\n"))
    sys.stdout.buffer.flush()
    shown += part
    while shown.count(QUESTION) > asked:
        if asked == len(answers):
            process.kill()
            sys.exit(f"more questions than answers: {' '.join(answers)}")
        os.write(person, answers[asked].encode() + b"\n")
        asked += 1
status = process.wait()
sys.exit(status or (f"{asked} questions, not {len(answers)}" if asked != len(answers) else 0))
