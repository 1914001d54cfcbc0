"""The claims of lesson 03: real signals to real processes, with real requests in flight."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from conftest import assert_heard_during_imports, calls, until
from schemathesis import GenerationMode
from test_01_basic_api import leave_after
from test_01_hostile_input import PROMISES, assert_promises_kept

from course.models import base_environment
from course.processes import Failed, Processes, free_port, wait_ready

QUESTION = "What is a container?"
PACED, SLOW, HUNG = "offline?tps=80", "offline?tps=4", "offline?fault=hang"  # an answer: 1.6 s, 31 s, never


class Server:
    """A running lesson 03, and what to do to it."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", timeout=5)

    def signal(self, sig: int) -> None:
        self.process.send_signal(sig)

    def logged(self, text: str) -> bool:
        return bool(until(lambda: text in self.log.read_text(), 2))

    def exit_code(self, seconds: float, otherwise: str) -> int:
        """The exit code; the test fails with that sentence when there is none by then."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(otherwise)


Start = Callable[..., Server]


@pytest.fixture
def start(processes: Processes, offline_model: str, lesson_root: Path, tmp_path: Path) -> Start:
    """A function that starts the lesson: arguments for its command line, settings by name."""

    def start(*arguments: str, before: tuple[str, ...] = (), **settings: str) -> Server:
        port, log = free_port(), tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
        model = {"OPENAI_BASE_URL": f"{offline_model}/v1", "OPENAI_API_KEY": "offline"}
        env = base_environment() | model | {"MODEL_NAME": PACED, "DRAIN_DELAY_SECONDS": "0"}
        command = [*before, sys.executable, str(lesson_root / "code/03_graceful_shutdown.py"), *arguments]
        with log.open("w") as output:
            env |= {"DRAIN_SECONDS": "10", "PORT": str(port)} | settings
            process = processes.start(command, env=env, cwd=lesson_root, output=output)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_ready(process, f"{url}/health")
        except Failed as failure:
            failure.add_note(log.read_text())
            raise
        return Server(process, url, log)

    return start


class Caller(threading.Thread):
    """Somebody who asks, in a thread: the reply, or the events of a stream; and whether it was cut off."""

    def __init__(self, server: Server, path: str = "/v1/stream", query: str = QUESTION) -> None:
        super().__init__(daemon=True)
        self.url = f"{server.url}{path}"
        self.query = query
        self.events: list[tuple[str, Any]] = []
        self.reply: httpx2.Response | None = None
        self.ended: float | None = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(httpx2.HTTPError):
            with httpx2.stream("POST", self.url, json={"query": self.query}, timeout=60) as reply:
                event = ""
                for line in reply.iter_lines() if self.url.endswith("stream") else ():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        event = value
                    elif name == "data":
                        self.events.append((event, json.loads(value)))
                reply.read() if not self.events else None
            self.reply = reply
        self.ended = time.monotonic()

    def last(self, seconds: float = 20) -> tuple[str, Any]:
        """The stream's last event, when it has ended."""
        self.join(seconds)
        return self.events[-1] if self.events else ("nothing", None)


def streaming(server: Server, count: int = 1) -> list[Caller]:
    """Callers whose streams have all begun."""
    callers = [Caller(server) for _ in range(count)]
    assert until(lambda: all(caller.events for caller in callers)), "The streams do not begin."
    return callers


def asking(server: Server, model: str, query: str) -> Caller:
    """A caller of /v1/invoke whose question has reached the model."""
    caller = Caller(server, "/v1/invoke", query)
    assert until(lambda: calls(model, query)), "The question does not reach the model."
    return caller


def refused(server: Server) -> bool:
    try:
        server.get("/health")
    except httpx2.TransportError:
        return True
    return False


