"""What every test may use: real servers on free ports, and the place of the lesson under test."""

import fcntl
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from course.models import base_environment, start_offline_model
from course.processes import Failed, Processes, free_port, wait_ready

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def lesson_root() -> Path:
    """The folder whose lessons are tested: the course itself, or a copy that an exercise has broken."""
    return Path(os.environ.get("LESSON_ROOT", ROOT))


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    with Processes() as running:
        yield running


@pytest.fixture(scope="session")
def offline_model(processes: Processes) -> str:
    """Base URL of a running offline model, without /v1."""
    return start_model(processes)


@pytest.fixture
def literal_ports() -> Iterator[None]:
    """Tests that use the ports 8000 and 9000 of the pages take turns, in whatever process they run."""
    with (Path(tempfile.gettempdir()) / "course-literal-ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start_model(processes: Processes, port: int | None = None) -> str:
    port = port or free_port()
    start_offline_model(processes, port=port)()
    return f"http://127.0.0.1:{port}"


class Server(str):
    """A running server: its base URL, which also knows its process and where it logs."""

    process: subprocess.Popen[str]
    log: Path


App = Callable[..., Server]  # settings in, server out


@pytest.fixture(scope="session")
def start_script(
    processes: Processes, offline_model: str, lesson_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], App]:
    """Give a lesson's script, get a function that starts it with settings.

    The same settings give the same running server.
    """

    def script(path: str) -> App:
        @functools.cache
        def start(**settings: str) -> Server:
            port = free_port()
            env = base_environment() | {
                "OPENAI_BASE_URL": f"{offline_model}/v1",
                "OPENAI_API_KEY": "offline",
                "MODEL_NAME": "offline",
                "PORT": str(port),
            }
            log = tmp_path_factory.mktemp("log") / "server.log"
            command = [sys.executable, str(lesson_root / path)]
            with log.open("w") as output:
                process = processes.start(command, env=env | settings, cwd=lesson_root, output=output)
            try:
                wait_ready(process, f"http://127.0.0.1:{port}/health")
            except Failed as failure:
                said = log.read_text()
                told = Failed(f"{failure} Its last words: {' '.join(said.split()[-40:])}")
                told.add_note(said)
                raise told from None
            server = Server(f"http://127.0.0.1:{port}")
            server.process, server.log = process, log
            return server

        return start

    return script


def until(claim: Callable[[], Any], seconds: float = 5) -> Any:
    """Poll until `claim()` is true, and return its value; its last value when the time is up."""
    deadline = time.monotonic() + seconds
    while not (value := claim()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def calls(model: str, text: str) -> list[dict[str, Any]]:
    """The calls that reached the offline model with `text` in their body, oldest first."""
    found: list[dict[str, Any]] = httpx2.get(f"{model}/debug/requests", params={"contains": text}).json()
    return found
