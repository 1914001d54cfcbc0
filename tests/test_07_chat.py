"""Lesson 07: in a chat, the model calls the tools that run in containers."""

import signal
from typing import Any

import httpx2
import pytest
from support.container_tools import cancelled_calls, ends, renamed_sleep, runs, unique
from support.problems import assert_problem
from support.servers import Server, StartServer, assert_ends_with_zero
from support.streams import assert_ends_with_error, events, read_events

from course.polling import until

pytestmark = [pytest.mark.dagger, pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def start(container_tools: StartServer) -> StartServer:
    return container_tools


def chat(server: Server, message: str) -> dict[str, Any]:
    response = httpx2.post(f"{server}/chat", json={"message": message}, timeout=100)
    assert response.status_code == 200, (
        f"A message to /chat is answered with {response.status_code}, not 200:\n{response.text}"
    )
    answer: dict[str, Any] = response.json()
    return answer


def stream(server: Server, message: str) -> list[tuple[str, Any]]:
    body = {"message": message, "stream": True}
    with httpx2.stream("POST", f"{server}/chat", json=body, timeout=100) as response:
        return events(response)


def python(code: str) -> str:
    return f'Run the Python code "{code}"'


def test_the_model_runs_code_and_the_reply_lists_the_call(server: Server) -> None:
    answer = chat(server, python("print(2 ** 64)"))
    assert answer["calls"], f"The model is to run code, and the reply lists no call: {answer['response']!r}."
    call = answer["calls"][0]
    assert (call["n"], call["tool"], call["input"]) == (1, "run_python", {"code": "print(2 ** 64)"}), (
        f"The reply does not list the call as number 1, of run_python, with the code that was sent: {call}."
    )
    assert call["outcome"] == {"printed": "18446744073709551616\n"}, (
        f"The code prints 2 ** 64, and the reply gives the outcome {call['outcome']}."
    )
    assert call["seconds"] > 0, f"The reply says that the call took {call['seconds']} seconds."
    assert "18446744073709551616" in answer["response"], (
        f"The model's answer does not say what the code printed: {answer['response']!r}."
    )
    tokens = answer["usage"]["prompt_tokens"]
    assert tokens > 0, f"The model read a prompt, and the usage counts {tokens} prompt tokens."


def test_a_failing_tool_is_an_outcome_and_the_chat_goes_on(server: Server) -> None:
    answer = chat(server, python("1 / 0"))
    assert answer["calls"], f"The model is to run code, and the reply lists no call: {answer['response']!r}."
    outcome = answer["calls"][0]["outcome"]
    assert outcome.get("exit_code") == 1, f"The code divides by zero, and the outcome is {outcome}."
    assert "ZeroDivisionError" in outcome["stderr"], (
        f"The outcome does not show the ZeroDivisionError: {outcome['stderr']!r}."
    )
    assert answer["response"], "The tool failed, and the chat ends without an answer of the model."


def test_a_chat_without_tools_calls_none(server: Server) -> None:
    answer = chat(server, "What is a container?")
    assert answer["calls"] == [], f"The question needs no tool, and the reply lists calls: {answer['calls']}."
    assert "container" in answer["response"].lower(), (
        f"The question is about containers, and the answer mentions none: {answer['response']!r}."
    )


def test_the_stream_has_a_step_for_each_call_and_ends_with_done(server: Server) -> None:
    got = stream(server, python("print(6 * 7)"))
    kinds = [kind for kind, _ in got]
    assert {"step", "token"} <= set(kinds), f"The stream has no step, or no token of the answer: {kinds}."
    step = dict(got)["step"]
    assert step["outcome"] == {"printed": "42\n"}, (
        f"The code prints 42, and the step has the outcome {step['outcome']}."
    )
    assert kinds.index("step") < kinds.index("token"), "The answer came before the tool's result."
    assert "usage" in kinds, "The stream has no usage event."
    assert got[-1] == ("done", {"reason": "stop"}), (
        f"The stream ends with {got[-1]}, not with done and the reason stop."
    )


def test_with_no_steps_left_the_model_gets_no_tools(start: StartServer) -> None:
    calls = chat(start(MAX_STEPS="0"), python("print(6 * 7)"))["calls"]
    assert calls == [], f"MAX_STEPS is 0, and the reply lists calls of tools: {calls}."


def test_a_failing_model_is_a_502_and_in_a_stream_an_error_event(
    start: StartServer, closed_port: int
) -> None:
    server = start(OPENAI_BASE_URL=f"http://127.0.0.1:{closed_port}/v1")
    assert_problem(httpx2.post(f"{server}/chat", json={"message": "Hello"}, timeout=60), 502)
    assert_ends_with_error(stream(server, "Hello"), 502)


def test_a_slow_model_is_a_504(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?fault=hang", TIMEOUT_SECONDS="1")
    assert_problem(httpx2.post(f"{server}/chat", json={"message": "Hello"}, timeout=60), 504)
    assert_ends_with_error(stream(server, "Hello"), 504)


def test_an_answer_that_breaks_off_is_an_error(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?fault=drop")
    assert_ends_with_error(stream(server, "What is a container?"), 502)


def test_a_stream_that_outlasts_the_drain_ends_with_an_error_event(start: StartServer) -> None:
    server = start(MODEL_NAME="offline?tps=1", DRAIN_SECONDS="1")
    body = {"message": "What is a container?", "stream": True}
    with httpx2.stream("POST", f"{server}/chat", json=body, timeout=100) as response:
        stream = read_events(response)
        first = next(stream)
        server.process.send_signal(signal.SIGTERM)
        try:
            *_, last = first, *stream
        except httpx2.TransportError:
            pytest.fail("The drain is over, and a stream was cut off without a last event.")
    assert last.type == "error", f"The drain is over, and the last event of a stream is {last.type!r}."
    status = last.data["problem"]["status"]
    assert status == 503, f"The drain is over, and the stream's error has status {status}, not 503."
    assert_ends_with_zero(server)


def test_a_reader_who_leaves_cancels_the_tool_call(server: Server) -> None:
    word = unique()
    before = cancelled_calls(server)
    body = {"message": python(renamed_sleep(word).replace('"', "'")), "stream": True}
    with httpx2.stream("POST", f"{server}/chat", json=body, timeout=100):
        assert until(lambda: runs(word), 60), "The tool was not called."
    assert until(lambda: cancelled_calls(server) > before, 20), (
        "The reader has left, and the server does not count its tool's call as cancelled."
    )
    assert ends(word), "The reader has left, and the script runs on."
