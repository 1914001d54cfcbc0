"""Lesson 09: servers, users, runs, and code that runs as the agent in a container."""

import hashlib
import re
import subprocess
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from course.engines.docker import docker
from course.models import base_environment
from course.paths import ROOT
from course.polling import until
from course.processes import wait_ready
from support.engines import require
from support.forked_programs import StartPython
from support.locks import file_lock
from support.servers import Server
from support.streams import Event, read_events

SECONDS = 120  # for a run on a busy machine
PASSWORD = "correct horse battery staple"  # noqa: S105
HOSTILE = ROOT / "tests/images/hostile_agent"
SECRET_KEY = "a-secret-of-the-tests-that-is-long-enough"  # noqa: S105
LABEL = "parallel-agents"


@pytest.fixture(scope="session")
def hostile_image() -> Iterator[str]:
    """An image whose agent runs its prompt as Python code."""
    require("docker")
    tag = f"hostile-agent:{uuid.uuid4().hex[:8]}"
    with file_lock("images"):
        built = docker(
            "build", "--quiet", "-t", tag, "-f", f"{HOSTILE}/Dockerfile.agent", str(HOSTILE), seconds=300
        )
    assert built.returncode == 0, f"The image of the tests' agent cannot be built: {built.stderr}"
    yield tag
    docker("rmi", "--force", tag)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with two commits."""
    folder = tmp_path_factory.mktemp("repositories") / "sample"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "a.txt").write_text("one\n")
    commit(folder, "first")
    (folder / "b.txt").write_text("two\n")
    commit(folder, "second")
    return folder


def git(folder: Path, *command: str) -> str:
    name = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", *name, *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


@dataclass
class Lesson:
    """A running server of lesson 09."""

    server: Server
    data: Path
    settings: dict[str, str]
    users: list["User"] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"{self.server}/api/v1{path}"

    @property
    def instance(self) -> str:
        """The label's value on everything that this server starts in Docker."""
        return hashlib.sha256(str(self.data.resolve()).encode()).hexdigest()[:16]

    def left(self) -> list[str]:
        """Its containers and networks."""
        return self.things("ps", "--all") + self.things("network", "ls")

    def things(self, *command: str) -> list[str]:
        return docker(*command, "--quiet", "--filter", f"label={LABEL}={self.instance}").stdout.split()

    def remove_left(self) -> list[str]:
        """Remove what it left, and say what it was."""
        containers = self.things("ps", "--all")
        for each in containers:
            docker("rm", "--force", "--volumes", each)
        networks = self.things("network", "ls")
        for each in networks:
            docker("network", "rm", each)
        return containers + networks

    def agents(self) -> list[str]:
        """Its containers that are variations."""
        told = ["--filter", f"label={LABEL}={self.instance}", "--filter", f"label={LABEL}.run"]
        return docker("ps", "--all", "--quiet", *told).stdout.split()

    def stop(self, seconds: float = 60) -> int:
        with suppress(ProcessLookupError):
            self.server.process.terminate()
        try:
            return self.server.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"The server was told to stop, and has not ended {seconds:g} seconds later.")

    def user(self) -> "User":
        self.users.append(User(self))
        return self.users[-1]


def describe(response: httpx2.Response) -> str:
    """The status and the body of a response, for the sentence of a failure."""
    return f"{response.status_code} {response.read().decode()}"


class User:
    """A registered user of a server."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson, self.name = lesson, f"user-{uuid.uuid4().hex[:12]}"
        self.http = httpx2.Client(base_url=lesson.url(""), timeout=SECONDS)
        credentials = {"username": self.name, "password": PASSWORD}
        registered = self.http.post("/auth/register", json=credentials)
        assert registered.status_code == 201, f"A user cannot register: {describe(registered)}"
        login = self.http.post("/auth/login", json=credentials)
        assert login.status_code == 200, f"A registered user cannot log in: {describe(login)}"
        self.token = login.json()["access_token"]
        self.http.headers["Authorization"] = f"Bearer {self.token}"

    def post(
        self, repository: Path | str, code: str = "", variations: int = 1, **more: Any
    ) -> httpx2.Response:
        """Post a run whose agents run this code."""
        headers = more.pop("headers", None)
        body = {"repository": str(repository), "prompt": textwrap.dedent(code) or "pass"}
        return self.http.post("/runs", json=body | {"variations": variations} | more, headers=headers)

    def start(self, repository: Path | str, code: str, variations: int = 1, **more: Any) -> str:
        posted = self.post(repository, code, variations, **more)
        assert posted.status_code == 202, f"A run was refused: {describe(posted)}"
        return str(posted.json()["id"])

    def run(self, repository: Path | str, code: str, variations: int = 1, **more: Any) -> "Finished":
        """Run to the end."""
        run_id = self.start(repository, code, variations, **more)
        return self.finished(run_id)

    def finished(self, run_id: str) -> "Finished":
        events = self.events(run_id)
        return Finished(self.get(run_id), events)

    def get(self, run_id: str) -> dict[str, Any]:
        got = self.http.get(f"/runs/{run_id}")
        assert got.status_code == 200, f"A run cannot be read: {describe(got)}"
        run: dict[str, Any] = got.json()
        return run

    def events(self, run_id: str, after: str | None = None) -> list[Event]:
        """A run's events, until the last one."""
        return list(self.stream(run_id, after))

    def stream(self, run_id: str, after: str | None = None) -> Iterator[Event]:
        headers = {"Last-Event-ID": after} if after else {}
        with self.http.stream("GET", f"/runs/{run_id}/stream", headers=headers) as response:
            assert response.status_code == 200, f"A run's events cannot be read: {describe(response)}"
            yield from read_events(response)

    def wait_for(self, run_id: str, text: str) -> None:
        """Wait until a variation of the run has printed this text."""
        for event in self.stream(run_id):
            if event.type == "log" and text in event.data["text"]:
                return
        pytest.fail(f"The run ended, and nothing printed {text!r}.")


