"""How fast is the offline model beside a bare route? `python bench/offline_model_speed.py`, two minutes."""

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

TARGET = 0.4  # times the bare route


def main() -> None:
    wrk = wrk_version()
    bodies = [
        json.dumps({"model": "offline", "messages": [{"role": "user", "content": question}]})
        for question in questions(2_000)
    ]
    with Processes() as processes:
        model, bare = start_model(processes), uvicorn(processes, "bare_model:app", "bench")
        path = "/v1/chat/completions"
        pools = [Route(f"{bare}{path}", bodies), Route(f"{model}{path}", bodies)]
        repeats = [Route(f"{bare}{path}", bodies[:1]), Route(f"{model}{path}", bodies[:1])]
        bare_pool, model_pool, bare_one, model_one = rounds([*pools, *repeats])
    how = (
        f"{HOW}; one process each, uvloop and httptools; the bare route has the same request and reply "
        "models and sends a fixed answer"
    )
    bare_series = series("bare FastAPI route", [bare_pool, bare_one])
    model_series = series("offline model", [model_pool, model_one], to=[bare_pool, bare_one])
    save(
        "offline_model_speed",
        {
            "title": "Completions a second: the offline model beside a bare FastAPI route",
            "kind": "bars",
            "alt": "Completions a second of a bare route and of the offline model, for 2,000 questions and "
            "for one, asked again and again.",
            "measured": measured(how, "fastapi", "starlette", "uvicorn", "pydantic", wrk=wrk),
            "values": dict(zip(("different_ratio", "repeated_ratio"), model_series["ratio"], strict=True)),
            "unit": "completions a second",
            "groups": ["2,000 different questions", "one question, repeated"],
            "series": [bare_series, model_series],
            "target": {
                "label": f"at least {TARGET} x the bare route",
                "values": [round(TARGET * rate, 3) for rate in bare_series["values"]],
            },
        },
    )


if __name__ == "__main__":
    main()
