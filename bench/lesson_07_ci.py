"""How long does the pipeline of lesson 07 take? `python bench/lesson_07_ci.py`, two minutes."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cold_image import cold_image
from bench.records import measured, save
from course import engines
from course.containers.commands import run
from course.paths import ROOT

FOLDER = ROOT / "code/07_container_tools"
TONES = {"lint": "blue", "types": "purple", "tests": "green", "image": "orange", "export": "plain"}


def pipeline(image: str, folder: str) -> tuple[float, dict[str, tuple[float, float]]]:
    """Run the pipeline on a base image; return its seconds, and when each step began and ended."""
    env = os.environ | engines.environment() | {"PYTHON_IMAGE": image}
    command = [sys.executable, "ci/ci_pipeline.py", str(Path(folder) / "image.tar")]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=FOLDER, env=env, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    found = re.findall(r"^(\w+) +([\d.]+) s to +([\d.]+) s", done.stdout, re.MULTILINE)
    return seconds, {name: (float(start), float(end)) for name, start, end in found}


def lanes(title: str, steps: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{title}: {name}",
            "spans": [{"start": steps[name][0], "end": steps[name][1], "label": name, "tone": tone}],
        }
        for name, tone in TONES.items()
    ]


def main() -> None:
    with cold_image() as image, tempfile.TemporaryDirectory() as folder:
        cold, first = pipeline(image, folder)
        cached, second = pipeline(image, folder)
    how = (
        "the whole pipeline on a base image that the engine had never seen, and again without a change; "
        "packages come from pip's cache volume and a registry near by; stand-in base image"
    )
    save(
        "lesson_07_ci",
        {
            "title": "The pipeline, cold and cached, second by second",
            "kind": "timeline",
            "alt": "Cold, four steps run side by side for most of a minute; cached, no step takes a second.",
            "measured": measured(how, "dagger-io", Docker=run("version", "--format={{.Server.Version}}")),
            "values": {"cold": round(cold, 1), "cached": round(cached, 1), "ratio": round(cached / cold, 3)},
            "lanes": lanes("cold", first) + lanes("cached", second),
        },
    )


if __name__ == "__main__":
    main()
