"""Traces: spans go to a collector if one is configured, and cost nothing otherwise."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.research import ask, result_of
from support.servers import StartServer, assert_ends_with_zero


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Span]]]:
    """The address of an OTLP/HTTP collector, and the spans that it has received."""
    spans: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


def test_a_request_its_run_and_its_calls_are_spans_of_one_trace(
    research_agent: StartServer, collector: tuple[str, list[Span]]
) -> None:
    endpoint, spans = collector
    server = research_agent(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    reply = ask(server, "What is a span?")
    server.process.send_signal(signal.SIGTERM)
    assert_ends_with_zero(server)
    requests = [span for span in spans if span.name == "request" and "/v1/research" in str(span.attributes)]
    assert len(requests) == 1, (
        f"One run was asked for, and {len(requests)} spans of requests were sent before the end."
    )
    (request,) = requests
    mine = [span for span in spans if span.trace_id == request.trace_id]
    names = [span.name for span in mine]
    steps = len(result_of(reply)["steps"])
    counted = {name: names.count(name) for name in ("run", "tool call", "model call")}
    expected = {"run": 1, "tool call": steps, "model call": steps + 1}
    assert counted == expected, f"A run of {steps} steps has the spans {counted}, not {expected}."
    by_id = {span.span_id: span.name for span in mine}
    parents = {span.name: by_id.get(span.parent_span_id) for span in mine}
    expected_parents = {"request": None, "run": "request", "model call": "run", "tool call": "run"}
    assert parents == expected_parents, f"The spans have other parents than they should: {parents}."


def test_without_a_collector_no_exporter_is_imported(lesson_root: Path) -> None:
    # Only the exporter: langsmith, which langchain-core needs, always imports the SDK.
    check = "import app.api, sys; print([m for m in sys.modules if m.startswith('opentelemetry.exporter')])"
    run = subprocess.run(
        [sys.executable, "-c", check],
        env={"OPENAI_API_KEY": "x"},
        cwd=lesson_root / "research-agent",
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]", (
        f"There is no collector of traces, and their exporter is imported: {run.stdout!r}."
    )
