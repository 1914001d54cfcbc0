"""Fees for books that come back late."""

from datetime import date, timedelta

LOAN_DAYS = 21
CENTS_A_DAY = 20
HIGHEST_FEE = 1_000


def due_date(borrowed: date, renewals: int = 0) -> date:
    """The last day of a loan. Each renewal adds another loan period."""
    return borrowed + timedelta(days=LOAN_DAYS * (1 + renewals))


def late_fee(due: date, returned: date) -> int:
    """The fee in cents, at most `HIGHEST_FEE`."""
    days = (due - returned).days
    if days <= 0:
        return 0
    return min(days * CENTS_A_DAY, HIGHEST_FEE)


def split_fee(fee: int, people: int) -> list[int]:
    """Share a fee among people. The first ones pay the cents that remain."""
    share, rest = divmod(fee, people)
    return [share + 1 if n < rest else share for n in range(people)]
