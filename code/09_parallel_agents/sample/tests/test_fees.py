from datetime import date

from lending.fees import due_date, late_fee, split_fee

DUE = date(2026, 3, 10)


def test_a_loan_lasts_three_weeks() -> None:
    assert due_date(date(2026, 3, 1)) == date(2026, 3, 22)


def test_a_renewal_adds_three_weeks() -> None:
    assert due_date(date(2026, 3, 1), renewals=1) == date(2026, 4, 12)


def test_a_book_on_time_costs_nothing() -> None:
    assert late_fee(DUE, DUE) == 0


def test_each_late_day_costs_twenty_cents() -> None:
    assert late_fee(DUE, date(2026, 3, 13)) == 60


def test_a_fee_has_a_limit() -> None:
    assert late_fee(DUE, date(2027, 3, 10)) == 1_000


def test_an_early_book_costs_nothing() -> None:
    assert late_fee(DUE, date(2026, 3, 1)) == 0


def test_a_shared_fee_adds_up() -> None:
    assert split_fee(100, 3) == [34, 33, 33]
