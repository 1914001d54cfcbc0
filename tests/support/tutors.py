"""Lesson 10's five agents, generated and run beside real sidecars, and what they publish and store."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from course.polling import until
from course.ports import free_port
from course.processes import Processes
from support.launcher import Launcher
from support.services import FOLDER, generate

SECONDS = 120  # for an event's way through the agents, on a busy machine


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Record:
    """An event in a topic of Kafka."""

    key: bytes | None
    partition: int
    id: str
    data: dict[str, Any]


@dataclass
class Agents:
    """The five agents, by their names, and the launcher that has started them."""

    launcher: Launcher
    apps: dict[str, dict[str, Any]]  # their parts of the run file
    env: dict[str, str]  # of launchers that start more of them
    folder: Path
    root: Path  # of the lesson

    def request(self, agent: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
        """What the agent answers; while it says that its sidecar is away, the request is sent again."""
        url = f"http://127.0.0.1:{self.apps[agent]['appPort']}{path}"
        send = partial(httpx2.request, "GET" if body is None else "POST", url, timeout=SECONDS)

        def answered() -> httpx2.Response | None:
            answer = send(json=body, headers=headers)
            return None if answer.status_code == 503 else answer.raise_for_status()

        found = until(answered, SECONDS, pause=0.2)
        assert found, f"{agent} finds no sidecar."
        return found.json()

    def process(self, agent: str, user: str, query: str = "", key: str = "", **context: Any) -> Any:
        headers = {"idempotency-key": key} if key else {}
        body = {"user_id": user, "query": query, "context": context}
        return self.request(agent, "/process", body, **headers)

    def publish(
        self,
        topic: str,
        data: dict[str, Any],
        event_id: str = "",
        by: str = "triage",
        seconds: float = SECONDS,
    ) -> str:
        """Publish through an agent's sidecar, again until it is accepted; returns the event's id."""
        event = {"specversion": "1.0", "id": event_id or uuid.uuid4().hex, "source": "test", "type": topic}

        def accepted() -> bool:
            try:
                return httpx2.post(
                    f"http://127.0.0.1:{self.apps[by]['daprHTTPPort']}/v1.0/publish/pubsub/{topic}",
                    params={"metadata.partitionKey": str(data.get("user_id"))},
                    json=event | {"datacontenttype": "application/json", "data": data},
                    headers={"content-type": "application/cloudevents+json"},
                    timeout=SECONDS,
                ).is_success
            except httpx2.TransportError:  # the sidecar was killed
                return False

        assert until(accepted, SECONDS), f"Nothing can be published to {topic}."
        return event["id"]

    def attempts(self, user: str, module: str) -> int:
        topics = self.process("progress", user)["result"]["topics"]
        return int(topics.get(module, {"attempts": 0})["attempts"])

    def dead_letters(self, *arguments: str) -> str:
        command = [sys.executable, str(self.root / FOLDER / "dead_letters.py"), *arguments]
        return subprocess.run(
            command, env=os.environ | self.env, capture_output=True, text=True, check=True, timeout=SECONDS
        ).stdout

    def records(self, topic: str, user: str) -> list[Record]:
        """The events of a user in a topic; those of a partition in their order."""

        async def read() -> list[Record]:
            options = {"bootstrap_servers": self.env["KAFKA_BROKERS"], "auto_offset_reset": "earliest"}
            async with AIOKafkaConsumer(topic, **options) as consumer:
                found, ends = [], await consumer.end_offsets(consumer.assignment())
                for place, end in ends.items():
                    while await consumer.position(place) < end:
                        for records in (await consumer.getmany(place, timeout_ms=1_000)).values():
                            found += [each for each in records if user.encode() in each.value]
            events = [(record, json.loads(record.value)) for record in found]
            return [Record(each.key, each.partition, it["id"], it["data"]) for each, it in events]

        return asyncio.run(read())

    def start_more(
        self, processes: Processes, folder: Path, agent: str, resources: Path | None = None, **changes: Any
    ) -> tuple[Launcher, dict[str, Any]]:
        """Start one of the agents once more, with a launcher of its own and ports of its own."""
        app = self.apps[agent] | {"appPort": free_port(), "daprHTTPPort": free_port()} | changes
        app["appDirPath"] = str(self.folder / agent)
        run_file = yaml.safe_load((self.folder / "dapr.yaml").read_text())
        run_file["common"]["resourcesPaths"] = [str(resources or self.folder / "components")]
        (folder / "dapr.yaml").write_text(yaml.safe_dump(run_file | {"apps": [app]}))
        return Launcher(processes, folder / "dapr.yaml", **self.env).wait_ready(), app


def handled(app: dict[str, Any]) -> int:
    """How many events an agent has got from its sidecar, by its metrics."""
    text = httpx2.get(f"http://127.0.0.1:{app['appPort']}/metrics", timeout=SECONDS).text
    return int(
        sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "agent_requests_total" and sample.labels["route"] == "/dapr-subscriber"
        )
    )


def write_records(brokers: str, topic: str, key: bytes, *values: bytes | None) -> None:
    """Write records straight into a topic, as a program without Dapr does."""

    async def write() -> None:
        async with AIOKafkaProducer(bootstrap_servers=brokers, max_request_size=2**21) as producer:
            for value in values:
                await producer.send_and_wait(topic, value, key=key)

    asyncio.run(write())


@pytest.fixture(scope="module")
def agents(
    processes: Processes,
    dapr: dict[str, str],
    offline_model: str,
    lesson_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Agents]:
    folder = tmp_path_factory.mktemp("agents")
    made = generate(lesson_root, "--all", folder)
    assert made.returncode == 0, f"The five agents could not be generated: {made.stderr}"
    run_file = yaml.safe_load((folder / "dapr.yaml").read_text())
    for app in run_file["apps"]:
        app |= {"appPort": free_port(), "daprHTTPPort": free_port()}
    (folder / "dapr.yaml").write_text(yaml.safe_dump(run_file))
    model = {"OPENAI_BASE_URL": f"{offline_model}/v1", "OPENAI_API_KEY": "test", "MODEL_NAME": "offline"}
    env = dapr | model
    launcher = Launcher(processes, folder / "dapr.yaml", "--restart", **env).wait_ready()
    apps = {app["appDirPath"]: app for app in run_file["apps"]}
    yield Agents(launcher, apps, env, folder, lesson_root)
    launcher.stop()
