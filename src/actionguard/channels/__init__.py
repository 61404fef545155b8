"""The channels that come with the library, and the class to make others from."""

from typing import TYPE_CHECKING, Any

from actionguard.channels.base import ApprovalChannel
from actionguard.channels.cli import CLIChannel
from actionguard.channels.slack import SlackChannel

if TYPE_CHECKING:
    from actionguard.channels.slack_buttons import SlackButtonsChannel

__all__ = ["ApprovalChannel", "CLIChannel", "SlackButtonsChannel", "SlackChannel"]


def __getattr__(name: str) -> Any:
    if name == "SlackButtonsChannel":  # with what few need
        from actionguard.channels.slack_buttons import SlackButtonsChannel

        return SlackButtonsChannel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
