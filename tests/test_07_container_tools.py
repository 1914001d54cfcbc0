"""The claims of lesson 07: tools that run in containers, called over HTTP."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import httpx2
import psutil
import pytest
from support.connections import assert_probes_take_head
from support.container_tools import SECONDS, call, printed, qdrant, result, unique
from support.problems import assert_problem
from support.servers import Server, StartServer, assert_ends_with_zero, metrics

from course.polling import until
from course.ports import port_of

pytestmark = [pytest.mark.dagger, pytest.mark.timeout(300)]
DOCUMENT = {"id": "a-1", "title": "A", "content": "text"}


@pytest.fixture(scope="session")
def start(container_tools: StartServer) -> StartServer:
    return container_tools


# --- The tools ---


def test_hello_is_said_in_a_container(server: Server) -> None:
    answer = httpx2.get(f"{server}/hello", params={"name": "Ada"}, timeout=100).json()
    greeting = answer["greeting"]
    assert greeting == "Hello, Ada!", f"The name Ada was sent, and the greeting is {greeting!r}."
    assert answer["from"].startswith("Python 3.13"), "The greeting does not come from the container's Python."


def test_the_list_of_tools_has_their_schemas(server: Server) -> None:
    tools = {tool["name"]: tool for tool in httpx2.get(f"{server}/tools").json()}
    expected = {"hello", "run_python", "summarise_table", "markdown_to_html", "validate_document"}
    assert expected <= set(tools), f"/tools does not list {sorted(expected - set(tools))}."
    named = httpx2.get(f"{server}/").json()["tools"]
    assert list(tools) == named, f"/tools lists {list(tools)}, and / names {named}."
    takes, returns = tools["run_python"]["input"], tools["run_python"]["output"]
    assert takes["required"] == ["code"], (
        f"The input schema of run_python requires {takes['required']}, not code alone."
    )
    assert "printed" in returns["properties"], "The output schema of run_python has no field printed."


def test_input_is_never_read_by_a_shell(server: Server) -> None:
    name = "'; echo injected; echo \"$(id)` #"
    response = httpx2.get(f"{server}/hello", params={"name": name}, timeout=100)
    assert response.status_code == 200, f"An input with quotes in it broke the tool: {response.text}"
    assert response.json()["greeting"] == f"Hello, {name}!", "The input was run as a command of a shell."


@pytest.mark.parametrize("text", ["--help", "$HOME", "äöü 你好 \u2028", "a\nb\0c", "{}", "x" * 100])
def test_any_text_arrives_as_it_was_sent(server: Server, text: str) -> None:
    greeting = result(server, "hello", name=text)["greeting"]
    assert greeting == f"Hello, {text}!", f"The name {text!r} was sent, and the answer is {greeting!r}."


def test_an_unknown_tool_is_a_404_that_names_those_there_are(server: Server) -> None:
    detail = assert_problem(call(server, "rm"), 404)["detail"]
    assert "hello" in detail, f"The error does not name hello, a tool that there is: {detail!r}."


@pytest.mark.parametrize("arguments", [{}, {"code": ""}, {"code": 5}, {"code": "1", "network": True}])
def test_an_input_that_does_not_fit_is_refused_before_a_container_starts(
    server: Server, arguments: dict[str, object]
) -> None:
    problem = assert_problem(call(server, "run_python", **arguments), 422)
    field = problem["errors"][0]["field"]
    assert field in ("code", "network"), f"The error names {field!r}, which is not the field that is wrong."


def test_python_code_runs_and_what_its_programs_print_is_returned(server: Server) -> None:
    said = printed(server, "import os; print(2 ** 100, flush=True); os.system('echo done')")
    assert said == "1267650600228229401496703205376\ndone\n", (
        f"The code prints 2 ** 100, the program that it starts prints done, and the tool returns {said!r}."
    )


def test_markdown_becomes_html_and_html_in_it_does_not_run(server: Server) -> None:
    html = result(server, "markdown_to_html", markdown="# Hi <script>\n\n|a|\n|-|\n|1|")["html"]
    assert "<h1>Hi &lt;script&gt;</h1>" in html, (
        f"The HTML does not have the heading with <script> escaped: {html!r}."
    )
    assert "<td>1</td>" in html, f"The HTML does not have the cell of the table: {html!r}."


CSV = "city,people\n" + "".join(f"town {n % 3},{n}\n" for n in range(100)) + "nowhere,\n"


def test_a_table_is_summarised_with_counts_ranges_and_a_chart(server: Server) -> None:
    summary = result(server, "summarise_table", table=CSV, column="people")
    assert summary["rows"] == 101, f"The table has 101 rows, and the summary counts {summary['rows']}."
    city, people = summary["columns"]
    assert (city["name"], city["distinct"], city["min"]) == ("city", 4, None), (
        f"The column city has 4 different texts and no minimum, and the summary says {city}."
    )
    assert (people["values"], people["missing"], people["min"], people["max"]) == (100, 1, 0, 99), (
        f"The column people has 100 values from 0 to 99, and 1 is missing; the summary says {people}."
    )
    mean = people["mean"]
    assert mean == 49.5, f"The mean of the column people is 49.5, and the summary says {mean}."
    chart = ElementTree.fromstring(summary["chart"])  # noqa: S314  # the lesson's own
    assert chart.tag.endswith("svg"), f"The root element of the chart is {chart.tag!r}, not svg."
    bars = len(chart.findall("{*}rect"))
    assert bars == 10, f"The chart has {bars} bars, not 10."


def test_a_table_with_values_that_json_or_svg_cannot_have_is_summarised(server: Server) -> None:
    summary = result(server, "summarise_table", table="a,b\nnan,<x>\ninf,\x0by\n1,z\n", column="b")
    assert [column["max"] for column in summary["columns"]] == [None, None], (
        "nan and inf are no JSON numbers."
    )
    chart = ElementTree.fromstring(summary["chart"])  # noqa: S314  # the lesson's own
    texts = [text.text for text in chart.findall("{*}text")]
    assert texts == ["b", "<x>", "1", "y", "1", "z", "1"], (
        f"The chart does not show the title b, and then <x>, y and z with the count 1 each: {texts}."
    )


def test_a_json_table_gives_the_same_summary(server: Server) -> None:
    rows = json.dumps([{"city": "town", "people": n} for n in range(4)])
    summary = result(server, "summarise_table", table=rows, format="json")
    counts = [column["values"] for column in summary["columns"]]
    assert counts == [4, 4], f"Both columns have 4 values, and the summary counts {counts}."
    for empty in ("[]", "{}"):
        assert_problem(call(server, "summarise_table", table=empty, format="json"), 502)


# --- Documents ---


def test_each_fault_of_a_document_is_named_by_its_pointer(server: Server) -> None:
    document = {"id": "A B", "title": "", "content": "x", "tags": ["a", 5], "metadata": {"version": 0}}
    body = {"document": json.dumps(document | {"a/b~": 1})}
    answer = httpx2.post(f"{server}/validate-document", json=body, timeout=100).json()
    assert not answer["valid"], "The document has five faults, and the answer calls it valid."
    pointers = [fault["pointer"] for fault in answer["errors"]]
    assert pointers == ["", "/id", "/metadata/version", "/tags/1", "/title"], (
        f"The answer does not name the five faults by their pointers, in order: {pointers}."
    )
    message = answer["errors"][0]["message"]
    assert "a/b~" in message, f"The schema has no field a/b~, and the error does not name it: {message!r}."


def test_yaml_and_a_schema_of_ones_own(server: Server) -> None:
    own = {"type": "object", "properties": {"a/b~": {"type": "integer"}}}
    for document, pointers in [("a/b~: x", ["/a~1b~0"]), ("a/b~: 1", [])]:
        answer = result(server, "validate_document", document=document, format="yaml", schema=own)
        found = [fault["pointer"] for fault in answer["errors"]]
        assert found == pointers, f"The faults of {document!r} are {pointers}, and the answer names {found}."
        assert answer["valid"] is not bool(pointers), (
            f"The faults of {document!r} are {pointers}, and the answer has valid: {answer['valid']}."
        )


def test_a_valid_document_and_one_that_cannot_be_parsed(server: Server) -> None:
    answer = result(server, "validate_document", document=json.dumps(DOCUMENT))
    assert answer == {"valid": True, "errors": []}, f"The document is valid, and the answer is {answer}."
    for form in ("json", "yaml"):
        answer = result(server, "validate_document", document="{", format=form)
        message = answer["errors"][0]["message"]
        assert message.startswith(f"This is not {form.upper()}"), (
            f"The document is not {form.upper()}, and the error says {message!r}."
        )


def test_a_bad_schema_is_the_callers_fault_and_is_named(server: Server) -> None:
    assert_problem(call(server, "validate_document", document="{}", schema_name="nope"), 422)
    problem = assert_problem(call(server, "validate_document", document="{}", schema={"type": "objec"}), 502)
    assert "not a JSON Schema" in problem["stderr"], (
        f"The error does not say that the schema is not a JSON Schema: {problem['stderr']!r}."
    )


# --- Qdrant ---


def test_qdrant(start: StartServer) -> None:
    server, key = start(ALLOW_PRIVATE_ADDRESSES="true"), unique()
    with qdrant(key) as url:
        body = {"url": url, "api_key": key}
        answer = httpx2.post(f"{server}/test-qdrant", json=body, timeout=100).json()
        expected = {"reachable": True, "reason": None, "version": "1.15.0", "collections": ["papers"]}
        assert answer == expected, f"The server can be reached, and the tool says {answer}."
        wrong = result(server, "test_qdrant", url=url, api_key="wrong")
        assert wrong["reason"] == "GET / is answered with 401 Unauthorized.", (
            f"The key is wrong, and the tool gives the reason {wrong['reason']!r}."
        )
        slow = result(server, "test_qdrant", url=f"{url}/hang", api_key=key, seconds=1)
        assert slow["reason"] == "It did not answer within 1 s.", (
            f"The server hangs, and the tool gives the reason {slow['reason']!r}."
        )
    gone = result(server, "test_qdrant", url=url, api_key=key)
    assert "Connection refused" in str(gone["reason"]), (
        "The server has gone, and the tool answers from a cache."
    )


def test_private_addresses_are_refused_unless_a_setting_allows_them(server: Server) -> None:
    with qdrant() as url:
        for private in (url, "http://127.0.0.1:6333", "http://[::1]:6333", "http://169.254.169.254"):
            answer = result(server, "test_qdrant", url=private)
            assert "private address" in str(answer["reason"]), (
                f"A caller had the tool ask {private}, an address of the private network."
            )
    assert_problem(call(server, "test_qdrant", url="file:///etc/passwd"), 422)


# --- One session ---


def sessions(server: Server) -> list[int]:
    """The processes of sessions with the engine that the server has."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child.pid for child in children if child.name().startswith("dagger")]


