"""Lesson 10's five agents and the Kafka, PostgreSQL and Dapr that they run with, and events for them."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]

from course import engines
from course.models import base_environment
from course.paths import ROOT
from course.ports import free_port
from course.processes import Processes

LESSON = ROOT / "code" / "10_dapr_agents"


def generate(folder: Path) -> float:
    """Write all five agents; returns the seconds."""
    began = time.perf_counter()
    command = [sys.executable, str(LESSON / "generate_agent.py"), "--all", str(folder), "--force"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


class Launcher:
    """`launch.py`, and what it has printed of its processes."""

    def __init__(self, processes: Processes, *arguments: str | Path, **env: str) -> None:
        self.pids: dict[str, int] = {}
        self.variables: dict[str, str] = {}
        self.seconds = 0.0  # until all were healthy
        self.changed = threading.Condition()
        command = [sys.executable, str(LESSON / "launch.py"), *map(str, arguments)]
        env = base_environment() | engines.environment() | env
        self.process = processes.start(command, env=env, output=subprocess.PIPE)
        threading.Thread(target=self.read, daemon=True).start()
        with self.changed:
            assert self.changed.wait_for(lambda: self.seconds, 240), "The launcher does not become ready."

    def read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self.changed:
                if started := re.match(r"✓ (\S+) is healthy \(.*, pid (\d+)\)", line):
                    self.pids[started[1]] = int(started[2])
                elif ready := re.match(r"✓ \d+ processes are healthy after (\S+) s", line):
                    self.seconds = float(ready[1])
                elif line.startswith("export "):
                    name, _, value = line.removeprefix("export ").strip().partition("=")
                    self.variables[name] = value
                self.changed.notify_all()

    def kill(self, name: str) -> None:
        """Send SIGKILL to a process, and wait until it has been started again and is healthy."""
        before = self.pids[name]
        os.kill(before, signal.SIGKILL)
        with self.changed:
            restarted = self.changed.wait_for(lambda: self.pids[name] != before, 240)
        assert restarted, f"{name} was not started again."


@contextmanager
def running(
    processes: Processes, folder: Path, model: str
) -> Iterator[tuple[Launcher, Launcher, dict[str, int]]]:
    """The launcher of what agents need, that of the five agents, and the ports of their apps."""
    generate(folder)
    run_file = yaml.safe_load((folder / "dapr.yaml").read_text())
    for app in run_file["apps"]:
        app |= {"appPort": free_port(), "daprHTTPPort": free_port()}
    (folder / "dapr.yaml").write_text(yaml.safe_dump(run_file))
    needs = Launcher(processes)
    env = needs.variables | model_settings(model)
    agents = Launcher(processes, folder / "dapr.yaml", "--restart", **env)
    yield needs, agents, {app["appDirPath"]: app["appPort"] for app in run_file["apps"]}
    processes.stop(agents.process)
    processes.stop(needs.process)


def model_settings(model: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{model}/v1", "OPENAI_API_KEY": "offline", "MODEL_NAME": "offline"}


class Traffic:
    """Events that are published straight to Kafka, and the answers that come back."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.producer = producer
        self.sent: dict[str, float] = {}  # by the event's id
        self.answers: dict[str, tuple[float, Any]] = {}  # by the first event's id: the first answer
        self.received = asyncio.Event()  # an answer
        self.changed = 0  # answers that came again with other data

    async def publish(self, topic: str, user: str, query: str = "", **context: Any) -> str:
        event_id = uuid.uuid4().hex
        event: dict[str, Any] = {"specversion": "1.0", "id": event_id, "source": "bench", "type": topic}
        event |= {"time": datetime.now(UTC).isoformat(), "datacontenttype": "application/json"}
        event |= {"topic": topic, "data": {"user_id": user, "query": query, "context": context}}
        self.sent[event_id] = time.perf_counter()
        await self.producer.send_and_wait(topic, json.dumps(event).encode(), key=user.encode())
        return event_id

    async def receive(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            event = json.loads(record.value)
            first = event["id"].partition("/")[0]
            if first in self.sent:
                _, data = self.answers.setdefault(first, (time.perf_counter(), event["data"]))
                self.changed += data != event["data"]
                self.received.set()

    def unanswered(self) -> set[str]:
        return self.sent.keys() - self.answers.keys()

    async def answered(self, seconds: float = 240) -> set[str]:
        """Wait until all events are answered; returns the ids of those that are not when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.unanswered():
                    self.received.clear()
                    await self.received.wait()
        return self.unanswered()


@asynccontextmanager
async def traffic(brokers: str, *topics: str) -> AsyncIterator[Traffic]:
    """Traffic whose answers come in these topics."""
    options = {"bootstrap_servers": brokers, "auto_offset_reset": "earliest"}
    async with (
        AIOKafkaProducer(bootstrap_servers=brokers) as producer,
        AIOKafkaConsumer(*topics, **options) as consumer,
    ):
        found = Traffic(producer)
        receiving = asyncio.create_task(found.receive(consumer))
        yield found
        receiving.cancel()
