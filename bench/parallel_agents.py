"""Start lesson 09 for measurements, with an agent that runs its prompt as Python code."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from course import engines
from course.engines.docker import docker
from course.errors import CourseError
from course.models import base_environment, start_model
from course.paths import ROOT
from course.polling import until
from course.processes import Processes

HOSTILE = ROOT / "tests/images/hostile_agent"
IMAGE = "hostile-agent:bench"
LESSON = ROOT / "code/09_parallel_agents"
PASSWORD = "correct horse battery staple"  # noqa: S105
RESULT = (
    'import json; print(json.dumps({"type": "result", "status": "passed", "tests_passed": 1, '
    '"tests_failed": 0, "summary": ""}))'
)


@dataclass
class Bench:
    """Servers of lesson 09 that share a data folder, and a repository."""

    folder: Path
    repository: Path
    environment: dict[str, str]
    process: subprocess.Popen[str] | None = None
    url: str = ""
    starts: int = 0

    def start(self) -> None:
        self.starts += 1
        log = self.folder / f"server-{self.starts}.log"
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "main.py"],
                cwd=LESSON,
                env=self.environment,
                stdout=output,
                stderr=output,
                text=True,
            )
        found = until(lambda: re.search("running on (http://127[^ ]+)", log.read_text()), 60)
        if not found:
            raise CourseError(f"The server did not start: {log.read_text()[-2000:]}")
        self.url = f"{found[1]}/api/v1"

    def stop(self, kill: bool = False) -> None:
        if self.process:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait(120)

    def user(self) -> dict[str, str]:
        """The headers of a new user."""
        body = {"username": f"user-{os.urandom(6).hex()}", "password": PASSWORD}
        httpx2.post(f"{self.url}/auth/register", json=body, timeout=60).raise_for_status()
        token = httpx2.post(f"{self.url}/auth/login", json=body, timeout=60).json()["access_token"]
        return {"Authorization": f"Bearer {token}"}

    def post(self, headers: dict[str, str], code: str, variations: int) -> str:
        body = {"repository": str(self.repository), "prompt": code, "variations": variations}
        posted = httpx2.post(f"{self.url}/runs", json=body, headers=headers, timeout=60)
        if posted.status_code != 202:
            raise CourseError(posted.text)
        return str(posted.json()["id"])

    def get(self, headers: dict[str, str], run: str) -> dict[str, Any]:
        told: dict[str, Any] = httpx2.get(f"{self.url}/runs/{run}", headers=headers, timeout=60).json()
        return told

    def left(self) -> int:
        """Containers and networks that the servers of this folder have left."""
        instance = hashlib.sha256(str((self.folder / "data").resolve()).encode()).hexdigest()[:16]
        told = ["--filter", f"label=parallel-agents={instance}", "--quiet"]
        found = docker("ps", "--all", *told).stdout.split() + docker("network", "ls", *told).stdout.split()
        return len(found)


@contextmanager
def lesson_09(**settings: str) -> Iterator[Bench]:
    os.environ.update(engines.environment())
    built = docker(
        "build", "--quiet", "-t", IMAGE, "-f", f"{HOSTILE}/Dockerfile.agent", str(HOSTILE), seconds=300
    )
    if built.returncode:
        raise CourseError(built.stderr)
    with tempfile.TemporaryDirectory() as name, Processes() as processes:
        folder = Path(name)
        repository = folder / "repository"
        repository.mkdir()
        (repository / "a.txt").write_text("one\n")
        author = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "-m", "first"]):
            subprocess.run(["git", *command], cwd=repository, check=True)
        environment = base_environment() | {
            "OPENAI_BASE_URL": f"{start_model(processes)}/v1",
            "OPENAI_API_KEY": "offline",
            "MODEL_NAME": "offline",
            "SECRET_KEY": "a-secret-of-the-bench-that-is-long-enough",
            "DATA_DIR": str(folder / "data"),
            "LOCAL_REPOSITORIES": str(folder),
            "AGENT_CONTAINER_IMAGE": IMAGE,
            "RATE_LIMIT_RPM": "100000",
            "LOGIN_LIMIT_RPM": "100000",
            "PORT": "0",
            **settings,
        }
        bench = Bench(folder, repository, environment)
        bench.start()
        try:
            yield bench
        finally:
            bench.stop()
    docker("rmi", "--force", IMAGE)
