"""Lesson 10's services as processes, each beside a sidecar that stands in: what a caller and Dapr can see."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from dapr.ext.workflow._durabletask.task import CompletableTask, WhenAnyTask
from support.services import Sidecar, generate, http_server, importable, running

from course.polling import until
from course.processes import Processes

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def services(lesson_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all five services."""
    folder = tmp_path_factory.mktemp("services")
    done = generate(lesson_root, "--all", folder)
    assert done.returncode == 0, f"The generator fails: {done.stderr}"
    return folder


@pytest.fixture
def sidecar(lesson_root: Path) -> Sidecar:
    return Sidecar(lesson_root)


@pytest.fixture
def progress(services: Path, sidecar: Sidecar, processes: Processes) -> Iterator[httpx2.Client]:
    """The progress agent."""
    with http_server(sidecar) as port, running(processes, services / "progress", port) as client:
        yield client


def attempt(event_id: str, moment: str = "2026-03-01T12:00:00Z", **more: Any) -> dict[str, Any]:
    data = {"user_id": "ada", "context": {"module": "loops", "score": 1}}
    return {"id": event_id, "time": moment, "topic": "progress.requests", "data": data} | more


def deliver(client: httpx2.Client, event: dict[str, Any]) -> str:
    """Give an event to a service, as Dapr does; returns what the service says about it."""
    answer = client.post("/dapr-subscriber", json=event)
    assert answer.status_code == 200, (
        f"An event is answered with {answer.status_code}, not with SUCCESS, RETRY or DROP."
    )
    status: str = answer.json()["status"]
    return status


def test_health_says_connected_while_the_sidecar_answers_and_no_longer(
    services: Path, sidecar: Sidecar, processes: Processes
) -> None:
    with ExitStack() as stack, ExitStack() as server:
        port = server.enter_context(http_server(sidecar))
        client = stack.enter_context(running(processes, services / "progress", port))
        told = client.get("/health").json()
        assert told == {"status": "healthy", "dapr": "connected"}, (
            f"The sidecar is connected, and the health is {told}."
        )
        server.close()  # the sidecar is gone
        told = client.get("/health").json()
        assert told.get("dapr") != "connected", (
            "The health says that the sidecar is connected, and it is gone."
        )
        assert told.get("status") == "healthy", "A restart of the service brings no sidecar back."
        assert client.get("/ready").status_code == 503, "The sidecar is gone, and /ready is not a 503."


def test_a_slow_model_holds_up_no_other_request(
    services: Path, sidecar: Sidecar, processes: Processes
) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def model(request: httpx2.Request) -> httpx2.Response:
        asked.set()
        may_answer.wait(120)
        return httpx2.Response(500)

    with http_server(sidecar) as port, http_server(model) as model_port:
        env = {"OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1"}
        with running(processes, services / "triage", port, **env) as client, ThreadPoolExecutor() as pool:
            body = {"user_id": "ada", "query": "zzz"}
            waiting = pool.submit(client.post, "/process", json=body, timeout=120)
            try:
                assert asked.wait(60), "The model was not asked."
                httpx2.get(f"{client.base_url}/metrics", timeout=15).raise_for_status()
            except httpx2.ReadTimeout:
                pytest.fail("While one request waited for the model, the service answered no other.")
            finally:
                may_answer.set()
            answer = waiting.result()
            assert answer.status_code == 200 and answer.json()["result"]["by"] == "fallback", (
                "The model failed, and triage did not choose an agent without it."
            )


def test_an_event_is_acknowledged_when_its_work_is_done(progress: httpx2.Client, sidecar: Sidecar) -> None:
    sidecar.stand_in.down = True
    assert deliver(progress, attempt("1")) == "RETRY", (
        "The event was acknowledged, and its work was not done: nobody delivers it again."
    )
    sidecar.stand_in.down = False
    assert deliver(progress, attempt("1")) == "SUCCESS", (
        "The event came again, its work was done, and it was not acknowledged."
    )
    assert "progress:ada" in sidecar.stand_in.state, "The event was acknowledged, and its work was not done."
    attempts = sidecar.stand_in.state["progress:ada"][1]["topics"]["loops"]["attempts"]
    assert attempts == 1, f"One event was counted {attempts} times."


