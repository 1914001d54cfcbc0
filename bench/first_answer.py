"""How long from `make lesson-01` to the first answer? `python bench/first_answer.py`, about two minutes."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.records import measured, save, series
from course.models import base_environment
from course.paths import ROOT
from course.ports import require_free

ROUNDS = 3


def first_answer(clone: Path, home: Path) -> float:
    """Seconds until the page's first call of /v1/invoke prints a response; then the page runs to its end."""
    # Package settings stay, because they may be in the environment. Caches in the home folder are not used.
    env = base_environment() | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "TERM": "dumb"}
    env["PATH"] = os.pathsep.join(p for p in env["PATH"].split(os.pathsep) if not p.startswith(str(ROOT)))
    for name in ("VIRTUAL_ENV", "PIP_CACHE_DIR", "UV_CACHE_DIR"):
        env.pop(name, None)
    began, found, asked, output = time.monotonic(), 0.0, False, []
    with subprocess.Popen(
        ["make", "lesson-01"], cwd=clone, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as run:
        assert run.stdout
        for line in run.stdout:
            output.append(line)
            asked = asked or (line.startswith("$ ") and "/v1/invoke" in line)
            if not found and asked and '"response"' in line and not line.startswith("$ "):
                found = time.monotonic() - began
    if run.returncode or not found:
        sys.exit(
            "".join(output[-20:]) + f"make lesson-01 ended with {run.returncode}, answer seen: {bool(found)}"
        )
    return found


def import_seconds(clone: Path) -> float:
    """The seconds that the import of the lesson's largest library takes, which the course cannot shorten."""
    began = time.monotonic()
    subprocess.run([str(clone / ".venv/bin/python"), "-c", "import langchain_openai"], check=True)
    return time.monotonic() - began


def main() -> None:
    for port in (8000, 9000):
        require_free(port)
    cold, warm, imports = [], [], []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            clone, home = Path(folder) / "clone", Path(folder) / "home"
            home.mkdir()
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            cold.append(first_answer(clone, home))
            warm.append(first_answer(clone, home))
            imports.append(import_seconds(clone))
        print(f"round {number + 1} of {ROUNDS}: {cold[-1]:.1f} s, then {warm[-1]:.2f} s", flush=True)
    how = (
        "a fresh clone with an empty home and empty caches, from the start of make to the answer, "
        f"and once more in the same clone; {ROUNDS} rounds, median and spread; packages come over the network"
    )
    save(
        "first_answer",
        {
            "title": "Seconds from make lesson-01 to the agent's first answer",
            "kind": "bars",
            "alt": "Seconds from make lesson-01 to the first answer, on a fresh clone and the second time.",
            "measured": measured(how, "fastapi", "langchain-openai", "uvicorn"),
            "values": {"import_seconds": round(statistics.median(imports), 2)},
            "unit": "seconds",
            "groups": ["fresh clone, nothing cached", "the second time"],
            "series": [series("make lesson-01", [cold, warm])],
            "target": {"label": "at most", "values": [30, 3]},
        },
    )


if __name__ == "__main__":
    main()
