"""Which way does one event take, and how long does each part? `python bench/event_trace.py`, a minute.

The sidecars send their spans to a receiver here (Zipkin's format). Needs Dapr, and Docker for the grading.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import yaml

from bench.records import measured, save
from course import engines
from course.engines.dapr import Dapr
from course.engines.kafka import Kafka
from course.models import base_environment, start_model
from course.paths import ROOT
from course.polling import until
from course.ports import free_port
from course.processes import Processes

os.environ.update(engines.environment())
LESSON = ROOT / "code" / "10_dapr_agents"
TONES = {"delivery": "blue", "publish": "orange", "state": "purple"}
CODE = "def total(numbers):\n    return sum(numbers)"
Spans = list[dict[str, Any]]


class Receiver(BaseHTTPRequestHandler):
    """Keeps the spans that sidecars send."""

    spans: Spans = []

    def do_POST(self) -> None:
        self.spans.extend(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def write_run_file(folder: Path, receiver: int) -> dict[str, dict[str, Any]]:
    """Generate the agents, with free ports and traced sidecars; returns their parts of the run file."""
    generate = [sys.executable, str(LESSON / "generate_agent.py"), "--all", str(folder)]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
    zipkin = {"endpointAddress": f"http://127.0.0.1:{receiver}/api/v2/spans"}
    config = {"spec": {"tracing": {"samplingRate": "1", "zipkin": zipkin}}}
    (folder / "tracing.yaml").write_text(yaml.safe_dump(config))
    run_file = yaml.safe_load((folder / "dapr.yaml").read_text())
    run_file["common"]["configFilePath"] = "tracing.yaml"
    for app in run_file["apps"]:
        app |= {"appPort": free_port(), "daprHTTPPort": free_port()}
    (folder / "dapr.yaml").write_text(yaml.safe_dump(run_file))
    return {app["appID"]: app for app in run_file["apps"]}


def submit(apps: dict[str, dict[str, Any]], user: str) -> str:
    """Publish a submission, wait until it counts, and return the id of its trace."""
    trace = secrets.token_hex(16)
    context = {"exercise_id": "loops-total", "code": CODE}
    publish = f"http://127.0.0.1:{apps['triage-agent']['daprHTTPPort']}/v1.0/publish/pubsub/learning.requests"
    progress = f"http://127.0.0.1:{apps['progress-agent']['appPort']}/process"

    def counted() -> bool:
        return "loops" in httpx2.post(progress, json={"user_id": user}, timeout=60).json()["result"]["topics"]

    httpx2.post(
        publish,
        params={"metadata.partitionKey": user},
        json={"user_id": user, "query": "my solution", "context": context},
        headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"},
        timeout=60,
    ).raise_for_status()
    if not until(counted, 120):
        raise SystemExit("The submission did not reach the progress agent.")
    return trace


def kind_of(span: dict[str, Any]) -> str:
    name = span["name"].lower()
    return "state" if "state" in name else "publish" if "publish" in name else "delivery"


def lanes(spans: Spans, trace: str) -> list[dict[str, Any]]:
    """A lane for each delivery, and for what its agent asked of the sidecar, in the order of their starts."""
    mine = sorted((span for span in spans if span["traceId"] == trace), key=lambda span: span["timestamp"])
    began = mine[0]["timestamp"]
    found = []
    for span in mine:
        start = (span["timestamp"] - began) / 1e6
        bar = {"start": round(start, 4), "end": round(start + span.get("duration", 0) / 1e6, 4)}
        agent = span["localEndpoint"]["serviceName"]
        label = {"label": span["name"], "tone": TONES[kind_of(span)]}
        found.append({"name": agent, "spans": [bar | label]})
    return found


def run(processes: Processes, folder: Path, finished: Callable[[str], bool]) -> str:
    """Start everything, send one submission to make the topics, and a second one to be drawn."""
    model = {"OPENAI_BASE_URL": f"{start_model(processes)}/v1", "OPENAI_API_KEY": "offline"}
    env = base_environment() | model | {"MODEL_NAME": "offline"}
    command = [sys.executable, str(LESSON / "launch.py"), str(folder / "dapr.yaml")]
    launcher = processes.start(command, env=env, output=subprocess.PIPE)
    assert launcher.stdout
    if not any("processes are healthy" in line for line in launcher.stdout):
        raise SystemExit("The launcher ended before everything was healthy.")
    reading = threading.Thread(target=launcher.stdout.read)  # so that its pipe does not fill
    reading.start()
    apps = {app["appID"]: app for app in yaml.safe_load((folder / "dapr.yaml").read_text())["apps"]}
    submit(apps, "bob")
    trace = submit(apps, "ada")
    if not until(lambda: finished(trace), 60):
        raise SystemExit("The sidecars sent no spans of the last event.")
    processes.stop(launcher)
    reading.join()
    launcher.stdout.close()
    return trace


def main() -> None:
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server,
        Processes(grace=60) as processes,
        tempfile.TemporaryDirectory() as name,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        folder = Path(name)
        write_run_file(folder, server.server_address[1])

        def finished(trace: str) -> bool:
            agents = {
                span["localEndpoint"]["serviceName"] for span in Receiver.spans if span["traceId"] == trace
            }
            return "progress-agent" in agents

        trace = run(processes, folder, finished)
        server.shutdown()
    if raw := os.environ.get("RAW_SPANS"):
        Path(raw).write_text(json.dumps([s for s in Receiver.spans if s["traceId"] == trace], indent=1))
    drawn = lanes(Receiver.spans, trace)
    save(
        "event-trace",
        {
            "title": "One submission's way through three agents",
            "kind": "timeline",
            "alt": "",
            "measured": measured("x", Dapr=str(Dapr().version()), Kafka=str(Kafka().version())),
            "values": {},
            "lanes": drawn,
        },
    )


if __name__ == "__main__":
    main()
