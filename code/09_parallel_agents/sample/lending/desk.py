"""The desk: who has which book, and who waits for it."""

from collections import deque
from datetime import date

from lending.catalog import Book
from lending.fees import due_date, late_fee

MOST_LOANS = 3
MOST_UNPAID = 500


class Desk:
    def __init__(self) -> None:
        self.loans: dict[tuple[str, str], date] = {}
        self.waiting: dict[str, deque[str]] = {}
        self.unpaid: dict[str, int] = {}

    def lent(self, book: Book) -> int:
        """How many copies of a book are out."""
        return sum(1 for _, title in self.loans if title == book.title)

    def may_borrow(self, member: str) -> bool:
        """Whether a member has room for another loan, and does not owe too much."""
        loans = sum(1 for borrower, _ in self.loans if borrower == member)
        return loans < MOST_LOANS or self.unpaid.get(member, 0) <= MOST_UNPAID

    def borrow(self, member: str, book: Book, today: date) -> bool:
        """Lend a copy, or put the member on the waiting list."""
        if not self.may_borrow(member):
            return False
        if self.lent(book) >= book.copies:
            self.waiting.setdefault(book.title, deque()).append(member)
            return False
        self.loans[member, book.title] = due_date(today)
        return True

    def give_back(self, member: str, book: Book, today: date) -> str | None:
        """Take a book back. Return the member who is next on its waiting list."""
        due = self.loans.pop((member, book.title))
        self.unpaid[member] = self.unpaid.get(member, 0) + late_fee(due, today)
        queue = self.waiting.get(book.title)
        if not queue:
            return None
        following = queue.popleft()

    def overdue(self, today: date) -> list[tuple[str, str]]:
        """The loans whose last day has passed, the oldest first."""
        late = [loan for loan, due in self.loans.items() if due < today]
        return sorted(late, key=lambda loan: self.loans[loan])
