"""Lesson 10's agents, generated and run beside real sidecars, Kafka, PostgreSQL and the sandbox."""

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from support.servers import calls
from support.services import FOLDER, TYPES, generate, load
from support.tutors import SECONDS, Agents, handled, unique, write_records

from course.models import start_model
from course.polling import until
from course.ports import free_port
from course.processes import Processes, wait_ready

pytestmark = pytest.mark.timeout(600)
DEPTH = """
def depth(boxes):
    return 1 + max([depth(box) for box in boxes if isinstance(box, list)], default=0)
"""


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
    mastery = agents.process("progress", user)["result"]["topics"]["loops"]["mastery"]
    assert mastery == pytest.approx(0.6), f"One right solution makes a mastery of {mastery}, not of 0.6."


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
    replayed = agents.dead_letters("replay", event_id)
    assert replayed == "1 replayed\n", f"Told to replay one dead letter, dead_letters.py says {replayed!r}."
    found = until(lambda: agents.dead_letters("list").count(event_id) == 2, SECONDS)
    assert found, "The event that was replayed, and is still bad, did not come back to the dead letters."


@pytest.mark.dapr
def test_a_poison_message_holds_up_no_other(agents: Agents) -> None:
    user = unique("ada")
    data = {"user_id": user, "query": "attempt", "context": {"module": "loops", "score": 1}}
    event: dict[str, Any] = {"specversion": "1.0", "id": "", "source": "test", "type": "test"}
    event |= {"topic": "progress.requests"}
    event |= {"time": "2026-01-02T03:04:05Z", "data": data}
    huge = event | {"id": unique("huge"), "data": data | {"query": "x" * 600_000}}
    nested = event | {"id": unique("nested"), "data": "["}
    bad = [
        b"no JSON",
        b"\xff\xfe",
        b"",
        b"[1]",
        json.dumps(event).encode(),  # its id is empty
        json.dumps(event | {"id": "x" * 5_000}).encode(),
        json.dumps(huge).encode(),
        json.dumps(nested).replace('"["', "[" * 5_000 + "]" * 5_000).encode(),
    ]
    before = len(agents.dead_letters("list").splitlines())
    good = json.dumps(event | {"id": unique("good")}).encode()
    write_records(agents.env["KAFKA_BROKERS"], "progress.requests", user.encode(), *bad, good)
    assert until(lambda: agents.attempts(user, "loops") == 1, 60), (
        "An event waits behind one that nobody can read."
    )
    assert until(lambda: len(agents.dead_letters("list").splitlines()) == before + len(bad), SECONDS), (
        f"Not every bad event is a dead letter: {agents.dead_letters('list')}"
    )