def announced(process: subprocess.Popen[str], log: Path) -> str:
    """The URL in the server's log: it listens on a second port, for its gateway."""

    def find() -> re.Match[str] | None:
        return re.search("Uvicorn running on (http://127[^ ]+)", log.read_text() if log.exists() else "")

    found = until(lambda: find() or process.poll() is not None, 60)
    if not isinstance(found, re.Match):
        pytest.fail(f"The server did not start: {log.read_text()}")
    return str(found[1])


@dataclass
class Finished:
    run: dict[str, Any]
    events: list[Event]

    def text(self, variation: int = 1) -> str:
        """What a variation printed."""
        told = [each.data for each in self.events if each.type == "log"]
        return "\n".join(each["text"] for each in told if each["variation"] == variation)

    def variation(self, n: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = self.run["variations"][n - 1]
        return found


StartLesson = Callable[..., Lesson]
RESULT = """
import json
counts = {"tests_passed": 2, "tests_failed": 0}
print(json.dumps({"type": "result", "status": "passed", "summary": "ok"} | counts))
"""
# Code that asks the model; in the container there is no package for that.
ASK = """
import json, os, urllib.error, urllib.request
URL = os.environ["OPENAI_BASE_URL"]
def ask(path="/chat/completions", key=os.environ["OPENAI_API_KEY"], method="POST", **body):
    body = {"model": "the-dearest", "messages": [{"role": "user", "content": "What is Docker?"}]} | body
    data = json.dumps(body).encode() if method == "POST" else None
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        request = urllib.request.Request(URL + path, data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
"""


@pytest.fixture(scope="module")
def lesson_09(
    start_python: StartPython,
    offline_model: str,
    lesson_root: Path,
    hostile_image: str,
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[StartLesson]:
    """A function that starts lesson 09 with settings; the same ones give the same server."""
    folder = lesson_root / "code/09_parallel_agents"
    running: list[Lesson] = []

    def start(data: Path | None = None, **settings: str) -> Lesson:
        for each in running:
            if each.settings == settings and each.server.process.poll() is None and data in (None, each.data):
                return each
        data = data or tmp_path_factory.mktemp("data")
        env = base_environment() | {
            "OPENAI_BASE_URL": f"{offline_model}/v1",
            "OPENAI_API_KEY": "the-real-key",
            "MODEL_NAME": "offline",
            "SECRET_KEY": SECRET_KEY,
            "DATA_DIR": str(data),
            "LOCAL_REPOSITORIES": str(repository.parent),
            "AGENT_CONTAINER_IMAGE": hostile_image,
            "AGENT_SOURCE": str(HOSTILE),
            "RATE_LIMIT_RPM": "100000",
            "LOGIN_LIMIT_RPM": "100000",
            "MAX_VARIATIONS_PER_USER": "100",
            "DRAIN_SECONDS": "1",
            **settings,
        }
        log = data / f"server-{len(running)}.log"  # a server that is started again gets another one
        process = start_python([str(folder / "main.py")], {"PORT": "0"} | env, folder, log)
        server = Server(announced(process, log))
        server.process, server.log = process, log
        wait_ready(process, f"{server}/health")
        running.append(Lesson(server, data, settings))
        return running[-1]

    yield start
    for each in running:
        for user in each.users:
            user.http.close()
        each.stop()
    left = [thing for each in running for thing in each.remove_left()]
    broken = lesson_root != ROOT  # an exercise's fault may be that something is left
    assert broken or not left, (
        f"Containers and networks are left, although their servers have stopped: {left}."
    )
