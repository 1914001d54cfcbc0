"""What does a tool call cost, beside `docker run`? `python bench/lesson_07_calls.py`, two minutes."""

import asyncio
import dataclasses
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import dagger

from bench.cold_image import cold_image
from bench.records import measured, save, series
from course import engines
from course.containers.commands import run
from course.engines.docker import BASE
from course.paths import ROOT

os.environ.update(engines.environment())
sys.path.insert(0, str(ROOT / "code/07_container_tools"))
from modules.tools.core import Limits, Tool, run_tool
from modules.tools.python_tool import TOOL as PYTHON

ROUNDS, COLD_ROUNDS, AT_ONCE = 7, 3, 20
TOOL = dataclasses.replace(PYTHON, limits=Limits(seconds=60))  # twenty that compute share the processors
CODE = "print(sum(range(1000)))"
SLEEP, COMPUTE = "import time; time.sleep(1)", "sum(range(20_000_000))"


async def seconds(work: Callable[..., Awaitable[Any]], *arguments: Any) -> float:
    began = time.perf_counter()
    await work(*arguments)
    return time.perf_counter() - began


def docker_run(folder: str, code: str) -> None:
    """The same script with the same input, by `docker run`: no limits, no other user."""
    (Path(folder) / "input.json").write_text(json.dumps({"code": code}))
    assert isinstance(PYTHON.script, Path)
    (Path(folder) / "script.py").write_text(PYTHON.script.read_text())
    command = ["python", "-I", "/tool/script.py", "/tool/input.json"]
    run("run", "--rm", "--volume", f"{folder}:/tool:ro", BASE, *command)


async def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in ("docker run", "warm", "cached", "cold")}
    async with dagger.Connection(dagger.Config(log_output=Path(os.devnull).open("w"))) as client:  # noqa: ASYNC230

        async def call(code: str, tool: Tool = TOOL) -> Any:
            return await run_tool(client, tool, tool.input.model_validate({"code": code}), {})

        await call(CODE)
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(ROUNDS):
                new = f"{CODE} # {uuid.uuid4()}"
                times["docker run"].append(await seconds(asyncio.to_thread, docker_run, folder, new))
                times["warm"].append(await seconds(call, new))
                times["cached"].append(await seconds(call, new))
        for _ in range(COLD_ROUNDS):
            with cold_image() as image:
                times["cold"].append(await seconds(call, CODE, dataclasses.replace(TOOL, image=image)))
        parallel: dict[str, float] = {}
        for name, code in (("wait", SLEEP), ("compute", COMPUTE)):
            lines = [f"{code} # {uuid.uuid4()}" for _ in range(2 * AT_ONCE)]
            at_once = await seconds(asyncio.gather, *map(call, lines[:AT_ONCE]))
            one_by_one = sum([await seconds(call, line) for line in lines[AT_ONCE:]])
            parallel |= {f"{name}_at_once": at_once, f"{name}_one_by_one": one_by_one}
            parallel[f"{name}_ratio"] = at_once / one_by_one
    groups = list(times)
    medians = series("a call", list(times.values()))
    cost = dict(zip(groups, medians["values"], strict=True))
    ratios = {
        "warm_to_docker_run": cost["warm"] / cost["docker run"],
        "cached_to_cold": cost["cached"] / cost["cold"],
    }
    how = (
        "run_python with a new input (warm), the same again (cached), and on a base image that the engine "
        f"pulls from a registry on this machine (cold, {COLD_ROUNDS} rounds); docker run: the same script "
        f"and input without limits; {ROUNDS} rounds in turn, median and spread; stand-in base image"
    )
    save(
        "lesson_07_calls",
        {
            "title": "Seconds of a tool call",
            "kind": "bars",
            "alt": "Seconds of docker run, and of a warm, a cached and a cold tool call.",
            "measured": measured(how, "dagger-io", Docker=run("version", "--format={{.Server.Version}}")),
            "values": {name: round(value, 3) for name, value in (ratios | parallel).items()},
            "unit": "seconds",
            "groups": groups,
            "series": [medians],
        },
    )


if __name__ == "__main__":
    asyncio.run(main())
