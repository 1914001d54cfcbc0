"""The index: a SQLite file with every passage, built once and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from offline_model.corpus.terms import stems

if TYPE_CHECKING:
    from offline_model.corpus.pages import Passage

# Indexes of other versions of Python and of other checkouts stay usable beside this one.
MAX_CACHED_INDEXES = 4

# `passage_words` holds stems that Python computed, so that its terms are those of the ranking.
SCHEMA = """
pragma journal_mode = off;
pragma synchronous = off;
create table passages (
    id integer primary key, title text, location text, kind text, url text, sentences text, stems text
);
create table sections (id integer primary key, url text, page text, title text, text text);
create virtual table passage_words using fts5(heading, body, content='', tokenize='ascii');
create virtual table vocabulary using fts5vocab(passage_words, 'row');
"""


def open_index(pages: Path | None) -> sqlite3.Connection:
    """The index of these pages and this version of Python; it is built if the cache has none."""
    path = cache_folder() / f"{cache_key(pages)}.sqlite"
    try:
        if not path.exists():
            build_file(path, pages)
        return sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    except (OSError, sqlite3.OperationalError):
        # A read-only container has no cache folder, so the index is kept in memory.
        connection = sqlite3.connect(":memory:")
        insert_passages(connection, all_passages(pages))
        return connection


def build_file(path: Path, pages: Path | None) -> None:
    """Build the file under another name and move it, so that no server opens an unfinished index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder) / "index.sqlite"
        with closing(sqlite3.connect(new)) as connection:
            insert_passages(connection, all_passages(pages))
        new.replace(path)
    oldest_first = sorted(path.parent.glob("*.sqlite"), key=lambda each: each.stat().st_mtime)
    for old in oldest_first[:-MAX_CACHED_INDEXES]:
        old.unlink(missing_ok=True)


def insert_passages(connection: sqlite3.Connection, found: Iterable[Passage]) -> None:
    connection.executescript(SCHEMA)
    with connection:
        for number, each in enumerate(found):
            lines = [" ".join(stems(sentence)) for sentence in each.sentences]
            texts = ("\n".join(each.sentences), "\n".join(lines))
            row = (number, each.title, each.location, each.kind, each.url, *texts)
            connection.execute("insert into passages values (?, ?, ?, ?, ?, ?, ?)", row)
            if each.text:
                section = (number, each.url, each.url.partition("#")[0], each.title, each.text)
                connection.execute("insert into sections values (?, ?, ?, ?, ?)", section)
            # The page's title stands before each of its headings, and counts as a part of the text.
            page, _, heading = each.title.rpartition(": ")
            words = (number, " ".join(stems(heading)), " ".join([*stems(page), *lines]))
            connection.execute("insert into passage_words (rowid, heading, body) values (?, ?, ?)", words)
        connection.execute("insert into passage_words (passage_words) values ('optimize')")
        connection.execute("create index by_page on sections (page)")


def all_passages(folder: Path | None) -> Iterator[Passage]:
    """The passages of all sources. A function that exists in Python and in C is kept once."""
    # These modules are imported here because a start with a cached index does not need them.
    from offline_model.corpus import docstrings, pages

    if folder is not None:
        yield from pages.course_pages(folder)
    yield from pages.language_reference()
    seen: set[str] = set()
    for passage in chain(docstrings.source_docstrings(), docstrings.compiled_docstrings()):
        if passage.title not in seen:
            seen.add(passage.title)
            yield passage


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()).absolute() / "offline-model"


def cache_key(pages: Path | None) -> str:
    """Changes with the version of Python, with the source of this package and with the pages."""
    digest = hashlib.sha256(f"{sys.version} {sys.platform}".encode())
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    for path in [*sources, *(sorted(pages.glob("*.md")) if pages is not None else [])]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]
