"""How fast is lesson 01 beside a bare FastAPI app? `python bench/lesson_01_speed.py`, about two minutes."""

import json

from bench.load import HOW, Route, lesson, model_settings, questions, rounds, uvicorn, wrk_version
from bench.records import measured, save, series
from course.processes import Processes


def main() -> None:
    wrk = wrk_version()
    bodies = [json.dumps({"query": question}) for question in questions(2_000)]
    with Processes() as processes:
        served = lesson(processes, "code/01_basic_api.py", **model_settings(processes))
        bare = uvicorn(processes, "bare_app:app", "bench", http="h11")
        health = [Route(f"{bare}/health"), Route(f"{served}/health")]
        invoke = [Route(f"{bare}/v1/invoke", bodies), Route(f"{served}/v1/invoke", bodies)]
        bare_health, lesson_health, bare_invoke, lesson_invoke = rounds([*health, *invoke])
    how = (
        f"{HOW}; one worker each, uvloop and h11, no access log, the lesson started as its page does; 2,000 "
        "different queries; the lesson asks the offline model, the bare app calls no model"
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
