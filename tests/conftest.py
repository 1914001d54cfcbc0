"""Fixtures for all tests: servers, engines, and the folder of the lesson under test."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import httpcore2
import pytest
from httpx2._config import DEFAULT_TIMEOUT_CONFIG
from rich.console import Console
from support.agents import fleet  # noqa: F401  # a fixture
from support.connections import allow_open_files
from support.engines import build_own, leftovers, require
from support.forked_programs import StartPython, start_fork_server
from support.launcher import Launcher
from support.locks import file_lock
from support.model_clients import client, http  # noqa: F401  # fixtures
from support.parallel_agents import hostile_image, lesson_09, repository  # noqa: F401  # fixtures
from support.plugins.durations import pytest_terminal_summary  # noqa: F401
from support.plugins.faults import (  # noqa: F401  # pytest finds the hooks here
    broken_copy,
    pytest_collection_modifyitems,
    pytest_generate_tests,
    pytest_pyfunc_call,
)
from support.plugins.running import (  # noqa: F401
    pytest_configure_node,
    pytest_runtest_logfinish,
    pytest_runtest_logstart,
    pytest_sessionfinish,
)
from support.plugins.scheduling import pytest_xdist_make_scheduler  # noqa: F401
from support.plugins.skips import pytest_runtest_makereport  # noqa: F401
from support.servers import (
    Server,
    Servers,
    StartServer,
    forget_calls,
    start_server,
)
from support.tutors import agents  # noqa: F401  # a fixture

from course import engines
from course.containers import images
from course.containers.cluster import Cluster
from course.containers.installations import Installation, tag_next
from course.containers.network import TestNetwork
from course.engines import kubernetes
from course.engines.docker import docker as run_docker
from course.engines.redis import RedisServer
from course.models import base_environment, start_model
from course.paths import ROOT
from course.processes import Processes

os.environ.update(engines.environment())  # programs that tests start find the course's Docker and Dagger
# Tests import the research agent's package `app` from the course, or from a copy that an exercise has broken.
sys.path.insert(0, str(Path(os.environ.get("LESSON_ROOT", ROOT)) / "research-agent"))

# No pydantic plugin is installed. Looking for them would add a tenth of a second to each start of a server.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# Every httpx2.get() makes a client, and would read the certificates of all authorities: 24 ms each time.
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)

# On a busy machine an answer can take longer than httpx2's default of five seconds.
for phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, phase, 30)

# In a background job of a script SIGINT is ignored, and programs that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The workers of `-n auto`: two for each processor, because tests wait more than they compute."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def lesson_root(
    request: pytest.FixtureRequest, offline_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The folder whose lessons are tested: the course, a learner's copy, or an exercise's broken copy."""
    slug = getattr(request, "param", None)
    if slug is None:
        yield Path(os.environ.get("LESSON_ROOT", ROOT))
        return
    forget_calls(offline_model)  # those of the same test on the untouched lesson
    yield broken_copy(slug, tmp_path_factory.mktemp(slug))
    forget_calls(offline_model)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    with Processes(grace=2) as running:
        yield running


@pytest.fixture(scope="session")
def offline_model(processes: Processes) -> str:
    """Base URL of a running offline model, without /v1. A run of pytest inside a test shares it."""
    if shared := os.environ.get("SHARED_OFFLINE_MODEL"):
        forget_calls(shared)
        return shared
    return start_model(processes)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections and that no other process can take during the test."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and not listening
        yield held.getsockname()[1]


@pytest.fixture
def literal_ports() -> Iterator[None]:
    """The ports 8000 and 9000, which pages use."""
    with file_lock("literal-ports"):
        yield


@pytest.fixture(scope="session")
def servers() -> Servers:
    """The running servers of all lessons, by program and settings."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def stop_servers(processes: Processes, servers: Servers) -> Iterator[None]:
    """Stop a file's servers after its tests. Dozens of idle ones would take memory and processor time."""
    yield
    for server in servers.values():
        processes.stop(server.process)
    servers.clear()


