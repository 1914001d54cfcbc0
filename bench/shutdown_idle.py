"""How long does an idle server take to stop? `python bench/shutdown_idle.py`, about a minute."""

import signal
import time

from bench.load import model_settings
from bench.records import measured, save, series
from course.processes import Processes
from course.versus import start_candidate

ROUNDS, TARGET = 7, 0.3
SERVERS = {
    "lesson 03": ["code/03_graceful_shutdown.py"],
    "lesson 03, 4 workers": ["code/03_graceful_shutdown.py", "--workers", "4"],
    "plain uvicorn": ["-m", "uvicorn", "--app-dir", "code", "03_graceful_shutdown:app"],
    "plain uvicorn, 4 workers": [
        *["-m", "uvicorn", "--app-dir", "code", "03_graceful_shutdown:app", "--workers", "4"]
    ],
}


def main() -> None:
    found: dict[str, list[float]] = {name: [] for name in SERVERS}
    with Processes() as processes:
        settings = model_settings(processes)
        for number in range(ROUNDS):
            for name, command in SERVERS.items():
                server = start_candidate(processes, name, command, settings)
                server.wait()
                time.sleep(1)  # until the other workers are up, too
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                server.process.wait()
                found[name].append(time.monotonic() - began)
            print(f"round {number + 1} of {ROUNDS}: {[round(f[-1], 2) for f in found.values()]}", flush=True)
    save(
        "shutdown_idle",
        {
            "title": "Seconds from SIGTERM to the exit of an idle server",
            "kind": "bars",
            "alt": "Seconds from SIGTERM to exit with nothing in flight, of lesson 03 and of plain uvicorn.",
            "measured": measured(
                f"SIGTERM to an idle server, {ROUNDS} rounds in turn, median and spread", "uvicorn"
            ),
            "unit": "seconds",
            "groups": list(SERVERS),
            "series": [series("SIGTERM to exit", list(found.values()))],
            "target": {"label": "at most", "values": [TARGET] * len(SERVERS)},
        },
    )


if __name__ == "__main__":
    main()
