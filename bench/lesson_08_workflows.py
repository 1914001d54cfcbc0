"""Which shape has each workflow? `python bench/lesson_08_workflows.py`, a minute; needs Dagger.

Runs each composition, and draws the graph of its tasks: the place of a box is the time of its task.
"""

import json
from typing import Any

from bench.pipelines import run
from bench.records import measured, save

# In half inches: where tasks begin, the right end, the height of a box, the gap between rows.
LEFT, WIDTH, HEIGHT, GAP = 3.0, 15.7, 1.7, 0.35
RUNS: dict[str, tuple[str, ...]] = {
    "fan-out": (),
    "sequential": (),
    "conditional": ("--prompts", "Which fish live in the Baltic Sea?"),
    "event-driven": (),
}
TITLES = {
    "fan-out": "Fan-out: all tasks at once",
    "sequential": "Sequential: each task needs the answer before it",
    "conditional": "Conditional: the first answer decides which tasks follow",
    "event-driven": "Event-driven: an event starts a sequence of tasks",
}


def graph(composition: str, found: dict[str, Any]) -> dict[str, Any]:
    """A box for each task and for the event, and an arrow to each task from those before it."""
    results = sorted(found["results"], key=lambda each: each["started"])
    events = {each for result in results for each in result["after"]} - {each["task"] for each in results}
    origin = min(events, default="workflow")
    begins = event_time(origin) if events else found["began"]
    ends = max(result["ended"] for result in results)
    scale = (WIDTH - LEFT) / (ends - begins)
    title = "event" if events else "workflow"
    boxes: list[dict[str, Any]] = [
        {
            "id": origin,
            "title": title,
            "rows": ["0.0 s"],
            "at": [0.3, 0.3],
            "size": [1.9, HEIGHT],
            "tone": "orange",
        }
    ]
    free: list[float] = []  # when the last task of each row ends
    for result in results:
        row = next((n for n, end in enumerate(free) if end <= result["started"]), len(free))
        free[row : row + 1] = [result["ended"]]
        start, stop = result["started"] - begins, result["ended"] - begins
        boxes.append(
            {
                "id": result["task"],
                "title": result["agent"],
                "rows": [f"{start:.1f} to {stop:.1f} s"],
                "at": [round(LEFT + start * scale, 2), round(0.3 + row * (HEIGHT + GAP), 2)],
                "size": [round((stop - start) * scale - 0.7, 2), HEIGHT],
                "tone": "blue",
            }
        )
    arrows = [
        {"from": before, "to": result["task"]} for result in results for before in result["after"] or [origin]
    ]
    how = (
        f"one run of orchestrate-workflow --composition {composition} with 4 agents and 1 s of model time "
        "a task; drawn from the start and the end of each task; stand-in images"
    )
    return {
        "title": TITLES[composition],
        "kind": "graph",
        "alt": f"{TITLES[composition]}. {len(results)} tasks in {ends - begins:.1f} s, as boxes.",
        "measured": measured(how, "dagger-io", "redis"),
        "values": {
            "tasks": len(results),
            "seconds": round(ends - begins, 2),
            "work": round(sum(result["ended"] - result["started"] for result in results), 2),
        },
        "boxes": boxes,
        "arrows": arrows,
    }


def event_time(event: str) -> float:
    """The id of an entry in a Redis stream begins with its time in milliseconds."""
    return int(event.partition("-")[0]) / 1000


def main() -> None:
    for composition, more in RUNS.items():
        options = ("--composition", composition, "--agent-count", "4", "--as-json", *more)
        found = json.loads(run("src/main.py", "orchestrate-workflow", *options))
        save(f"lesson_08_{composition.replace('-', '_')}", graph(composition, found))


if __name__ == "__main__":
    main()
