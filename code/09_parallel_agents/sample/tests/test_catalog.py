import pytest

from lending.catalog import Book, Catalog


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(
        [
            Book("Persuasion", "Jane Austen", 1817),
            Book("Emma", "Jane Austen", 1815),
            Book("Middlemarch", "George Eliot", 1871),
            Book("Villette", "Charlotte Brontë", 1853),
            Book("Dracula", "Bram Stoker", 1897),
        ]
    )


def titles(books: list[Book]) -> list[str]:
    return [book.title for book in books]


def test_books_of_an_author(catalog: Catalog) -> None:
    assert titles(catalog.by_author("Jane Austen")) == ["Emma", "Persuasion"]


def test_the_last_year_belongs_to_the_period(catalog: Catalog) -> None:
    assert titles(catalog.published_between(1815, 1853)) == ["Emma", "Persuasion", "Villette"]


def test_a_period_without_books(catalog: Catalog) -> None:
    assert catalog.published_between(1700, 1800) == []


def test_the_first_page(catalog: Catalog) -> None:
    assert titles(catalog.page(1)) == ["Dracula", "Emma", "Middlemarch"]


def test_the_last_page_is_shorter(catalog: Catalog) -> None:
    assert titles(catalog.page(2)) == ["Persuasion", "Villette"]


def test_a_search_wants_every_word(catalog: Catalog) -> None:
    assert titles(catalog.find("austen emma")) == ["Emma"]


def test_a_search_that_finds_nothing(catalog: Catalog) -> None:
    assert catalog.find("moby dick") == []
