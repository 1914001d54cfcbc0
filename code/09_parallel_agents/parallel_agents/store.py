"""The store: SQLModel on SQLite, asynchronous. One writer at a time, any number of readers."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from parallel_agents.models import UNFINISHED, Event, Patch, Run, Variation

SCHEMA_VERSION = 1
PAGE, PAGE_BYTES = 100, 250_000  # of events that a reader takes at once
T = TypeVar("T")


class Conflict(Exception):
    """Another row has this unique value."""


class Store:
    def __init__(self, url: str) -> None:
        self.engine = create_async_engine(url)
        self.writing = asyncio.Lock()  # SQLite has one writer at a time: wait here, and not in its busy loop
        sa.event.listen(self.engine.sync_engine, "connect", configure_connection)

    async def open(self) -> None:
        """Create the tables of a new database. Raises RuntimeError for one with another schema version."""
        async with self.engine.begin() as connection:
            version = (await connection.execute(sa.text("PRAGMA user_version"))).scalar_one()
            if version not in (0, SCHEMA_VERSION):
                raise RuntimeError(f"The database has schema {version}, and this app needs {SCHEMA_VERSION}.")
            await connection.run_sync(SQLModel.metadata.create_all)
            await connection.execute(sa.text(f"PRAGMA user_version = {SCHEMA_VERSION}"))

    async def close(self) -> None:
        await self.engine.dispose()

    async def check(self) -> None:
        async with self.engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))

    # --- Any table ---

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        async with self.writing, AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session
            await session.commit()

    async def get(self, table: type[T], key: Any) -> T | None:
        async with AsyncSession(self.engine) as session:
            return await session.get(table, key)

    async def all(self, query: SelectOfScalar[T]) -> Sequence[T]:
        async with AsyncSession(self.engine) as session:
            return (await session.exec(query)).all()

    async def first(self, query: SelectOfScalar[T]) -> T | None:
        return next(iter(await self.all(query.limit(1))), None)

    async def write(self, statement: Any) -> int:
        """Run an UPDATE or a DELETE. Returns the number of its rows."""
        async with self.transaction() as session:
            return int((await session.exec(statement)).rowcount)

    async def add(self, *rows: SQLModel) -> None:
        """Insert rows in one transaction. Raises `Conflict`."""
        try:
            async with self.transaction() as session:
                for row in rows:  # in this order, because of the foreign keys
                    session.add(row)
                    await session.flush()
        except IntegrityError:
            raise Conflict from None

    # --- Runs ---

    async def variations(self, *run_ids: str) -> Sequence[Variation]:
        found = select(Variation).where(col(Variation.run_id).in_(run_ids))
        return await self.all(found.order_by(col(Variation.n)))

    async def update_run(self, run_id: str, **values: Any) -> None:
        await self.write(sa.update(Run).where(col(Run.id) == run_id).values(values))

    async def update_variation(self, variation: Variation, patch: bytes | None = None) -> None:
        """Store a variation and its patch in one transaction: a result is there as a whole or not at all."""
        async with self.transaction() as session:
            await session.merge(variation)
            if patch is not None:
                await session.merge(Patch(run_id=variation.run_id, n=variation.n, patch=patch))

    async def interrupt_unfinished(self) -> list[tuple[str, list[int]]]:
        """Mark what a dead server left unfinished. Returns the runs, each with its interrupted variations."""
        async with self.transaction() as session:
            lost = (await session.exec(select(Run.id).where(col(Run.state).in_(UNFINISHED)))).all()
            open_ones = col(Variation.run_id).in_(lost), col(Variation.state).in_(UNFINISHED)
            rows = (await session.exec(select(Variation.run_id, Variation.n).where(*open_ones))).all()
            await session.exec(sa.update(Variation).where(*open_ones).values(state="interrupted"))
            ended = {"state": "interrupted", "finished_at": time.time()}
            await session.exec(sa.update(Run).where(col(Run.id).in_(lost)).values(ended))
        return [(run_id, [n for owner, n in rows if owner == run_id]) for run_id in lost]

    # --- Events ---

    async def append_events(self, events: list[Event]) -> None:
        async with self.transaction() as session:
            await session.exec(sa.insert(Event), params=[event.model_dump() for event in events])

    async def events(self, run_id: str, after: int, *where: Any) -> list[Event]:
        """The next page of a run's events. The event that fills PAGE_BYTES is its last."""
        page = select(Event).where(Event.run_id == run_id, Event.id > after, *where)
        page = page.order_by(col(Event.id)).limit(PAGE).execution_options(yield_per=10)
        found: list[Event] = []
        size = 0
        async with AsyncSession(self.engine) as session:
            async for event in await session.stream_scalars(page):
                found.append(event)
                size += len(event.data)
                if size >= PAGE_BYTES:
                    break
        return found

    async def last_event(self, run_id: str) -> Event | None:
        return await self.first(select(Event).where(Event.run_id == run_id).order_by(col(Event.id).desc()))


def configure_connection(connection: Any, record: object) -> None:
    """WAL: readers never wait for the writer. NORMAL: a commit survives the death of this process."""
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 5000", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
