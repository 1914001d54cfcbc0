"""How much does a variation cost? `python bench/lesson_09_load.py`, three minutes; needs Docker."""

import statistics
import subprocess
import time

import httpx2
import psutil

from bench.parallel_agents import IMAGE, RESULT, Bench, lesson_09
from bench.records import measured, save

ROUNDS = 7
WORK = (
    "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'y', 5_000_000)"  # about a second of processor time
)
FLOOD = "import sys\nfor n in range(520_000): sys.stdout.write(f'{n:09} ' + 'x' * 90 + chr(10))\n" + RESULT
PAGE = 1_000_000


def first_line(bench: Bench, user: dict[str, str]) -> float:
    """Seconds from the POST to the agent's first line."""
    began = time.perf_counter()
    run = bench.post(user, "print('first', flush=True)", 1)
    with httpx2.stream("GET", f"{bench.url}/runs/{run}/stream", headers=user, timeout=60) as stream:
        for line in stream.iter_lines():
            if '"first"' in line:
                return time.perf_counter() - began
    raise AssertionError("the agent printed nothing")


def whole_run(bench: Bench, user: dict[str, str], code: str, variations: int = 1) -> float:
    began = time.perf_counter()
    wait(bench, user, bench.post(user, code, variations))
    return time.perf_counter() - began


def wait(bench: Bench, user: dict[str, str], run: str) -> None:
    with httpx2.stream("GET", f"{bench.url}/runs/{run}/stream", headers=user, timeout=600) as stream:
        for _ in stream.iter_bytes():
            pass


def cancelled(bench: Bench, user: dict[str, str]) -> float:
    """Seconds from the cancel of eight variations that work to its answer, when their containers are gone."""
    run = bench.post(user, "print('first', flush=True)\nwhile True: pass", 8)
    while any(each["state"] != "running" for each in bench.get(user, run)["variations"]):
        time.sleep(0.05)
    began = time.perf_counter()
    httpx2.post(f"{bench.url}/runs/{run}/cancel", headers=user, timeout=60).raise_for_status()
    return time.perf_counter() - began


def docker_run(code: str) -> float:
    """The same work by `docker run` with the same limits."""
    began = time.perf_counter()
    limits = [
        "--read-only",
        "--tmpfs=/tmp",
        "--cap-drop=ALL",
        "--network=none",
        "--memory=256m",
        "--cpus=1",
        "--init",
    ]
    limits += ["--user=10001:10001", "--env", f"AGENT_PROMPT={code}", "--pids-limit=64"]
    command = ["docker", "run", "--rm", *limits, IMAGE, "python", "/agent/agent.py"]
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - began


def memory(bench: Bench) -> float:
    assert bench.process
    return psutil.Process(bench.process.pid).memory_info().rss / PAGE


def main() -> None:
    settings = {"MAX_CONCURRENCY": "16", "MAX_VARIATIONS": "20", "MAX_VARIATIONS_PER_USER": "100"}
    with lesson_09(**settings) as bench:
        user = bench.user()
        first_line(bench, user)  # makes the relay and a network
        first = [first_line(bench, user) for _ in range(ROUNDS)]
        code = f"{WORK}\n{RESULT}"
        pairs = [(whole_run(bench, user, code), docker_run(code)) for _ in range(ROUNDS)]
        cancel = [cancelled(bench, user) for _ in range(ROUNDS)]
        before = memory(bench)
        flood = whole_run(bench, user, FLOOD)
        flooded = memory(bench)
        began = time.perf_counter()
        runs = [bench.post(user, RESULT, 20) for _ in range(5)]
        for run in runs:
            wait(bench, user, run)
        hundred = time.perf_counter() - began
        states = [each["state"] for run in runs for each in bench.get(user, run)["variations"]]
        after = memory(bench)
        bench.stop()
        left = bench.left()
    values = {
        "first_line_seconds": round(statistics.median(first), 2),
        "first_line_max": round(max(first), 2),
        "overhead_ratio": round(statistics.median(run / plain for run, plain in pairs), 2),
        "overhead_seconds": round(statistics.median(run - plain for run, plain in pairs), 2),
        "docker_run_seconds": round(statistics.median(plain for _, plain in pairs), 2),
        "cancel_seconds": round(statistics.median(cancel), 2),
        "cancel_max": round(max(cancel), 2),
        "flood_seconds": round(flood, 1),
        "memory_before_mb": round(before),
        "memory_after_flood_mb": round(flooded),
        "hundred_seconds": round(hundred, 1),
        "hundred_passed": states.count("passed"),
        "memory_after_hundred_mb": round(after),
        "left": left,
    }
    how = (
        f"one server, image warm; first line and overhead: median of {ROUNDS}, overhead in pairs over "
        "`docker run` of the same work with the same limits, which takes a second; flood: 52 MB from one "
        f"variation; cancel: eight variations that compute, {ROUNDS} times; hundred: 5 runs of 20 "
        "variations, 16 at once, each starts, prints a result and ends; "
        "left: containers and networks after the server's end; stand-in images"
    )
    save(
        "lesson_09_load",
        {
            "title": "What a variation costs",
            "kind": "bars",
            "alt": "Bars: the server's memory at the start, after much output, and after 100 variations.",
            "measured": measured(how, "aiodocker", "fastapi", "sqlmodel"),
            "values": values,
            "unit": "MB",
            "groups": ["before", "after 52 MB of output", "after 100 variations"],
            "series": [{"name": "server's memory", "values": [round(before), round(flooded), round(after)]}],
        },
    )


if __name__ == "__main__":
    main()
