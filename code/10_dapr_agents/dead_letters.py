"""Look at the events that no agent could handle, and replay them after the fault is mended.

Run:  python dead_letters.py list
      python dead_letters.py replay ID     # gives an event to its topic again; `all` replays each

Dapr gives an event to the topic `learnflow.dead-letters` when an agent refuses it, or the last retry fails.
The topic keeps it. A replayed event has its old id, so an agent that did handle it does not do so again.
"""

import asyncio
import json
import os
import sys
from typing import Annotated, Any

import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.errors import KafkaConnectionError  # type: ignore[import-untyped]
from aiokafka.structs import ConsumerRecord  # type: ignore[import-untyped]

TOPIC = "learnflow.dead-letters"
cli = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Look at dead letters, and replay them.",
)


def brokers() -> str:
    return os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092")


async def read_topic() -> list[ConsumerRecord]:
    """All that the topic holds now, oldest first."""
    found: list[ConsumerRecord] = []
    options = {"bootstrap_servers": brokers(), "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(
        TOPIC, **options
    ) as consumer:  # without a group: it reads all, and marks nothing
        ends = await consumer.end_offsets(consumer.assignment())
        for place, end in ends.items():
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(place, timeout_ms=1_000)).values():
                    found += [record for record in records if record.offset < end]
    return sorted(found, key=lambda record: record.timestamp)


def describe(record: ConsumerRecord) -> dict[str, Any]:
    """The parts of an event; one that is no JSON has its place in the topic as its id."""
    try:
        event = json.loads(record.value or b"")
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        event = {"data": (record.value or b"").decode(errors="replace")}
    return {"id": f"{record.partition}-{record.offset}", "topic": None, **event}


@cli.command("list")
def list_events() -> None:
    """Print each dead letter: its id, the topic that it was for, and its data."""
    for record in asyncio.run(read_topic()):
        event = describe(record)
        print(event["id"], event["topic"], json.dumps(event.get("data"), ensure_ascii=False)[:200], sep="\t")


@cli.command()
def replay(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="an id from `list`, or `all`")],
) -> None:
    """Give dead letters to their topics again."""
    count = asyncio.run(send(event_id))
    print(f"{count} replayed")
    if not count:
        sys.exit(1)


async def send(event_id: str) -> int:
    sent: set[str] = set()
    async with AIOKafkaProducer(bootstrap_servers=brokers()) as producer:
        for record in await read_topic():
            event = describe(record)
            if event_id in (event["id"], "all") and event["topic"] and event["id"] not in sent:
                data = event.get("data")
                key = data.get("user_id") if isinstance(data, dict) else None
                await producer.send_and_wait(
                    event["topic"], record.value, key=str(key).encode() if key else None
                )
                sent.add(event["id"])
    return len(sent)


if __name__ == "__main__":
    try:
        cli()
    except KafkaConnectionError:
        sys.exit(f"✗ Kafka does not answer at {brokers()}: set KAFKA_BROKERS.")
