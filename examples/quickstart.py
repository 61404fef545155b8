"""Watch a call being halted at your terminal: no model and no API key needed.

Run:  python examples/quickstart.py
You will be asked twice. Say y to the first refund and n to the second, and compare what the agent
is told; then look at the two lines in actionguard_audit.jsonl.
"""

from langchain_core.tools import tool

from actionguard import guard


# With no policy given, every call needs approval: the safe default.
@guard()
@tool
def refund_customer(amount: float, customer_id: str) -> str:
    """Issue a refund to a customer's card."""
    return f"✅ Refunded ${amount:.2f} to {customer_id}"


if __name__ == "__main__":
    print("Agent: issuing the refund now...")
    print(refund_customer.invoke({"amount": 4000.0, "customer_id": "cus_123"}))

    print("Agent: did that go through? Trying again to be safe...")
    # The dangerous duplicate: deny it at the prompt!
    print(refund_customer.invoke({"amount": 4000.0, "customer_id": "cus_123"}))