# --- The first signal ---


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_an_idle_server_stops_at_once_and_exits_0(start: Start, sig: int) -> None:
    server = start(DRAIN_DELAY_SECONDS="30")
    server.signal(sig)
    assert (
        server.exit_code(3, "The signal came, nothing was in flight, and 3 s later the server still runs.")
        == 0
    )


def test_an_idle_connection_does_not_hold_up_the_stop(start: Start) -> None:
    server = start()
    with httpx2.Client() as client:
        client.get(f"{server.url}/health")
        server.signal(signal.SIGTERM)
        assert server.exit_code(3, "A connection on which nobody asks anything keeps the server alive.") == 0


def test_not_ready_at_once_but_alive(start: Start) -> None:
    server = start(DRAIN_DELAY_SECONDS="3")
    streaming(server)
    assert server.get("/ready").status_code == 200
    server.signal(signal.SIGTERM)
    server.logged("Stopping")
    ready = server.get("/ready")
    assert ready.status_code == 503, (
        f"SIGTERM has come, and /ready says {ready.status_code}: new requests go on coming here."
    )
    assert ready.headers["content-type"] == "application/problem+json"
    assert ready.headers["retry-after"] == "1"
    assert server.get("/health").status_code == 200, "A server that drains is alive: /health must say 200."


def test_inflight_stream_finishes_after_sigterm(start: Start) -> None:
    server = start()
    (caller,) = streaming(server)
    server.signal(signal.SIGTERM)
    assert caller.last()[0] == "done", "SIGTERM has cut off a stream that had time enough to finish."
    assert server.exit_code(2, "The last stream is finished, and the server still runs.") == 0


def test_inflight_request_finishes_after_sigterm(start: Start, offline_model: str) -> None:
    server = start(MODEL_NAME="offline?ttft=1.5")
    caller = asking(server, offline_model, "What is a drain?")
    server.signal(signal.SIGTERM)
    caller.join(10)
    assert caller.reply is not None, "SIGTERM has cut off a request that had time enough to finish."
    assert caller.reply.status_code == 200
    assert server.exit_code(2, "The last request is answered, and the server still runs.") == 0


def test_new_requests_are_answered_during_the_delay_and_refused_after_it(start: Start) -> None:
    server = start(DRAIN_DELAY_SECONDS="1.2", MODEL_NAME="offline?tps=40")
    (caller,) = streaming(server)
    server.signal(signal.SIGTERM)
    server.logged("Stopping")
    time.sleep(0.3)  # not to wait for anything: a claim about a span of time needs a moment inside it
    try:
        answer = httpx2.post(f"{server.url}/v1/invoke", json={"query": QUESTION}, timeout=10)
    except httpx2.TransportError:
        pytest.fail(
            "A stream was in flight, and new callers were refused at once, before any had noticed the stop."
        )
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close", "A stopping server keeps its callers' connections."
    assert until(lambda: refused(server), 5), "The delay is over, and new connections are still let in."
    assert caller.last()[0] == "done"
    assert server.exit_code(2, "The last stream is finished, and the server still runs.") == 0


# --- The end of the drain ---


def test_streams_left_at_the_end_of_the_drain_get_an_error_event(start: Start) -> None:
    server = start(DRAIN_SECONDS="1", MODEL_NAME=SLOW)
    callers = streaming(server, 5)
    server.signal(signal.SIGTERM)
    for caller in callers:
        event, data = caller.last(5)
        assert event == "error", "The drain ended, and a stream was cut off without a last event."
        assert data["problem"]["status"] == 503
    assert server.exit_code(2, "Every stream has ended, and the server still runs.") == 0


def test_requests_left_at_the_end_of_the_drain_get_a_503(start: Start, offline_model: str) -> None:
    server = start(DRAIN_SECONDS="1", MODEL_NAME=HUNG)
    caller = asking(server, offline_model, "What is a bounded drain?")
    server.signal(signal.SIGTERM)
    assert (
        server.exit_code(3, "The drain of 1 s was over 2 s ago, and the server still waits for a hung model.")
        == 0
    )
    caller.join(2)
    assert caller.reply is not None, "The drain ended, and a request was cut off without an answer."
    status = caller.reply.status_code
    assert status == 503, f"The drain ended, and what was left got a {status} that says nothing of a stop."
    assert caller.reply.headers["retry-after"] == "1"
    assert caller.reply.json()["request_id"] == caller.reply.headers["x-request-id"]


