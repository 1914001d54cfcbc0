"""Is an event lost when processes are killed? `python bench/lesson_10_kills.py`, ten minutes; needs Docker.

Each of the five agents and each of their sidecars gets SIGKILL ten times in turn, while events and learning
sessions are under way.
"""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

from bench import tutors
from bench.records import measured, save
from course.engines.dapr import Dapr
from course.engines.kafka import Kafka
from course.engines.postgresql import POSTGRESQL
from course.models import start_model
from course.processes import Processes

KILLS = 10  # of each process
AGENTS = ("triage", "concepts", "debug", "exercise", "progress")
QUESTIONS = ("Explain how loops work", "My code does not work", "Give me an exercise about loops")
ATTEMPTS = 4  # besides six questions, for each kill: ten events
ANSWERS = ("concept.responses", "debug.responses", "exercise.responses", "progress.updates")
SOLUTION = """
def depth(boxes):
    return 1 + max([depth(box) for box in boxes if isinstance(box, list)], default=0)
"""


class Callers:
    """Requests that are sent again while an agent, or its sidecar, is away."""

    def __init__(self, client: httpx2.AsyncClient, ports: dict[str, int]) -> None:
        self.client, self.ports = client, ports

    async def request(self, agent: str, path: str, body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self.ports[agent]}{path}"
        async with asyncio.timeout(300):
            while True:
                try:
                    answer = await self.client.request("POST" if body else "GET", url, json=body)
                    if answer.status_code < 500:
                        return answer.raise_for_status().json()
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(0.3)

    async def session(self, user: str) -> str:
        """A learning session from its start to its end; returns how it ended."""
        body = {"user_id": user, "module": "recursion", "level": "intermediate"}
        path = f"/sessions/{(await self.request('triage', '/sessions', body))['session_id']}"
        submitted = False
        while (state := await self.request("triage", path))["status"] in ("pending", "running"):
            if state.get("step") == "submission" and not submitted:
                await self.request("triage", f"{path}/submission", {"code": SOLUTION})
                submitted = True
            await asyncio.sleep(0.3)
        return state["result"]["outcome"] if state["status"] == "completed" else str(state["status"])

    async def attempts(self, user: str) -> dict[str, int]:
        """How often each topic of a learner was counted."""
        answer = await self.request("progress", "/process", {"user_id": user})
        return {name: topic["attempts"] for name, topic in answer["result"]["topics"].items()}


async def measure(agents: tutors.Launcher, brokers: str, ports: dict[str, int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    async with tutors.traffic(brokers, *ANSWERS) as traffic, httpx2.AsyncClient(timeout=120) as client:
        callers, sessions, users = Callers(client, ports), [], []
        for number in range(KILLS):
            for victim in [f"{agent}-agent{side}" for agent in AGENTS for side in ("", "-dapr")]:
                users.append(user := f"user-{number}-{victim}")
                sessions.append(asyncio.create_task(callers.session(user)))
                for question in (*QUESTIONS, *QUESTIONS):
                    await traffic.publish("learning.requests", user, question)
                for _ in range(ATTEMPTS):
                    await traffic.publish("progress.requests", user, module="loops", score=1)
                await asyncio.to_thread(agents.kill, victim)
                found["kills"] += 1
                print(found["kills"], victim, len(traffic.answers), "of", len(traffic.sent), flush=True)
        found["lost"] = len(await traffic.answered())
        outcomes = await asyncio.gather(*sessions)
        for user in users:
            counted = Counter(await callers.attempts(user))
            # The grade of a session reaches the progress as an event and as a call, and counts once.
            twice = max(0, counted["loops"] - ATTEMPTS) + max(0, counted["recursion"] - 1)
            missing = max(0, ATTEMPTS - counted["loops"])
            found.update(twice=twice, lost=missing)
        found.update(events=len(traffic.sent), twice=traffic.changed)
        found.update(sessions=len(outcomes), completed=outcomes.count("graded"))
    return dict(found)


def main() -> None:
    with Processes(grace=60) as processes, tempfile.TemporaryDirectory() as folder:
        model = start_model(processes)
        with tutors.running(processes, Path(folder), model) as (needs, agents, ports):
            found = asyncio.run(measure(agents, needs.variables["KAFKA_BROKERS"], ports))
    rows = {
        "kills": "kills",
        "events": "events",
        "lost": "events lost",
        "twice": "applied twice",
        "sessions": "workflows",
        "completed": "workflows completed",
    }
    values = {name: found.get(name, 0) for name in rows}
    how = (
        f"kill -9 of each of five agents and five sidecars in turn, {KILLS} times each; before each kill ten "
        "events are published and a learning session starts; lost: an event without an answer; applied "
        "twice: an attempt counted twice, or two answers to one event that differ"
    )
    versions = {"Dapr": Dapr(), "Kafka": Kafka(), "PostgreSQL": POSTGRESQL}
    save(
        "lesson_10_kills",
        {
            "title": "Events and workflows, while each process is killed",
            "kind": "bars",
            "alt": "Bars: kills, events, events lost, events applied twice, workflows, workflows completed.",
            "measured": measured(how, "dapr", **{n: str(e.version()) for n, e in versions.items()}),
            "values": values,
            "unit": "count",
            "groups": list(rows.values()),
            "series": [{"name": "count", "values": list(values.values())}],
        },
    )


if __name__ == "__main__":
    main()
