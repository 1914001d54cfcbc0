"""Records of runs, for tests of the store."""

import asyncio
from typing import Any

from app.models import Run, StoredRun
from app.runs.stores.redis import RedisStore


def record(caller: str = "me", **fields: Any) -> StoredRun:
    return StoredRun(run=Run(query="What is a lease?", **fields), caller=caller, request_id="r")


async def until_claimed(store: RedisStore) -> StoredRun:
    async with asyncio.timeout(30):
        while (claimed := await store.claim()) is None:  # noqa: ASYNC110  # an expiry sends no event
            await asyncio.sleep(0.02)
    return claimed
