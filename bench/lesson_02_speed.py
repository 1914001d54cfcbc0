"""What does lesson 02 cost? `python bench/lesson_02_speed.py`, about two minutes.

It compares lesson 02 with a bare app that has the same types, and with its own chain called in a loop.
"""

import json
import statistics
import subprocess
import sys

from bench.load import (
    HOW,
    ROUNDS,
    SECONDS,
    Route,
    lesson,
    load,
    model_settings,
    questions,
    uvicorn,
    wrk_version,
)
from bench.records import measured, save, series
from course.models import base_environment
from course.paths import ROOT
from course.processes import Processes


def measure_chain(env: dict[str, str], asked: list[str]) -> float:
    """Answers a second of the chain without a server."""
    command = [sys.executable, "bench/chain_baseline.py", str(SECONDS)]
    run = subprocess.run(
        command,
        input="\n".join(asked),
        env=base_environment() | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


def main() -> None:
    wrk = wrk_version()
    asked = questions(2_000)
    once = [json.dumps({"query": asked[0]})]
    with Processes() as processes:
        env = model_settings(processes)
        unlimited = {"RATE_LIMIT_RPM": "1000000000", "MAX_CONCURRENCY": "64", "LOG_LEVEL": "WARNING"}
        cached = lesson(processes, "code/02_production_api.py", **env, **unlimited)
        unlimited["CACHE_TTL_SECONDS"] = "0"
        uncached = lesson(processes, "code/02_production_api.py", **env, **unlimited)
        bare = uvicorn(processes, "bare_app:app", "bench", http="h11")
        rates_of_lesson: list[list[float]] = [[], [], []]
        baseline: list[list[float]] = [[], [], []]
        tails: dict[str, list[float]] = {"bare": [], "lesson": []}
        for number in range(ROUNDS):
            for name, url, rates in (("bare", bare, baseline), ("lesson", cached, rates_of_lesson)):
                rate, tail = load(Route(f"{url}/health"))
                rates[0].append(rate)
                tails[name].append(tail)
            baseline[1].append(load(Route(f"{bare}/production/invoke", once))[0])
            rates_of_lesson[1].append(load(Route(f"{cached}/v1/invoke", once))[0])
            baseline[2].append(measure_chain(env, asked))
            rates_of_lesson[2].append(
                load(Route(f"{uncached}/v1/invoke", [json.dumps({"query": q}) for q in asked]))[0]
            )
            print(
                f"round {number + 1} of {ROUNDS}",
                [(a[-1], b[-1]) for a, b in zip(baseline, rates_of_lesson, strict=True)],
                flush=True,
            )
    lesson_series = series("lesson 02", rates_of_lesson, to=baseline)
    targets = zip((0.5, 0.5, 0.8), baseline, strict=True)
    p99 = {name: round(statistics.median(values), 2) for name, values in tails.items()}
    how = (
        f"{HOW}; one worker each, uvloop and h11, no access log, the lesson started as its page does; "
        "cache on for the second row and off for the third, where the baseline is the same chain called by "
        "64 tasks in a loop without a server"
    )
    save(
        "lesson_02_speed",
        {
            "title": "Requests a second: lesson 02 and its baselines",
            "kind": "bars",
            "alt": "Requests a second of lesson 02, of a bare app and of the same chain without a server.",
            "measured": measured(how, "fastapi", "uvicorn", "pydantic", "langchain-openai", wrk=wrk),
            "values": {
                "health_p99_bare_ms": p99["bare"],
                "health_p99_ms": p99["lesson"],
                "health_p99_ratio": round(p99["lesson"] / p99["bare"], 2),
            },
            "unit": "requests a second",
            "groups": ["GET /health", "POST /v1/invoke, cached", "POST /v1/invoke, 2,000 questions"],
            "series": [series("baseline", baseline), lesson_series],
            "target": {
                "label": "at least",
                "values": [round(f * statistics.median(y), 1) for f, y in targets],
            },
        },
    )


if __name__ == "__main__":
    main()
