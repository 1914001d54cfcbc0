"""The circuit breaker: while the model fails, new runs are refused, except one trial at a time."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from support.problems import assert_problem
from support.research import ask
from support.servers import Server, StartServer, calls, metrics

from course.models import start_model
from course.polling import until
from course.processes import Processes

OPEN = ("agent_model_circuit_open",)
IN_A_ROW = 3


@pytest.fixture
def model() -> Iterator[tuple[Processes, str]]:
    """An offline model of its own for this test, which may stop it."""
    with Processes() as processes:
        yield processes, start_model(processes)


def agent(research_agent: StartServer, url: str, **settings: str) -> Server:
    """Start an agent on this model. Its circuit opens after three failures and allows a trial each second."""
    circuit = {"CIRCUIT_FAILURES": str(IN_A_ROW), "CIRCUIT_SECONDS": "1", "MODEL_RETRIES": "0"}
    circuit["RATE_LIMIT_RPM"] = "100000"  # tests ask as fast as they can
    return research_agent(**({"OPENAI_BASE_URL": f"{url}/v1"} | circuit | settings))


def open_circuit(server: Server) -> None:
    for n in range(IN_A_ROW):
        assert_problem(ask(server, f"Does failure {n} open the circuit?"), 502)


def test_a_model_that_is_down_is_asked_no_more_and_asked_again_when_it_is_back(
    research_agent: StartServer, model: tuple[Processes, str]
) -> None:
    processes, url = model
    server = agent(research_agent, url)
    assert_answered(server, "Is the circuit closed?")
    assert metrics(server)[OPEN] == 0, "The circuit is closed, and its metric says that it is open."
    processes.stop(processes.running[-1])
    open_circuit(server)
    # One run a second is a trial. All others are refused.
    replies = [ask(server, f"Is the circuit open, {n}?") for n in range(5)]
    refused = [reply for reply in replies if reply.status_code == 503]
    assert refused, "The model has failed three times in a row, and is asked again."
    assert_problem(refused[0], 503)
    wait = refused[0].headers.get("Retry-After")
    assert wait == "1", f"A refused client may try again in a second, and Retry-After says {wait}."
    assert metrics(server)[OPEN] == 1, "The circuit is open, and its metric says that it is closed."
    assert ask(server, "Is the circuit closed?").status_code == 200, (
        "An answer that is known already was refused, though no model was needed."
    )
    start_model(processes, int(url.rpartition(":")[2]))
    assert until(lambda: ask(server, "Is the model back?").status_code == 200, 30), (
        "The model is back, and runs are still refused."
    )
    assert metrics(server)[OPEN] == 0, "The model is back, and the circuit's metric says that it is open."
    assert_answered(server, "And is it closed for everybody?")


def assert_answered(server: Server, query: str) -> None:
    status = ask(server, query).status_code
    assert status == 200, f"The model is well, and a run ends with {status}."


def test_only_one_run_tries_while_the_circuit_is_open(research_agent: StartServer, closed_port: int) -> None:
    nobody = f"http://127.0.0.1:{closed_port}"
    server = agent(research_agent, nobody)
    open_circuit(server)
    assert until(lambda: ask(server, "Is it time for a trial?").status_code == 502, 30), (
        "The circuit stays open for ever: no trial run checks whether the model is back."
    )

    def crowd() -> list[int]:
        with ThreadPoolExecutor(4) as pool:
            return sorted(pool.map(lambda n: ask(server, f"Who tries, {n}?").status_code, range(4)))

    seconds, statuses = 0.0, [503]
    deadline = time.monotonic() + 30
    while 502 not in statuses and time.monotonic() < deadline:
        began = time.monotonic()
        statuses = crowd()
        seconds = time.monotonic() - began
    trials = statuses.count(502)
    assert trials, "The circuit stays open for ever: no trial run checks whether the model is back."
    assert trials <= 1 + seconds, (  # one a second
        f"A model that may be coming back is met by a crowd: {trials} of 4 within {seconds:.1f} seconds."
    )
    assert trials + statuses.count(503) == 4, f"Every run but a trial is refused, and here are {statuses}."


def test_a_model_that_hangs_opens_the_circuit_too(research_agent: StartServer, offline_model: str) -> None:
    hangs = {"MODEL_NAME": "offline?fault=hang", "TIMEOUT_SECONDS": "0.3", "CIRCUIT_SECONDS": "60"}
    server = agent(research_agent, offline_model, **hangs)
    for n in range(IN_A_ROW):
        assert_problem(ask(server, f"Does hang {n} open the circuit?"), 504)
    assert_problem(ask(server, "Who asks a model that hangs?"), 503)
    assert not calls(offline_model, "Who asks a model that hangs?"), "A refused run reached the model."


def test_a_slow_search_is_no_failure_of_the_model(research_agent: StartServer, offline_model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:  # accepts, and never answers
        slow = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        limits = {"TIMEOUT_SECONDS": "3", "CIRCUIT_SECONDS": "60"}
        server = agent(research_agent, offline_model, SEARCH_URL=slow, **limits)
        with ThreadPoolExecutor(IN_A_ROW) as pool:
            replies = [*pool.map(lambda n: ask(server, f"What is a slow search, {n}?"), range(IN_A_ROW))]
        statuses = [reply.status_code for reply in replies]
        assert statuses == [504] * IN_A_ROW, (
            f"The search hangs, so each run is a 504 at its deadline, and here are {statuses}."
        )
        assert metrics(server)[OPEN] == 0, "Slow searches open the circuit, though the model has answered."


@pytest.mark.parametrize("how", ["cancelled", "refused"])
def test_a_trial_that_ends_without_a_result_lets_another_run_try(
    research_agent: StartServer, model: tuple[Processes, str], how: str
) -> None:
    """Otherwise the next trial would start only after CIRCUIT_SECONDS."""
    processes, url = model
    limits = {"CIRCUIT_SECONDS": "10", "MAX_RUNS_PER_CALLER": "1", "RATE_LIMIT_RPM": "100000"}
    server = agent(research_agent, url, MODEL_NAME="offline?ttft=30", API_KEYS="first, second", **limits)
    first, second = ({"X-API-Key": key} for key in ("first", "second"))
    processes.stop(processes.running[-1])
    for n in range(IN_A_ROW):
        ask(server, f"Does failure {n} open the circuit?", headers=first)
    assert metrics(server)[OPEN] == 1, (
        "The model is down, three questions were asked, and the metric does not say that the circuit is open."
    )
    start_model(processes, int(url.rpartition(":")[2]))

    def trial(status: int) -> httpx2.Response | None:
        reply = ask(server, "May I try?", background=True, headers=first)
        return reply if reply.status_code == status else None

    admitted = until(lambda: trial(202), 20)
    assert admitted, "The model is back, and no run has been let through as a trial within 20 seconds."
    run_id = admitted.json()["id"]
    if how == "cancelled":
        httpx2.delete(f"{server}/v1/research/{run_id}", headers=first).raise_for_status()
    else:
        assert until(lambda: trial(429), 20), "The caller has one run already, and may have another."
    assert until(lambda: ask(server, "And I?", background=True, headers=second).status_code == 202, 8), (
        "A trial that has ended without a verdict keeps all runs from a model that is back."
    )


def test_failures_with_successes_between_them_do_not_open_it(
    research_agent: StartServer, offline_model: str
) -> None:
    server = agent(
        research_agent, offline_model, MODEL_NAME="offline?fault=500&every=2", CIRCUIT_FAILURES="2"
    )
    statuses = [ask(server, f"Every other call fails, {n}.").status_code for n in range(6)]
    assert 503 not in statuses, "One failure in two calls is not a failure in a row."
    assert 502 in statuses, "The model has not failed, so this test says nothing."