def test_all_calls_share_one_session(server: Server) -> None:
    printed(server, f"print('{unique()}')")
    before = sessions(server)
    calls = [threading.Thread(target=printed, args=(server, f"print('{unique()}')")) for _ in range(4)]
    for each in calls:
        each.start()
    for each in calls:
        each.join()
    after = sessions(server)
    assert after == before, "A call opened a session of its own, which costs seconds and a process."
    assert len(after) == 1, f"The server has {len(after)} sessions with the engine, not one."


def statuses_of(server: Server, count: int, code: str) -> list[int]:
    """The statuses of calls at the same time, each with a word of its own for the braces in its code."""
    with ThreadPoolExecutor(count) as pool:
        replies = pool.map(lambda _: call(server, "run_python", code=code.format(unique())), range(count))
    return [reply.status_code for reply in replies]


def test_a_session_that_dies_is_opened_again_for_all_calls(start: StartServer) -> None:
    server = start(MAX_CONCURRENCY="31")
    printed(server, "print(1)")
    found = sessions(server)
    assert found, "The server keeps no session open after a call."
    psutil.Process(found[0]).kill()
    answers = statuses_of(server, 3, "print('{}')")
    assert answers == [200] * 3, f"The session died, and calls after that are answered with {answers}."
    assert until(lambda: len(sessions(server)) == 1, 20), "There is more than one session now."


