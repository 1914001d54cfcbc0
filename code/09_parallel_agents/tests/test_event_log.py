"""Readers get every event once and in order, whenever they come, and however slow they are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa

from parallel_agents.event_log import QUEUE, TAIL, EventLog
from parallel_agents.models import Run, User
from parallel_agents.store import PAGE, PAGE_BYTES, Store


@asynccontextmanager
async def open_log(folder: Path) -> AsyncIterator[tuple[Store, EventLog, str]]:
    store = Store(f"sqlite+aiosqlite:///{folder}/events.db")
    await store.open()
    user = User(username="ada", password_hash="")
    run = Run(user_id=user.id, repository="x", ref="HEAD", prompt="x", seed=0, engine="docker")
    await store.add(user, run)
    log = EventLog(store)
    log.open()
    yield store, log, run.id
    await log.close()
    await store.close()


async def ids(log: EventLog, run: str, after: int = 0, pause: float = 0) -> list[int]:
    found = []
    async for piece in log.follow(run, after):
        found += [int(line[4:]) for line in piece.splitlines() if line.startswith(b"id: ")]
        await asyncio.sleep(pause)
    return found


def test_readers_who_come_at_any_time_miss_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        async with open_log(tmp_path) as (_, log, run):
            run_log = log.start(run)
            readers = []
            for n in range(1, 1500):
                await run_log.append(1, "log", text=str(n))
                if n % 100 == 0:
                    readers.append(asyncio.create_task(ids(log, run, n // 2, n % 7 / 1000)))
                    await asyncio.sleep(0)
            await run_log.append(None, "done", reason="done")
            await log.finish(run_log)
            for number, found in enumerate(await asyncio.gather(*readers), 1):
                assert found == list(range(number * 50 + 1, 1501)), "An event fell between history and live."
            assert await ids(log, run) == list(range(1, 1501))

    asyncio.run(check())


def test_an_append_that_is_cancelled_leaves_no_gap(tmp_path: Path) -> None:
    async def check() -> None:
        async with open_log(tmp_path) as (store, log, run):
            run_log = log.start(run)
            async with store.writing:  # the writer waits, until the queue is full
                appended: set[asyncio.Task[None]] = {asyncio.create_task(asyncio.sleep(0))}
                while appended:
                    append = asyncio.create_task(run_log.append(1, "log", text="x"))
                    appended, _ = await asyncio.wait([append], timeout=1)
                append.cancel()
                await asyncio.wait([append])
            await run_log.append(None, "done", reason="done")
            await log.finish(run_log)
            found = await ids(log, run)
            assert found == list(range(1, len(found) + 1)), "An id has no event, and readers stop before it."

    asyncio.run(check())


def test_memory_is_bounded_while_a_reader_stands_still(tmp_path: Path) -> None:
    async def check() -> None:
        async with open_log(tmp_path) as (_, log, run):
            run_log = log.start(run)
            reader = log.follow(run, 0)
            for n in range(600):
                await run_log.append(1, "log", text="x" * 10_000)
                assert run_log.queue.qsize() <= QUEUE
                if n == 0:
                    assert await anext(reader)  # and reads no more
            await run_log.append(None, "done", reason="done")
            await log.finish(run_log)
            assert run_log.tail_bytes <= TAIL + 11_000
            left = [piece async for piece in reader]
            assert len(left) >= 600 // PAGE, "The reader gets a page at a time."
            assert b"event: done" in left[-1]
            assert max(map(len, left)) < PAGE_BYTES + 11_000, "A page of large events fills the memory."

    asyncio.run(check())


def test_an_event_is_seen_only_after_its_commit(tmp_path: Path) -> None:
    async def check() -> None:
        async with open_log(tmp_path) as (store, log, run):
            run_log = log.start(run)
            async with store.writing:  # the writer has to wait
                await run_log.append(1, "log", text="early")
                reading = asyncio.create_task(anext(log.follow(run, 0)))
                done, _ = await asyncio.wait([reading], timeout=0.3)
                assert not done, "A reader has seen an event that a crash would lose."
            assert b"early" in await reading, "An event fell between history and live."
            await run_log.append(None, "done", reason="done")
            await log.finish(run_log)

    asyncio.run(check())


def test_a_store_that_fails_for_a_while_loses_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        async with open_log(tmp_path) as (store, log, run):
            run_log = log.start(run)
            async with store.transaction() as session:
                await (await session.connection()).execute(sa.text("ALTER TABLE event RENAME TO away"))
            await run_log.append(1, "log", text="x")
            while not run_log.unwritten:  # noqa: ASYNC110  # until a write has failed
                await asyncio.sleep(0.01)
            async with store.transaction() as session:
                await (await session.connection()).execute(sa.text("ALTER TABLE away RENAME TO event"))
            await run_log.append(None, "done", reason="done")
            await log.finish(run_log)
            assert await ids(log, run) == [1, 2]

    asyncio.run(check())
