"""Records in a store of runs."""

import asyncio
from typing import Any

from app.models import Record, Run
from app.runs.stores.redis import RedisStore


def record(caller: str = "me", **fields: Any) -> Record:
    return Record(run=Run(query="What is a lease?", **fields), caller=caller, request_id="r")


async def until_claimed(store: RedisStore) -> Record:
    async with asyncio.timeout(30):
        while (claimed := await store.claim()) is None:  # noqa: ASYNC110  # nor when a lease does
            await asyncio.sleep(0.02)
    return claimed
