"""Lesson 06: the compose file's settings, and the running project under load and faults.

The first part checks the output of `docker compose config`. The second runs single containers. The third runs
the project: one for all tests, with the files of the lesson under test.
"""

import asyncio
import contextlib
import ipaddress
import json
import re
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.engines import require
from support.locks import file_lock
from support.problems import assert_problem
from support.research import ask, resume, state, streaming, unique_question
from support.under_load import assert_nobody_noticed, under_load

from course import engines
from course.clients.load import LONG, SHORT, numbered_question
from course.clients.readers import ReceivedEvents, count_missing_or_duplicate, new_client, read, stored
from course.containers.stack import Stack
from course.errors import CourseError
from course.models import base_environment
from course.paths import copy_sources
from course.polling import until
from course.processes import Processes

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

Config = Callable[..., dict[str, Any]]


def seconds(text: str) -> float:
    """Parse a duration in compose's format, such as 1m30s or 500ms."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)(ms|[hms])", text))


def megabytes(size: str) -> float:
    return int(size) / 1e6


# --- The configuration ---


@pytest.fixture
def config(lesson_root: Path, tmp_path: Path) -> Config:
    """Return a function that returns the configuration for profiles and the content of `.env`."""
    require("docker")
    folder = copy_sources(lesson_root / "research-agent", tmp_path / "research-agent")
    env = base_environment() | engines.environment()

    def read_config(*profiles: str, dotenv: str = "", **exported: str) -> dict[str, Any]:
        (folder / ".env").write_text(dotenv)
        named = [f"--profile={profile}" for profile in profiles]
        done = subprocess.run(
            ["docker", "compose", *named, "config", "--format", "json"],
            cwd=folder,
            env=env | exported,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"The compose file is not valid: {done.stderr}"
        assert not done.stderr, f"Compose warns of the file: {done.stderr}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return read_config


def test_monitoring_is_started_by_its_profile_only(config: Config) -> None:
    assert set(config()["services"]) == {"proxy", "agent", "model", "redis"}, (
        "`docker compose up` alone starts something else than proxy, agent, model and Redis."
    )
    assert set(config("monitoring")["services"]) == {"proxy", "agent", "model", "redis", "prometheus"}, (
        "The profile `monitoring` does not add Prometheus, and Prometheus alone."
    )


def test_every_service_has_limits(config: Config) -> None:
    for name, service in config("*")["services"].items():
        assert 32 < megabytes(service.get("mem_limit", "0")) <= 512, (
            f"{name} can take all of the host's memory."
        )
        assert 0 < service.get("cpus", 0) <= 2, f"{name} can take all of the host's processors."
        assert 0 < service.get("pids_limit", 0) <= 1000, f"{name} can start processes without end."
        assert service.get("logging", {}).get("options", {}).get("max-size"), (
            f"The log of {name} can fill the disk."
        )


def test_ports_are_published_on_this_machine_alone(config: Config) -> None:
    published = {}
    for name, service in config("*")["services"].items():
        for port in service.get("ports", []):
            published[name] = port
            assert ipaddress.ip_address(port.get("host_ip", "0.0.0.0")).is_loopback, (  # noqa: S104
                f"The port {port['published']} of {name} is open to everybody who can reach this machine."
            )
    assert set(published) == {"proxy", "prometheus"}, (
        f"Published are the ports of {sorted(published)}, not those of proxy and Prometheus alone."
    )


def test_services_start_after_their_dependencies_are_healthy(config: Config) -> None:
    services = config("*")["services"]
    assert {"redis", "model"} <= set(services["agent"].get("depends_on", {})), (
        "The agent has no depends_on for redis and model."
    )
    assert "agent" in services["proxy"].get("depends_on", {}), "The proxy does not wait for the agent."
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", (
                f"{name} starts as soon as {other} has been started, which is long before it answers."
            )
    for name in ("proxy", "redis", "prometheus"):  # the images of agent and model contain theirs
        check = services[name].get("healthcheck", {}).get("test", [])
        assert check, f"{name} has no health check."
        assert not {"curl", "wget"} & set(" ".join(check).split()), (
            f"The image of {name} has no curl or wget."
        )


def test_stop_grace_period_is_longer_than_the_drain(config: Config) -> None:
    agent = config()["services"]["agent"]
    env = agent["environment"]
    needed = float(env["DRAIN_DELAY_SECONDS"]) + float(env["DRAIN_SECONDS"]) + 2
    grace = seconds(agent.get("stop_grace_period", "10s"))
    assert grace > needed, (
        f"Docker kills the agent after {grace:g} s, and it may need {needed:g} s to end its runs."
    )
    assert float(env["DRAIN_DELAY_SECONDS"]) >= 1.5, "The agent is gone before the proxy has noticed."


def test_replicas_can_be_many(config: Config) -> None:
    agent = config()["services"]["agent"]
    assert "container_name" not in agent, "Two containers cannot have one name."
    assert not agent.get("ports"), "Two containers cannot have one port of the host."
    assert agent["environment"]["REDIS_URL"], "Each replica keeps its runs to itself."


def test_a_key_file_selects_the_real_model(config: Config, lesson_root: Path) -> None:
    for dotenv in ("", (lesson_root / "research-agent/.env.example").read_text()):
        dotenv = f"{dotenv}\nOPENAI_API_KEY_FILE=secrets/openai_api_key\n"
        found = config(dotenv=dotenv)
        assert set(found["services"]) == {"proxy", "agent", "redis"}, (
            "With a key, something else is started than proxy, agent and Redis."
        )
        env = found["services"]["agent"]["environment"]
        assert env.get("OPENAI_BASE_URL", "https://api.openai.com/v1") == "https://api.openai.com/v1", (
            "A key is set, and another model than the real one is asked."
        )
        assert env["SEARCH_BACKEND"] == "ddgs", "A key is set, and the agent does not search the real web."
        assert env["HOST"] == "0.0.0.0", "A line of .env shuts the proxy out."  # noqa: S104
        assert env["REDIS_URL"] and env["DRAIN_DELAY_SECONDS"] == "2", "A line of .env wins over compose's."
        way_out = [
            n for n in found["services"]["agent"]["networks"] if not found["networks"][n].get("internal")
        ]
        assert way_out == ["model"], "The agent cannot reach the real model."
        assert "model" in config("offline", dotenv=dotenv)["services"], (
            "The profile `offline` does not start the offline model."
        )


def test_without_a_key_file_the_offline_model_is_used(config: Config, lesson_root: Path) -> None:
    example = (lesson_root / "research-agent/.env.example").read_text()
    key = {"OPENAI_API_KEY": "sk-exported"}
    for dotenv, exported in (("", {}), ("", key), (example, {}), ("OPENAI_API_KEY=sk-dotenv", {})):
        env = config(dotenv=dotenv, **exported)["services"]["agent"]["environment"]
        model = tuple(map(env.get, ("OPENAI_BASE_URL", "MODEL_NAME", "OPENAI_API_KEY")))
        assert model == ("http://model:9000/v1", "offline", "offline"), "A key that nobody named is used."
        assert (env["SEARCH_BACKEND"], env.get("SEARCH_URL")) == ("searxng", "http://model:9000"), (
            "Without a key the agent searches the real web."
        )


# --- Single containers ---


@pytest.fixture(scope="session")
def project(docker: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return the project, built but not started: the model sends 40 tokens/s, replicas drain for 3 s."""
    env = {"DRAIN_SECONDS": "3", "CIRCUIT_FAILURES": "3", "CIRCUIT_SECONDS": "2", "MODEL_RETRIES": "0"}
    folder = tmp_path_factory.mktemp("compose")
    settings = {
        "OFFLINE_MODEL_NAME": "offline?tps=40",
        "MAX_CONCURRENCY": "64",
        "ALLOWED_HOSTS": "agent.test a.test",
    }
    with Stack(folder, settings, agent={"environment": env}) as made:
        yield made


