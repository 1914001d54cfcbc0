"""How soon do five apps with sidecars run, and what does a sidecar cost? `python bench/lesson_10_sidecar.py`.

Three minutes. The apps are the same small one five times.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import psycopg
import yaml

from bench.records import measured, save, series
from course import engines
from course.engines.dapr import Dapr
from course.engines.kafka import Kafka
from course.engines.postgresql import POSTGRESQL
from course.models import base_environment
from course.paths import ROOT
from course.ports import free_port
from course.processes import Processes

os.environ.update(engines.environment())
LESSON = ROOT / "code" / "10_dapr_agents"
STARTS, APPS = 3, 5
ROUNDS, GETS = 7, 500  # of state
APP = """
import os, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.get("/dapr/subscribe")
def topics():
    return [{"pubsubname": "pubsub", "topic": os.environ["APP_ID"], "route": "/events"}]
uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="warning")
"""
VALUE = {"mastery": 75, "streak": 5}


def write_run_file(folder: Path, sidecar_port: int) -> Path:
    """A dapr.yaml with the apps; the first one's sidecar has the given port."""
    (folder / "app.py").write_text(APP)
    apps = [
        {"appID": f"app{number}", "appDirPath": ".", "appPort": free_port(), "command": ["python", "app.py"]}
        for number in range(APPS)
    ]
    apps[0]["daprHTTPPort"] = sidecar_port
    run_file = {"version": 1, "common": {"resourcesPath": str(LESSON / "components")}, "apps": apps}
    (folder / "dapr.yaml").write_text(yaml.safe_dump(run_file))
    return folder / "dapr.yaml"


def launch(processes: Processes, run_file: Path) -> tuple[subprocess.Popen[str], float, int]:
    """Start everything; returns the launcher, the seconds until all is healthy, and the processes' count."""
    began = time.perf_counter()
    command = [sys.executable, str(LESSON / "launch.py"), str(run_file)]
    launcher = processes.start(command, env=base_environment(), output=subprocess.PIPE)
    assert launcher.stdout
    for line in launcher.stdout:
        if ready := re.search(r"(\d+) processes are healthy", line):
            return launcher, time.perf_counter() - began, int(ready[1])
    raise SystemExit("The launcher ended before everything was healthy.")


def microseconds(get: Callable[[], object]) -> float:
    """The median time of a call."""
    times = []
    for _ in range(GETS):
        began = time.perf_counter_ns()
        get()
        times.append((time.perf_counter_ns() - began) / 1_000)
    return statistics.median(times)


def hop(launcher: psutil.Process, port: int) -> tuple[list[float], list[float]]:
    """Rounds of one state get: through the sidecar, and straight from its database."""
    sidecar = next(each for each in launcher.children() if each.name() == "daprd")
    url = f"http://127.0.0.1:{port}/v1.0/state/statestore"
    through, straight = [], []
    database = psycopg.connect(sidecar.environ()["POSTGRES_URL"], autocommit=True, prepare_threshold=0)
    with httpx2.Client(trust_env=False) as client, database:
        client.post(url, json=[{"key": "progress:ada", "value": VALUE}]).raise_for_status()
        (key,) = database.execute("SELECT key FROM state WHERE key LIKE '%progress:ada'").fetchone() or ("",)
        select = "SELECT value, etag FROM state WHERE key = %s AND coalesce(expires_at >= now(), true)"
        assert client.get(f"{url}/progress:ada").json() == VALUE
        for _ in range(ROUNDS):
            through.append(microseconds(lambda: client.get(f"{url}/progress:ada").json()))
            straight.append(microseconds(lambda: database.execute(select, [key]).fetchone()))
    return through, straight


def main() -> None:
    seconds, memory = [], []
    with Processes(grace=60) as processes, tempfile.TemporaryDirectory() as folder:
        for number in range(STARTS):
            port = free_port()
            launcher, took, count = launch(processes, write_run_file(Path(folder), port))
            seconds.append(took)
            running = psutil.Process(launcher.pid)
            sidecars = [each for each in running.children() if each.name() == "daprd"]
            memory += [each.memory_full_info().uss / 2**20 for each in sidecars]
            if number == STARTS - 1:
                through, straight = hop(running, port)
            processes.stop(launcher)
            assert launcher.stdout
            launcher.stdout.close()
    how = (
        f"one state get in turn through a sidecar (HTTP, one open connection) and by a prepared SELECT "
        f"(psycopg): median of {GETS} gets, {ROUNDS} rounds, median and spread; start: {STARTS} starts of "
        f"{count} processes and the launcher; memory: a sidecar's own (USS), median of {len(memory)}"
    )
    versions = {"Dapr": Dapr(), "Kafka": Kafka(), "PostgreSQL": POSTGRESQL}
    save(
        "lesson_10_sidecar",
        {
            "title": "Microseconds of one state get",
            "kind": "bars",
            "alt": "Microseconds of a state get straight from PostgreSQL and through a Dapr sidecar.",
            "measured": measured(
                how, "psycopg", "httpx2", **{name: str(each.version()) for name, each in versions.items()}
            ),
            "values": {
                "start_seconds": round(statistics.median(seconds), 1),
                "start_seconds_slowest": round(max(seconds), 1),
                "processes": count,
                "sidecar_megabytes": round(statistics.median(memory), 1),
            },
            "unit": "microseconds",
            "groups": ["straight from PostgreSQL", "through the sidecar"],
            "series": [series("a state get", [straight, through])],
        },
    )
    print(f"ratio {statistics.median(t / s for t, s in zip(through, straight, strict=True)):.1f}")


if __name__ == "__main__":
    main()
