"""What `guard` and `guard_tools` were given, checked and with its defaults; and `configure`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from actionguard._gate import Gate, Route, Settings
from actionguard._signature import Signature, is_async, takes_one_argument
from actionguard.audit import AuditLog
from actionguard.channels.base import ApprovalChannel
from actionguard.channels.cli import CLIChannel
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import ApprovalPolicy, Policy, rule_names

OnDenied = Literal["raise", "return"] | Callable[[ApprovalDenied], Any]

_terminal = CLIChannel()


def configure(
    *,
    channel: ApprovalChannel | None = None,
    audit: AuditLog | str | os.PathLike[str] | None = None,
) -> None:
    """Set the channel and the audit log of all guards that name none of their own.

    Guards look this up at each call, so it also applies to functions and tools that are already
    guarded. Each call of `configure` replaces the earlier settings; `configure()` restores the
    defaults.

    Args:
        channel: The channel; if left out, the terminal.
        audit: The audit log or its path; if left out, the `actionguard_audit.jsonl` in the
            directory that was current when the guard was made.

    Raises:
        TypeError: An argument has an unsupported type.
        OSError: The audit log cannot be written at its path.
    """
    defaults = _route("configure", channel, audit)
    if defaults.audit is not None:
        defaults.audit.check()
    Settings.defaults = defaults


@dataclass(frozen=True, slots=True)
class Options:
    """How a callable is to be guarded."""

    policy: Policy
    own: Route
    fallback: Route
    exclude: frozenset[str]
    secret: frozenset[str]

    def gate(self, name: str, description: str | None) -> Gate:
        return Gate(name, description, self.policy, self.own, self.fallback, self.secret)

    def with_policy(self, option: str, policy: Any) -> Options:
        """The same with another policy; the option, as it is written in code, is for messages.

        Raises:
            TypeError: It is not a policy.
            ValueError: It needs a log, and that is switched off.
        """
        if type(policy) is not ApprovalPolicy:  # as it nearly always is
            _check_policy(option, policy)
        log = self.own.audit or Settings.defaults.audit or self.fallback.audit
        remembers = isinstance(policy, ApprovalPolicy) and policy.repeat_within is not None
        if remembers and log is not None and not log.enabled:
            raise ValueError(
                f"{option}: repeat_within looks for earlier calls in the audit log, but the log is "
                "switched off: switch it on, or leave repeat_within out"
            )
        return replace(self, policy=policy)

    def check_names(self, owner: str, signatures: Iterable[Signature]) -> None:
        """Check every argument that the options name; a typo would switch the guard off.

        Args:
            owner: What is guarded, for messages.
            signatures: Each name has to be that of an argument of one of these.

        Raises:
            ValueError: A name is not there, or is that of an argument that nobody is shown.
        """
        rules = rule_names(self.policy)
        shown = rules | self.secret
        missing = shown | self.exclude
        if not missing:  # as soon as possible: there may be a thousand tools
            return
        names: list[str] = []
        for signature in signatures:
            names += signature.names
            missing -= {n for n in missing & shown if signature.sees(n)}
            missing -= {n for n in missing - shown if signature.takes(n)}
            if not missing:
                return
        name = min(missing)
        option = "the policy" if name in rules else "secret" if name in shown else "exclude"
        if name in shown and name in names:
            why = "no policy or approver gets: it is excluded, or the runtime fills it in"
        else:
            theirs = ", ".join(dict.fromkeys(names)) or "none"
            why = f"is not an argument of {owner}; its arguments are: {theirs}"
        raise ValueError(f"{option} names {name!r}, which {why}")


def checked_options(
    caller: str, *, policy: Any, channel: Any, audit: Any, exclude: Any = (), secret: Any = ()
) -> Options:
    """Check and complete what was given to `caller`, the function that messages name.

    Raises:
        TypeError: Something given has an unsupported type.
        ValueError: The policy needs a log, and that is switched off.
        OSError: The log cannot be written at its path.
    """
    own = _route(caller, channel, audit)
    log = own.audit or AuditLog()
    if own.audit or not Settings.defaults.audit:
        log.check()
    options = Options(
        policy=ApprovalPolicy(),
        own=own,
        fallback=Route(_terminal, log),
        exclude=_names(f"{caller}(exclude=...)", exclude),
        secret=_names(f"{caller}(secret=...)", secret),
    )
    return options if policy is None else options.with_policy(f"{caller}(policy=...)", policy)


def _check_policy(option: str, policy: Any) -> None:
    if isinstance(policy, type) or not _is_plain(getattr(policy, "needs_approval", None)):
        wanted = "an ApprovalPolicy or an object with a plain method needs_approval(args)"
        raise TypeError(f"{option} takes {wanted}, not {policy!r}")


def check_on_denied(on_denied: Any) -> None:
    if on_denied in ("raise", "return"):
        return
    # An exception's class would be returned, and not raised.
    is_error = isinstance(on_denied, type) and issubclass(on_denied, BaseException)
    if is_error or not _is_plain(on_denied):
        kind = TypeError if callable(on_denied) else ValueError
        wanted = "'raise', 'return' or a plain function of one argument"
        raise kind(f"guard(on_denied=...) takes {wanted}, not {on_denied!r}")


def _is_plain(function: Any) -> bool:
    return callable(function) and not is_async(function) and takes_one_argument(function)


def _route(caller: str, channel: Any, audit: Any) -> Route:
    if channel is not None and not isinstance(channel, ApprovalChannel):
        raise TypeError(
            f"{caller}(channel=...) takes an ApprovalChannel (subclass it and implement "
            f"request_approval), not {channel!r}"
        )
    if audit is not None and not isinstance(audit, AuditLog):
        audit = AuditLog(audit)
    return Route(channel, audit)


def _names(option: str, names: Any) -> frozenset[str]:
    if isinstance(names, Iterable) and not isinstance(names, str):
        names = list(names)
        if all(isinstance(name, str) for name in names):
            return frozenset(names)
    raise TypeError(f"{option} takes a collection of names, not {names!r}")
