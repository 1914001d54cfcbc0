"""Is any of 200 streams cut off by SIGTERM? `python bench/shutdown_streams.py`, about a minute."""

import asyncio

from bench.load import model_settings
from bench.records import measured, save, series
from course.processes import Processes
from course.versus import STATES, shut_down, start_candidate

STREAMS_PER_LENGTH, ROUNDS = 100, 3
DELAY_SECONDS, DRAIN_SECONDS = 1, 10


def main() -> None:
    seconds, states = [], []
    with Processes() as processes:
        settings = model_settings(processes) | {
            "MODEL_NAME": "offline?tps=5",
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        settings |= {"DRAIN_DELAY_SECONDS": str(DELAY_SECONDS), "TIMEOUT_SECONDS": "60"}
        for number in range(ROUNDS):
            server = start_candidate(processes, "lesson 03", ["code/03_graceful_shutdown.py"], settings)
            server.wait()
            asyncio.run(shut_down([server], STREAMS_PER_LENGTH, STREAMS_PER_LENGTH, grace=60))
            assert server.exit_code == 0 and server.seconds
            seconds.append(server.seconds - DELAY_SECONDS)
            states.append([server.count(state) for state in STATES[1:]])
            print(f"round {number + 1} of {ROUNDS}: {states[-1]} in {server.seconds:.2f} s", flush=True)
    streams = f"{2 * STREAMS_PER_LENGTH} streams"
    how = (
        f"{STREAMS_PER_LENGTH} streams of 8 s and {STREAMS_PER_LENGTH} of 25 s on one process, "
        f"SIGTERM after a second; {ROUNDS} rounds, "
        "median and spread; the delay before the drain is left out; exit code 0 in every round"
    )
    counts = [sum(state) for state in zip(*states, strict=True)]
    save(
        "shutdown_streams",
        {
            "title": f"Seconds to exit with {streams} in flight and a drain of {DRAIN_SECONDS} s",
            "kind": "bars",
            "alt": f"Seconds from the beginning of the drain to the exit, with {streams} in flight.",
            "measured": measured(how, "uvicorn", "fastapi"),
            "values": dict(zip(("finished", "error_event", "cut_off"), counts, strict=True)),
            "unit": "seconds",
            "groups": [f"{streams}, {STREAMS_PER_LENGTH} of them longer than the drain"],
            "series": [series("lesson 03", [seconds])],
            "target": {"label": "at most", "values": [DRAIN_SECONDS + 1]},
        },
    )


if __name__ == "__main__":
    main()
