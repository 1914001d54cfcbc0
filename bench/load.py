"""Servers to measure, and wrk to load them."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from course.models import base_environment, start_model
from course.paths import ROOT
from course.processes import Processes, wait_listening, wait_ready

SECONDS, ROUNDS, CONNECTIONS = 5, 5, 64  # SECONDS is the length of one measurement
UVICORN_OPTIONS = ["--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
HOW = (
    f"wrk with 1 thread and {CONNECTIONS} connections on the same machine, {ROUNDS} rounds of {SECONDS} s "
    "in turn, median and spread"
)

# wrk sends the bodies in turn, and at the end prints its counts as one line of JSON.
SCRIPT = """
local bodies, n = {%s}, 0
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer offline"
if #bodies > 0 then
  wrk.method = "POST"
  request = function() n = n %% #bodies + 1; return wrk.format(nil, nil, nil, bodies[n]) end
end
done = function(seen, latency)
  local e, form = seen.errors, 'JSON{"requests": %%d, "microseconds": %%d, "p99": %%d, "failed": %%d}'
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  print(string.format(form, seen.requests, seen.duration, latency:percentile(99), failed))
end
"""


@dataclass(frozen=True)
class Route:
    """A URL to load, and the bodies to POST in turn; GET when there are none."""

    url: str
    bodies: Sequence[str] = ()


def wrk_version() -> str:
    """The version of wrk. Without wrk the program ends with advice to install it."""
    if not shutil.which("wrk"):
        sys.exit("This measurement needs wrk: apt-get install wrk, or brew install wrk.")
    words = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split()
    return words[1].removeprefix("debian/").split("-")[0]


def lesson(processes: Processes, program: str, **env: str) -> str:
    """Start a lesson's script as a learner does, on a free port; return its base URL."""
    command = [sys.executable, program]
    process = processes.start(command, env=base_environment() | {"PORT": "0"} | env, cwd=ROOT)
    url = wait_listening(process)
    wait_ready(process, f"{url}/ready")
    return url


def uvicorn(processes: Processes, app: str, folder: str, http: str = "httptools") -> str:
    """Start a bare app with uvloop, the given parser and no access log; return its base URL."""
    served = ["--app-dir", folder, app, "--port", "0", "--http", http]
    command = [sys.executable, "-m", "uvicorn", *served, *UVICORN_OPTIONS]
    process = processes.start(command, env=base_environment(), cwd=ROOT)
    url = wait_listening(process)
    wait_ready(process, f"{url}/health")
    return url


def model_settings(processes: Processes) -> dict[str, str]:
    """Start the offline model; return the settings of an agent that calls it."""
    base_url = f"{start_model(processes)}/v1"
    return {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "offline", "MODEL_NAME": "offline"}


def load(route: Route, seconds: int = SECONDS) -> tuple[float, float]:
    """Requests a second, and the 99th percentile of their time in milliseconds.

    One failed request ends the program, because errors are faster than answers.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % ", ".join(f"[==[{body}]==]" for body in route.bodies))
        script.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script.name, route.url]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seen = json.loads(printed.split("JSON", 1)[1])
    if seen["failed"]:
        sys.exit(f"{route.url}: {seen['failed']} of {seen['requests']} requests failed.")
    return seen["requests"] * 1e6 / seen["microseconds"], seen["p99"] / 1000


def rounds(routes: Sequence[Route]) -> list[list[float]]:
    """The rates of each route.

    Every round measures all routes one after the other, so that a change in the machine's speed affects all
    of them.
    """
    for route in routes:
        load(route, 1)  # warm up
    found: list[list[float]] = [[] for _ in routes]
    for number in range(ROUNDS):
        for route, rates in zip(routes, found, strict=True):
            rates.append(load(route)[0])
            print(f"round {number + 1} of {ROUNDS}: {rates[-1]:8,.0f}/s {route.url}", flush=True)
    return found


def questions(count: int) -> list[str]:
    """`count` different questions about the standard library."""
    modules = (
        "argparse ast asyncio collections datetime decimal inspect io itertools json logging math os pathlib "
        "random re shutil socket sqlite3 ssl statistics string subprocess tarfile tempfile threading time"
    )
    names = [
        f"{name}.{part}" for name in modules.split() for part in dir(import_module(name)) if part[0] != "_"
    ]
    assert len(names) >= count
    return [f"What is {name}?" for name in names[:count]]
