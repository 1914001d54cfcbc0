"""Lesson 10: start everything that `dapr.yaml` names: each app with its sidecar, and what they all need.

`dapr run -f dapr.yaml` starts apps and sidecars from the same file. This launcher also starts Kafka,
PostgreSQL and Dapr's two services, and it needs no Dapr command line:

    python launch.py dapr.yaml             # Ctrl-C stops everything
    python launch.py dapr.yaml --restart   # a process that dies is started again
    python launch.py                       # only what apps need

It prints the variables that name what apps need, such as KAFKA_BROKERS. What a variable names already is
used, and not started.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from launcher import infrastructure
from launcher.processes import Failure, Processes, say
from launcher.run_file import read_run_file
from launcher.sidecar import require_stated_ports, services_of, start_one_by_one


async def run(run_file: Path | None, restart: bool) -> None:
    """Start everything and keep it running until this task is cancelled."""
    began = time.monotonic()
    apps = read_run_file(run_file) if run_file else []
    require_stated_ports(apps)
    async with Processes(restart) as processes:
        addresses = await infrastructure.start(processes)
        services = [each for app in apps for each in services_of(app, addresses, processes.folder)]
        start_one_by_one(services, apps)
        await processes.start(*services)
        for name, address in addresses.items():
            say(f"export {name}={address}")
        count = len(processes.services)
        say(f"✓ {count} processes are healthy after {time.monotonic() - began:.1f} s. Ctrl-C stops them.")
        await processes.failed  # until this task is cancelled, or the launcher cannot go on


async def main() -> int:
    parser = argparse.ArgumentParser(description="Start apps, their sidecars and what they need.")
    parser.add_argument("run_file", nargs="?", type=Path, help="Dapr's multi-app run file")
    parser.add_argument("--restart", action="store_true", help="start a process again when it dies")
    options = parser.parse_args()
    running = asyncio.create_task(run(options.run_file, options.restart))

    def end() -> None:
        """The first signal stops everything in order, the second at once."""
        if running.cancelling():
            os._exit(1)
        say("Stopping ...")
        running.cancel()

    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(sign, end)
    try:
        await running
    except Failure as failure:
        print(f"✗ {failure}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        say("Everything has stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
