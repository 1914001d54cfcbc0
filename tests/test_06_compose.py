"""The claims of lesson 06: what the compose file promises, and what the running project does under faults.

The first part reads the file as compose understands it; the second runs it, once for all tests.
"""

import asyncio
import json
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from conftest import require, turn, until
from test_01_basic_api import assert_problem
from test_04_research import ask, resume, state, streaming

from bench.lesson_06_load import (
    LONG,
    SHORT,
    Asking,
    Reading,
    Stack,
    ask_steadily,
    lost_or_doubled,
    new_client,
    read,
    stored,
    unlike,
)
from course import engines
from course.models import base_environment
from course.processes import Failed, Processes

pytestmark = pytest.mark.docker

Config = Callable[..., dict[str, Any]]


def seconds(text: str) -> float:
    """A duration as compose writes it, such as 1m30s or 500ms."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)(ms|[hms])", text))


def megabytes(size: str) -> float:
    return int(size) / 1e6


# --- The file, as compose understands it ---


@pytest.fixture
def config(lesson_root: Path, tmp_path: Path) -> Config:
    """A function that gives the configuration, with profiles, and with these lines as `.env`."""
    require("docker")
    folder = tmp_path / "research-agent"
    shutil.copytree(lesson_root / "research-agent", folder, ignore=shutil.ignore_patterns(".env", "app"))
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


def test_up_alone_is_small_and_a_profile_adds_monitoring(config: Config) -> None:
    assert set(config()["services"]) == {"proxy", "agent", "model", "redis"}, (
        "`docker-compose up` alone starts something else than proxy, agent, model and Redis."
    )
    assert set(config("monitoring")["services"]) == {"proxy", "agent", "model", "redis", "prometheus"}


def test_no_service_may_more_than_it_must(config: Config) -> None:
    for name, service in config("*")["services"].items():
        assert service.get("cap_drop") == ["ALL"], f"{name} keeps capabilities that it does not need."
        assert not service.get("cap_add"), f"{name} is given capabilities."
        assert service.get("read_only"), (
            f"Whoever breaks into {name} can change its files: read_only is missing."
        )
        assert "no-new-privileges:true" in service.get("security_opt", []), (
            f"In {name} a program can become root."
        )
        assert not service.get("privileged"), f"{name} may do all that root may on the host."
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), (
            f"{name} holds Docker's socket, and with it the host."
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
        for tmpfs in service.get("tmpfs", []):
            assert "size=" in tmpfs, (
                f"{name} can fill {tmpfs}, which is memory, to its limit, and is killed then."
            )


def test_ports_are_published_on_this_machine_alone(config: Config) -> None:
    published = {}
    for name, service in config("*")["services"].items():
        for port in service.get("ports", []):
            published[name] = port
            assert port.get("host_ip") in ("127.0.0.1", "::1"), (
                f"The port {port['published']} of {name} is open to everybody who can reach this machine."
            )
    assert set(published) == {"proxy", "prometheus"}, "More than the proxy and Prometheus can be reached."


def test_what_needs_no_way_out_has_none(config: Config) -> None:
    found = config("*")
    inside = {name for name, network in found["networks"].items() if network.get("internal")}
    for name in ("agent", "model", "redis"):
        leading_out = set(found["services"][name]["networks"]) - inside
        assert not leading_out, f"{name} can call any server in the world, by the network {leading_out}."
    shared = set(found["services"]["proxy"]["networks"]) & set(found["services"]["redis"]["networks"])
    assert not shared, "Whoever breaks into the proxy can read all runs in Redis."


def test_nobody_starts_before_what_it_needs_is_healthy(config: Config) -> None:
    services = config("*")["services"]
    assert {"redis", "model"} <= set(services["agent"].get("depends_on", {})), "The agent waits for nobody."
    assert "agent" in services["proxy"].get("depends_on", {}), "The proxy does not wait for the agent."
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", (
                f"{name} starts when {other} has been started, which is long before it answers."
            )
    for name in ("proxy", "redis", "prometheus"):  # the images of agent and model bring theirs
        check = services[name].get("healthcheck", {}).get("test", [])
        assert check, f"Nobody asks {name} how it is."
        assert not {"curl", "wget"} & set(" ".join(check).split()), (
            f"The image of {name} has no curl or wget."
        )


def test_nobody_is_killed_while_it_drains(config: Config) -> None:
    agent = config()["services"]["agent"]
    env = agent["environment"]
    needed = float(env["DRAIN_DELAY_SECONDS"]) + float(env["DRAIN_SECONDS"]) + 2
    grace = seconds(agent.get("stop_grace_period", "10s"))
    assert grace > needed, (
        f"Docker kills the agent after {grace:g} s, and it may need {needed:g} s to end its runs."
    )
    assert float(env["DRAIN_DELAY_SECONDS"]) >= 1.5, "The agent is gone before the proxy has noticed."


def test_runs_outlive_the_container_of_redis(config: Config) -> None:
    found = config()
    redis = found["services"]["redis"]
    kept = {volume["target"]: volume for volume in redis.get("volumes", [])}
    assert "/data" in kept, "Redis's runs are gone with its container: no volume."
    assert kept["/data"]["type"] == "volume" and kept["/data"]["source"] in found["volumes"]
    command = " ".join(redis["command"])
    assert "--appendonly yes" in command, "What Redis has not saved yet is gone when it ends: no appendonly."
    limit = re.search(r"--maxmemory (\d+)mb", command)
    assert limit and int(limit[1]) * 1.5 < megabytes(redis["mem_limit"]), (
        "Redis is killed for its memory before it makes room."
    )


def test_replicas_can_be_many(config: Config) -> None:
    agent = config()["services"]["agent"]
    assert "container_name" not in agent, "Two containers cannot have one name."
    assert not agent.get("ports"), "Two containers cannot have one port of the host."
    assert agent["environment"]["REDIS_URL"], "Each replica keeps its runs to itself."


KEY = "OPENAI_API_KEY=sk-real\n"


def test_with_a_key_the_real_model_is_used_and_the_offline_one_not_started(
    config: Config, lesson_root: Path
) -> None:
    example = (lesson_root / "research-agent/.env.example").read_text()
    for dotenv in (KEY, example.replace("OPENAI_API_KEY=\n", KEY)):
        found = config(dotenv=dotenv)
        assert set(found["services"]) == {"proxy", "agent", "redis"}
        env = found["services"]["agent"]["environment"]
        assert env["OPENAI_API_KEY"] == "sk-real"
        assert env.get("OPENAI_BASE_URL", "https://api.openai.com/v1") == "https://api.openai.com/v1"
        assert env["SEARCH_BACKEND"] == "ddgs"
        assert env["HOST"] == "0.0.0.0", "A line of .env shuts the proxy out."  # noqa: S104
        assert env["REDIS_URL"] and env["DRAIN_DELAY_SECONDS"] == "2"
        way_out = [
            n for n in found["services"]["agent"]["networks"] if not found["networks"][n].get("internal")
        ]
        assert way_out == ["model"], "The agent cannot reach the real model."
        assert "model" in config("offline", dotenv=dotenv)["services"]


def test_without_a_key_nothing_real_is_asked(config: Config, lesson_root: Path) -> None:
    for dotenv in (
        "",
        (lesson_root / "research-agent/.env.example").read_text(),
    ):
        env = config(dotenv=dotenv)["services"]["agent"]["environment"]
        assert (env["OPENAI_BASE_URL"], env["MODEL_NAME"]) == ("http://model:9000/v1", "offline")
        assert (env["SEARCH_BACKEND"], env["SEARCH_URL"]) == ("offline", "http://model:9000")


def test_prometheus_sees_every_replica(lesson_root: Path) -> None:
    found = yaml.safe_load((lesson_root / "research-agent/compose/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    assert jobs["agent"].get("dns_sd_configs", [{}])[0].get("type") == "A", (
        "Prometheus asks one replica, at each scrape another, and takes them for one."
    )


def haproxy(lesson_root: Path) -> dict[str, str]:
    """The sections of the proxy's configuration: name to text, without comments."""
    text = (lesson_root / "research-agent/compose/haproxy.cfg").read_text()
    bare = re.sub(r"\s*#.*", "", text)
    return dict(re.findall(r"^(\w+ ?\w*).*\n((?:    .*\n?|\n)*)", bare, re.MULTILINE))


