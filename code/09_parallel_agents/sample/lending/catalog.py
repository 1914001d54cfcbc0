"""The catalog: the books of the library, and the search for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Book:
    title: str
    author: str
    year: int
    copies: int = 1


class Catalog:
    def __init__(self, books: list[Book]) -> None:
        self.books = sorted(books, key=lambda book: book.title)

    def by_author(self, author: str) -> list[Book]:
        return [book for book in self.books if book.author == author]

    def published_between(self, first: int, last: int) -> list[Book]:
        """The books of these years, both included."""
        return [book for book in self.books if first <= book.year < last]

    def page(self, number: int, size: int = 3) -> list[Book]:
        """One page of the list. The first page has the number 1."""
        start = number * size
        return self.books[start : start + size]

    def find(self, words: str) -> list[Book]:
        """The books that have every word in their title or author."""
        wanted = words.lower().split()
        found = []
        for book in self.books:
            text = f"{book.title} {book.author}".lower()
            if all(word in text for word in wanted):
                found.append(book)
        return found
