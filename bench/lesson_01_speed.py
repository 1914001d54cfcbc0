"""How fast is lesson 01 beside a bare FastAPI app? `python bench/lesson_01_speed.py`, about two minutes."""

import json

from bench.load import (
    HOW,
    Route,
    questions,
    rounds,
    uvicorn,
    wrk_version,
)
from bench.records import measured, save, series
from course.models import start_model
from course.processes import Processes


def main() -> None:
    wrk = wrk_version()
    bodies = [json.dumps({"query": question}) for question in questions(2_000)]
    with Processes() as processes:
        model = {"OPENAI_BASE_URL": f"{start_model(processes)}/v1", "OPENAI_API_KEY": "offline"}
        lesson = uvicorn(processes, "01_basic_api:app", "code", "/ready", **model, MODEL_NAME="offline")
        bare = uvicorn(processes, "bare_app:app", "bench")
        health = [Route(f"{bare}/health"), Route(f"{lesson}/health")]
        invoke = [Route(f"{bare}/v1/invoke", bodies), Route(f"{lesson}/v1/invoke", bodies)]
        bare_health, lesson_health, bare_invoke, lesson_invoke = rounds([*health, *invoke])
    how = (
        f"{HOW}; one worker each, uvloop and httptools, no access log; 2,000 different queries; the lesson "
        "asks the offline model, the bare app calls no model"
    )
    lesson_series = series("lesson 01", [lesson_health, lesson_invoke], to=[bare_health, bare_invoke])
    save(
        "lesson_01_speed",
        {
            "title": "Requests a second: lesson 01 beside a bare FastAPI app",
            "kind": "bars",
            "alt": "Requests a second of GET /health and POST /v1/invoke in a bare app and in lesson 01.",
            "measured": measured(how, "fastapi", "uvicorn", "pydantic", "langchain-openai", wrk=wrk),
            "values": dict(zip(("health_ratio", "invoke_ratio"), lesson_series["ratio"], strict=True)),
            "unit": "requests a second",
            "groups": ["GET /health", "POST /v1/invoke"],
            "series": [series("bare FastAPI", [bare_health, bare_invoke]), lesson_series],
        },
    )


if __name__ == "__main__":
    main()