RunOnce = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_once(project: Stack, lesson_root: Path) -> Iterator[RunOnce]:
    """Return a function that runs a command in a new container of a service, on separate networks."""
    project.apply(lesson_root)
    compose = ("docker", "compose", "--project-name", f"{project.name}-once", "--profile=*")

    def run(service: str, program: str, *arguments: str, **env: Any) -> subprocess.CompletedProcess[str]:
        alone = ("run", "--rm", "--no-deps", "--no-TTY", f"--entrypoint={program}")
        return project.run(*compose, *alone, service, *arguments, **env)

    yield run
    project.run(*compose, "down", "--volumes", "--timeout", "0")


def test_services_run_without_privileges(run_once: RunOnce) -> None:
    for name in ("proxy", "agent", "model", "redis"):
        done = run_once(name, "sh", "-c", "cat /proc/self/status; touch /opt/here")
        found = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
        assert found, f"The container of {name} does not start: {done.stderr}"
        assert int(found["CapBnd"], 16) == 0, (
            f"In the container of {name} a program can get capabilities it does not need: {found['CapBnd']}."
        )
        assert found["NoNewPrivs"] == "1", f"In the container of {name} a program can become root."
        assert not found["Uid"].startswith("0\t"), f"{name} runs as root."
        assert "Read-only file system" in done.stderr, f"An intruder can change the files of {name}."


