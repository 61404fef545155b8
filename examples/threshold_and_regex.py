"""Ask only about the calls that matter: a large amount, a production database, a repeated payment.

Run:  python examples/threshold_and_regex.py
Eight calls are made. Four of them need approval, because a rule of their policy applies; approve
or deny them as you like. The others just run.
"""

from typing import Any

from actionguard import ApprovalPolicy, guard


@guard(policy=ApprovalPolicy(amount_over={"arg": "amount", "threshold": 100}), on_denied="return")
def refund(amount: float, customer_id: str) -> str:
    """Refund an amount to a customer's card."""
    return f"refunded {amount} to {customer_id}"


@guard(policy=ApprovalPolicy(match_args={"database": r"^prod-"}), on_denied="return")
def drop_table(database: str, table: str) -> str:
    """Drop a table with everything in it."""
    return f"dropped {table} in {database}"


def leaves_the_company(args: dict[str, Any]) -> bool:
    return any(not address.endswith("@example.com") for address in args["to"])


# A call needs approval if any of the rules applies.
@guard(
    policy=ApprovalPolicy(require_if=leaves_the_company, match_args={"subject": r"(?i)invoice"}),
    on_denied="return",
)
def send_email(to: list[str], subject: str) -> str:
    """Send an email."""
    return f"sent {subject!r} to {', '.join(to)}"


# The first call runs; the same call within ten minutes needs approval. The prompt says why.
@guard(policy=ApprovalPolicy(repeat_within=600), on_denied="return")
def pay(invoice: str) -> str:
    """Pay an invoice."""
    return f"paid {invoice}"


if __name__ == "__main__":
    print(refund(50, "cus_1"))
    print(refund(4000, "cus_1"))
    print(drop_table("test-eu", "orders"))
    print(drop_table("prod-eu", "orders"))
    print(send_email(["ann@example.com"], "Minutes"))
    print(send_email(["ann@example.com", "bob@elsewhere.org"], "Minutes"))
    print(pay("2026-117"))
    print(pay("2026-117"))
