"""How soon is a container healthy, and how soon gone? `python bench/lesson_05_start.py`, a minute.

Needs the images of `make images`.
"""

import statistics
import time
from datetime import datetime

from bench.records import measured, save, series
from course.containers.commands import run
from course.containers.container import Container
from course.containers.images import AGENTS
from course.containers.network import TestNetwork

ROUNDS = 5
# Prints the CPU time of one run of the image's health check, in milliseconds.
CHECK = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    "spent = resource.getrusage(resource.RUSAGE_CHILDREN); print(1000 * (spent.ru_utime + spent.ru_stime))"
)


def healthy(container: Container, began: float) -> float:
    """Seconds from `docker run` to the end of the first check that succeeded."""
    container.wait_healthy()
    first = next(check for check in container.state["Health"]["Log"] if check["ExitCode"] == 0)
    return datetime.fromisoformat(first["End"]).timestamp() - began


def check_cost(container: Container) -> float:
    command = container.inspect()["Config"]["Healthcheck"]["Test"][1:]
    return float(run("exec", container.id, "python", "-I", "-S", "-c", CHECK, *command))


def main() -> None:
    starts: dict[str, list[float]] = {image.tag: [] for image in AGENTS}
    stops: dict[str, list[float]] = {image.tag: [] for image in AGENTS}
    costs: dict[str, list[float]] = {image.tag: [] for image in AGENTS}
    with TestNetwork() as network:
        for _ in range(ROUNDS):
            for image in AGENTS:
                began = time.time()
                container = network.start(image.tag)
                starts[image.tag].append(healthy(container, began))
                costs[image.tag] += [check_cost(container) for _ in range(3)]
                code, seconds = container.stop(30)
                assert code == 0
                stops[image.tag].append(seconds)
                container.remove()
    names = [image.tag.partition(":")[2].replace("latest", "optimized") for image in AGENTS]
    how = (
        "from `docker run` to the end of the first check that succeeds, and the whole of `docker stop`; "
        f"{ROUNDS} rounds, the images in turn, median and spread; on stand-in base images"
    )
    milliseconds = {
        f"check_ms_{name}": round(statistics.median(costs[image.tag]), 1)
        for name, image in zip(names, AGENTS, strict=True)
    }
    save(
        "lesson_05_start",
        {
            "title": "Seconds until a container is healthy, and until it is gone",
            "kind": "bars",
            "alt": "Seconds from docker run to healthy, and of docker stop when idle, of the three images.",
            "measured": measured(how, Docker=run("version", "--format={{.Server.Version}}")),
            "values": milliseconds,
            "unit": "seconds",
            "groups": names,
            "series": [
                series("start to healthy", [starts[image.tag] for image in AGENTS]),
                series("stop when idle", [stops[image.tag] for image in AGENTS]),
            ],
        },
    )


if __name__ == "__main__":
    main()
