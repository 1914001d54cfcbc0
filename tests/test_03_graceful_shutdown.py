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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from schemathesis import GenerationMode
from support.connections import assert_headers_are_bounded, assert_probes_take_head, leave_after
from support.forked_programs import StartPython
from support.openapi import OPERATIONS, assert_openapi_holds, assert_responses_match_openapi
from support.problems import assert_problem
from support.servers import assert_sigterm_works_during_imports, calls

from course.errors import CourseError
from course.models import base_environment
from course.polling import until
from course.processes import Processes, wait_listening, wait_ready

QUESTION = "What is a container?"
SOON = 20  # seconds that a busy machine may take for what needs a moment; less than the drain of 40
PACED, SLOW, HUNG = "offline?tps=80", "offline?tps=4", "offline?fault=hang"  # an answer: 1.6 s, 31 s, never


class Server:
    """A running lesson 03, with methods that signal it and ask it."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", timeout=SOON)

    def signal(self, sig: int) -> None:
        self.process.send_signal(sig)

    def logged(self, text: str) -> bool:
        return bool(until(lambda: text in self.log.read_text(), SOON))

    def stop_begins(self, sig: int | None = None) -> None:
        self.signal(sig or signal.SIGTERM)
        assert self.logged("Stopping"), "The signal came, and the server does not begin to stop."

    def exit_code(self, otherwise: str, seconds: float = SOON) -> int:
        """Return the exit code; if the server still runs then, fail with the sentence `otherwise`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(otherwise)

    def exits_0(self, otherwise: str) -> None:
        code = self.exit_code(otherwise)
        assert code == 0, f"The server has stopped as asked, and its exit code {code} tells of a failure."

    def in_flight(self, count: int) -> bool:
        """Wait until /health says that `count` requests are in flight; return whether it does."""
        return bool(until(lambda: self.get("/health").json().get("in_flight") == count, SOON))


Start = Callable[..., Server]


@pytest.fixture
def start(
    processes: Processes, start_python: StartPython, offline_model: str, lesson_root: Path, tmp_path: Path
) -> Iterator[Start]:
    """A function that starts the lesson: arguments for its command line, settings by name."""
    started = []

    def start(*arguments: str, before: tuple[str, ...] = (), **settings: str) -> Server:
        log = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
        model = {"OPENAI_BASE_URL": f"{offline_model}/v1", "OPENAI_API_KEY": "offline"}
        env = base_environment() | model | {"MODEL_NAME": PACED}
        env |= {"DRAIN_SECONDS": "40", "TIMEOUT_SECONDS": "60", "PORT": "0"} | settings
        program = [str(lesson_root / "code/03_graceful_shutdown.py"), *arguments]
        if before:
            with log.open("w") as output:
                command = [*before, sys.executable, *program]
                process = processes.start(command, env=env, cwd=lesson_root, output=output)
        else:
            process = start_python(program, env, lesson_root, log)
        started.append(process)
        try:
            url = wait_listening(process)
            wait_ready(process, f"{url}/health", 120)  # workers have still to import
        except CourseError as failure:
            failure.add_note(log.read_text())
            raise
        return Server(process, url, log)

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        processes.stop(process)


class Caller(threading.Thread):
    """A client in a thread. Holds its reply, or the events of its stream, and when it ended."""

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
                if reply.status_code == 200 and self.url.endswith("stream"):
                    for event in httpx2.EventSource(reply):
                        self.events.append((event.event, json.loads(event.data)))
                else:
                    reply.read()
            self.reply = reply
        self.ended = time.monotonic()

    def last(self, seconds: float = 60) -> tuple[str, Any]:
        """Wait for the end of the stream and return its last event."""
        self.join(seconds)
        return self.events[-1] if self.events else ("nothing", None)


def streaming(server: Server, count: int = 1) -> list[Caller]:
    """Start `count` callers and wait until all their streams have begun."""
    callers = [Caller(server) for _ in range(count)]
    assert until(lambda: all(caller.events for caller in callers), SOON), "The streams do not begin."
    return callers


def asking(server: Server, model: str, query: str) -> Caller:
    """Start a caller of /v1/invoke and wait until its question has reached the model."""
    caller = Caller(server, "/v1/invoke", query)
    assert until(lambda: calls(model, query), SOON), "The question does not reach the model."
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
    server = start()
    server.signal(sig)
    server.exits_0("The signal came, nothing was in flight, and the server still runs.")