def test_a_client_that_never_ends_its_request_cannot_hold_up_the_stop(start: Start) -> None:
    server = start(DRAIN_SECONDS="0.5")
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /v1/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        half.sendall(b"Content-Length: 100\r\n\r\n{")
        server.get("/health")  # a round trip later, the half request is in flight
        server.signal(signal.SIGTERM)
        assert server.exit_code(3, "Half a request holds up the stop beyond the drain.") == 0


# --- The second signal ---


@pytest.mark.parametrize(
    "first, second, delay", [("TERM", "TERM", 0), ("TERM", "INT", 9), ("INT", "TERM", 9)]
)
def test_a_second_signal_ends_at_once(
    start: Start, offline_model: str, first: str, second: str, delay: int
) -> None:
    query = f"What is {first} followed by {second}?"
    server = start(MODEL_NAME=HUNG, DRAIN_DELAY_SECONDS=str(delay))
    callers = [Caller(server, path, query) for path in ("/v1/stream", "/v1/invoke")]
    assert until(lambda: len(calls(offline_model, query)) == 2), "The questions do not reach the model."
    first_signal, last_signal = signal.Signals[f"SIG{first}"], signal.Signals[f"SIG{second}"]
    server.signal(first_signal)
    assert server.logged("Stopping"), "The first signal was not noticed."
    server.signal(last_signal)
    code = server.exit_code(2, f"A second signal, SIG{second}, came, and 2 s later the server still runs.")
    assert code == 128 + last_signal, "The end was forced, and the exit code does not say so."
    for caller in callers:
        caller.join(2)
        assert caller.reply is None or not caller.events
    states = until(lambda: [c["state"] for c in calls(offline_model, query)] == ["cancelled"] * 2, 2)
    assert states, "The server is gone, and the model still works for it."


# --- Several processes ---


