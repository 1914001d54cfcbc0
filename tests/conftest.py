"""What every test may use: real servers on free ports, and the place of the lesson under test."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.engines import build_own, require
from support.locks import turn
from support.model_clients import client, http  # noqa: F401  # fixtures
from support.plugins.faults import (  # noqa: F401  # pytest finds the hooks here
    broken_copy,
    pytest_collection_modifyitems,
    pytest_generate_tests,
    pytest_pyfunc_call,
)
from support.plugins.groups import pytest_xdist_make_scheduler  # noqa: F401
from support.plugins.shares import pytest_terminal_summary  # noqa: F401
from support.redis_server import RedisServer
from support.servers import (
    App,
    Server,
    Servers,
    forget_calls,
    start_model,
    start_server,
)

from course import engines
from course.containers import images
from course.containers.network import Surroundings
from course.engines.docker import docker as run_docker
from course.models import base_environment
from course.paths import ROOT
from course.processes import Processes

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


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections, and that no other process can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and never listens
        yield held.getsockname()[1]


@pytest.fixture
def literal_ports() -> Iterator[None]:
    """The ports 8000 and 9000 of the pages."""
    with turn("literal-ports"):
        yield


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


@pytest.fixture(scope="session")
def research_agent(start_script: Callable[..., App], offline_model: str) -> App:
    """A function that starts the research agent of lessons 04 to 06 with settings; its search is offline."""
    start = start_script("main.py", "research-agent")
    return lambda **settings: start(**{"SEARCH_URL": offline_model} | settings)


@pytest.fixture(scope="session")
def start(research_agent: App) -> App:
    """The research agent with limits that no test reaches by chance; lessons 01 to 03 have their own."""
    limits = {"RATE_LIMIT_RPM": "100000", "MAX_RUNS_PER_CALLER": "1000", "MODEL_RETRIES": "0"}
    return lambda **settings: research_agent(**(limits | settings))


@pytest.fixture
def server(start: App) -> Server:
    return start()


# --- Engines: real servers and programs that the course does not bring itself ---


@pytest.fixture(scope="session")
def docker() -> None:
    """A Docker engine that can build and run."""
    require("docker")


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


@pytest.fixture(scope="session")
def redis_server(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    """A running Redis of the tests' own."""
    return RedisServer(processes, require("redis"), tmp_path_factory.mktemp("redis"))
