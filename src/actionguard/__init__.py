"""Require a person's approval for the tool calls that can't be taken back."""

from typing import TYPE_CHECKING, Any

from actionguard._guard import guard
from actionguard._options import configure
from actionguard.audit import AuditLog
from actionguard.channels import ApprovalChannel, CLIChannel, SlackChannel
from actionguard.core import Action, Decision
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import ApprovalPolicy

if TYPE_CHECKING:
    from actionguard.langchain import ApprovalWrappedTool, guard_tools

__version__ = "1.1.0"

__all__ = [
    "Action",
    "ApprovalChannel",
    "ApprovalDenied",
    "ApprovalPolicy",
    "ApprovalWrappedTool",
    "AuditLog",
    "CLIChannel",
    "Decision",
    "SlackChannel",
    "__version__",
    "configure",
    "guard",
    "guard_tools",
]


def __getattr__(name: str) -> Any:
    # langchain-core takes half a second to import: it is left to those who use it.
    if name in ("ApprovalWrappedTool", "guard_tools"):
        from actionguard import langchain

        return getattr(langchain, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