def test_a_server_without_engine_says_so_and_lives(start: StartServer, tmp_path: Path) -> None:
    server = start(_EXPERIMENTAL_DAGGER_RUNNER_HOST=f"unix://{tmp_path}/no.sock", CONNECT_SECONDS="2")
    ready = httpx2.get(f"{server}/ready", timeout=20).status_code
    assert ready == 503, f"No engine listens at the address in the setting, and /ready says {ready}, not 503."
    health = httpx2.get(f"{server}/health").status_code
    assert health == 200, f"The server runs without an engine, and /health says {health}, not 200."
    assert_problem(call(server, "hello", name="Ada"), 503)


# --- Operation ---


def test_probes_and_metrics(server: Server) -> None:
    result(server, "hello", name="Ada")
    assert_probes_take_head(server, "/health", "/ready", "/metrics")
    shown = httpx2.get(f"{server}/health").json()["dependencies"]
    assert shown == {"engine": "ok"}, f"A tool call succeeded, and /health shows {shown}."
    samples = metrics(server)
    assert any(name[0] == "tool_calls_total" and "ok" in name for name in samples), (
        "A tool call succeeded, and the metrics have no count of such calls."
    )


def test_a_body_that_is_too_large_is_refused(server: Server) -> None:
    assert_problem(call(server, "run_python", code="x" * 300_000), 413)


