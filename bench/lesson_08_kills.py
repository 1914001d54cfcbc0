"""What do kills cost? `python bench/lesson_08_kills.py`, two minutes; needs Dagger."""

import json

from bench.pipelines import run
from bench.records import measured, save

TASKS = 200
ROWS = {
    "tasks": "tasks",
    "kills": "agents killed",
    "taken_over": "tasks taken over",
    "redriven": "dead letters put back",
    "lost": "tasks lost",
    "done_twice": "done twice in effect",
}


def main() -> None:
    found = json.loads(run("examples/failure_recovery.py", "--tasks", str(TASKS)))
    how = (
        "examples/failure_recovery.py: 4 agents, 1 s of model time a task; every 2 s one agent gets "
        "SIGKILL and is started again, later while three are still starting; effects are counted in the "
        "log of results; stand-in images"
    )
    save(
        "lesson_08_kills",
        {
            "title": f"{TASKS} tasks, while one of four agents is killed every two seconds",
            "kind": "bars",
            "alt": "Bars: tasks, kills, tasks that were taken over, lost, or done twice in effect.",
            "measured": measured(how, "dagger-io", "redis", "openai"),
            "values": {"seconds": round(found["seconds"], 1)} | {name: found[name] for name in ROWS},
            "unit": "count",
            "groups": list(ROWS.values()),
            "series": [{"name": "count", "values": [found[name] for name in ROWS]}],
        },
    )


if __name__ == "__main__":
    main()