def test_the_proxy_asks_who_is_ready(lesson_root: Path) -> None:
    sections = haproxy(lesson_root)
    assert "uri /ready " in sections["backend ready"], (
        "The proxy sends callers to a replica that is about to stop."
    )
    assert "uri /health " in sections["backend alive"]


def test_the_proxy_repeats_only_what_may_be_repeated(lesson_root: Path) -> None:
    web = haproxy(lesson_root)["frontend web"]
    assert "disable-l7-retry if METH_POST !{ req.hdr(Idempotency-Key) -m found }" in web, (
        "The proxy sends a POST again although the first may have started a run: it is paid twice."
    )


# --- The project, running ---


@pytest.fixture(scope="module")
def project(docker: None, lesson_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The project, built but not started: a model of forty tokens a second, replicas that drain for 3 s."""
    env = {"DRAIN_SECONDS": "3", "CIRCUIT_FAILURES": "3", "CIRCUIT_SECONDS": "2", "MODEL_RETRIES": "0"}
    folder = tmp_path_factory.mktemp("compose")
    settings = {"OFFLINE_MODEL_NAME": "offline?tps=40", "MAX_CONCURRENCY": "64"}
    with Stack(folder, settings, lesson_root, {"environment": env}) as made:
        yield made


@pytest.fixture
def stack(project: Stack) -> Iterator[Stack]:
    """The project, running with one replica. One test at a time has the machine to itself."""
    with turn("docker"):
        project.up()
        yield project


def test_research_through_the_proxy_comes_as_it_is_made(stack: Stack) -> None:
    came: list[tuple[float, str]] = []
    with streaming(stack.url, SHORT) as (run_id, told):
        for event in told:
            came.append((time.monotonic(), event.type))
    assert came[-1][1] == "done"
    tokens = [at for at, kind in came if kind == "token"]
    assert tokens[-1] - tokens[0] > 0.7 * len(tokens) / 40, (
        "The proxy held the events back, and let them go at once."
    )
    assert ask(stack.url, SHORT).json()["id"] == run_id, "The answer is known, and was not given."


def test_the_proxy_says_who_has_called_whatever_the_caller_says(stack: Stack) -> None:
    left = []
    for claimed in ("203.0.113.1", "203.0.113.2"):
        reply = ask(stack.url, SHORT, headers={"X-Forwarded-For": claimed})
        left.append(int(re.search(r"r=(\d+)", reply.headers["ratelimit"])[1]))  # type: ignore[index]
    assert left[1] == left[0] - 1, "A caller who lies about the address has a rate limit for each lie."


def test_metrics_are_nobodys_business(stack: Stack) -> None:
    assert httpx2.get(f"{stack.url}/metrics").status_code == 404


def test_containers_are_as_closed_as_the_file_says(stack: Stack) -> None:
    for service in ("agent", "model"):
        code = (
            "import os, pathlib, socket\n"
            "print(os.getuid(), [line.split()[1] for line in open('/proc/net/route')].count('00000000'))\n"
            "try: pathlib.Path('/opt/here').touch()\n"
            "except OSError as error: print(error.strerror)\n"
            "try: socket.create_connection(('192.0.2.1', 443), 2)\n"
            "except OSError as error: print(error.strerror)"
        )
        said = stack.compose("exec", "--no-TTY", service, "python", "-c", code).splitlines()
        assert said == ["10001 0", "Read-only file system", "Network is unreachable"]
    for service in ("proxy", "redis"):
        status = stack.compose("exec", "--no-TTY", service, "cat", "/proc/1/status")
        found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(found["CapEff"], 16) == 0 and found["NoNewPrivs"] == "1"
        assert not found["Uid"].startswith("0\t"), f"{service} runs as root."


# --- Operations, under load ---


async def loaded(
    stack: Stack, operation: Callable[[], Awaitable[None]], readers: int = 6
) -> tuple[list[Reading], Asking, Asking]:
    """Readers of long streams, cached and new questions, all the time while `operation` goes on."""
    stop = asyncio.Event()
    found: list[Reading] = []

    async with new_client() as client:
        assert (await client.post(f"{stack.url}/v1/research", json={"query": SHORT})).status_code == 200

        async def reader(number: int) -> None:
            query, times = f"{LONG[:-1]}, reader {number}?", 0
            while not stop.is_set():
                times += 1
                found.append(await read(client, stack.url, f"{query} Time {times}.", Reading()))

        async with asyncio.TaskGroup() as group:
            for number in range(readers):
                group.create_task(reader(number))
            known = group.create_task(ask_steadily(client, stack.url, 5, lambda _: SHORT, stop))
            new = group.create_task(ask_steadily(client, stack.url, 0.5, unlike, stop, keys=True))
            await operation()
            stop.set()
        for seen in found:
            assert lost_or_doubled(seen, await stored(client, stack.url, seen)) == 0, (
                f"A reader did not see each event once: {seen}"
            )
    return found, known.result(), new.result()


def assert_nobody_noticed(readings: list[Reading], *asked: Asking) -> None:
    for asking in asked:
        assert not asking.failed, f"{len(asking.failed)} of {asking.sent} requests failed: {asking.failed[0]}"
        assert asking.sent > 0
    assert readings
    for seen in readings:
        assert not seen.failed, f"A reader was refused: {seen.failed[0]}"
        assert seen.types[-1] == "done", "A run was ended with an error."


@pytest.mark.timeout(180)
async def test_more_replicas_take_their_share_under_load(stack: Stack) -> None:
    async def scale() -> None:
        await asyncio.to_thread(stack.up, 4)

    assert_nobody_noticed(*await loaded(stack, scale))
    before = runs_of_each(stack)
    async with new_client() as client:
        await asyncio.gather(*(read(client, stack.url, unlike(n), Reading()) for n in range(8)))
    shares = [after - earlier for earlier, after in zip(before, runs_of_each(stack), strict=True)]
    assert len(shares) == 4 and min(shares) >= 1, f"Four replicas did {shares} of eight runs."


def runs_of_each(stack: Stack) -> list[int]:
    """How many runs each replica has finished."""
    code = (
        "from urllib.request import urlopen; print(sum(float(line.split()[-1]) for line in"
        " urlopen('http://127.0.0.1:8000/metrics').read().decode().splitlines()"
        " if line.startswith('agent_runs_total')))"
    )
    return [int(float(stack.docker("exec", replica, "python", "-c", code))) for replica in stack.replicas()]


@pytest.mark.timeout(240)
async def test_nobody_notices_a_rolling_restart(stack: Stack) -> None:
    stack.up(4)
    before = [stack.state(replica)["StartedAt"] for replica in stack.replicas()]

    async def restart() -> None:
        await asyncio.to_thread(rolling_restart, stack)

    readings, known, new = await loaded(stack, restart)
    after = [stack.state(replica)["StartedAt"] for replica in stack.replicas()]
    assert not set(before) & set(after), "A replica was not restarted."
    assert_nobody_noticed(readings, known, new)


def rolling_restart(stack: Stack) -> None:
    script = stack.folder / "compose/rolling-restart.sh"
    subprocess.run([script], cwd=stack.folder, env=stack.env, check=True, timeout=150, capture_output=True)


@pytest.mark.timeout(120)
async def test_who_asks_with_a_key_does_not_notice_that_a_run_is_handed_over(stack: Stack) -> None:
    stack.up(2)
    first = stack.replicas()[0]
    async with new_client() as client:

        async def ask_with_key(number: int) -> httpx2.Response:
            key = {"Idempotency-Key": uuid.uuid4().hex}
            return await client.post(
                f"{stack.url}/v1/research", json={"query": f"{LONG} {number}"}, headers=key
            )

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask_with_key(number)) for number in range(4)]
            busy = 'haproxy_server_current_sessions{proxy="ready",server="replica1"} 2'
            assert await asyncio.to_thread(until, lambda: busy in stack.from_proxy("/metrics"), 10)
            await asyncio.to_thread(stack.docker, "restart", first)
    assert "handed over a run" in stack.docker("logs", first)
    for reply in (task.result() for task in asked):
        assert reply.status_code == 200, f"A caller was told of the hand-over: {reply.text}"


@pytest.mark.timeout(120)
async def test_a_killed_replicas_runs_go_on_at_another(stack: Stack) -> None:
    await asyncio.to_thread(stack.up, 2)
    doomed = stack.replicas()[0]
    async with new_client() as client:
        readings = [Reading() for _ in range(10)]
        async with asyncio.TaskGroup() as group:
            for number, seen in enumerate(readings):
                group.create_task(read(client, stack.url, f"{LONG} {number}", seen))
            said = await asyncio.to_thread(until, lambda: any("token" in seen.types for seen in readings), 60)
            assert said, f"No answer begins: {readings}"
            await asyncio.to_thread(stack.docker, "kill", doomed)
        assert stack.state(doomed)["ExitCode"] == 137
        for seen in readings:
            assert seen.types[-1] == "done", "A run was not brought to its end."
            assert lost_or_doubled(seen, await stored(client, stack.url, seen)) == 0
            assert seen.gap < 10, f"A reader heard nothing for {seen.gap:.1f} s."
        cut = [seen for seen in readings if seen.cuts]
        assert cut, "All streams were over before the kill."
        assert any("reset" in seen.types for seen in cut), "Nobody went on with a killed replica's run."
    stack.up(2)


def test_runs_are_there_after_redis_was_restarted(stack: Stack) -> None:
    with streaming(stack.url, "What is kept while Redis restarts?") as (run_id, told):
        seen = [next(told) for _ in range(5)]
        stack.compose("restart", "redis")
        seen += told
    assert seen[-1].type == "done", "The run ended with Redis."
    stack.wait(lambda: stack.ready() == 1, "the replica is ready again")
    assert until(lambda: state(stack.url, run_id).get("state") == "done", 10)
    assert resume(stack.url, run_id) == seen, "What was said before or during the restart is not there."


def test_without_a_model_callers_are_told_so_at_once_and_served_when_it_is_back(stack: Stack) -> None:
    known = ask(stack.url, SHORT).json()["id"]
    stack.compose("stop", "model")
    stack.wait(lambda: stack.ready() == 0, "the replica says that it is not ready")
    for n in range(3):
        assert_problem(ask(stack.url, f"Is the model there, {n}?"), 502)
    began = time.monotonic()
    refused = ask(stack.url, "Is anybody there?")
    assert_problem(refused, 503)
    assert refused.headers["Retry-After"] and time.monotonic() - began < 1, (
        "The caller waited for a dead model."
    )
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
        stack.wait(lambda: stack.ready() == 1, "the proxy has noticed", 10)
        for _ in range(6):
            began = time.monotonic()
            assert httpx2.get(f"{stack.url}/ready").status_code == 200, "A request went to the hung replica."
            assert time.monotonic() - began < 2
        assert ask(stack.url, "Who answers while one hangs?").status_code == 200
    finally:
        stack.docker("unpause", hung)
    stack.wait(lambda: stack.ready() == 2, "the replica is back", 15)
    stack.wait(lambda: stack.state(hung)["Health"]["Status"] == "healthy", "Docker has noticed, too")


def test_a_replica_that_takes_too_much_memory_is_killed_and_comes_back(stack: Stack) -> None:
    (replica,) = stack.replicas()
    started = stack.state(replica)["StartedAt"]
    # A quick leak; the kernel is told to choose process 1 when the container's memory is used up.
    leak = (
        "open('/proc/1/oom_score_adj', 'w').write('1000')\nleak = []\nwhile True: leak.append(b'x' * 2**20)"
    )
    with pytest.raises(Failed, match="exec"):
        stack.docker("exec", replica, "python", "-c", leak)
    stack.wait(lambda: stack.state(replica)["StartedAt"] != started, "the container was started again")
    assert stack.docker("inspect", "--format", "{{.RestartCount}}", replica) == "1"
    period = [f"--since={started}", f"--until={time.time():.9f}"]  # 0s would be the last full second
    told = stack.docker("events", *period, f"--filter=container={replica}", "--format=json").splitlines()
    died = [event for line in told if (event := json.loads(line))["Action"] in ("oom", "die")]
    assert {event["Action"] for event in died} == {"oom", "die"}, "Nobody can see that it was the memory."
    codes = [event["Actor"]["Attributes"]["exitCode"] for event in died if event["Action"] == "die"]
    assert codes == ["137"]
    again = "Who answers after the memory was used up?"
    assert until(lambda: ask(stack.url, again).status_code == 200, 20), "The replica does not come back."


def test_prometheus_asks_every_replica_and_its_alerts_are_sound(stack: Stack) -> None:
    stack.up(2, "monitoring")
    address = f"http://{stack.compose('port', 'prometheus', '9090')}"

    def up() -> dict[str, int]:
        found = httpx2.get(f"{address}/api/v1/query", params={"query": "sum by (job) (up)"}).json()
        return {each["metric"]["job"]: int(each["value"][1]) for each in found["data"]["result"]}

    assert until(lambda: up() == {"agent": 2, "proxy": 1, "prometheus": 1}, 40), f"Prometheus sees {up()}."
    rules = f"{address}/api/v1/rules"

    def alerts() -> list[dict[str, str]]:
        found: list[dict[str, str]] = httpx2.get(rules).json()["data"]["groups"][0]["rules"]
        return found

    assert until(lambda: {rule["health"] for rule in alerts()} == {"ok"}, 20)
    for metric in {name for rule in alerts() for name in re.findall(r"(?:agent|haproxy)_\w+", rule["query"])}:
        found = httpx2.get(f"{address}/api/v1/series", params={"match[]": metric}).json()["data"]
        assert found, f"An alert waits for {metric}, which nobody counts."


@pytest.mark.timeout(120)
def test_a_change_in_the_source_is_served_a_moment_later(stack: Stack, tmp_path: Path) -> None:
    source = stack.folder / "app/operations.py"
    before = source.read_text()
    log = tmp_path / "watch.log"

    def served() -> str:
        try:
            return httpx2.get(f"{stack.url}/health").text
        except httpx2.TransportError:  # compose replaces the proxy, too
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
