"""What every test may use: real servers on free ports, and the place of the lesson under test."""

import contextlib
import dataclasses
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.faults import (  # noqa: F401  # pytest finds the hooks here
    broken_copy,
    pytest_collection_modifyitems,
    pytest_generate_tests,
    pytest_pyfunc_call,
)
from support.groups import pytest_xdist_make_scheduler  # noqa: F401
from support.shares import pytest_terminal_summary  # noqa: F401

from course import engines
from course.containers import images
from course.containers.network import Surroundings
from course.engines.docker import docker as run_docker
from course.errors import Failed
from course.models import base_environment
from course.ports import free_port
from course.processes import Processes, wait_listening, wait_ready

ROOT = Path(__file__).parent.parent
os.environ.update(engines.environment())  # whatever a test starts finds the course's Docker
# Tests import the research agent's package `app` from the course, or from a copy that an exercise has broken.
sys.path.insert(0, str(Path(os.environ.get("LESSON_ROOT", ROOT)) / "research-agent"))

# None are installed; looking for them would take a tenth of a second of each of hundreds of starts.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# A script's background job ignores Ctrl-C, and so would all that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: half as many again as there are processors, for tests wait as much as they compute."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


@pytest.fixture(scope="session")
def lesson_root(
    request: pytest.FixtureRequest, offline_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The folder whose lessons are tested: the course, a learner's copy, or an exercise's broken copy."""
    slug = getattr(request, "param", None)
    if slug is None:
        yield Path(os.environ.get("LESSON_ROOT", ROOT))
        return
    forget_calls(offline_model)  # of the same test on the course, and then those on the broken copy
    yield broken_copy(slug, tmp_path_factory.mktemp(slug))
    forget_calls(offline_model)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    with Processes(grace=2) as running:
        yield running


@pytest.fixture(scope="session")
def offline_model(processes: Processes) -> str:
    """Base URL of a running offline model, without /v1; a run inside a test shares the outer run's."""
    if shared := os.environ.get("SHARED_OFFLINE_MODEL"):
        forget_calls(shared)
        return shared
    return start_model(processes)


def forget_calls(model: str) -> None:
    """Empty the offline model's log of calls."""
    httpx2.delete(f"{model}/debug/requests").raise_for_status()


def start_model(processes: Processes, port: int = 0) -> str:
    """Start an offline model, on a port that the system chooses or on the one given; its base URL."""
    command = [sys.executable, "-m", "offline_model", "--port", str(port)]
    process = processes.start(command, env=base_environment(), output=subprocess.DEVNULL)
    url = wait_listening(process)
    wait_ready(process, f"{url}/health")
    return url


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections, and that no other process can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and never listens
        yield held.getsockname()[1]


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Tests that need the same thing take turns, in whatever process they run."""
    with (Path(tempfile.gettempdir()) / f"course-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def literal_ports() -> Iterator[None]:
    """The ports 8000 and 9000 of the pages."""
    with turn("literal-ports"):
        yield


class Server(str):
    """A running server: its base URL, which also knows its process and where it logs."""

    process: subprocess.Popen[str]
    log: Path


App = Callable[..., Server]  # settings in, server out


Servers = dict[tuple[Path, frozenset[tuple[str, str]]], Server]


@pytest.fixture(scope="session")
def servers() -> Servers:
    """The servers of all lessons that run, by program and settings."""
    return {}


@pytest.fixture(scope="session")
def start_script(
    processes: Processes,
    offline_model: str,
    lesson_root: Path,
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., App]]:
    """Give a lesson's script and the folder it runs in, get a function that starts it with settings.

    The same settings give the same server, or a new one when that has ended.
    """

    def script(path: str, folder: str = "") -> App:
        program = lesson_root / folder / path

        def start(**settings: str) -> Server:
            key = (program, frozenset(settings.items()))
            if key not in servers or servers[key].process.poll() is not None:
                model = {"OPENAI_BASE_URL": f"{offline_model}/v1", "OPENAI_API_KEY": "offline"}
                env = base_environment() | model | {"MODEL_NAME": "offline"} | settings
                command = [sys.executable, str(program)]
                log = tmp_path_factory.mktemp("log") / "server.log"
                servers[key] = start_server(processes, command, env, lesson_root / folder, log)
            return servers[key]

        return start

    yield script
    for program, settings in list(servers):
        if lesson_root != ROOT and program.is_relative_to(lesson_root):
            processes.stop(servers.pop((program, settings)).process)


def start_server(
    processes: Processes, command: list[str], env: dict[str, str], folder: Path, log: Path
) -> Server:
    """Start a program of a lesson on a port that the system chooses, and wait until it answers."""
    with log.open("w") as output:
        process = processes.start(command, env={"PORT": "0"} | env, cwd=folder, output=output)
    try:
        url = wait_listening(process)
        wait_ready(process, f"{url}/health")
    except Failed as failure:
        said = log.read_text()
        told = Failed(f"{failure} Its last words: {' '.join(said.split()[-40:])}")
        told.add_note(said)
        raise told from None
    server = Server(url)
    server.process, server.log = process, log
    return server


@pytest.fixture(scope="session")
def research_agent(start_script: Callable[..., App], offline_model: str) -> App:
    """A function that starts the research agent of lessons 04 to 06 with settings; its search is offline."""
    start = start_script("main.py", "research-agent")
    return lambda **settings: start(**{"SEARCH_URL": offline_model} | settings)


# --- Engines: real servers and programs that the course does not bring itself ---


def require(name: str) -> str:
    """The path of an engine's program; without it the test is skipped in one line, and in CI fails."""
    engine = engines.find(name)
    if engine.version() and (program := engine.program()):
        return program
    raise (pytest.fail if os.environ.get("CI") else pytest.skip).Exception(engine.advice)


@pytest.fixture(scope="session")
def docker() -> None:
    """A Docker engine that can build and run."""
    require("docker")


def build_own(image: images.Image, root: Path) -> str:
    """Build an image under a name of this process's own; the name.

    Another worker, checkout or check can then neither replace nor remove what a test looks at. Builds take
    turns, so that later ones find all steps in the builder's cache.
    """
    own = dataclasses.replace(image, tag=f"{image.tag}-{uuid.uuid4().hex[:8]}")
    with turn("images"):
        images.build(own, root=root)
    return own.tag


@pytest.fixture(scope="session")
def build(docker: None, lesson_root: Path) -> Iterator[Callable[[str], str]]:
    """A function that builds the research agent of the lesson under test ("basic", ...); the image's name."""
    built: dict[str, str] = {}

    def build_once(kind: str) -> str:
        if kind not in built:
            image = next(image for image in images.AGENTS if image.tag.endswith(f":{kind}"))
            built[kind] = build_own(image, lesson_root)
        return built[kind]

    yield build_once
    for tag in built.values():
        run_docker("rmi", "--force", tag)


@pytest.fixture(scope="session")
def network(docker: None) -> Iterator[Surroundings]:
    """A network with the offline model, for the containers of all tests."""
    model = build_own(images.MODEL, ROOT)
    with Surroundings("downloads", model=model) as network:
        yield network
    run_docker("rmi", "--force", model)


class RedisServer:
    """A real Redis, which can be stopped, killed, and started again with the same data on the same port."""

    def __init__(self, processes: Processes, program: str, folder: Path, *more: str) -> None:
        self.processes = processes
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly yes --logfile redis.log --save"
        self.command = [program, *options.split(), "", *more]
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers PING."""
        if self.running():
            return
        self.process = self.processes.start(self.command, cwd=self.folder)
        assert until(self.answers, 30), f"Redis does not answer: {(self.folder / 'redis.log').read_text()}"

    def running(self) -> bool:
        process = getattr(self, "process", None)
        return process is not None and process.poll() is None

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as asking:
            asking.sendall(b"PING\r\n")
            return asking.recv(7) == b"+PONG\r\n"
        return False

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        self.processes.stop(self.process)

    def kill(self) -> None:
        """End it with no time to say goodbye, as a power cut would."""
        self.process.kill()
        self.processes.stop(self.process)


@pytest.fixture(scope="session")
def redis_server(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    """A running Redis of the tests' own."""
    return RedisServer(processes, require("redis"), tmp_path_factory.mktemp("redis"))


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


def assert_heard_during_imports(program: Path, folder: Path) -> None:
    """SIGTERM ends a program whose imports take long: process 1 of a container has no default for it."""
    (folder / "uvicorn.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    env = os.environ | {"OPENAI_API_KEY": "x", "PYTHONPATH": str(folder)}
    with subprocess.Popen(
        [sys.executable, program.name], env=env, cwd=program.parent, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"importing\n"
        process.terminate()
        assert process.wait(10) == 0, "A stop during the start is lost: in a container it ends in a kill."
