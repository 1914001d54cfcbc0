"""The store: SQLModel on SQLite, asynchronous. One writer at a time, any number of readers."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from parallel_agents.models import UNFINISHED, ApiKey, Event, Patch, Run, User, Variation

SCHEMA_VERSION = 1


class StoreError(Exception):
    """The database cannot be used."""


class Conflict(Exception):
    """Another row has this unique value."""


class Store:
    def __init__(self, url: str) -> None:
        self.engine = create_async_engine(url)
        self.writing = (
            asyncio.Lock()
        )  # SQLite has one writer at a time: wait here instead of in its busy loop
        sa.event.listen(self.engine.sync_engine, "connect", configure_connection)

    async def open(self) -> None:
        """Create the tables of a new database. Raises `StoreError` for one with another schema version."""
        async with self.engine.begin() as connection:
            version = (await connection.execute(sa.text("PRAGMA user_version"))).scalar_one()
            if version == 0:
                await connection.run_sync(SQLModel.metadata.create_all)
                await connection.execute(sa.text(f"PRAGMA user_version = {SCHEMA_VERSION}"))
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"The database has schema version {version}; this app needs {SCHEMA_VERSION}."
                )

    async def close(self) -> None:
        await self.engine.dispose()

    async def ping(self) -> None:
        async with self.engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        async with self.writing, AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session
            await session.commit()

    async def add(self, *rows: SQLModel) -> None:
        """Insert rows in one transaction. Raises `Conflict`."""
        try:
            async with self.transaction() as session:
                for row in rows:  # in this order, because of the foreign keys
                    session.add(row)
                    await session.flush()
        except IntegrityError:
            raise Conflict from None

    # --- Users and keys ---

    async def user(self, user_id: str) -> User | None:
        async with self.reading() as session:
            return await session.get(User, user_id)

    async def user_named(self, username: str) -> User | None:
        async with self.reading() as session:
            return (await session.exec(select(User).where(User.username == username))).first()

    async def user_of_key(self, digest: str) -> User | None:
        async with self.reading() as session:
            join = select(User).join(ApiKey).where(ApiKey.digest == digest)
            return (await session.exec(join)).first()

    async def keys(self, user_id: str) -> Sequence[ApiKey]:
        async with self.reading() as session:
            return (await session.exec(select(ApiKey).where(ApiKey.user_id == user_id))).all()

    async def delete_key(self, user_id: str, key_id: str) -> bool:
        async with self.transaction() as session:
            own = sa.delete(ApiKey).where(col(ApiKey.id) == key_id, col(ApiKey.user_id) == user_id)
            return bool((await session.exec(own)).rowcount)

    # --- Runs ---

    async def run(self, run_id: str) -> Run | None:
        async with self.reading() as session:
            return await session.get(Run, run_id)

    async def run_of_key(self, user_id: str, key: str) -> Run | None:
        async with self.reading() as session:
            found = select(Run).where(Run.user_id == user_id, Run.idempotency_key == key)
            return (await session.exec(found)).first()

    async def runs(self, user_id: str, before: str | None, limit: int) -> Sequence[Run]:
        """The newest runs of a user whose id sorts before `before`."""
        page = select(Run).where(Run.user_id == user_id).order_by(col(Run.id).desc()).limit(limit)
        async with self.reading() as session:
            return (await session.exec(page.where(Run.id < before) if before else page)).all()

    async def variations(self, *run_ids: str) -> list[Variation]:
        async with self.reading() as session:
            found = select(Variation).where(col(Variation.run_id).in_(run_ids)).order_by(col(Variation.n))
            return list((await session.exec(found)).all())

    async def patch(self, run_id: str, n: int) -> bytes | None:
        async with self.reading() as session:
            found = await session.get(Patch, (run_id, n))
            return found.patch if found else None

    async def update_run(self, run_id: str, **values: Any) -> None:
        async with self.transaction() as session:
            await session.exec(sa.update(Run).where(col(Run.id) == run_id).values(values))

    async def update_variation(self, variation: Variation, patch: bytes | None = None) -> None:
        """Store a variation and its patch in one transaction: a result is there as a whole or not at all."""
        async with self.transaction() as session:
            await session.merge(variation)
            if patch is not None:
                await session.merge(Patch(run_id=variation.run_id, n=variation.n, patch=patch))

    async def delete_run(self, run_id: str) -> None:
        async with self.transaction() as session:
            await session.exec(
                sa.delete(Run).where(col(Run.id) == run_id)
            )  # the rest goes by ON DELETE CASCADE

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

    async def append_events(self, events: list[dict[str, Any]]) -> None:
        async with self.transaction() as session:
            await session.exec(sa.insert(Event), params=events)

    async def events(
        self, run_id: str, after: int, limit: int, variation: int | None = None
    ) -> Sequence[Event]:
        page = (
            select(Event).where(Event.run_id == run_id, Event.id > after).order_by(col(Event.id)).limit(limit)
        )
        async with self.reading() as session:
            return (await session.exec(page.where(Event.variation == variation) if variation else page)).all()

    async def last_event(self, run_id: str) -> Event | None:
        async with self.reading() as session:
            last = select(Event).where(Event.run_id == run_id).order_by(col(Event.id).desc()).limit(1)
            return (await session.exec(last)).first()


def configure_connection(connection: Any, record: object) -> None:
    """WAL: readers never wait for the writer. NORMAL: a commit survives the death of this process."""
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 5000", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