def test_internal_services_cannot_reach_the_internet(run_once: RunOnce) -> None:
    for name in ("agent", "model", "redis"):
        routes = run_once(name, "cat", "/proc/net/route").stdout
        assert "Destination" in routes, f"The container of {name} does not start."
        assert "00000000" not in [line.split()[1] for line in routes.splitlines()], (
            f"{name} can call any server in the world: a network of its leads out."
        )


def test_filling_tmp_does_not_kill_the_container(run_once: RunOnce) -> None:
    fill = "with open('/tmp/file', 'wb', 0) as file:\n    for _ in range(1024): file.write(bytes(2**20))"
    for name in ("agent", "model"):
        done = run_once(name, "python", "-c", fill)
        assert "No space left on device" in done.stderr, (
            f"{name} can fill its /tmp, which is memory, up to the container's limit, and is killed then."
        )


KEYS = """
import json, os
from app.config import read_settings
read = read_settings()
print(json.dumps([read.openai_api_key.get_secret_value(), read.api_keys, dict(os.environ)]))
"""


def test_keys_are_mounted_as_files_not_environment_variables(run_once: RunOnce, project: Stack) -> None:
    files = {"OPENAI_API_KEY_FILE": "sk-of-mine", "API_KEYS_FILE": "of-ann\nof-bob\n"}
    secrets = project.folder / "secrets"
    secrets.mkdir(exist_ok=True)
    for name, content in files.items():
        (secrets / name).write_text(content)
    done = run_once("agent", "python", "-c", KEYS, **{name: f"secrets/{name}" for name in files})
    assert done.returncode == 0, f"With keys in files the agent does not start: {done.stderr}"
    key, callers, environment = json.loads(done.stdout)
    assert key == "sk-of-mine", "The agent does not use the model's key from the file."
    assert len(callers) == 2, "The agent does not let in the callers whose keys are in the file."
    seen = [name for name, value in environment.items() for each in ("sk-of-mine", "of-ann") if each in value]
    assert not seen, f"`docker inspect` shows a key in the environment: {seen}."


def test_an_empty_key_file_stops_the_start(run_once: RunOnce, project: Stack) -> None:
    (project.folder / "nothing").write_text("\n")
    done = run_once("agent", "python", "-c", KEYS, API_KEYS_FILE="nothing")
    assert "Bad setting API_KEYS" in done.stderr, "With an empty file of keys everybody may call."


# --- The project, running ---


@pytest.fixture
def stack(project: Stack, lesson_root: Path) -> Iterator[Stack]:
    """Return the project, running with one replica. Tests that use it take turns."""
    with file_lock("docker"):
        project.apply(lesson_root)
        project.up()
        yield project


