"""The channels that come with the library, and the class to make others from."""

from actionguard.channels.base import ApprovalChannel
from actionguard.channels.cli import CLIChannel
from actionguard.channels.slack import SlackChannel
from actionguard.channels.slack_buttons import SlackButtonsChannel

__all__ = ["ApprovalChannel", "CLIChannel", "SlackButtonsChannel", "SlackChannel"]
