"""Operations on a running agent, while readers follow streams and callers ask questions."""

import asyncio
from collections.abc import Awaitable, Callable

from course.clients.load import LONG, SHORT, LoadResult, numbered_question, send_at_constant_rate
from course.clients.readers import ReceivedEvents, count_missing_or_duplicate, new_client, read, stored
from support.research import unique_question


async def under_load(
    url: str, operation: Callable[[], Awaitable[None]], readers: int = 6
) -> tuple[list[ReceivedEvents], LoadResult, LoadResult]:
    """Read long streams, and ask cached and new questions, while `operation` runs."""
    stop = asyncio.Event()
    found: list[ReceivedEvents] = []

    async with new_client() as client:
        first = await client.post(f"{url}/v1/research", json={"query": SHORT})
        assert first.status_code == 200, f"Before the operation a question is not answered: {first.text}"

        async def reader() -> None:
            while not stop.is_set():
                found.append(await read(client, url, unique_question(LONG), ReceivedEvents()))

        async with asyncio.TaskGroup() as group:
            for _ in range(readers):
                group.create_task(reader())
            known = group.create_task(send_at_constant_rate(client, url, 5, lambda _: SHORT, stop))
            new = group.create_task(
                send_at_constant_rate(client, url, 0.5, numbered_question, stop, keys=True)
            )
            try:
                await operation()
            finally:
                stop.set()
        for seen in found:
            assert count_missing_or_duplicate(seen, await stored(client, url, seen)) == 0, (
                f"A reader did not see each event once: {seen}"
            )
    return found, known.result(), new.result()


def assert_nobody_noticed(readings: list[ReceivedEvents], *asked: LoadResult) -> None:
    for asking in asked:
        assert not asking.failed, f"{len(asking.failed)} of {asking.sent} requests failed: {asking.failed[0]}"
        assert asking.sent > 0, "Nobody asked during the operation."
    assert readings, "Nobody read during the operation."
    for seen in readings:
        assert not seen.failed, f"A reader was refused: {seen.failed[0]}"
        assert seen.types[-1] == "done", "A run was ended with an error."
