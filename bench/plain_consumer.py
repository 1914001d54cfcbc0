"""An agent of lesson 10 without Dapr: its folder's agent.py behind an aiokafka consumer, and PostgreSQL.

It does the same work for each event: looks for a stored answer, handles the event, stores the answer in a
transaction, and publishes what follows. Partitions are handled side by side, the events of one in their
order, as Dapr does. `lesson_10_events.py` runs it in the folder of a generated service.
"""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

sys.path.insert(0, os.getcwd())  # noqa: PTH109  # the generated service

import openai
import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]
from psycopg.types.json import Json

from agent import TOPICS, Agent  # type: ignore[import-not-found]
from config import read_settings  # type: ignore[import-not-found]
from messages import Answer, Event  # type: ignore[import-not-found]

TABLE = "CREATE TABLE IF NOT EXISTS plain (key text PRIMARY KEY, value jsonb, expires timestamptz)"
SAVE = """INSERT INTO plain VALUES (%s, %s, now() + interval '7 days')
ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires"""


class Transaction:
    """What an agent loads and saves; the block around it commits."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self.connection = connection

    async def load(self, key: str) -> Any:
        found = await self.connection.execute("SELECT value FROM plain WHERE key = %s FOR UPDATE", [key])
        row = await found.fetchone()
        return row[0] if row else None

    def save(self, key: str, value: Any) -> None:
        raise NotImplementedError("the agents of this bench keep no state besides their answers")


async def connect() -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(os.environ["POSTGRES_URL"], autocommit=True)


async def main() -> None:
    settings, brokers = read_settings(), os.environ["KAFKA_BROKERS"]
    model = openai.AsyncOpenAI(
        api_key=settings.openai_api_key.get_secret_value(), base_url=settings.openai_base_url
    )
    agent = Agent(settings, model)
    consumer = AIOKafkaConsumer(
        *TOPICS,
        bootstrap_servers=brokers,
        group_id="plain",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    async with await connect() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(1)")  # two programs may start at once
        await connection.execute(TABLE)
    connections: dict[Any, psycopg.AsyncConnection] = {}  # one for each partition
    async with AIOKafkaProducer(bootstrap_servers=brokers) as producer, consumer:

        async def handle(connection: psycopg.AsyncConnection, event: Event) -> None:
            key = f"{settings.agent_name}:{event.data.user_id}:{event.id}"
            async with connection.transaction():
                transaction = Transaction(connection)
                stored = await transaction.load(key)
                answer = Answer.model_validate(stored) if stored else await agent.handle(event, transaction)
                if not stored:
                    await connection.execute(SAVE, [key, Json(answer.model_dump())])
            for number, outgoing in enumerate(answer.events):
                envelope = {"specversion": "1.0", "id": outgoing.id or f"{event.id}/{number}"}
                envelope |= {"time": datetime.now(UTC).isoformat(), "topic": outgoing.topic}
                value = json.dumps(envelope | {"data": outgoing.data}).encode()
                await producer.send_and_wait(outgoing.topic, value, key=event.data.user_id.encode())

        async def handle_all(partition: Any, records: list[Any]) -> None:
            if partition not in connections:
                connections[partition] = await connect()
            for record in records:
                await handle(connections[partition], Event.model_validate_json(record.value))

        while True:
            batches = await consumer.getmany(timeout_ms=1_000, max_records=30)
            await asyncio.gather(*(handle_all(*batch) for batch in batches.items()))
            if batches:
                await consumer.commit()


asyncio.run(main())