@pytest.mark.dapr
def test_the_last_retry_ends_in_the_dead_letters_and_a_replay_finds_the_fault_mended(
    agents: Agents, processes: Processes, tmp_path: Path
) -> None:
    port = free_port()  # of the model, which is not there yet
    components = own_components(agents, tmp_path, "impatient")
    resiliency = yaml.safe_load((components / "resiliency.yaml").read_text())
    retries = resiliency["spec"]["policies"]["retries"]["events"]
    retries |= {"initialInterval": "100ms", "maxInterval": "200ms", "maxRetries": 3}
    (components / "resiliency.yaml").write_text(yaml.safe_dump(resiliency))
    env = {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
    launcher, _ = agents.start_more(
        processes, tmp_path, "debug", components, appID="impatient-agent", env=env
    )
    query = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nKeyError: 'a'"
    data = {"user_id": unique("ada"), "query": query, "context": {"hint": 2}}  # for which the model is asked
    event_id = agents.publish("debug.requests", data)
    assert until(lambda: event_id in agents.dead_letters("list"), SECONDS), "The event is in no dead letter."
    tries = [line for line in launcher.lines if "event_failed" in line and event_id in line]
    assert len(tries) == 4, f"The event was tried {len(tries)} times, not once and then three times more."
    start_model(processes, port)
    assert agents.dead_letters("replay", event_id) == "1 replayed\n", "The dead letter was not replayed."
    launcher.wait_for(rf"event_handled .*{event_id}", seconds=SECONDS)
    launcher.stop()


def own_components(agents: Agents, folder: Path, group: str) -> Path:
    """The components with another consumer group, whose members get all events besides the agents' group."""
    components = shutil.copytree(agents.folder / "components", folder / "components")
    text = (components / "pubsub.yaml").read_text()
    assert "learnflow-agents" in text, "pubsub.yaml does not name the consumer group learnflow-agents."
    (components / "pubsub.yaml").write_text(text.replace("learnflow-agents", unique(group)))
    return components


@pytest.mark.dapr
def test_the_events_of_a_user_have_one_key_and_one_partition(agents: Agents) -> None:
    user = unique("ada")
    for number in range(6):
        agents.process("triage", user, f"Explain how loops work, {number}")
    records = agents.records("concept.requests", user)
    assert len(records) == 6, f"Six questions became {len(records)} events."
    assert {each.key for each in records} == {user.encode()}, "Events have no partition key."
    assert len({each.partition for each in records}) == 1, "A user's events are in several partitions."


@pytest.mark.dapr
def test_two_replicas_share_events_and_each_counts_once_and_in_order(
    agents: Agents, processes: Processes, tmp_path: Path
) -> None:
    users = [unique("ada") for _ in range(9)]
    rounds = 0

    def publish_round() -> bool:
        """Publish an event for each user; true when enough were published for both replicas to have some."""
        nonlocal rounds
        for user in users:
            context = {"module": f"topic {rounds}", "score": 1}
            agents.publish("progress.requests", {"user_id": user, "context": context})
        rounds += 1
        return rounds > 8

    publish_round()
    launcher, second = agents.start_more(processes, tmp_path, "progress")
    began = handled(agents.apps["progress"])
    shared = until(lambda: publish_round() and handled(second) > 20, SECONDS)
    assert shared, "The second replica gets no events."
    assert handled(agents.apps["progress"]) > began, "The first replica gets no more events."
    publish_round()
    assert launcher.stop() == 0, "A replica was told to stop with events under way, and failed."
    publish_round()
    modules = [f"topic {number}" for number in range(rounds)]
    for user in users:
        assert until(partial(agents.attempts, user, modules[-1]), SECONDS), "An event did not arrive."
        topics = agents.process("progress", user)["result"]["topics"]
        assert {name: topic["attempts"] for name, topic in topics.items()} == dict.fromkeys(modules, 1), (
            "Two replicas have lost events, or counted one twice."
        )
        # An event that came again, after a replica left, is answered again with the same id.
        updates = {each.id: each.data["topic"] for each in reversed(agents.records("progress.updates", user))}
        assert list(reversed(updates.values())) == modules, "The events of a user were not handled in order."


@pytest.mark.dapr
def test_a_sidecar_may_come_later_than_its_agent(
    agents: Agents, processes: Processes, tmp_path: Path
) -> None:
    app = {"appID": "late-agent", "appPort": free_port(), "daprHTTPPort": free_port()}
    app |= {"daprGRPCPort": free_port()}
    env = {"APP_PORT": "appPort", "DAPR_HTTP_PORT": "daprHTTPPort", "DAPR_GRPC_PORT": "daprGRPCPort"}
    env = {name: str(app[key]) for name, key in env.items()}
    url = f"http://127.0.0.1:{app['appPort']}"
    agent = processes.start(
        [sys.executable, "app.py"], cwd=agents.folder / "triage", env=os.environ | agents.env | env
    )
    wait_ready(agent, f"{url}/health", SECONDS)
    assert httpx2.get(f"{url}/ready").status_code == 503, "There is no sidecar, and /ready is not a 503."
    start = {"user_id": unique("ada"), "module": "loops"}
    refused = httpx2.post(f"{url}/sessions", json=start, timeout=SECONDS)
    status = refused.status_code
    assert status == 503, f"Without a sidecar a session is answered with {status}, not with 503."
    assert refused.headers.get("retry-after") == "1", "The 503 does not say when to try again."

    components = own_components(agents, tmp_path, "late")
    launcher, _ = agents.start_more(processes, tmp_path, "triage", components, **app, command=[])
    assert until(lambda: httpx2.get(f"{url}/ready").status_code == 200, SECONDS), (
        "The sidecar has come, and /ready is not a 200."
    )
    agents.publish("learning.requests", {"user_id": unique("ada"), "query": "Explain loops"})
    assert until(lambda: handled(app), SECONDS), "The agent gets no events from a sidecar that came later."
    late = dataclasses.replace(agents, apps={"triage": app})
    session = Session(late, unique("ada"), "loops")
    assert until(lambda: session.state().get("step") == "explain", SECONDS), (
        "The agent runs no workflows with a sidecar that came later."
    )
    launcher.stop()
    processes.stop(agent)


@pytest.mark.dapr
def test_three_failures_raise_an_alert(agents: Agents) -> None:
    user = unique("ada")
    for _ in range(3):
        agents.process("progress", user, module="lists", score=0)
    alerts = len(agents.records("struggle.alerts", user))
    assert alerts == 1, f"Three failures in a row raised {alerts} alerts, not one."


# --- The workflow ---

EVENTS = 20  # under way while a process is killed
# By agent: the topic of its events, their data, and the topic of what follows from them.
WORK: dict[str, tuple[str, dict[str, Any], str]] = {
    "triage": ("learning.requests", {"query": "Explain how loops work"}, "concept.requests"),
    "concepts": ("concept.requests", {"query": "Explain how loops work"}, "concept.responses"),
    "debug": ("debug.requests", {"query": "It does not work"}, "debug.responses"),
    "exercise": ("exercise.requests", {"query": "An exercise about loops"}, "exercise.responses"),
    "progress": ("progress.requests", {"context": {"module": "loops", "score": 1}}, "progress.updates"),
}


@pytest.mark.dapr
@pytest.mark.docker
@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize("killed", [f"{agent}-agent{side}" for agent in WORK for side in ("", "-dapr")])
def test_a_session_survives_kill_9_and_repeats_no_step(
    agents: Agents, offline_model: str, killed: str
) -> None:
    agent = killed.partition("-")[0]
    topic, data, answers = WORK[agent]
    user, other, module = unique("ada"), unique("bob"), f"recursion {uuid.uuid4().hex}"
    session = Session(agents, user, module, level="intermediate")
    if agent != "concepts":  # which is killed in the first step, and the others in the last ones
        session.submit()
    by = "debug" if agent == "triage" else "triage"
    published = [agents.publish(topic, {"user_id": other, **data}, by=by) for _ in range(EVENTS)]
    agents.launcher.kill(killed)
    if agent == "concepts":
        session.submit()

    done = session.end()
    assert done["result"]["outcome"] == "graded" and done["result"]["grade"]["score"] == 1, (
        f"A right solution was submitted, and the session ends with {done['result']}."
    )
    asked = len(calls(offline_model, module))
    # An explanation that was cut short is asked for again; a finished one is not.
    expected = {2, 3} if agent == "concepts" else {2}
    assert asked in expected, f"The model was asked {asked} times, so a finished step was repeated."
    # This event is in the same partition as the grade's, and so comes after it.
    agents.publish("progress.requests", {"user_id": user, "context": {"module": "last", "score": 1}})
    assert until(lambda: agents.attempts(user, "last") == 1, SECONDS), "An event did not arrive."
    assert agents.attempts(user, "recursion") == 1, (
        "The grade came as an event and as a call, and counted twice, or not at all."
    )
    expected_ids = {f"{event_id}/0" for event_id in published}
    found = until(lambda: expected_ids <= {each.id for each in agents.records(answers, other)}, SECONDS)
    records = agents.records(answers, other)
    assert found, f"Lost when {killed} was killed: {expected_ids - {each.id for each in records}}"
    first = {each.id: each.data for each in reversed(records)}
    assert all(each.data == first[each.id] for each in records), "An event was handled twice."
    if agent == "progress":
        assert agents.attempts(other, "loops") == EVENTS, "An event was counted twice."


class Session:
    """A learning session, which is a workflow."""

    def __init__(self, agents: Agents, user: str, module: str, **more: Any) -> None:
        self.agents = agents
        body = {"user_id": user, "module": module, **more}
        self.path = f"/sessions/{agents.request('triage', '/sessions', body)['session_id']}"

    def state(self) -> Any:
        return self.agents.request("triage", self.path)

    def submit(self, code: str = DEPTH) -> None:
        """Wait for the session's exercise, and hand in a solution."""
        at = until(lambda: (found := self.state())["step"] == "submission" and found, SECONDS)
        assert at and "depth" in at["exercise"], (
            f"The session does not come to its exercise: {self.trouble()}"
        )
        self.agents.request("triage", f"{self.path}/submission", {"code": code})

    def end(self) -> Any:
        done = until(lambda: (found := self.state())["status"] != "running" and found, SECONDS)
        assert done and done["status"] == "completed", f"The session does not end well: {self.trouble()}"
        return done

    def trouble(self) -> str:
        """Where the session is, and why the steps of sessions failed."""
        failed = [line for line in self.agents.launcher.lines if "Activity execution failed" in line]
        return f"{self.state()} {failed[-3:]}"


@pytest.mark.dapr
def test_a_session_without_a_submission_ends_and_withdraws_its_exercise(agents: Agents) -> None:
    done = Session(agents, unique("ada"), "loops", submit_within_seconds=1).end()
    assert done["result"]["outcome"] == "timed out" and done["step"] == "withdraw", (
        f"A session without a submission did not time out and withdraw its exercise: {done}"
    )


@pytest.mark.dapr
@pytest.mark.docker
@pytest.mark.usefixtures("docker")
def test_a_session_whose_step_fails_withdraws_its_exercise(agents: Agents) -> None:
    session = Session(agents, unique("ada"), "recursion", level="intermediate", timezone="Mars")
    session.submit()
    done = session.end()
    assert done["result"]["outcome"] == "failed" and done["step"] == "withdraw", (
        "The step was refused, and what the session had begun stays."
    )


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


def labelled(label: str, all_states: bool = True) -> str:
    """The ids of the containers with a label."""
    command = ["docker", "ps", "--quiet", "--filter", f"label={label}", *(["--all"] if all_states else [])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.docker
@pytest.mark.usefixtures("docker")
def test_a_container_that_never_ends_is_killed(
    lesson_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox, label = load(lesson_root, "sandbox/sandbox"), f"test={tmp_path}"
    monkeypatch.setattr(sandbox, "LIMITS", [*sandbox.LIMITS, "--label", label])
    slow = asyncio.run(sandbox.run_code_safely("while True: pass", "", "python:3.13-slim", 5))

    async def loud() -> list[Any]:
        loop = "while True: print('x' * 999)"
        runs = (sandbox.run_code_safely(loop, "", "python:3.13-slim", SECONDS) for _ in range(8))
        return await asyncio.gather(*runs)

    errors = [outcome.error for outcome in asyncio.run(loud())]
    assert slow.error == "it took too long", (
        f"Code that never ends gives the error {slow.error!r}, not 'it took too long'."
    )
    assert errors == ["it printed too much"] * 8, (
        f"Eight programs print without end and give {errors}, not eight times 'it printed too much'."
    )
    assert not labelled(label), "A container was left behind."


@pytest.mark.docker
@pytest.mark.usefixtures("docker")
def test_a_container_ends_when_its_agent_was_killed(lesson_root: Path, tmp_path: Path) -> None:
    label = f"test={tmp_path}"
    program = (
        f"import asyncio, sandbox; sandbox.GRACE = 1; sandbox.LIMITS += ['--label', {label!r}]\n"
        "asyncio.run(sandbox.run_code_safely('while True: pass', '', 'python:3.13-slim', 5))"
    )
    folder = lesson_root / FOLDER / "templates" / "sandbox"
    agent = subprocess.Popen([sys.executable, "-c", program], cwd=folder)
    started = until(lambda: labelled(label, all_states=False), SECONDS)
    agent.kill()
    agent.wait()
    assert started, "The container did not start."
    assert until(lambda: not labelled(label), SECONDS), "The container outlives its agent."


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
    made = generate(lesson_root, "--name", "alone", "--type", TYPES["debug"], "--output-dir", tmp_path)
    assert made.returncode == 0, f"The generator fails: {made.stderr}"
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
    status = httpx2.get(f"{url}/ready", timeout=10).status_code
    assert status == 503, f"There is no sidecar, and /ready is answered with {status}, not with 503."
    refused = httpx2.post(f"{url}/process", json={"user_id": "ada", "query": "x"}, timeout=10)
    status = refused.status_code
    assert status == 503, f"Without a sidecar a question is answered with {status}, not with 503."
    assert refused.headers.get("retry-after") == "1", "The 503 does not say when to try again."
    assert refused.headers["content-type"] == "application/problem+json", (
        "An error is not sent as application/problem+json."
    )
    processes.stop(process)
