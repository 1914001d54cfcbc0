"""The index: a SQLite file with every passage, made once and kept in the cache folder."""

import hashlib
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

from offline_model.corpus.passage import Passage
from offline_model.corpus.stemming import stems

# Indexes of earlier pages are of no use; a few are kept for other versions of Python.
KEPT = 4

SCHEMA = """
pragma journal_mode = off;
pragma synchronous = off;
create table passages (
    id integer primary key, title text, place text, kind text, url text, sentences text, stems text
);
create table sections (id integer primary key, url text, page text, title text, text text);
create virtual table words using fts5(heading, body, content='', tokenize='ascii');
create virtual table vocabulary using fts5vocab(words, 'row');
"""


def open_index(books: Path | None) -> sqlite3.Connection:
    """The index for these pages and this Python; built when the cache has none."""
    path = cache_folder() / f"{key(books)}.sqlite"
    try:
        if not path.exists():
            build_file(path, books)
        return sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    except (OSError, sqlite3.OperationalError):
        # A read-only container has no cache folder: the index then lives in memory.
        connection = sqlite3.connect(":memory:")
        fill(connection, passages(books))
        return connection


def build_file(path: Path, books: Path | None) -> None:
    """Built aside and moved into place, so that two servers that start at once are both served."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder) / "index.sqlite"
        with closing(sqlite3.connect(new)) as connection:
            fill(connection, passages(books))
        new.replace(path)
    for old in sorted(path.parent.glob("*.sqlite"), key=lambda each: each.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


def fill(connection: sqlite3.Connection, found: Iterable[Passage]) -> None:
    connection.executescript(SCHEMA)
    with connection:
        for number, passage in enumerate(found):
            lines = [" ".join(stems(sentence)) for sentence in passage.sentences]
            heading = " ".join(stems(passage.title))
            told = (passage.title, passage.place, passage.kind, passage.url, "\n".join(passage.sentences))
            row = (number, *told, "\n".join(lines))
            connection.execute("insert into passages values (?, ?, ?, ?, ?, ?, ?)", row)
            if passage.text:
                section = (number, passage.url, passage.url.partition("#")[0], passage.title, passage.text)
                connection.execute("insert into sections values (?, ?, ?, ?, ?)", section)
            searched = (number, heading, " ".join(lines))
            connection.execute("insert into words (rowid, heading, body) values (?, ?, ?)", searched)
        connection.execute("insert into words (words) values ('optimize')")
        connection.execute("create index by_page on sections (page)")


def passages(books: Path | None) -> Iterator[Passage]:
    """All books; a thing that is documented twice (in Python and in C) is kept once."""
    # Reading Python's sources takes imports that a start from the cache can do without.
    from offline_model.corpus.sources import c_docstrings, course_pages, language_reference, standard_library

    if books is not None:
        yield from course_pages.read(books)
    yield from language_reference.read()
    seen: set[str] = set()
    for passage in chain(standard_library.read(), c_docstrings.read()):
        if passage.title not in seen:
            seen.add(passage.title)
            yield passage


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()).absolute() / "offline-model"


def key(books: Path | None) -> str:
    """Changes with the Python, with this package's source and with the pages."""
    digest = hashlib.sha256(f"{sys.version} {sys.platform}".encode())
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    for path in [*sources, *(sorted(books.glob("*.md")) if books is not None else [])]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]