def test_the_proxy_streams_events_without_buffering(stack: Stack) -> None:
    came: list[tuple[float, str]] = []
    question = unique_question(SHORT)
    with streaming(stack.url, question) as (run_id, told):
        for event in told:
            came.append((time.monotonic(), event.type))
    assert came[-1][1] == "done", f"The stream through the proxy ends with {came[-1][1]}."
    tokens = [at for at, kind in came if kind == "token"]
    assert tokens[-1] - tokens[0] > 0.7 * len(tokens) / 40, (
        "The proxy held the events back, and let them go at once."
    )
    assert ask(stack.url, question).json()["id"] == run_id, "The answer is known, and was not given."


def test_the_proxy_overwrites_forwarded_addresses_of_callers(stack: Stack) -> None:
    left = []
    for claimed in ("203.0.113.1", "203.0.113.2"):
        reply = ask(stack.url, SHORT, headers={"X-Forwarded-For": claimed})
        left.append(int(re.search(r"r=(\d+)", reply.headers["ratelimit"])[1]))  # type: ignore[index]
    assert left[1] == left[0] - 1, "A caller who lies about the address has a rate limit for each lie."


def test_metrics_are_not_reachable_through_the_proxy(stack: Stack) -> None:
    for path in ("/metrics", "/%6Detrics", "/metrics%0A", "/metrics/", "//metrics", "/./metrics"):
        with socket.create_connection((stack.host, stack.port)) as caller:
            caller.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            reply = b"".join(iter(lambda: caller.recv(65536), b"")).decode()
        assert reply.startswith("HTTP/1.1 404 "), (
            f"Everybody can read the metrics at {path}: the app decodes it after the proxy has looked."
        )


def test_only_known_host_names_are_served(stack: Stack) -> None:
    def status(host: str) -> int:
        return httpx2.get(f"{stack.url}/health", headers={"Host": host}).status_code

    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "agent.test", "A.test:80"):
        assert status(host) == 200, f"The proxy does not serve callers who ask for {host}."
    for host in ("evil.example", "127.0.0.1.evil.example:8000", "agent.test.evil.example"):
        assert status(host) == 421, (
            f"A web page on {host}, whose name its owner points to 127.0.0.1, can use the agent of a visitor."
        )


def test_one_client_address_gets_a_part_of_the_proxys_connections(stack: Stack) -> None:
    def memory() -> float:
        used = stack.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", proxy).partition("/")[0]
        number, unit = re.fullmatch(r"([\d.]+)(\w+) *", used).groups()  # type: ignore[union-attr]
        return float(number) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]

    def closed(caller: socket.socket) -> bool:
        try:
            return caller.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    proxy = stack.compose("ps", "--quiet", "proxy")
    before, limit = memory(), json.loads(stack.docker("inspect", proxy))[0]["HostConfig"]["Memory"]
    half = b"POST /v1/research HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65000\r\n\r\n" + bytes(15_000)
    asking = (
        "from urllib.request import Request, urlopen\n"
        "print(urlopen(Request('http://proxy:8000/health', headers={'Host': 'localhost'})).status)"
    )
    with contextlib.ExitStack() as held:
        callers = []
        for _ in range(400):
            with contextlib.suppress(ConnectionError):
                callers.append(held.enter_context(socket.create_connection((stack.host, stack.port))))
                callers[-1].sendall(half)
        until(lambda: sum(map(closed, callers)) >= 150, 20)
        others = stack.compose("exec", "--no-TTY", "agent", "python", "-c", asking)
        during, gone = memory(), sum(map(closed, callers)) + 400 - len(callers)
    assert gone >= 100, "One address can hold as many connections as it likes, and others get none."
    assert others == "200", "While one address holds all connections that it may, another one is not served."
    whole = before + (during - before) / (400 - gone) * 1000
    assert whole < limit, (
        f"Half-sent requests on all connections take {whole / 1e6:.0f} MB, and it has {limit / 1e6:.0f}."
    )


