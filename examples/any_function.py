"""Guard any callable: a function, a method, a generator, or one that somebody else wrote.

Run:  python examples/any_function.py
You are asked five times. A denied call raises ApprovalDenied, or returns what you chose. Type a
reason instead of y or n, and see where it shows up.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from actionguard import ApprovalDenied, guard


@guard(secret=["api_key"])  # the prompt and the log show <secret: 12 characters>
def delete_user(user_id: str, api_key: str) -> str:
    """Permanently delete a user account."""
    return f"deleted {user_id}"


class Account:
    def __init__(self, owner: str) -> None:
        self.owner = owner

    # A denied call can return a message that a model can read ...
    @guard(on_denied="return")
    def close(self, reason: str = "none given") -> str:
        """Close the account."""
        return f"closed the account of {self.owner}"


# ... or whatever your function returns for the denial.
@guard(on_denied=lambda denied: {"ok": False, "why": denied.decision.comment})
def deploy(version: str) -> object:
    """Deploy to production."""
    return {"ok": True, "version": version}


@guard(on_denied="return")
def delete_files(names: list[str]) -> Iterator[str]:
    """Delete files one by one."""
    for name in names:
        yield f"deleted {name}"


def main() -> None:
    try:
        print(delete_user("u_42", api_key="not-a-secret"))
    except ApprovalDenied as denied:
        print("not done:", denied.action.pretty())

    print(Account("ann").close(reason="moved away"))
    print(deploy("1.4.2"))
    print(list(delete_files(["a.txt", "b.txt"])))

    # A function that somebody else wrote, guarded where you use it.
    folder = Path(tempfile.mkdtemp())
    remove = guard(shutil.rmtree)
    try:
        remove(folder)
    except ApprovalDenied:
        pass
    print("the folder is", "still there" if folder.exists() else "gone")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
