"""Is any of 200 streams cut off by SIGTERM? `python bench/shutdown_streams.py`, about a minute."""

import asyncio

from bench.load import model_settings
from bench.records import measured, save, series
from course.processes import Processes
from course.versus import STATES, shut_down, start_candidate

EACH, DELAY, DRAIN, ROUNDS = 100, 1, 10, 3


def main() -> None:
    seconds, states = [], []
    with Processes() as processes:
        settings = model_settings(processes) | {"MODEL_NAME": "offline?tps=5", "DRAIN_SECONDS": str(DRAIN)}
        settings |= {"DRAIN_DELAY_SECONDS": str(DELAY), "TIMEOUT_SECONDS": "60"}
        for number in range(ROUNDS):
            server = start_candidate(processes, "lesson 03", ["code/03_graceful_shutdown.py"], settings)
            server.wait()
            asyncio.run(shut_down([server], EACH, EACH, grace=60))
            assert server.exit_code == 0 and server.seconds
            seconds.append(server.seconds - DELAY)
            states.append([server.count(state) for state in STATES[1:]])
            print(f"round {number + 1} of {ROUNDS}: {states[-1]} in {server.seconds:.2f} s", flush=True)
    how = (
        f"{EACH} streams of 8 s and {EACH} of 25 s on one process, SIGTERM after a second; {ROUNDS} rounds, "
        "median and spread; the delay before the drain is left out; exit code 0 in every round"
    )
    counts = [sum(state) for state in zip(*states, strict=True)]
    save(
        "shutdown_streams",
        {
            "title": f"Seconds to exit with {2 * EACH} streams in flight and a drain of {DRAIN} s",
            "kind": "bars",
            "alt": f"Seconds from the beginning of the drain to the exit, with {2 * EACH} streams in flight.",
            "measured": measured(how, "uvicorn", "fastapi"),
            "values": dict(zip(("finished", "error_event", "cut_off"), counts, strict=True)),
            "unit": "seconds",
            "groups": [f"{2 * EACH} streams, {EACH} of them longer than the drain"],
            "series": [series("lesson 03", [seconds])],
            "target": {"label": "at most", "values": [DRAIN + 1]},
        },
    )


if __name__ == "__main__":
    main()
