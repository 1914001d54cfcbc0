"""Lesson 10's agents, generated and run beside real sidecars, Kafka, PostgreSQL and the sandbox."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]
from support.launcher import Launcher
from support.servers import calls
from support.services import FOLDER, TYPES, generate, load

from course.polling import until
from course.ports import free_port
from course.processes import Processes

pytestmark = pytest.mark.timeout(600)
SECONDS = 120  # for an event's way through the agents, on a busy machine
DEPTH = """
def depth(boxes):
    return 1 + max([depth(box) for box in boxes if isinstance(box, list)], default=0)
"""


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex}"


class Agents:
    """The five agents, by their ports."""

    def __init__(self, launcher: Launcher, apps: list[dict[str, Any]], brokers: str, root: Path) -> None:
        self.launcher, self.brokers, self.root = launcher, brokers, root
        self.ports = {app["appDirPath"]: app["appPort"] for app in apps}
        self.sidecars = {app["appDirPath"]: app["daprHTTPPort"] for app in apps}

    def request(self, agent: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
        url = f"http://127.0.0.1:{self.ports[agent]}{path}"
        if body is None:
            return httpx2.get(url, timeout=SECONDS).raise_for_status().json()
        return httpx2.post(url, json=body, headers=headers, timeout=SECONDS).raise_for_status().json()

    def process(self, agent: str, user: str, query: str = "", key: str = "", **context: Any) -> Any:
        headers = {"idempotency-key": key} if key else {}
        body = {"user_id": user, "query": query, "context": context}
        return self.request(agent, "/process", body, **headers)

    def publish(self, topic: str, data: dict[str, Any], event_id: str = "") -> None:
        event = {"specversion": "1.0", "id": event_id or uuid.uuid4().hex, "source": "test", "type": topic}

        def accepted() -> bool:  # Kafka refuses an event while it makes a new topic
            return httpx2.post(
                f"http://127.0.0.1:{self.sidecars['triage']}/v1.0/publish/pubsub/{topic}",
                params={"metadata.partitionKey": str(data.get("user_id"))},
                json=event | {"datacontenttype": "application/json", "data": data},
                headers={"content-type": "application/cloudevents+json"},
                timeout=SECONDS,
            ).is_success

        assert until(accepted, SECONDS), f"Nothing can be published to {topic}."

    def attempts(self, user: str, module: str) -> int:
        topics = self.process("progress", user)["result"]["topics"]
        return int(topics.get(module, {"attempts": 0})["attempts"])

    def dead_letters(self, *arguments: str) -> str:
        command = [sys.executable, str(self.root / FOLDER / "dead_letters.py"), *arguments]
        env = os.environ | {"KAFKA_BROKERS": self.brokers}
        return subprocess.run(
            command, env=env, capture_output=True, text=True, check=True, timeout=SECONDS
        ).stdout

    def records(self, topic: str, user: str) -> list[tuple[bytes | None, int]]:
        """The key and the partition of each event of a user in a topic."""

        async def read() -> list[tuple[bytes | None, int]]:
            options = {"bootstrap_servers": self.brokers, "auto_offset_reset": "earliest"}
            async with AIOKafkaConsumer(topic, **options) as consumer:
                found, ends = [], await consumer.end_offsets(consumer.assignment())
                for place, end in ends.items():
                    while await consumer.position(place) < end:
                        for records in (await consumer.getmany(place, timeout_ms=1_000)).values():
                            found += [
                                (each.key, each.partition) for each in records if user.encode() in each.value
                            ]
                return found

        return asyncio.run(read())


@pytest.fixture(scope="module")
def agents(
    processes: Processes,
    dapr: dict[str, str],
    offline_model: str,
    lesson_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Agents]:
    folder = tmp_path_factory.mktemp("agents")
    assert generate(lesson_root, "--all", folder).returncode == 0
    run_file = yaml.safe_load((folder / "dapr.yaml").read_text())
    for app in run_file["apps"]:
        app |= {"appPort": free_port(), "daprHTTPPort": free_port()}
    (folder / "dapr.yaml").write_text(yaml.safe_dump(run_file))
    model = {"OPENAI_BASE_URL": f"{offline_model}/v1", "OPENAI_API_KEY": "test", "MODEL_NAME": "offline"}
    launcher = Launcher(processes, folder / "dapr.yaml", "--restart", **dapr, **model).wait_ready()
    yield Agents(launcher, run_file["apps"], dapr["KAFKA_BROKERS"], lesson_root)
    launcher.stop()


# --- Events ---


@pytest.mark.dapr
@pytest.mark.docker
@pytest.mark.usefixtures("docker")
def test_a_submission_goes_from_triage_to_a_mastery_update(agents: Agents) -> None:
    user = unique("ada")
    agents.publish("learning.requests", {"user_id": user, "query": "Give me an exercise about loops"})
    assert until(lambda: agents.records("exercise.responses", user), SECONDS), "No exercise came."
    context = {"exercise_id": "loops-total", "code": "def total(numbers):\n    return sum(numbers)"}
    agents.publish("learning.requests", {"user_id": user, "query": "my solution", "context": context})
    assert until(lambda: agents.attempts(user, "loops") == 1, SECONDS), (
        "The grade did not reach the progress."
    )
    assert agents.process("progress", user)["result"]["topics"]["loops"]["mastery"] == pytest.approx(0.6)


@pytest.mark.dapr
def test_a_duplicate_event_changes_state_once(agents: Agents) -> None:
    user, event_id = unique("ada"), uuid.uuid4().hex
    data = {"user_id": user, "query": "attempt", "context": {"module": "loops", "score": 1}}
    for _ in range(3):
        agents.publish("progress.requests", data, event_id)
    agents.publish("progress.requests", data | {"context": {"module": "last", "score": 1}})
    assert until(lambda: agents.attempts(user, "last") == 1, SECONDS), "An event did not arrive."
    assert agents.attempts(user, "loops") == 1, "An event that came three times was counted more than once."
    answers = [agents.process("progress", user, key=event_id, module="loops", score=1) for _ in range(2)]
    assert answers[0] == answers[1] and agents.attempts(user, "loops") == 1, (
        "A call with the event's id counted."
    )


@pytest.mark.dapr
def test_no_write_is_lost_when_many_come_at_once(agents: Agents) -> None:
    user = unique("ada")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: agents.process("progress", user, module="loops", score=1), range(16)))
    assert agents.attempts(user, "loops") == 16, (
        "Two writers read the same state, and one wrote over what the other had written: an ETag was ignored."
    )


@pytest.mark.dapr
def test_a_poison_message_goes_to_the_dead_letters_and_can_be_replayed(agents: Agents) -> None:
    event_id = uuid.uuid4().hex
    agents.publish("progress.requests", {"user_id": "../../etc", "query": "attempt"}, event_id)
    assert until(lambda: event_id in agents.dead_letters("list"), SECONDS), "The event is in no dead letter."
    assert agents.dead_letters("replay", event_id) == "1 replayed\n"
    found = until(lambda: agents.dead_letters("list").count(event_id) == 2, SECONDS)
    assert found, "The event that was replayed, and is still bad, did not come back to the dead letters."


@pytest.mark.dapr
def test_the_events_of_a_user_stay_in_order(agents: Agents) -> None:
    user = unique("ada")
    for number in range(6):
        agents.process("triage", user, f"Explain how loops work, {number}")
    records = agents.records("concept.requests", user)
    assert len(records) == 6
    assert {key for key, _ in records} == {user.encode()}, "Events have no partition key."
    assert len({partition for _, partition in records}) == 1, "A user's events are in several partitions."


@pytest.mark.dapr
def test_three_failures_raise_an_alert(agents: Agents) -> None:
    user = unique("ada")
    for _ in range(3):
        agents.process("progress", user, module="lists", score=0)
    assert len(agents.records("struggle.alerts", user)) == 1


# --- The workflow ---


@pytest.mark.dapr
@pytest.mark.docker
@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize("killed", ["triage-agent", "triage-agent-dapr"])
def test_a_session_survives_kill_9_and_repeats_no_step(
    agents: Agents, offline_model: str, killed: str
) -> None:
    user, module = unique("ada"), f"recursion {uuid.uuid4().hex}"
    started = agents.request(
        "triage", "/sessions", {"user_id": user, "module": module, "level": "intermediate"}
    )
    path = f"/sessions/{started['session_id']}"
    at = until(lambda: (found := agents.request("triage", path))["step"] == "submission" and found, SECONDS)
    assert at and "depth" in at["exercise"], "The session does not come to its exercise."
    agents.launcher.kill(killed)
    submitted = until(lambda: accepted(agents, f"{path}/submission"), SECONDS)
    assert submitted, "After the restart, the session takes no submission."
    done = until(
        lambda: (found := agents.request("triage", path))["status"] == "completed" and found, SECONDS
    )
    assert done, "The session did not go on after its process was killed."
    assert done["result"]["outcome"] == "graded" and done["result"]["grade"]["score"] == 1
    asked = len(calls(offline_model, module))
    assert asked == 2, f"The model was asked {asked} times: to explain and to vary, so a step was repeated."
    # This event is in the same partition as the grade's, and so comes after it.
    agents.publish("progress.requests", {"user_id": user, "context": {"module": "last", "score": 1}})
    assert until(lambda: agents.attempts(user, "last") == 1, SECONDS), "An event did not arrive."
    assert until(lambda: agents.attempts(user, "recursion"), SECONDS) == 1, (
        "The grade came as an event and as a call, and counted twice."
    )


def accepted(agents: Agents, path: str) -> bool:
    try:
        agents.request("triage", path, {"code": DEPTH})
    except httpx2.HTTPError:  # the sidecar is not ready yet
        return False
    return True


@pytest.mark.dapr
def test_a_session_without_a_submission_ends_and_withdraws_its_exercise(agents: Agents) -> None:
    user = unique("ada")
    body = {"user_id": user, "module": "loops", "submit_within_seconds": 1}
    path = f"/sessions/{agents.request('triage', '/sessions', body)['session_id']}"
    done = until(
        lambda: (found := agents.request("triage", path))["status"] == "completed" and found, SECONDS
    )
    assert done and done["result"]["outcome"] == "timed out" and done["step"] == "withdraw"


# --- The sandbox ---


@pytest.mark.docker
@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize(
    ("code", "passed"),
    [
        ("def total(numbers):\n    return sum(numbers)", 4),
        ("def total(numbers):\n    return numbers[0] + numbers[1] if len(numbers) == 2 else 5", 2),
        ("def total(numbers):\n    while numbers: pass\n    return 0", 1),
        ("import os\nwhile True: os.fork()", 0),
        ("import socket\nsocket.create_connection(('192.0.2.1', 80))", 0),
        ("import os\ndef total(numbers):\n    os.write(1, b'x' * 10**6)\n    return sum(numbers)", 4),
        ("def total(numbers):\n    for _ in range(100): print('x' * 10**6)\n    return sum(numbers)", 4),
        ("def total(numbers):\n    return list(range(10**9))", 0),
        ("open('/etc/mine', 'w')\ndef total(numbers):\n    return sum(numbers)", 0),
        ("import os\nos.kill(os.getppid(), 9)", 0),
        ("this is no python", 0),
        ("import sys\nsys.exit(0)", 0),
    ],
)
def test_a_submission_gets_what_it_earns(lesson_root: Path, code: str, passed: int) -> None:
    grading, sandbox = load(lesson_root, "generator/grading"), load(lesson_root, "sandbox/sandbox")
    bank = grading.read_bank(lesson_root / FOLDER / "templates/generator/bank.toml")
    exercise = bank["loops-total"]
    given = grading.sandbox_input(exercise, code)
    outcome = asyncio.run(sandbox.run_code_safely(grading.RUNNER, given, "python:3.13-slim", 60))
    graded = grading.grade(exercise, outcome.output, outcome.error)
    assert graded.passed == passed, f"{code!r} passed {graded.passed} cases: {graded.faults}"


@pytest.mark.docker
@pytest.mark.usefixtures("docker")
def test_a_container_that_never_ends_is_killed(lesson_root: Path) -> None:
    sandbox = load(lesson_root, "sandbox/sandbox")
    slow = asyncio.run(sandbox.run_code_safely("while True: pass", "", "python:3.13-slim", 5))
    loud = asyncio.run(sandbox.run_code_safely("while True: print('x' * 999)", "", "python:3.13-slim", 60))
    assert (slow.error, loud.error) == ("it took too long", "it printed too much")
    left = subprocess.run(
        ["docker", "ps", "--quiet", "--filter", "name=sandbox-"], capture_output=True, text=True, check=True
    )
    assert not left.stdout, "A container was left behind."


def test_without_docker_nothing_is_run(
    lesson_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox = load(lesson_root, "sandbox/sandbox")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    with pytest.raises(sandbox.SandboxUnavailable):
        asyncio.run(sandbox.run_code_safely(code, "", "python:3.13-slim", 60))
    assert not (tmp_path / "ran").exists(), "Without Docker, the code ran on the host."


# --- Without a sidecar ---


def test_health_tells_the_truth_without_a_sidecar(
    lesson_root: Path, processes: Processes, tmp_path: Path, closed_port: int
) -> None:
    assert (
        generate(
            lesson_root, "--name", "alone", "--type", TYPES["debug"], "--output-dir", tmp_path
        ).returncode
        == 0
    )
    port = free_port()
    env = {"APP_PORT": str(port), "DAPR_HTTP_PORT": str(closed_port), "OPENAI_API_KEY": "test"}
    process = processes.start([sys.executable, "app.py"], cwd=tmp_path, env=os.environ | env)
    url = f"http://127.0.0.1:{port}"

    def health() -> Any:
        try:
            return httpx2.get(f"{url}/health", timeout=10)
        except httpx2.TransportError:
            return None

    answer = until(health, SECONDS)
    assert answer and answer.status_code == 200, "The service does not start without its sidecar."
    assert answer.json() == {"status": "healthy", "dapr": "unreachable"}, "The health says what is not true."
    assert httpx2.get(f"{url}/ready", timeout=10).status_code == 503
    refused = httpx2.post(f"{url}/process", json={"user_id": "ada", "query": "x"}, timeout=10)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.headers["content-type"] == "application/problem+json"
    processes.stop(process)
