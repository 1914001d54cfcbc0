"""How many events a second go through two agents? `python bench/lesson_10_events.py`, four minutes.

A question goes to triage, from there to concepts, and the answer comes back. Beside it, two plain consumers
of Kafka do the same work with the same code of the agents. The offline model answers at once.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import tutors
from bench.records import measured, save, series
from course import engines
from course.engines.dapr import Dapr
from course.engines.kafka import Kafka
from course.engines.postgresql import POSTGRESQL
from course.models import base_environment, start_model
from course.paths import ROOT
from course.processes import Processes

ROUNDS, EVENTS, USERS = 5, 300, 30
RATE, SECONDS = 20, 20  # of the latency
GENERATED, STARTS = 7, 3
QUESTION = "Explain how loops work"
PLAIN = ROOT / "bench" / "plain_consumer.py"


async def events_a_second(system: tutors.Traffic) -> float:
    """All events at once, until the last is answered."""
    began = time.perf_counter()
    users = [f"user-{number % USERS}" for number in range(EVENTS)]
    await asyncio.gather(*(system.publish("learning.requests", user, QUESTION) for user in users))
    assert not await system.answered(), "Events are lost."
    return EVENTS / (time.perf_counter() - began)


async def latencies(system: tutors.Traffic) -> list[float]:
    """Milliseconds from a question to its answer, at a steady rate."""
    ids, began = [], time.perf_counter()
    for number in range(RATE * SECONDS):
        await asyncio.sleep(max(0, began + number / RATE - time.perf_counter()))
        ids.append(await system.publish("learning.requests", f"user-{number % USERS}", QUESTION))
    assert not await system.answered(), "Events are lost."
    return sorted(1_000 * (system.answers[each][0] - system.sent[each]) for each in ids)


async def measure(brokers: dict[str, str]) -> tuple[list[list[float]], dict[str, list[float]]]:
    """The rounds of both systems in turn, and the latencies of each."""
    rates: list[list[float]] = [[], []]
    async with (
        tutors.traffic(brokers["plain"], "concept.responses") as plain,
        tutors.traffic(brokers["Dapr"], "concept.responses") as dapr,
    ):
        for system in (plain, dapr):
            await latencies(system)  # the first ones find nothing warm
        for _ in range(ROUNDS):
            for found, system in zip(rates, (plain, dapr), strict=True):
                found.append(await events_a_second(system))
                print(f"{found[-1]:.1f}", flush=True)
        return rates, {"plain": await latencies(plain), "dapr": await latencies(dapr)}


def main() -> None:
    with Processes(grace=60) as processes, tempfile.TemporaryDirectory() as temporary:
        folder, model = Path(temporary), start_model(processes)
        generated = statistics.median(tutors.generate(folder) for _ in range(GENERATED))
        starts = []
        for number in range(STARTS):
            with tutors.running(processes, folder, model) as (needs, agents, _):
                starts.append(needs.seconds + agents.seconds)
                if number < STARTS - 1:
                    continue
                other = tutors.Launcher(processes)
                env = base_environment() | other.variables | tutors.model_settings(model)
                consumers = [
                    processes.start(
                        [sys.executable, str(PLAIN)],
                        env=env | engines.environment(),
                        cwd=folder / agent,
                        output=subprocess.DEVNULL,
                    )
                    for agent in ("triage", "concepts")
                ]
                brokers = {
                    "plain": other.variables["KAFKA_BROKERS"],
                    "Dapr": needs.variables["KAFKA_BROKERS"],
                }
                (plain, dapr), times = asyncio.run(measure(brokers))
                for each in (*consumers, other.process):
                    processes.stop(each)
    p50, p99 = {}, {}
    for name, found in times.items():
        p50[name], p99[name] = statistics.median(found), found[int(0.99 * len(found))]
    how = (
        f"{EVENTS} questions of {USERS} learners at once, from Kafka through triage and concepts to the "
        f"answer in Kafka, {ROUNDS} rounds in turn, median and spread; plain: the same agents' code behind "
        f"aiokafka and psycopg, without Dapr; latency: {RATE} questions a second for {SECONDS} s; examples "
        f"were run in the sandbox before; generate: median of {GENERATED}; start: median of {STARTS}, all 14 "
        "processes"
    )
    versions = {"Dapr": Dapr(), "Kafka": Kafka(), "PostgreSQL": POSTGRESQL}
    save(
        "lesson_10_events",
        {
            "title": "Questions a second through triage to an answer",
            "kind": "bars",
            "alt": "Bars of the questions a second through plain consumers of Kafka, and through Dapr.",
            "measured": measured(
                how, "aiokafka", "psycopg", **{name: str(each.version()) for name, each in versions.items()}
            ),
            "values": {
                "ratio": round(statistics.median(d / p for d, p in zip(dapr, plain, strict=True)), 3),
                "p50_milliseconds": round(p50["dapr"], 1),
                "p99_milliseconds": round(p99["dapr"], 1),
                "p50_milliseconds_plain": round(p50["plain"], 1),
                "p99_milliseconds_plain": round(p99["plain"], 1),
                "generate_seconds": round(generated, 2),
                "start_seconds": round(statistics.median(starts), 1),
            },
            "unit": "questions a second",
            "groups": ["plain consumers", "Dapr"],
            "series": [series("questions", [plain, dapr])],
            "target": {"label": "0.5 x plain", "values": [round(0.5 * statistics.median(plain), 3)] * 2},
        },
    )


if __name__ == "__main__":
    main()