def test_what_follows_from_an_event_is_in_its_learners_order(
    progress: httpx2.Client, sidecar: Sidecar
) -> None:
    assert deliver(progress, attempt("1")) == "SUCCESS", (
        "An event whose work can be done is not acknowledged."
    )
    assert until(sidecar.published), "Nothing follows from the event."
    keys = {each.url.params.get("metadata.partitionKey") for each in sidecar.published()}
    assert keys == {"ada"}, "An event has no partition key, so a learner's events can overtake each other."


def test_the_trace_goes_on_to_the_sidecar(progress: httpx2.Client, sidecar: Sidecar) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    progress.post("/dapr-subscriber", json=attempt("1"), headers={"traceparent": trace}).raise_for_status()
    assert until(sidecar.published), "Nothing follows from the event."
    told = {each.headers.get("traceparent") for each in sidecar.requests if "healthz" not in each.url.path}
    assert told == {trace}, "The sidecar begins a trace of its own, and nobody sees what caused the event."


def test_without_docker_a_submission_is_refused_and_never_runs(
    services: Path, sidecar: Sidecar, processes: Processes, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\ndef total(numbers):\n    return sum(numbers)"
    body = {"user_id": "ada", "query": "grade", "context": {"exercise_id": "loops-total", "code": code}}
    with http_server(sidecar) as port, running(processes, services / "exercise", port, PATH="") as client:
        answer = client.post("/process", json=body)
    assert not ran.exists(), "There is no Docker, and the submission ran on the host."
    assert answer.status_code == 503, (
        f"There is no Docker, and a submission is answered with {answer.status_code}, not with 503."
    )
    assert answer.headers.get("retry-after") == "1", "The 503 does not say when to try again."
    assert not sidecar.stand_in.state, "A submission that did not run was graded."


@pytest.mark.parametrize(
    "event",
    [
        attempt("1", data={"user_id": "../../etc", "query": "x"}),
        attempt("1", data={"user_id": "ada", "query": "x" * 1_000_000}),
        attempt("1", data={"user_id": "ada", "context": {"module": "loops", "score": "NaN"}}),
        attempt("1", data={"user_id": "ada", "context": {"module": "loops", "score": 1, "timezone": "Mars"}}),
        attempt("1", topic="nobody.knows"),
        attempt("1", moment="yesterday"),
        attempt("1", moment="2026-03-01T12:00:00"),
        attempt("x" * 1_000),
        {},
    ],
    ids=["user", "huge", "score", "timezone", "topic", "time", "naive-time", "id", "empty"],
)
def test_an_event_that_no_agent_can_read_is_given_up_and_changes_nothing(
    progress: httpx2.Client, sidecar: Sidecar, event: dict[str, Any]
) -> None:
    assert deliver(progress, event) == "DROP", "An event that never can be handled is delivered again."
    assert not sidecar.stand_in.state and not sidecar.published(), (
        "An event that was given up has changed the state, or something follows from it."
    )


def test_bad_requests_are_refused(progress: httpx2.Client) -> None:
    too_long = {"user_id": "ada", "context": {"code": "x" * 20_001}}
    bodies: list[Any] = [too_long, {"user_id": "a b"}, {}, [], "x"]
    for body in bodies:
        status = progress.post("/process", json=body).status_code
        assert status == 422, f"The body {str(body)[:60]} is answered with {status}, not with 422."
    status = progress.post("/process", content=b"x" * 3_000_000).status_code
    assert status == 413, f"A body of 3 MB is answered with {status}, not with 413."
    told = progress.post("/process", json={"user_id": "nobody"}).json()["response"]
    assert told == "Nothing is known about this learner yet.", (
        f"Asked about an unknown learner, the agent says {told!r}, not that nothing is known."
    )


def test_a_clock_that_is_wrong_ends_no_streak(progress: httpx2.Client) -> None:
    """A sender's clock is years ahead, then goes back; the years 1 and 9999 have no day in some timezones."""
    today = datetime.now(UTC)
    moments = [today - timedelta(days=1), today + timedelta(days=900), today, today - timedelta(days=400)]
    for number, moment in enumerate(moments):
        told = deliver(progress, attempt(str(number), moment.isoformat()))
        assert told == "SUCCESS", f"An attempt at {moment} is answered with {told}, not with SUCCESS."
    edges = {"America/New_York": "0001-01-01T00:00:00Z", "Asia/Tokyo": "9999-12-31T23:59:59Z"}
    for timezone, edge in edges.items():
        data = {"user_id": "ada", "context": {"module": "loops", "score": 1, "timezone": timezone}}
        told = deliver(progress, attempt(timezone, edge, data=data))
        assert told == "SUCCESS", f"An attempt at {edge} is answered with {told}, not with SUCCESS."

    def known() -> Any:
        return progress.post("/process", json={"user_id": "ada"}).json()["result"]

    assert until(lambda: known()["topics"]["loops"]["attempts"] == 6), "An attempt was not counted."
    found = known()
    assert found["streak"] >= 2, "A clock that was ahead, and went back, ended the streak."


# --- The workflow: what it asks for, when it is replayed ---

GRADE = {"exercise_id": "loops-total", "topic": "loops", "score": 1.0}
ANSWERS = {
    "concepts": {"response": "A loop repeats."},
    "exercise": {"response": "Write total.", "result": GRADE},
    "progress": {"result": {"mastery": 0.6}},
}


def new_task() -> CompletableTask[Any]:
    return CompletableTask()  # type: ignore[no-untyped-call]


class Replay:
    """A workflow's context that writes down what the workflow asks for; each step has a stored result."""

    def __init__(self, submits: bool = True) -> None:
        self.submits, self.asked = submits, list[Any]()
        self.instance_id, self.current_utc_datetime = "0" * 32, datetime(2026, 3, 1)
        self.submission, self.timer = new_task(), new_task()

    def set_custom_status(self, status: str) -> None:
        self.asked.append(json.loads(status)["step"])

    def call_activity(self, name: str, *, input: dict[str, Any], retry_policy: Any) -> CompletableTask[Any]:
        self.asked.append((name, input))
        task = new_task()
        task.complete(ANSWERS[input["agent"]])
        return task

    def wait_for_external_event(self, name: str) -> CompletableTask[Any]:
        self.asked.append(("event", name))
        return self.submission

    def create_timer(self, fire_at: datetime | timedelta) -> CompletableTask[Any]:
        self.asked.append(("timer", fire_at))
        return self.timer

    def result(self, task: Any) -> Any:
        if isinstance(task, WhenAnyTask):
            return self.submission if self.submits else self.timer
        return task.get_result()

    def run(self, session: Any) -> Any:
        """The workflow's result."""
        self.submission.complete({"code": "def total(numbers): ..."})
        given = {"user_id": "ada", "module": "loops", "level": "beginner", "timezone": "UTC"}
        flow = session(self, given | {"submit_within_seconds": 60})
        try:
            task = next(flow)
            while True:
                task = flow.send(self.result(task))
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module")
def session(services: Path) -> Any:
    """The workflow."""
    with importable(services / "triage"):
        import session as module  # type: ignore[import-not-found]

        return module.session


def test_a_workflow_asks_for_the_same_when_it_is_replayed(session: Any) -> None:
    first, second = Replay(), Replay()
    result, began = first.run(session), time.time()
    assert until(lambda: time.time() > began + 1.1), "The clock of this machine stands still."
    assert second.run(session) == result, "Replayed later, the workflow has another result than before."
    assert second.asked == first.asked, (
        "Replayed, the workflow asks for other things than before, so the stored results do not fit."
    )
    assert (result["outcome"], result["progress"]) == ("graded", {"mastery": 0.6}), (
        f"A right solution was submitted, and the workflow's result is {result}."
    )


def test_a_session_without_a_submission_withdraws_its_exercise(session: Any) -> None:
    replay = Replay(submits=False)
    outcome = replay.run(session)["outcome"]
    assert outcome == "timed out", f"Without a submission the outcome is {outcome!r}, not 'timed out'."
    query = replay.asked[-1][1]["body"]["query"]
    assert query == "withdraw", f"The session's last request is {query!r}, not to withdraw its exercise."


def test_an_event_that_always_fails_is_given_up_in_the_end(services: Path) -> None:
    """By Dapr's rule, each pause is 1.5 times the one before it, and `maxInterval` at most."""
    spec = yaml.safe_load((services / "components/resiliency.yaml").read_text())["spec"]
    policy = spec["policies"]["retries"][spec["targets"]["components"]["pubsub"]["inbound"]["retry"]]
    assert 0 < policy["maxRetries"] < 1_000, (
        "An event that always fails is delivered for ever, and never comes to the dead letters."
    )
    longest = float(policy["maxInterval"].removesuffix("s"))
    pauses = [min(0.5 * 1.5**number, longest) for number in range(policy["maxRetries"])]
    assert 60 < sum(pauses) < 600, (
        "An event is given up before an agent can be restarted, or holds up those behind it for too long."
    )