async def test_callers_are_sent_only_to_replicas_that_are_ready(stack: Stack) -> None:
    stack.up(2)

    def all_answered() -> bool:
        return all(ask(stack.url, SHORT).status_code == 200 for _ in range(6))

    with stack.cut_off(stack.replicas()[0], "store"):
        assert until(all_answered, 20), (
            "A replica cannot reach Redis, and says so at /ready; the proxy sends callers to it all the same."
        )
    stack.wait(lambda: stack.ready() == 2, "the replica is back")


def test_a_replica_that_does_not_listen_yet_costs_no_request(stack: Stack) -> None:
    """Docker's DNS names a replica as soon as it starts. All that start together are found at once."""
    sleep = ("--entrypoint=python", "agent", "-c", "import time; time.sleep(120)")
    known = ask(stack.url, SHORT)
    assert known.status_code == 200, f"Before new replicas start, a question is not answered: {known.text}"
    starting: list[str] = []
    try:
        stack.compose("pause", "proxy")
        try:
            for _ in range(3):
                starting += [stack.compose("run", "--detach", "--no-deps", "--use-aliases", *sleep).strip()]
        finally:
            stack.compose("unpause", "proxy")
        # The replica is busy with a stream, so that the others get each request first.
        with streaming(stack.url, unique_question(LONG)) as (_, told):
            next(told)
            end = time.monotonic() + 4
            while time.monotonic() < end:
                reply = ask(stack.url, SHORT)
                assert reply.status_code == 200, (
                    f"The proxy sends a caller only to new replicas, which do not listen yet: {reply.text}"
                )
    finally:
        for replica in starting:
            stack.docker("rm", "--force", "--volumes", replica)
    proxy = stack.compose("ps", "--quiet", "proxy")
    stack.wait(
        lambda: stack.state(proxy)["Health"]["Status"] == "healthy", "Docker knows that the proxy is back"
    )


async def test_the_proxy_sends_a_post_without_a_key_only_once(stack: Stack) -> None:
    stack.up(2)
    first, second = stack.replicas()
    finished = runs_of(stack, second)
    async with new_client() as client:
        with stack.cut_off(second, "app"):
            stack.wait(lambda: stack.ready() == 1, "the proxy sees one replica")
            asked = asyncio.create_task(
                client.post(f"{stack.url}/v1/research", json={"query": unique_question(LONG)})
            )
            busy = 'haproxy_server_current_sessions{proxy="ready",server="replica'
            await asyncio.to_thread(
                stack.wait,
                lambda: re.search(re.escape(busy) + r'\d"} 1', stack.from_proxy("/metrics")),
                "the first replica has got the question",
            )
        await asyncio.to_thread(stack.wait, lambda: stack.ready() == 2, "the proxy sees both replicas")
        assert not asked.done(), "The run was over before its replica could be killed."
        await asyncio.to_thread(stack.docker, "kill", first)
        reply = await asked
    assert reply.status_code == 502, (
        "A replica was killed, and the proxy sent its POST to another one: now two runs answer one question."
    )
    # The other replica goes on with the run. The next test may stop what the run needs.
    stack.wait(
        lambda: runs_of(stack, second) > finished, "the killed replica's run has ended at the other one"
    )


def test_runs_outlive_the_container_of_redis(stack: Stack) -> None:
    run_id = ask(stack.url, SHORT).json()["id"]
    stack.compose("rm", "--stop", "--force", "--volumes", "redis")  # as `docker compose down` does
    stack.up()
    found = until(lambda: state(stack.url, run_id).get("state"), 20)
    assert found == "done", "The runs are gone with Redis's container: what it writes is not on a volume."


def test_redis_limits_its_memory_and_persists_writes(stack: Stack) -> None:
    def setting(name: str) -> str:
        return stack.compose("exec", "--no-TTY", "redis", "redis-cli", "config", "get", name).splitlines()[-1]

    redis = stack.compose("ps", "--quiet", "redis")
    limit = json.loads(stack.docker("inspect", redis))[0]["HostConfig"]["Memory"]
    assert 0 < int(setting("maxmemory")) * 1.5 < limit, "Redis is killed for its memory before it makes room."
    assert setting("appendonly") == "yes", "What Redis has not saved yet is gone when it ends."


# --- Operations, under load ---