def test_new_requests_are_answered_during_the_delay(start: Start) -> None:
    """An idle server must answer, too: a proxy may send its next request at any moment."""
    server = start(DRAIN_DELAY_SECONDS="60", MODEL_NAME="offline")
    server.stop_begins()
    try:
        answer = httpx2.post(f"{server.url}/v1/invoke", json={"query": QUESTION}, timeout=20)
    except httpx2.TransportError:
        pytest.fail("The server was idle, and refused new callers before a proxy could notice the stop.")
    assert answer.status_code == 200, f"A request during the delay was answered with {answer.status_code}."
    assert answer.headers.get("connection") == "close", "A stopping server keeps its callers' connections."


def test_an_idle_connection_does_not_hold_up_the_stop(start: Start) -> None:
    server = start()
    with httpx2.Client() as client:
        client.get(f"{server.url}/health")
        server.signal(signal.SIGTERM)
        server.exits_0("A connection on which nobody asks anything keeps the server alive.")


def test_not_ready_at_once_but_alive(start: Start) -> None:
    server = start(DRAIN_DELAY_SECONDS="30")
    assert server.get("/ready").status_code == 200, "A server that serves says that it is not ready."
    server.stop_begins()
    ready = server.get("/ready")
    assert ready.status_code == 503, (
        f"SIGTERM has come, and /ready says {ready.status_code}: new requests go on coming here."
    )
    kind = ready.headers.get("content-type")
    assert kind == "application/problem+json", "The 503 is not sent as a problem."
    assert ready.headers.get("retry-after") == "1", "The 503 does not say when to try again."
    assert server.get("/health").status_code == 200, "A server that drains is alive: /health must say 200."


def test_inflight_stream_finishes_after_sigterm(start: Start) -> None:
    server = start()
    (caller,) = streaming(server)
    server.signal(signal.SIGTERM)
    assert caller.last()[0] == "done", "SIGTERM has cut off a stream that had time enough to finish."
    server.exits_0("The last stream is finished, and the server still runs.")


def test_inflight_request_finishes_after_sigterm(start: Start, offline_model: str) -> None:
    server = start(MODEL_NAME="offline?ttft=1.5")
    caller = asking(server, offline_model, "What is a drain?")
    server.signal(signal.SIGTERM)
    caller.join(20)
    assert caller.reply is not None, "SIGTERM has cut off a request that had time enough to finish."
    assert caller.reply.status_code == 200, (
        f"SIGTERM came, and a request that had time enough was answered with {caller.reply.status_code}."
    )
    server.exits_0("The last request is answered, and the server still runs.")


def test_a_stream_counts_until_its_last_byte(start: Start) -> None:
    server = start(MODEL_NAME="offline?tps=40")
    (caller,) = streaming(server)
    assert server.get("/health").json().get("in_flight") == 1, (
        "A stream is under way, and /health does not count it: a script that waits for 0 kills it."
    )
    assert caller.last()[0] == "done", "The stream does not come to its end."
    assert server.in_flight(0), "The only stream is finished, and /health still counts it as in flight."


@pytest.mark.parametrize("path", ["/v1/invoke", "/v1/stream"])
def test_a_reader_who_leaves_is_no_longer_counted(start: Start, path: str) -> None:
    server = start(MODEL_NAME=HUNG)
    leave_after(server.url, path, "Who counts those who leave?", lambda: server.in_flight(1))
    assert server.in_flight(0), "A reader has left, and is still counted as in flight."


def test_new_connections_are_refused_after_the_delay(start: Start) -> None:
    server = start(DRAIN_DELAY_SECONDS="0.5", MODEL_NAME="offline?tps=20")
    (caller,) = streaming(server)
    server.stop_begins()
    assert until(lambda: refused(server), SOON), "The delay is over, and new connections are still let in."
    assert caller.last()[0] == "done", "A stream that had time enough to finish was cut off."
    server.exits_0("The last stream is finished, and the server still runs.")


# --- The end of the drain ---


def test_streams_left_at_the_end_of_the_drain_get_an_error_event(start: Start) -> None:
    server = start(DRAIN_SECONDS="1", MODEL_NAME=SLOW)
    callers = streaming(server, 5)
    server.signal(signal.SIGTERM)
    for caller in callers:
        event, data = caller.last()
        assert event == "error", "The drain ended, and a stream was cut off without a last event."
        status = data["problem"]["status"]
        assert status == 503, f"A stream ended by the stop tells of a {status}, not of a 503."
    server.exits_0("Every stream has ended, and the server still runs.")