def family(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def alive(family: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("count, to", [("2", "the parent"), ("4", "the whole group, as Ctrl-C does")])
def test_all_workers_drain(start: Start, count: str, to: str) -> None:
    server = start("--workers", count, DRAIN_DELAY_SECONDS="0.5", MODEL_NAME="offline?tps=60")
    workers = family(server)
    callers = streaming(server, 8)
    if to == "the parent":
        server.signal(signal.SIGTERM)
    else:
        os.killpg(server.process.pid, signal.SIGINT)
    for caller in callers:
        assert caller.last()[0] == "done", "The stop has cut off a stream of one of the workers."
    assert server.exit_code(3, "The workers have drained, and their parent still runs.") == 0
    assert until(lambda: not alive(workers), 2) or not alive(workers), "A worker has outlived its parent."


def test_a_second_signal_to_the_parent_ends_all_workers(start: Start, offline_model: str) -> None:
    query = "What are two signals to two workers?"
    server = start("--workers", "2", MODEL_NAME=HUNG)
    workers = family(server)
    Caller(server, query=query)
    assert until(lambda: calls(offline_model, query)), "The question does not reach the model."
    server.signal(signal.SIGTERM)
    assert server.logged("Stopping"), "The first signal was not noticed."
    server.signal(signal.SIGTERM)
    assert server.exit_code(2, "A second signal came, and 2 s later the workers' parent still runs.") == 143
    assert until(lambda: not alive(workers), 2), "A worker has outlived its parent."
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 2), "The model still works."


def test_workers_whose_parent_is_killed_drain_and_end(start: Start) -> None:
    server = start("--workers", "2")
    workers = family(server)
    callers = streaming(server, 2)
    server.signal(signal.SIGKILL)
    for caller in callers:
        assert caller.last()[0] == "done", "The parent was killed, and a stream was cut off with it."
    assert until(lambda: not alive(workers), 3), "The parent was killed, and its workers run on for ever."


def test_a_worker_that_dies_unasked_stops_the_others_and_fails(start: Start) -> None:
    server = start("--workers", "2")
    max(family(server), key=lambda process: process.memory_info().rss).kill()
    assert server.exit_code(5, "A worker has died, and the rest goes on as if nothing were amiss.") == 1


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="a process 1 of one's own needs root and unshare"
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_process_1_drains_too(start: Start, workers: str) -> None:
    """The kernel drops signals to process 1 that it has no handler for: a default action never happens."""
    try:
        server = start("--workers", workers, before=("unshare", "--pid", "--fork", "--kill-child"))
    except Failed:
        pytest.skip("this machine does not let even root have a process 1")
    (caller,) = streaming(server)
    (process_1,) = psutil.Process(server.process.pid).children()
    process_1.send_signal(signal.SIGTERM)
    assert caller.last()[0] == "done", "Process 1 got SIGTERM, and cut off a stream."
    assert server.exit_code(3, "Process 1 got SIGTERM, has finished its work, and still runs.") == 0


# --- Answers, errors and settings ---


def test_a_stop_is_heard_while_the_program_still_starts(lesson_root: Path, tmp_path: Path) -> None:
    assert_heard_during_imports(lesson_root / "code/03_graceful_shutdown.py", tmp_path)


def test_answers_and_errors_keep_their_form(start: Start) -> None:
    server = start(MODEL_NAME="offline", TIMEOUT_SECONDS="5")
    caller = Caller(server)
    assert [event for event, _ in [*caller.events, caller.last()]][-1] == "done"
    assert [event for event, _ in caller.events].count("token") > 5
    assert caller.events[-2][0] == "usage"
    answer = httpx2.post(f"{server.url}/v1/invoke", json={"query": QUESTION}).json()
    assert set(answer) == {"response", "tokens_used", "model"}
    for reply, status in (
        (httpx2.post(f"{server.url}/v1/invoke", json={"query": ""}), 422),
        (server.get("/nowhere"), 404),
    ):
        assert reply.status_code == status
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["request_id"] == reply.headers["x-request-id"]


@PROMISES
def test_no_answer_is_one_that_openapi_does_not_promise(
    start: Start, path: str, method: str, mode: GenerationMode
) -> None:
    assert_promises_kept(start(MODEL_NAME="offline").url, path, method, mode)


@pytest.mark.parametrize("path", ["/v1/invoke", "/v1/stream"])
def test_a_client_that_leaves_cancels_the_model_call(start: Start, offline_model: str, path: str) -> None:
    query = f"Does 03 notice that nobody listens on {path}?"
    leave_after(start(MODEL_NAME=HUNG).url, path, query, lambda: calls(offline_model, query))
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", 2), (
        "The client has left, and the model still works for it."
    )


@pytest.mark.parametrize("fault, status", [("hang", 504), ("cut", 502)])
def test_a_failing_model_is_told(start: Start, fault: str, status: int) -> None:
    server = start(MODEL_NAME=f"offline?fault={fault}", TIMEOUT_SECONDS="0.5")
    reply = httpx2.post(f"{server.url}/v1/invoke", json={"query": QUESTION})
    assert reply.status_code == reply.json()["status"] == status
    event, data = Caller(server).last()
    assert (event, data["problem"]["status"]) == ("error", status)


def test_a_bad_setting_stops_the_start_with_one_line(start: Start) -> None:
    with pytest.raises(Failed) as failure:
        start(DRAIN_SECONDS="-1")
    (log,) = failure.value.__notes__
    assert log.strip() == "Bad setting DRAIN_SECONDS: Input should be greater than or equal to 0"
