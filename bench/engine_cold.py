"""How long until a machine without Docker has one, and how much disk does it take? Ten minutes, as root.

It stops the course's own engine, and starts one with an empty cache folder, then again with the same folder.
Disk space is measured after `make engine docker`, and again with the images of lessons 05 and 06.
"""

import os
import subprocess
import sys
import tempfile
import time

from rich.console import Console

from bench.records import measured, save, series
from course.containers import images
from course.engines.docker import Docker, works
from course.errors import CourseError
from course.paths import ROOT

ROUNDS = 2


def engine(action: str, cache: str) -> float:
    """Seconds that `make engine` or `make engine-down` takes with that cache folder."""
    code = "from rich.console import Console; from course.engines.docker import Docker"
    script = f"{code}; Docker().{action}(Console())"
    began = time.monotonic()
    env = os.environ | {"XDG_CACHE_HOME": cache}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def gigabytes(folder: str) -> float:
    """The disk space that a folder takes."""
    counted = subprocess.run(
        ["du", "-s", "--block-size=1MB", folder], capture_output=True, text=True, check=True
    )
    return int(counted.stdout.split()[0]) / 1000


def main() -> None:
    Docker().stop(Console())
    if works():
        raise CourseError("This machine has a Docker of its own; there is nothing to measure.")
    cold, warm, running = [], [], []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(engine("set_up", cache))
            disk = gigabytes(cache)
            running.append(engine("set_up", cache))
            engine("stop", cache)
            warm.append(engine("set_up", cache))
            version = str(Docker().version())
            for image in (images.MODEL, *images.AGENTS):
                images.build(image)
            disk_with_lessons = gigabytes(cache)
            engine("stop", cache)
        print(f"round {number + 1}: {cold[-1]:.0f} s, then {warm[-1]:.1f} s", flush=True)
    how = (
        "an empty cache folder, then the same folder once more, then a running engine; "
        f"{ROUNDS} rounds, median and spread; packages come over the network"
    )
    save(
        "engine_cold",
        {
            "title": "Seconds until a machine without Docker has one",
            "kind": "bars",
            "alt": "Seconds that make engine takes with nothing cached, the second time, and when it runs.",
            "measured": measured(how, Docker=version),
            "unit": "seconds",
            "groups": ["nothing cached", "the second time", "already running"],
            "series": [series("make engine", [cold, warm, running])],
            "target": {"label": "at most", "values": [120, 10, 5]},
            "values": {"gigabytes": disk, "gigabytes_with_lessons": disk_with_lessons},
        },
    )


if __name__ == "__main__":
    main()