@pytest.mark.serial
@pytest.mark.timeout(300)
async def test_more_replicas_take_their_share_under_load(stack: Stack) -> None:
    async def scale() -> None:
        await asyncio.to_thread(stack.up, 4)

    assert_nobody_noticed(*await under_load(stack.url, scale))
    before = {replica: runs_of(stack, replica) for replica in stack.replicas()}
    async with new_client() as client:
        await asyncio.gather(
            *(read(client, stack.url, numbered_question(n), ReceivedEvents()) for n in range(8))
        )
    shares = [runs_of(stack, replica) - earlier for replica, earlier in before.items()]
    assert len(shares) == 4 and min(shares) >= 1, f"Four replicas did {shares} of eight runs."


def runs_of(stack: Stack, replica: str) -> int:
    """Return the number of runs that a replica has finished."""
    code = (
        "from urllib.request import urlopen; print(sum(float(line.split()[-1]) for line in"
        " urlopen('http://127.0.0.1:8000/metrics').read().decode().splitlines()"
        " if line.startswith('agent_runs_total')))"
    )
    return int(float(stack.docker("exec", replica, "python", "-c", code)))


@pytest.mark.serial
@pytest.mark.timeout(900)
async def test_a_rolling_update_and_rollback_fail_no_request(stack: Stack) -> None:
    await asyncio.to_thread(stack.compose, "build", "--quiet", "agent", seconds=300, VERSION="2.0.0")
    stack.up(2)

    async def update_and_go_back() -> None:
        for version in ("2.0.0", ""):
            old = stack.replicas()
            done = await asyncio.to_thread(update, stack, version)
            assert done.returncode == 0, f"The update was not carried out: {done.stderr}"
            assert len(stack.replicas()) == 2, (
                "After the update there are more or fewer replicas than before."
            )
            assert not set(old) & set(stack.replicas()), "After the update an old replica is still there."
            shown = {httpx2.get(f"{stack.url}/health").json()["version"] for _ in range(6)}
            assert shown == {version or "1.0.0"}, f"After the update /health shows the versions {shown}."

    assert_nobody_noticed(*await under_load(stack.url, update_and_go_back))


def update(stack: Stack, version: str, wait: int = 90) -> subprocess.CompletedProcess[str]:
    return stack.run("compose/rolling-update.sh", seconds=300, VERSION=version, WAIT_SECONDS=str(wait))


def test_a_version_that_does_not_start_replaces_no_replica(stack: Stack) -> None:
    before, settings = stack.replicas(), stack.folder / ".env"
    right = settings.read_text()
    settings.write_text(f"{right}LOG_LEVEL=nonsense\n")
    try:
        done = update(stack, "", wait=10)
    finally:
        settings.write_text(right)
    assert done.returncode == 1, "The update to a version that does not start is said to have succeeded."
    assert stack.replicas() == before, (
        "A version that does not start has replaced a replica, or is still there."
    )


async def test_a_post_with_an_idempotency_key_survives_a_handover(stack: Stack) -> None:
    stack.up(2)
    first = stack.replicas()[0]
    async with new_client() as client:

        async def ask_with_key() -> httpx2.Response:
            key = {"Idempotency-Key": uuid.uuid4().hex}
            return await client.post(
                f"{stack.url}/v1/research", json={"query": unique_question(LONG)}, headers=key
            )

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask_with_key()) for _ in range(4)]
            busy = 'haproxy_server_current_sessions{proxy="ready",server="replica1"} 2'
            shared = await asyncio.to_thread(until, lambda: busy in stack.from_proxy("/metrics"), 10)
            await asyncio.to_thread(stack.docker, "restart", first)
    assert shared, "The proxy did not send two of the four requests to the replica that stops."
    assert "handed over a run" in stack.docker("logs", first), "The replica that stopped handed no run over."
    for reply in (task.result() for task in asked):
        assert reply.status_code == 200, f"A caller was told of the hand-over: {reply.text}"


