from datetime import date

import pytest

from lending.catalog import Book
from lending.desk import Desk

MARCH, JUNE = date(2026, 3, 1), date(2026, 6, 1)
EMMA = Book("Emma", "Jane Austen", 1815)
SHELF = [Book(f"Volume {n}", "Various", 1990 + n) for n in range(4)]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_copy_is_lent_once(desk: Desk) -> None:
    assert desk.borrow("ada", EMMA, MARCH)
    assert not desk.borrow("bob", EMMA, MARCH)


def test_a_member_borrows_up_to_the_limit(desk: Desk) -> None:
    assert [desk.borrow("ada", book, MARCH) for book in SHELF] == [True, True, True, False]


def test_a_member_who_owes_too_much_borrows_nothing(desk: Desk) -> None:
    desk.unpaid["ada"] = 501
    assert not desk.borrow("ada", EMMA, MARCH)


def test_a_member_who_owes_little_borrows(desk: Desk) -> None:
    desk.unpaid["ada"] = 500
    assert desk.borrow("ada", EMMA, MARCH)


def test_a_book_without_a_waiting_list_goes_to_the_shelf(desk: Desk) -> None:
    desk.borrow("ada", EMMA, MARCH)
    assert desk.give_back("ada", EMMA, MARCH) is None
    assert desk.lent(EMMA) == 0


def test_the_first_on_the_waiting_list_is_next(desk: Desk) -> None:
    for member in ("ada", "bob", "eve"):
        desk.borrow(member, EMMA, MARCH)
    assert desk.give_back("ada", EMMA, MARCH) == "bob"


def test_overdue_loans_are_listed(desk: Desk) -> None:
    desk.borrow("ada", EMMA, MARCH)
    desk.borrow("bob", SHELF[0], JUNE)
    assert desk.overdue(JUNE) == [("ada", "Emma")]
