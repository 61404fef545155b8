"""What `guard` and `guard_tools` were given, checked and with its defaults; and `configure`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from actionguard._gate import Gate, Route, Settings
from actionguard._signature import is_async, takes_one_argument
from actionguard._values import show
from actionguard.audit import AuditLog
from actionguard.channels.base import ApprovalChannel
from actionguard.channels.cli import CLIChannel
from actionguard.exceptions import ApprovalDenied
from actionguard.policy import ApprovalPolicy, Policy, rule_names

OnDenied = Literal["raise", "return"] | Callable[[ApprovalDenied], Any]

_terminal = CLIChannel()
_no_names: frozenset[str] = frozenset()  # one for all: each empty frozenset takes 200 bytes


def configure(
    *,
    channel: ApprovalChannel | None = None,
    audit: AuditLog | str | os.PathLike[str] | None = None,
) -> None:
    """Say where guards ask and log that name no channel or no log themselves.

    Guards look this up at each call, so it also holds for functions and tools that were guarded
    before. Each call replaces what an earlier one said; `configure()` restores the defaults.

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

    def check_names(
        self, owner: str, parameters: Collection[str] | None, sees: Callable[[str], bool]
    ) -> None:
        """Check every argument that the options name; a typo would switch the guard off.

        Args:
            owner: What is guarded, for messages.
            parameters: The names of all its parameters; None if they cannot be known.
            sees: Whether a policy may see an argument of that name.

        Raises:
            ValueError: An option names an argument that is not there, or that a policy never sees.
        """
        its_arguments = f"its arguments are: {', '.join(parameters or ()) or 'none'}"
        if parameters is not None:
            for name in sorted(self.exclude.difference(parameters)):
                raise ValueError(
                    f"exclude names {name!r}, which is not a parameter of {owner}; {its_arguments}"
                )
        for option, names in (("the policy", rule_names(self.policy)), ("secret", self.secret)):
            for name in sorted(names):
                if sees(name):
                    continue
                if name in self.exclude or name in (parameters or ()):
                    raise ValueError(
                        f"{option} names {name!r}, which nobody is shown anyway: "
                        "it is excluded, or the runtime fills it in"
                    )
                raise ValueError(
                    f"{option} names {name!r}, which is not an argument of {owner}; {its_arguments}"
                )


def checked_options(
    caller: str, *, policy: Any, channel: Any, audit: Any, exclude: Any = (), secret: Any = ()
) -> Options:
    """Check and complete what was given to `caller`, the function that messages name.

    Raises:
        TypeError: Something given has an unsupported type.
        ValueError: The policy needs a log, and that is switched off.
        OSError: The log cannot be written at its path.
    """
    policy = check_policy(f"{caller}(policy=...)", ApprovalPolicy() if policy is None else policy)
    own = _route(caller, channel, audit)
    log = own.audit or AuditLog()
    used = own.audit or Settings.defaults.audit or log
    if used is log:
        log.check()
    check_memory(caller, policy, used)
    return Options(
        policy=policy,
        own=own,
        fallback=Route(_terminal, log),
        exclude=_names(caller, "exclude", exclude),
        secret=_names(caller, "secret", secret),
    )


def check_memory(caller: str, policy: Policy, log: AuditLog) -> None:
    remembers = isinstance(policy, ApprovalPolicy) and policy.repeat_within is not None
    if remembers and not log.enabled:
        raise ValueError(
            f"{caller}(): repeat_within finds earlier calls in the audit log, and that is switched "
            "off: switch it on, or leave repeat_within out"
        )


def what_was_meant(target: Any) -> str:
    """What to do instead, for somebody who gave `guard` what it cannot guard."""
    if isinstance(target, Mapping):
        return (
            ": a tool that its provider runs cannot be guarded; if you run it, guard its function"
        )
    if isinstance(target, (list, tuple, set)):
        return ": guard its items one by one, or use guard_tools"
    if inspect.iscoroutine(target):
        target.close()  # or Python warns that it was never awaited
        return ": guard the async function, then call it"
    if hasattr(target, "invoke") or hasattr(target, "func"):  # what a framework made of it
        return ": guard the function or tool itself before you make anything else of it"
    return ""


def check_policy(option: str, policy: Any) -> Policy:
    """Check a policy; the option, as it is written in code, is what messages name."""
    if type(policy) is ApprovalPolicy:  # as nearly always
        return policy
    needs_approval = getattr(policy, "needs_approval", None)
    wanted = f"{option} takes an ApprovalPolicy or an object with needs_approval(args)"
    if isinstance(policy, type) or not callable(needs_approval):
        raise TypeError(f"{wanted}, not {_shown(policy)}")
    if is_async(needs_approval) or not takes_one_argument(needs_approval):
        raise TypeError(
            f"{wanted} that is a plain method with one argument, unlike that of {policy!r}"
        )
    return policy  # type: ignore[no-any-return]


def check_on_denied(on_denied: Any) -> OnDenied:
    wanted = "guard(on_denied=...) takes 'raise', 'return' or a plain function of one argument"
    if on_denied in ("raise", "return"):
        return on_denied  # type: ignore[no-any-return]
    if not callable(on_denied):
        raise ValueError(f"{wanted}, not {on_denied!r}")  # noqa: TRY004 - "maybe" is a wrong value
    # An exception's class would be returned, and not raised.
    is_error = isinstance(on_denied, type) and issubclass(on_denied, BaseException)
    if is_error or is_async(on_denied) or not takes_one_argument(on_denied):
        raise TypeError(f"{wanted}, not {on_denied!r}")
    return on_denied  # type: ignore[no-any-return]


def _route(caller: str, channel: Any, audit: Any) -> Route:
    if channel is not None and not isinstance(channel, ApprovalChannel):
        raise TypeError(
            f"{caller}(channel=...) takes an ApprovalChannel (subclass it and implement "
            f"request_approval), not {_shown(channel)}"
        )
    if isinstance(audit, (str, os.PathLike)):
        audit = AuditLog(audit)
    if audit is not None and not isinstance(audit, AuditLog):
        hint = "; AuditLog(enabled=False) writes nothing" if audit is False else ""
        raise TypeError(
            f"{caller}(audit=...) takes an AuditLog or a path, not {_shown(audit)}{hint}"
        )
    return Route(channel, audit)


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}: make an instance of it"
    return show(value)


def _names(caller: str, option: str, names: Any) -> frozenset[str]:
    if not isinstance(names, Iterable) or isinstance(names, (str, bytes)):
        hint = f": write [{names!r}]" if isinstance(names, str) else ""
        raise TypeError(f"{caller}({option}=...) takes a collection of names, not {names!r}{hint}")
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{caller}({option}=...) takes names of parameters, not {name!r}")
    return frozenset(names) or _no_names