def test_requests_left_at_the_end_of_the_drain_get_a_503(start: Start, offline_model: str) -> None:
    server = start(DRAIN_SECONDS="1", MODEL_NAME=HUNG)
    caller = asking(server, offline_model, "What is a bounded drain?")
    server.signal(signal.SIGTERM)
    server.exits_0("The drain of 1 s is long over, and the server still waits for a hung model.")
    caller.join(SOON)
    assert caller.reply is not None, "The drain ended, and a request was cut off without an answer."
    status = caller.reply.status_code
    assert status == 503, f"The drain ended, and what was left got a {status} that says nothing of a stop."
    assert caller.reply.headers.get("retry-after") == "1", "The 503 does not say when to try again."
    assert caller.reply.json().get("request_id") == caller.reply.headers.get("x-request-id", ""), (
        "The 503 does not carry the request's id."
    )


def test_a_client_that_never_ends_its_request_cannot_hold_up_the_stop(start: Start) -> None:
    server = start(DRAIN_SECONDS="0.5")
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /v1/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        half.sendall(b"Content-Length: 100\r\n\r\n{")
        assert server.in_flight(1), "Half a request is under way, and /health does not count it."
        server.signal(signal.SIGTERM)
        server.exits_0("Half a request holds up the stop beyond the drain.")


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
    reached = until(lambda: len(calls(offline_model, query)) == 2, SOON)
    assert reached, "The questions do not reach the model."
    first_signal, last_signal = signal.Signals[f"SIG{first}"], signal.Signals[f"SIG{second}"]
    server.stop_begins(first_signal)
    server.signal(last_signal)
    code = server.exit_code(f"A second signal, SIG{second}, came, and the server still runs.")
    assert code == 128 + last_signal, (
        f"A second SIG{second} forced the end, and the exit code {code} hides it."
    )
    for caller in callers:
        caller.join(SOON)
        assert not caller.events, "The model never answered, and a caller was told something."
    states = until(lambda: [c["state"] for c in calls(offline_model, query)] == ["cancelled"] * 2, SOON)
    assert states, "The server is gone, and the model still works for it."


# --- Several processes ---


