"""Which way does one event take, and how long does each part? `python bench/lesson_10_trace.py`, a minute.

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
# A word in a span's name, and how its lane is called and coloured.
PARTS = {
    "publish": ("publishes {topic}", "orange"),
    "transaction": ("commits", "purple"),
    "handles": ("handles {topic}", "blue"),
}
CODE = "def total(numbers):\n    return sum(numbers)"
Spans = list[dict[str, Any]]
SPANS: Spans = []


class Receiver(BaseHTTPRequestHandler):
    """Adds the spans that sidecars send to SPANS."""

    def do_POST(self) -> None:
        SPANS.extend(json.loads(self.rfile.read(int(self.headers["content-length"]))))
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


def lanes(spans: Spans, trace: str) -> list[dict[str, Any]]:
    """A lane for each span but reads of the state, in the order of their starts."""
    mine = sorted((span for span in spans if span["traceId"] == trace), key=lambda span: span["timestamp"])
    found = []
    for span in mine:
        agent, (*_, topic) = span["localEndpoint"]["serviceName"], f"/{span['name']}".split("/")
        kind = next((kind for kind in PARTS if kind in span["name"]), "handles")
        if "/state/" in span["name"] and kind != "transaction":
            continue
        words, tone = PARTS[kind]
        start, seconds = (span["timestamp"] - mine[0]["timestamp"]) / 1e6, span["duration"] / 1e6
        label = {"label": f"{seconds * 1_000:.0f} ms", "tone": tone}
        bar = {"start": round(start, 4), "end": round(start + seconds, 4)} | label
        sender = "caller" if span is mine[0] else agent.removesuffix("-agent")
        found.append({"name": f"{sender}: {words.format(topic=topic)}", "spans": [bar]})
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

        def finished(trace: str) -> bool:  # a span is sent when it has ended
            names = [span["name"] for span in SPANS if span["traceId"] == trace]
            return (
                any(name.endswith("progress.updates") for name in names)
                and "pubsub/progress.requests" in names
            )

        trace = run(processes, folder, finished)
        server.shutdown()
    drawn = lanes(SPANS, trace)
    how = (
        "the spans of three sidecars (Zipkin) with one trace id, for a submission published at triage's "
        "sidecar, after another one had made the topics; reads of the state are left out; stand-in base image"
    )
    handled = {lane["name"]: lane["spans"][0] for lane in drawn}
    grading = handled["exercise: handles exercise.submissions"]
    save(
        "lesson_10_trace",
        {
            "title": "One submission's way through three agents",
            "kind": "timeline",
            "alt": "Triage, exercise and progress handle the event in turn; each commits, then publishes, "
            "and grading takes most of the time.",
            "measured": measured(how, Dapr=str(Dapr().version()), Kafka=str(Kafka().version())),
            "values": {
                "milliseconds": round(1_000 * max(lane["spans"][0]["end"] for lane in drawn)),
                "grading_milliseconds": round(1_000 * (grading["end"] - grading["start"])),
            },
            "lanes": drawn,
        },
    )


if __name__ == "__main__":
    main()