@pytest.fixture(scope="session")
def start_python(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> StartPython:
    """A function that starts Python programs which use the libraries of the lessons."""
    allow_open_files(2_000)  # test_04_research opens 1,500 connections; the programs inherit the limit
    return start_fork_server(processes, tmp_path_factory.mktemp("fork-server") / "socket")


@pytest.fixture(scope="session")
def start_script(
    processes: Processes,
    start_python: StartPython,
    offline_model: str,
    lesson_root: Path,
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., StartServer]]:
    """A function that takes a lesson's script and its folder, and returns a function that starts it.

    The same settings give the same server, or a new one when that server has ended.
    """

    def script(path: str, folder: str = "") -> StartServer:
        program = lesson_root / folder / path

        def start(**settings: str) -> Server:
            key = (program, frozenset(settings.items()))
            if key not in servers or servers[key].process.poll() is not None:
                model = {"OPENAI_BASE_URL": f"{offline_model}/v1", "OPENAI_API_KEY": "offline"}
                env = base_environment() | model | {"MODEL_NAME": "offline"} | settings
                log = tmp_path_factory.mktemp("log") / "server.log"
                servers[key] = start_server(start_python, program, env, lesson_root / folder, log)
            return servers[key]

        return start

    yield script
    for program, settings in list(servers):
        if lesson_root != ROOT and program.is_relative_to(lesson_root):
            processes.stop(servers.pop((program, settings)).process)


@pytest.fixture(scope="session")
def research_agent(start_script: Callable[..., StartServer], offline_model: str) -> StartServer:
    """A function that starts the research agent of lessons 04 to 06 with settings, and an offline search."""
    start = start_script("main.py", "research-agent")
    return lambda **settings: start(**{"SEARCH_URL": offline_model} | settings)


@pytest.fixture(scope="session")
def container_tools(start_script: Callable[..., StartServer], dagger_engine: None) -> StartServer:
    """A function that starts lesson 07 with settings."""
    return start_script("main.py", "code/07_container_tools")


@pytest.fixture(scope="session")
def start(research_agent: StartServer) -> StartServer:
    """The research agent with limits that no test reaches by accident. Lessons 01 to 03 override this."""
    limits = {"RATE_LIMIT_RPM": "100000", "MAX_RUNS_PER_CALLER": "1000", "MODEL_RETRIES": "0"}
    return lambda **settings: research_agent(**(limits | settings))


@pytest.fixture
def server(start: StartServer) -> Server:
    return start()


# --- Engines ---


@pytest.fixture(scope="session")
def docker() -> None:
    """A Docker engine that works."""
    require("docker")


@pytest.fixture(scope="session")
def dagger_engine() -> None:
    """A Dagger engine that the SDK finds."""
    require("dagger")


@pytest.fixture(scope="session")
def dapr(processes: Processes) -> Iterator[dict[str, str]]:
    """The variables that name Kafka, PostgreSQL and Dapr's services, which are started once for all tests."""
    for name in ("dapr", "kafka", "postgresql"):
        require(name)
    launcher = Launcher(processes)
    yield launcher.variables()
    launcher.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes cluster: of the context that KUBE_CONTEXT names, or the course's own node."""
    require("kubernetes")
    ran = kubernetes.runs()
    with engines.KUBERNETES.used(Console(quiet=True)):
        yield Cluster(os.environ["KUBE_CONTEXT"])
    if not ran and not os.environ.get("KEEP"):
        left = leftovers()
        assert not left, f"The node has stopped, and this is left: {left}"


@pytest.fixture(scope="session")
def cluster_images(docker: None, cluster: Cluster) -> Iterator[tuple[str, str, str]]:
    """Images in the cluster: of the research agent, of the offline model, and of the agent's next version."""
    agent, model = (build_own(image, ROOT) for image in (images.AGENTS[-1], images.MODEL))
    found = agent, model, tag_next(agent)
    cluster.load(*found, "redis:8", "haproxy:3.0")
    yield found
    run_docker("rmi", "--force", *found)


@pytest.fixture(scope="session")
def installation(
    cluster: Cluster,
    cluster_images: tuple[str, str, str],
    lesson_root: Path,
    processes: Processes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """The manifests of the lesson under test, applied and ready, with an URL."""
    made = Installation(cluster, lesson_root, tmp_path_factory.mktemp("cluster"), cluster_images)
    try:
        made.apply()
        made.wait_ready()
        with made.reachable(processes):
            yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def build(docker: None, lesson_root: Path) -> Iterator[Callable[[str], str]]:
    """A function that builds an image of the lesson under test ("basic", ...) and returns its name."""
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
def network(docker: None) -> Iterator[TestNetwork]:
    """A network with the offline model, for the containers of all tests."""
    model = build_own(images.MODEL, ROOT)
    with TestNetwork("downloads", model=model) as network:
        yield network
    run_docker("rmi", "--force", model)


@pytest.fixture(scope="session")
def redis_server(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> RedisServer:
    """A running Redis of the tests' own."""
    return RedisServer(processes, require("redis"), tmp_path_factory.mktemp("redis"))