def descendants(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("count, to", [("2", "the parent"), ("4", "the whole group, as Ctrl-C does")])
def test_all_workers_drain(start: Start, count: str, to: str) -> None:
    server = start("--workers", count, DRAIN_DELAY_SECONDS="0.5", MODEL_NAME="offline?tps=60")
    workers = descendants(server)
    callers = streaming(server, 8)
    if to == "the parent":
        server.signal(signal.SIGTERM)
    else:
        os.killpg(server.process.pid, signal.SIGINT)
    for caller in callers:
        assert caller.last()[0] == "done", "The stop has cut off a stream of one of the workers."
    server.exits_0("The workers have drained, and their parent still runs.")
    assert until(lambda: not alive(workers), SOON), "A worker has outlived its parent."


def test_a_second_signal_to_the_parent_ends_all_workers(start: Start, offline_model: str) -> None:
    query = "What are two signals to two workers?"
    server = start("--workers", "2", MODEL_NAME=HUNG)
    workers = descendants(server)
    Caller(server, query=query)
    assert until(lambda: calls(offline_model, query), SOON), "The question does not reach the model."
    server.stop_begins()
    server.signal(signal.SIGTERM)
    code = server.exit_code("A second signal came, and the workers' parent still runs.")
    assert code == 143, f"A second SIGTERM forced the end, and the parent's exit code {code} hides it."
    assert until(lambda: not alive(workers), SOON), "A worker has outlived its parent."
    states = until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", SOON)
    assert states, "The server is gone, and the model still works for it."


def test_a_second_signal_while_the_first_is_handled_ends_all_workers(
    start: Start, offline_model: str, tmp_path: Path
) -> None:
    """The workers notice that the parent's pipe is closed before the parent has returned from closing it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, time\n"
        "from multiprocessing.connection import Connection\n"
        "Connection._close = lambda pipe: (os.close(pipe.fileno()), time.sleep(2))\n"
    )
    query = "What is a second signal in the middle of the first?"
    server = start("--workers", "2", before=("env", f"PYTHONPATH={site}"), MODEL_NAME=HUNG)
    Caller(server, query=query)
    assert until(lambda: calls(offline_model, query), SOON), "The question does not reach the model."
    server.stop_begins()
    server.signal(signal.SIGTERM)
    code = server.exit_code("A second signal came during the first, and the workers' parent still runs.")
    assert code == 143, f"A second SIGTERM forced the end, and the parent's exit code {code} hides it."


def test_workers_whose_parent_is_killed_drain_and_end(start: Start) -> None:
    server = start("--workers", "2")
    workers = descendants(server)
    callers = streaming(server, 2)
    server.signal(signal.SIGKILL)
    for caller in callers:
        assert caller.last()[0] == "done", "The parent was killed, and a stream was cut off with it."
    assert until(lambda: not alive(workers), SOON), "The parent was killed, and its workers run on for ever."


def test_a_worker_that_dies_stops_the_others_and_the_exit_code_is_1(start: Start) -> None:
    server = start("--workers", "2")
    max(descendants(server), key=lambda process: process.memory_info().rss).kill()
    code = server.exit_code("A worker has died, and the rest goes on as if nothing were amiss.")
    assert code == 1, (
        f"A worker exited before a signal arrived, and the exit code {code} does not report a failure."
    )


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="a process 1 of one's own needs root and unshare"
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_process_1_drains_too(start: Start, workers: str) -> None:
    """The kernel drops signals to process 1 that it has no handler for: a default action never happens."""
    try:
        server = start("--workers", workers, before=("unshare", "--pid", "--fork", "--kill-child"))
    except CourseError:
        pytest.skip("this machine does not let even root have a process 1")
    (caller,) = streaming(server)
    (process_1,) = psutil.Process(server.process.pid).children()
    process_1.send_signal(signal.SIGTERM)
    assert caller.last()[0] == "done", "Process 1 got SIGTERM, and cut off a stream."
    server.exits_0("Process 1 got SIGTERM, has finished its work, and still runs.")


# --- Answers, errors and settings ---


def test_a_stop_is_heard_while_the_program_still_starts(lesson_root: Path, tmp_path: Path) -> None:
    assert_sigterm_works_during_imports(lesson_root / "code/03_graceful_shutdown.py", tmp_path)


def test_answers_and_errors_keep_their_form(start: Start) -> None:
    server = start(MODEL_NAME="offline")
    caller = Caller(server)
    assert caller.last()[0] == "done", "The stream does not end with done."
    assert [event for event, _ in caller.events].count("token") > 5, "The answer did not come in pieces."
    assert caller.events[-2][0] == "usage", "The stream does not say how many tokens it took."
    answer = httpx2.post(f"{server.url}/v1/invoke", json={"query": QUESTION}, timeout=20).json()
    assert set(answer) == {"response", "tokens_used", "model"}, f"The answer has other fields: {set(answer)}."
    for reply, status in (
        (httpx2.post(f"{server.url}/v1/invoke", json={"query": ""}, timeout=20), 422),
        (server.get("/nowhere"), 404),
    ):
        assert_problem(reply, status)


def test_probes_answer_head_and_a_405_names_it(start: Start) -> None:
    assert_probes_take_head(start(MODEL_NAME="offline").url, "/health", "/ready")


def test_openapi_is_valid(start: Start) -> None:
    assert_openapi_holds(start(MODEL_NAME="offline").url)


def test_headers_of_17_mb_are_refused_without_reading_them(start: Start) -> None:
    assert_headers_are_bounded(start(MODEL_NAME="offline").url)


@OPERATIONS
def test_every_response_matches_the_openapi_document(
    start: Start, path: str, method: str, mode: GenerationMode
) -> None:
    assert_responses_match_openapi(start(MODEL_NAME="offline").url, path, method, mode)


@pytest.mark.parametrize("path", ["/v1/invoke", "/v1/stream"])
def test_a_client_that_leaves_cancels_the_model_call(start: Start, offline_model: str, path: str) -> None:
    query = f"Does 03 notice that nobody listens on {path}?"
    leave_after(start(MODEL_NAME=HUNG).url, path, query, lambda: calls(offline_model, query))
    assert until(lambda: calls(offline_model, query)[0]["state"] == "cancelled", SOON), (
        "The client has left, and the model still works for it."
    )


@pytest.mark.parametrize("fault, seconds, status", [("hang", "0.5", 504), ("cut", "60", 502)])
def test_a_failing_model_is_a_502_and_a_hung_one_a_504(
    start: Start, fault: str, seconds: str, status: int
) -> None:
    server = start(MODEL_NAME=f"offline?fault={fault}", TIMEOUT_SECONDS=seconds)
    reply = httpx2.post(f"{server.url}/v1/invoke", json={"query": QUESTION}, timeout=20)
    assert_problem(reply, status)
    event, data = Caller(server).last()
    assert event == "error", f"The model fails, and the stream ends with {event!r}."
    assert data["problem"]["status"] == status, f"The stream tells of another failure than {status}: {data}."


def test_a_bad_setting_stops_the_start_with_one_line(start: Start) -> None:
    with pytest.raises(CourseError) as failure:
        start(DRAIN_SECONDS="-1")
    (log,) = failure.value.__notes__
    told = "Bad setting DRAIN_SECONDS: Input should be greater than or equal to 0"
    assert log.strip() == told, f"The start must be refused with this line alone: {told}."