@pytest.mark.serial
@pytest.mark.timeout(300)
async def test_a_killed_replicas_runs_go_on_at_another(stack: Stack) -> None:
    await asyncio.to_thread(stack.up, 2)
    doomed = stack.replicas()[0]
    async with new_client() as client:
        readings = [ReceivedEvents() for _ in range(10)]
        async with asyncio.TaskGroup() as group:
            for seen in readings:
                group.create_task(read(client, stack.url, unique_question(LONG), seen))
            said = await asyncio.to_thread(until, lambda: any("token" in seen.types for seen in readings), 60)
            assert said, f"No answer begins: {readings}"
            await asyncio.to_thread(stack.docker, "kill", doomed)
        assert stack.state(doomed)["ExitCode"] == 137, "The replica was not killed."
        for seen in readings:
            assert seen.types[-1] == "done", "A run was not brought to its end."
            assert count_missing_or_duplicate(seen, await stored(client, stack.url, seen)) == 0, (
                f"A reader did not see each event once: {seen}"
            )
            assert seen.gap < 20, f"A reader heard nothing for {seen.gap:.1f} s."
        cut = [seen for seen in readings if seen.cuts]
        assert cut, "All streams were over before the kill."
        assert any("reset" in seen.types for seen in cut), "Nobody went on with a killed replica's run."
    stack.up(2)


def test_runs_survive_a_restart_of_redis(stack: Stack) -> None:
    stack.wait(lambda: stack.ready() == 1, "the replica is ready")
    with streaming(stack.url, "What is kept while Redis restarts?") as (run_id, told):
        seen = [next(told) for _ in range(5)]
        stack.compose("restart", "redis")
        seen += told
    assert seen[-1].type == "done", "The run ended with Redis."
    stack.wait(lambda: stack.ready() == 1, "the replica is ready again")
    assert until(lambda: state(stack.url, run_id).get("state") == "done", 20), (
        "A run that went on while Redis was away is not written down when it is back."
    )
    assert resume(stack.url, run_id) == seen, "What was said before or during the restart is not there."


def test_without_a_model_new_runs_are_refused_until_it_is_back(stack: Stack) -> None:
    known = ask(stack.url, SHORT).json()["id"]
    stack.compose("stop", "model")
    stack.wait(lambda: stack.ready() == 0, "the replica says that it is not ready")
    for n in range(3):
        assert_problem(ask(stack.url, f"Is the model there, {n}?"), 502)
    began = time.monotonic()
    refused = ask(stack.url, "Is anybody there?")
    assert_problem(refused, 503)
    assert refused.headers["Retry-After"], "The caller is not told when to ask again."
    assert time.monotonic() - began < 10, "The caller waited for a dead model."
    assert state(stack.url, known)["state"] == "done", (
        "Because the model is down, a finished run cannot be read."
    )
    stack.compose("start", "model")
    assert until(lambda: ask(stack.url, "Is the model back?").status_code == 200, 20), (
        "Nobody asks the model again."
    )
    stack.wait(lambda: stack.ready() == 1, "the replica is ready again")


def test_a_replica_that_hangs_is_taken_out(stack: Stack) -> None:
    stack.up(2)
    hung = stack.replicas()[0]
    stack.docker("pause", hung)
    try:
        stack.wait(lambda: stack.ready() == 1, "the proxy has noticed")
        for _ in range(6):
            began = time.monotonic()
            assert httpx2.get(f"{stack.url}/ready").status_code == 200, "A request went to the hung replica."
            assert time.monotonic() - began < 8, "A caller waited for the replica that hangs."
        reply = ask(stack.url, "Who answers while one hangs?")
        assert reply.status_code == 200, f"While one replica hangs, the other does not answer: {reply.text}"
    finally:
        stack.docker("unpause", hung)
    stack.wait(lambda: stack.ready() == 2, "the replica is back")
    stack.wait(lambda: stack.state(hung)["Health"]["Status"] == "healthy", "Docker has noticed, too")


