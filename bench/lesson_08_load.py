"""How many tasks a second do agents do? `python bench/lesson_08_load.py`, a minute; needs Dagger."""

import json

from bench.pipelines import run
from bench.records import measured, save

AGENTS = [1, 2, 4, 8]


def main() -> None:
    lines = run("examples/load_testing.py", "--agents", *map(str, AGENTS)).splitlines()
    values = [json.loads(line)["tasks_per_second"] for line in lines]
    linear = [round(value / (count * values[0]), 3) for count, value in zip(AGENTS, values, strict=True)]
    how = (
        "examples/load_testing.py: 8 tasks for each agent, 1 s of model time each, from the start "
        "of the first task to the end of the last; agents and Redis in a Dagger engine; stand-in images"
    )
    save(
        "lesson_08_load",
        {
            "title": "Tasks a second, by the number of agents",
            "kind": "bars",
            "alt": "Bars of the tasks that 1, 2, 4 and 8 agents do in a second, beside linear growth.",
            "measured": measured(how, "dagger-io", "redis", "openai"),
            "values": {f"of_linear_{count}": share for count, share in zip(AGENTS, linear, strict=True)},
            "unit": "tasks a second",
            "groups": [f"{count} agent{'s' * (count > 1)}" for count in AGENTS],
            "series": [{"name": "tasks a second", "values": values}],
            "target": {
                "label": "0.9 x linear",
                "values": [round(0.9 * count * values[0], 3) for count in AGENTS],
            },
        },
    )


if __name__ == "__main__":
    main()
