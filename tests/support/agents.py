"""Agents of lesson 08 as local processes, beside a Redis of their own: for tests that need no Dagger."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from course.engines.redis import RedisServer
from course.models import base_environment
from course.polling import until
from course.processes import Processes, wait_listening
from support.forked_programs import StartPython
from support.servers import calls


@dataclass
class Fleet:
    """Agents that share a Redis and the offline model."""

    processes: Processes
    start_python: StartPython
    logs: Path  # the folder for what programs print
    folder: Path  # the lesson under test
    redis_url: str
    model: str  # the offline model's base URL, without /v1
    programs: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    started: dict[subprocess.Popen[str], Path] = field(default_factory=dict)  # all programs, with their logs
    urls: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        model = {"OPENAI_BASE_URL": f"{self.model}/v1", "OPENAI_API_KEY": "offline", "MODEL_NAME": "offline"}
        return base_environment() | model | {"REDIS_URL": self.redis_url, "METRICS_PORT": "0"}

    def start(self, *names: str, **settings: str) -> None:
        """Start agents, and wait until each serves its metrics, which it does when it is ready."""
        for name in names:
            self.programs[name] = self.spawn("agent.py", settings={"AGENT_ID": name} | settings)
        for name in names:
            self.urls[name] = wait_listening(self.programs[name])

    def start_exporter(self) -> None:
        self.programs["queue"] = self.spawn("metrics_exporter.py")
        self.urls["queue"] = wait_listening(self.programs["queue"])

    def spawn(self, *command: str, settings: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a program of the lesson; `said` gives what it prints."""
        program, *arguments = command
        log = self.logs / f"{len(self.started)}.log"
        process = self.start_python(
            [f"src/{program}", *arguments], self.env | (settings or {}), self.folder, log
        )
        self.started[process] = log
        return process

    def said(self, process: subprocess.Popen[str], seconds: float = 20) -> str:
        """Return the output of a program that has ended."""
        process.wait(seconds)
        return self.started[process].read_text()

    def run(self, *command: str, seconds: float = 40, otherwise: str = "") -> dict[str, Any]:
        """Run a command of coordination.py; returns what it prints.

        The test fails with the sentence `otherwise` when it does not end in time.
        """
        process = self.spawn("coordination.py", *command)
        try:
            said = self.said(process, seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(otherwise or f"The command `{command[0]}` waits for a result that does not come.")
        if process.returncode:
            last = said.strip().rpartition("\n")[2]
            pytest.fail(f"coordination.py {command[0]} failed: {last}")
        found: dict[str, Any] = json.loads(said)
        return found

    def results(self, *command: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.run(*command)["results"]
        return found

    def result_of(self, task: str, otherwise: str) -> dict[str, Any]:
        """The result of a submitted task. The test fails with the sentence when there is none in time."""
        name, _, number = task.rpartition("-")
        command = ("collect", "--name", name, "--times", str(int(number) + 1))
        found: dict[str, Any] = self.run(*command, seconds=20, otherwise=otherwise)["results"][int(number)]
        return found

    def wait_until_asked(self, prompt: str) -> None:
        """Wait until an agent has asked the model, and so is in the middle of the task."""
        assert until(lambda: calls(self.model, prompt), 20), "No agent asks the model about the task."

    def counts(self) -> list[int]:
        """How often each task took effect."""
        return list(self.run("effects")["effects"].values())

    def metric(self, agent: str, name: str, **labels: str) -> float:
        """A metric of an agent; 0 when the agent does not have it."""
        text = httpx2.get(f"{self.urls[agent]}/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0

    def stop(self) -> None:
        for process in self.started:
            process.kill()  # SIGTERM would let each finish its task
        for process in self.started:
            self.processes.stop(process)


@pytest.fixture
def fleet(
    processes: Processes,
    start_python: StartPython,
    redis_server: RedisServer,
    offline_model: str,
    lesson_root: Path,
    tmp_path: Path,
) -> Iterator[Fleet]:
    """No agents yet, an empty queue, and the lesson under test."""
    redis_server.start()
    url = f"{redis_server.url.rpartition('/')[0]}/8"  # a database that no other test uses
    with Redis.from_url(url) as redis:
        redis.flushdb()
    folder = lesson_root / "code" / "08_agent_pipelines"
    fleet = Fleet(processes, start_python, tmp_path, folder, url, offline_model)
    yield fleet
    fleet.stop()
