"""The claims of lesson 01, over real HTTP to a real process."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from support.connections import leave_after
from support.problems import assert_problem_document
from support.servers import HUNG, StartServer, calls
from support.streams import assert_ends_with_error, events

from course.errors import CourseError
from course.models import start_model
from course.polling import until
from course.ports import free_port
from course.processes import Processes

QUESTION = "What is a container?"


@pytest.fixture(scope="session")
def start(start_script: Callable[[str], StartServer]) -> StartServer:
    return start_script("code/01_basic_api.py")


@pytest.fixture
def api(start: StartServer) -> Iterator[httpx2.Client]:
    """A client of lesson 01 on the plain offline model."""
    with httpx2.Client(base_url=start(), timeout=20) as client:
        yield client


def answer(api: httpx2.Client, query: str) -> str:
    reply = api.post("/v1/invoke", json={"query": query})
    assert reply.status_code == 200, f"A plain question was answered with {reply.status_code}."
    return str(reply.json()["response"])


def text_of(stream: list[tuple[str, Any]]) -> str:
    pieces = [data for event, data in stream if event == "token"]
    if not all(isinstance(data, dict) and isinstance(data.get("text"), str) for data in pieces):
        pytest.fail('The data of a token event is not {"text": ...}.')
    return "".join(data["text"] for data in pieces)


# --- Answers ---


def test_invoke_answers_with_text_tokens_and_model(api: httpx2.Client) -> None:
    reply = api.post("/v1/invoke", json={"query": QUESTION}).json()
    assert "container" in reply["response"].lower(), "The answer is not about what was asked."
    assert reply["tokens_used"] > 0, "The answer does not say how many tokens it took."
    assert reply["model"] == "offline", "The answer does not say which model gave it."


def test_stream_ends_with_usage_and_done(api: httpx2.Client) -> None:
    stream = events(api.post("/v1/stream", json={"query": QUESTION}))
    kinds = [event for event, _ in stream]
    assert kinds.count("token") > 5, "The answer did not come in pieces."
    assert kinds[-2:] == ["usage", "done"], f"The stream ends with {kinds[-2:]}, not with usage and done."
    assert stream[-1][1] == {"reason": "stop"}, "The last event does not say why the answer ended."


def test_stream_keeps_newlines(api: httpx2.Client) -> None:
    plain = answer(api, QUESTION)
    assert "\n" in plain, "The plain answer has lost its line breaks."
    streamed = text_of(events(api.post("/v1/stream", json={"query": QUESTION})))
    assert streamed == plain, (
        "The streamed text differs from the plain answer: newlines were lost on the way."
    )


def test_stream_keeps_quotation_marks_and_backslashes(api: httpx2.Client) -> None:
    query = "What does textwrap.dedent do?"
    plain = answer(api, query)
    assert "\\" in plain and '"' in plain, (
        f"The example code of this answer has lost its quotation marks or its backslashes: {plain}"
    )
    streamed = text_of(events(api.post("/v1/stream", json={"query": query})))
    assert streamed == plain, (
        "The streamed text differs from the plain answer: a quotation mark or a backslash was changed."
    )


def test_invoke_honours_stream_true(api: httpx2.Client) -> None:
    response = api.post("/v1/invoke", json={"query": QUESTION, "stream": True})
    kind = response.headers["content-type"].partition(";")[0]
    assert kind == "text/event-stream", 'The caller asked for "stream": true and got a plain answer.'
    same = response.text == api.post("/v1/stream", json={"query": QUESTION}).text
    assert same, 'A plain call with "stream": true gets other events than /v1/stream.'


def test_context_reaches_the_model(api: httpx2.Client, offline_model: str) -> None:
    context = {"harbour": "Zeebrugge", "open": True}
    api.post("/v1/invoke", json={"query": "Where do we ship?", "context": context})
    found = calls(offline_model, "Where do we ship?")
    assert found, "The question did not reach the model: the request was refused, or the call has failed."
    told = found[-1]["body"]["messages"][0]["content"]
    assert "Zeebrugge" in told, "The caller gave a context, and the model never saw it."
    try:
        seen = json.loads(told[told.index("{") :])
    except ValueError:
        pytest.fail("The context reaches the model, but not as the JSON that the prompt announces.")
    assert seen == context, f"The model sees another context than the caller gave: {seen}."


# --- Errors ---


@pytest.mark.parametrize("fault", ["500", "429", "malformed", "cut"])
def test_a_failing_model_is_a_502_that_leaks_nothing(start: StartServer, fault: str) -> None:
    with httpx2.Client(base_url=start(MODEL_NAME=f"offline?fault={fault}"), timeout=20) as api:
        told = assert_problem_document(api.post("/v1/invoke", json={"query": QUESTION}), 502)
        assert "Error code" not in told["detail"], "The error shows the text of the model's exception."
        assert_ends_with_error(events(api.post("/v1/stream", json={"query": QUESTION})), 502)


def test_the_models_error_text_stays_in_the_log(start: StartServer) -> None:
    key = "sk-this-key-must-not-leak"
    with httpx2.Client(base_url=start(MODEL_NAME="offline?fault=401", OPENAI_API_KEY=key), timeout=20) as api:
        assert_problem_document(api.post("/v1/invoke", json={"query": QUESTION}), 502)
        for path in ("/v1/invoke", "/v1/stream"):
            seen = api.post(path, json={"query": QUESTION}).text
            assert key not in seen, "The error shows the API key to the caller."
            assert "Error code" not in seen, (
                "The error shows the text of the model's exception to the caller."
            )


def test_a_hung_model_is_a_504(start: StartServer) -> None:
    with httpx2.Client(base_url=start(MODEL_NAME=HUNG, TIMEOUT_SECONDS="0.5"), timeout=10) as api:
        try:
            assert_problem_document(api.post("/v1/invoke", json={"query": QUESTION}), 504)
            stream = events(api.post("/v1/stream", json={"query": QUESTION}))
        except httpx2.TimeoutException:
            pytest.fail(
                "The model hangs, and so does the API: with a deadline of 0.5 s nothing came for 10 s."
            )
        assert_ends_with_error(stream, 504)


def test_a_504_cancels_the_model_call(start: StartServer, offline_model: str) -> None:
    query = "Who still works on what has been given up?"
    reply = httpx2.post(
        f"{start(MODEL_NAME=HUNG, TIMEOUT_SECONDS='0.5')}/v1/invoke", json={"query": query}, timeout=10
    )
    assert_problem_document(reply, 504)
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 10), (
        "The caller has got a 504, and the model still works on the answer."
    )


def test_a_stream_that_drips_is_ended_at_the_deadline(start: StartServer) -> None:
    with httpx2.Client(base_url=start(MODEL_NAME="offline?tps=20", TIMEOUT_SECONDS="0.5"), timeout=10) as api:
        stream = events(api.post("/v1/stream", json={"query": QUESTION}))
    assert len(stream) < 30, "The stream drips on after the deadline."
    assert_ends_with_error(stream, 504)


def test_an_unknown_route_and_a_wrong_method_are_problems_too(api: httpx2.Client) -> None:
    assert_problem_document(api.get("/nowhere"), 404)
    assert_problem_document(api.get("/v1/invoke"), 405)


# --- Clients that leave ---


@pytest.mark.parametrize("path", ["/v1/invoke", "/v1/stream"])
def test_a_client_that_leaves_cancels_the_model_call(
    start: StartServer, offline_model: str, path: str
) -> None:
    query = f"What is a container when somebody leaves {path}?"
    leave_after(start(MODEL_NAME=HUNG), path, query, lambda: calls(offline_model, query))
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 10), (
        "The client has left, and the model still works for it."
    )


def test_leaving_in_the_middle_of_a_stream_cancels_the_model_call(
    start: StartServer, offline_model: str
) -> None:
    query = "What is a container when somebody leaves in the middle of a stream?"
    url = start(MODEL_NAME="offline?tps=2")
    with httpx2.stream("POST", f"{url}/v1/stream", json={"query": query}) as response:
        next(response.iter_lines())
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 10), (
        "The client has left in the middle of a stream, and the model still works for it."
    )


# --- Health ---


def test_health_and_readiness_tell_the_truth_about_the_model(
    start: StartServer, processes: Processes
) -> None:
    port = free_port()
    with httpx2.Client(base_url=start(OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1"), timeout=5) as api:
        assert api.get("/ready").status_code == 503, "The model is dead, and /ready says that all is well."
        assert_problem_document(api.get("/ready"), 503)
        health = api.get("/health")
        assert health.status_code == 200, "This process is alive; a dead model is no reason to restart it."
        assert health.json()["dependencies"] == {"model": "unreachable"}, (
            "The model is dead, and /health does not say so."
        )
        start_model(processes, port)
        assert until(lambda: api.get("/ready").status_code == 200, 20), (
            "The model is back, and /ready does not see it."
        )
        assert api.get("/health").json()["dependencies"] == {"model": "ok"}, (
            "The model is back, and /health does not say so."
        )


def test_health_answers_while_the_model_hangs(start: StartServer) -> None:
    """A listener that never answers stands in for a hung model: the check has a deadline of two seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with httpx2.Client(base_url=start(OPENAI_BASE_URL=base_url), timeout=5) as api:
            began = time.monotonic()
            assert api.get("/health").status_code == 200, "This process is alive, and /health denies it."
            assert time.monotonic() - began < 1.9, (
                "A health check waited for the model; it may await nothing."
            )
            assert_problem_document(api.get("/ready"), 503)


# --- Settings ---


def test_a_bad_setting_stops_the_start_with_one_line(start: StartServer) -> None:
    with pytest.raises(CourseError) as failure:
        start(TIMEOUT_SECONDS="-1")
    (log,) = failure.value.__notes__
    told = "Bad setting TIMEOUT_SECONDS: Input should be greater than 0"
    assert log.strip() == told, f"The start must be refused with this line alone: {told}."


def test_a_busy_port_is_one_clear_line(start: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CourseError) as failure:
        start(PORT=str(taken.getsockname()[1]))
    (log,) = failure.value.__notes__
    assert "address already in use" in log, "A busy port is not named as the reason."
    assert "Traceback" not in log, "A busy port is told with a traceback, not in one line."