def test_a_replica_that_takes_too_much_memory_is_killed_and_comes_back(stack: Stack) -> None:
    (replica,) = stack.replicas()
    started = stack.state(replica)["StartedAt"]
    # Leak memory quickly, and tell the kernel to kill process 1 when the container runs out of memory.
    leak = (
        "open('/proc/1/oom_score_adj', 'w').write('1000')\nleak = []\nwhile True: leak.append(b'x' * 2**20)"
    )
    with pytest.raises(CourseError, match="exec"):
        stack.docker("exec", replica, "python", "-c", leak)
    stack.wait(lambda: stack.state(replica)["StartedAt"] != started, "the container was started again")
    restarts = stack.docker("inspect", "--format", "{{.RestartCount}}", replica)
    assert restarts == "1", f"Docker has started the replica again {restarts} times."
    period = [f"--since={started}", f"--until={time.time():.9f}"]  # 0s would mean the last full second
    told = stack.docker("events", *period, f"--filter=container={replica}", "--format=json").splitlines()
    died = [event for line in told if (event := json.loads(line))["Action"] in ("oom", "die")]
    assert {event["Action"] for event in died} == {"oom", "die"}, "Nobody can see that it was the memory."
    codes = [event["Actor"]["Attributes"]["exitCode"] for event in died if event["Action"] == "die"]
    assert codes == ["137"], f"The replica ended with {codes}, and not with the exit code of a kill."
    again = "Who answers after the memory was used up?"
    assert until(lambda: ask(stack.url, again).status_code == 200, 60), "The replica does not come back."


def test_prometheus_scrapes_every_replica_and_its_alerts_are_valid(stack: Stack) -> None:
    stack.up(2, "monitoring")
    address = f"http://{stack.compose('port', 'prometheus', '9090')}"

    def up() -> dict[str, int]:
        # The current targets; the series "up" still contains those of the previous configuration.
        found = httpx2.get(f"{address}/api/v1/targets", params={"state": "active"}).json()["data"]
        return Counter(each["labels"]["job"] for each in found["activeTargets"] if each["health"] == "up")

    until(lambda: up() == {"agent": 2, "proxy": 1, "prometheus": 1}, 20)
    seen = up()
    assert seen.get("agent") == 2, (
        f"Prometheus gets answers from {seen.get('agent', 0)} of 2 replicas: "
        "what the others do is in no graph."
    )
    assert seen == {"agent": 2, "proxy": 1, "prometheus": 1}, f"Prometheus does not see each part: {seen}."
    rules = f"{address}/api/v1/rules"

    def alerts() -> list[dict[str, str]]:
        found: list[dict[str, str]] = httpx2.get(rules).json()["data"]["groups"][0]["rules"]
        return found

    assert until(lambda: {rule["health"] for rule in alerts()} == {"ok"}, 20), (
        f"An alert cannot be worked out: {alerts()}."
    )
    for metric in {name for rule in alerts() for name in re.findall(r"(?:agent|haproxy)_\w+", rule["query"])}:
        found = httpx2.get(f"{address}/api/v1/series", params={"match[]": metric}).json()["data"]
        assert found, f"An alert waits for {metric}, and there is no such metric."


def test_a_change_in_the_source_is_served_a_moment_later(stack: Stack, tmp_path: Path) -> None:
    source = stack.folder / "app/http/operations.py"
    before = source.read_text()
    log = tmp_path / "watch.log"

    def served() -> str:
        try:
            return httpx2.get(f"{stack.url}/health").text
        except httpx2.TransportError:  # compose also replaces the proxy
            return ""

    with Processes() as processes, log.open("w") as output:
        env = stack.env | {"COMPOSE_ANSI": "never"}
        processes.start(["docker", "compose", "watch", "--no-up"], cwd=stack.folder, env=env, output=output)
        assert until(lambda: "watch" in log.read_text().lower(), 20), f"Nobody watches: {log.read_text()}"
        try:
            source.write_text(before.replace('"healthy"', '"healthy, and changed"'))
            assert until(lambda: "changed" in served(), 60), (
                f"The source was changed, and the app was not: {log.read_text()}"
            )
        finally:
            source.write_text(before)
        assert until(lambda: '"healthy"' in served(), 60), "The change was taken back, and the app was not."