def test_calls_beyond_the_limit_are_refused_at_once(start: StartServer) -> None:
    server = start(MAX_CONCURRENCY="1")
    printed(server, "print(1)")
    codes = statuses_of(server, 5, "import time; time.sleep(2) # {}")
    assert sorted(codes) == [200, 200, 503, 503, 503], (
        f"One call may run and one may wait, and five calls at once are answered with {codes}."
    )


# --- The stop ---


@contextmanager
def call_in_flight(server: Server, answer: threading.Event) -> Iterator[Future[httpx2.Response]]:
    """A call of test_qdrant in flight: its container has asked a server that waits for `answer`."""
    asked = threading.Event()
    with qdrant(asked=asked, answer=answer) as url, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(call, server, "test_qdrant", url=f"{url}/hang", seconds=20)
        assert asked.wait(SECONDS), "The call never reached the server that it asks."
        yield reply


def refuses(server: Server) -> bool:
    """Whether the server takes no new connections."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port_of(server))) != 0


def stopping(start: StartServer, drain_seconds: int) -> Server:
    """A server for a test that stops it."""
    return start(ALLOW_PRIVATE_ADDRESSES="true", DRAIN_SECONDS=str(drain_seconds), APP_VERSION=unique())


def test_a_call_in_flight_finishes_after_sigterm(start: StartServer) -> None:
    server, answer = stopping(start, 60), threading.Event()
    with call_in_flight(server, answer) as reply:
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: refuses(server), 20), "The server was told to stop, and takes new connections."
        answer.set()
        assert reply.result().status_code == 200, "The stop cut off a call in flight."
    assert_ends_with_zero(server)


def test_a_call_that_outlasts_the_drain_gets_a_503(start: StartServer) -> None:
    server = stopping(start, 1)
    with call_in_flight(server, threading.Event()) as reply:
        server.process.send_signal(signal.SIGTERM)
        try:
            response = reply.result()
        except httpx2.TransportError:
            pytest.fail("The drain is over, and a call was cut off without an answer.")
    assert_problem(response, 503)
    assert response.headers["retry-after"] == "1", "The 503 does not say when to try again."
    assert_ends_with_zero(server)


def test_ready_fails_at_once_and_calls_are_answered_during_the_delay(start: StartServer) -> None:
    server = start(DRAIN_DELAY_SECONDS="60", APP_VERSION=unique())
    printed(server, "print(1)")
    server.process.send_signal(signal.SIGTERM)
    failing = until(lambda: httpx2.get(f"{server}/ready").status_code == 503, 20)
    assert failing, "The server was told to stop, and 20 seconds later /ready has not said 503."
    said = printed(server, f"print('{unique()}')")
    assert said.startswith("w"), f"The code prints a word that starts with w, and the tool returns {said!r}."
