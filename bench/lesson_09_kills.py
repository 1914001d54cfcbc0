"""What does a kill of the server lose? `python bench/lesson_09_kills.py`, five minutes; needs Docker."""

import random
import time

import httpx2

from bench.parallel_agents import RESULT, lesson_09
from bench.records import measured, save
from course.polling import until

ROUNDS, VARIATIONS = 20, 8
CODE = f"""
import os, time
time.sleep(int(os.environ["AGENT_SEED"]) % {VARIATIONS} * 0.5)
open("a.txt", "a").write("more\\n")
{RESULT}
"""


def main() -> None:
    orphans = lost = silent = finished = interrupted = 0
    sweeps = []
    with lesson_09(MAX_CONCURRENCY="8", MAX_VARIATIONS="8") as bench:
        user = bench.user()
        for _ in range(ROUNDS):
            run = bench.post(user, CODE, VARIATIONS)
            seen = set()
            deadline = time.monotonic() + random.uniform(1, 6)  # noqa: S311
            with httpx2.stream("GET", f"{bench.url}/runs/{run}/stream", headers=user, timeout=60) as stream:
                kind = ""
                for line in stream.iter_lines():
                    kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
                    if kind == "state" and '"name": "passed"' in line:
                        seen.add(int(line.split('"variation": ')[1].split(",")[0]))
                    if time.monotonic() > deadline:
                        break
            bench.stop(kill=True)
            began = time.perf_counter()
            bench.start()
            until(lambda: bench.left() == 0, 60)
            sweeps.append(time.perf_counter() - began)
            orphans += bench.left()
            told = bench.get(user, run)
            states = {each["n"]: each["state"] for each in told["variations"]}
            lost += sum(states[n] != "passed" for n in seen)
            for n in (n for n, state in states.items() if state == "passed"):
                patch = httpx2.get(f"{bench.url}/runs/{run}/variations/{n}/patch", headers=user, timeout=60)
                lost += "+more" not in patch.text
            finished += sum(state == "passed" for state in states.values())
            interrupted += sum(state == "interrupted" for state in states.values())
            silent += sum(state in ("queued", "running") for state in states.values())
    values: dict[str, float] = {"kills": ROUNDS, "finished": finished, "interrupted": interrupted}
    values |= {"orphans": orphans, "lost": lost, "silent": silent, "sweep_seconds_max": round(max(sweeps), 1)}
    how = (
        f"{ROUNDS} runs of {VARIATIONS} variations that end half a second apart; the server gets SIGKILL "
        "after 1 to 6 s and is started again; lost: results that a reader had seen or that have no patch; "
        "silent: variations that are neither finished nor marked as interrupted; the sweep's time has the "
        "server's start in it; stand-in images"
    )
    names = ["finished", "interrupted", "orphans", "lost", "silent"]
    save(
        "lesson_09_kills",
        {
            "title": f"{ROUNDS} kills of the server in the middle of {VARIATIONS} variations",
            "kind": "bars",
            "alt": "Bars: variations that finished or were interrupted; orphans, lost and silent ones.",
            "measured": measured(how, "aiodocker", "sqlmodel"),
            "values": values,
            "unit": "count",
            "groups": names,
            "series": [{"name": "count", "values": [values[name] for name in names]}],
        },
    )


if __name__ == "__main__":
    main()
