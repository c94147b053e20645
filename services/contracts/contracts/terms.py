"""What a contract has to fulfil, and how it reads: the business, with no framework in sight."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from mainstay.errors import Refuse

__all__ = ["NotPayable", "check", "document"]

# How many decimals an amount may have, by its currency (ISO 4217).
_MINOR_DIGITS = {
    **dict.fromkeys(
        "AUD BRL CAD CHF CNY CZK DKK EUR GBP INR MXN NOK PLN RUB SEK SGD USD".split(), 2
    ),
    **dict.fromkeys("CLP ISK JPY KRW VND".split(), 0),
    **dict.fromkeys("BHD JOD KWD OMR TND".split(), 3),
}


class NotPayable(Refuse):
    """Nobody could pay this amount."""

    title = "Not payable"


def check(amount: Decimal, currency: str) -> None:
    """Check what the form of a contract does not say of it.

    Raises:
        NotPayable: The currency is not known here, or has no such small coin.
    """
    digits = _MINOR_DIGITS.get(currency)
    if digits is None:
        raise NotPayable(f"{currency} is no currency that contracts are made in")
    if amount != round(amount, digits):
        raise NotPayable(f"{amount.normalize():f} {currency} has more than {digits} decimals")


def document(title: str, customer: str, amount: Decimal, currency: str, on: datetime) -> str:
    """Return the text of a contract."""
    digits = _MINOR_DIGITS[currency]
    return (
        f"{title}\n\n"
        f"This contract is made with {customer} on {on:%Y-%m-%d}.\n"
        f"It is about {amount:,.{digits}f} {currency}.\n"
    )
