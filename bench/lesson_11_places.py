"""What do 10, 1,000 and 100,000 streams need? `python bench/lesson_11_places.py`, a second.

It computes places by the queueing model, processors from `bench/lesson_11_scale.py`, memory from lesson 04.
"""

import json
from math import ceil

from bench.queueing import servers_for
from bench.records import save
from course.paths import ROOT

STREAMS = (10, 1_000, 100_000)
SECONDS = 30  # the length of a stream
WAITING = 0.01  # the share of callers that may have to wait
POD, TARGET, MOST = 0.5, 0.7, 32  # processors of a pod, the share of them to use, and runs at a time


def record(name: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(
        (ROOT / "docs" / "figures" / f"{name}.json").read_text("utf-8")
    )
    return found


def main() -> None:
    run, streams = record("lesson_11_scale")["values"], record("lesson_04_streams")["values"]
    agent, redis, kilobytes = run["agent_ms"], run["redis_ms"], streams["kilobytes_a_stream"]
    values = {"seconds": SECONDS, "agent_ms": agent, "redis_ms": redis, "kilobytes": kilobytes}
    for number in STREAMS:
        places, rate = servers_for(number, WAITING), number / SECONDS
        processors = rate * agent / 1000
        values |= {
            f"places_{number}": places,
            f"spare_{number}": round(100 * (places / number - 1), 2),
            f"rate_{number}": round(rate, 2),
            f"processors_{number}": round(processors, 2),
            f"redis_{number}": round(rate * redis / 1000, 2),
            f"pods_{number}": max(2, ceil(places / MOST), ceil(processors / (POD * TARGET))),
            f"gigabytes_{number}": round(number * kilobytes / 1e6, 3),
        }
    save(
        "lesson_11_places",
        {
            "title": "Places to spare, so that one caller in a hundred has to wait",
            "kind": "bars",
            "alt": "The places to spare in percent of the streams: few streams need many, many streams few.",
            "values": values,
            "unit": "percent",
            "groups": [f"{number:,} streams" for number in STREAMS],
            "series": [{"name": "spare places", "values": [values[f"spare_{number}"] for number in STREAMS]}],
        },
    )


if __name__ == "__main__":
    main()
