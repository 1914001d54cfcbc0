"""What does an edit cost? `python bench/lesson_05_builds.py`, about ten minutes; needs Docker.

It builds each image of the research agent with an empty cache, after an edit of the source, and after an edit
of the dependencies.
"""

import subprocess
import tempfile
import time
from pathlib import Path

from bench.records import measured, save, series
from course.containers.commands import run
from course.containers.images import AGENTS, Image
from course.engines.docker import docker
from course.paths import ROOT, copy_sources

ROUNDS = 3
EDITS = ("nothing cached", "an edit of the source", "an edit of requirements.txt")


def built(image: Image, folder: Path, *options: str) -> float:
    """Seconds that a build takes."""
    dockerfile = f"--file={folder / image.file}"
    began = time.monotonic()
    run(
        "build",
        "--quiet",
        dockerfile,
        f"--tag=measured:{image.file.lower()}",
        *options,
        str(folder),
        seconds=900,
    )
    return time.monotonic() - began


def edit(path: Path, number: int) -> None:
    """Append a comment that no build has seen."""
    with path.open("a") as file:
        file.write(f"# {number} {time.time_ns()}\n")


def main() -> None:
    costs: dict[str, list[list[float]]] = {image.tag: [[], [], []] for image in AGENTS}
    with tempfile.TemporaryDirectory() as parent:
        folder = copy_sources(ROOT / "research-agent", Path(parent) / "research-agent")
        for number in range(ROUNDS):
            for image in AGENTS:
                # --no-cache keeps the caches that steps mount, which a new builder does not have.
                docker("buildx", "prune", "--force", "--filter=type=exec.cachemount", seconds=300)
                cold, source, dependencies = costs[image.tag]
                cold.append(built(image, folder, "--no-cache"))
                edit(folder / "app" / "__init__.py", number)
                source.append(built(image, folder))
                edit(folder / "requirements.txt", number)
                dependencies.append(built(image, folder))
                told = ", ".join(f"{each[-1]:.1f}" for each in costs[image.tag])
                print(f"round {number + 1} of {ROUNDS}, {image.tag}: {told} s", flush=True)
    for image in AGENTS:
        docker("rmi", f"measured:{image.file.lower()}")
    names = {image.tag: image.tag.partition(":")[2].replace("latest", "optimized") for image in AGENTS}
    basic = costs[AGENTS[0].tag]
    version = subprocess.run(
        ["docker", "version", "--format={{.Server.Version}}"], capture_output=True, text=True
    )
    save(
        "lesson_05_builds",
        {
            "title": "Seconds to build the research agent's image",
            "kind": "bars",
            "alt": "Seconds of a build of each image: with nothing cached, after an edit of the source, "
            "and after an edit of the dependencies.",
            "measured": measured(
                f"{ROUNDS} rounds, the images in turn, median and spread; packages come over the network; "
                "on stand-in base images",
                Docker=version.stdout.strip(),
            ),
            "unit": "seconds",
            "groups": list(EDITS),
            "series": [series(names[tag], rounds, to=basic) for tag, rounds in costs.items()],
        },
    )


if __name__ == "__main__":
    main()
