"""Parallel agents: N agents on one repository, each in its own locked-down container, watched live.

You learn: how to run code that a model wrote: isolation, limits, three clocks, a gateway that holds the key,
           an event log that readers resume, and a server that cleans up after its own death.
Run:       `make model`, and in a second terminal `python main.py` in this folder
See:       http://localhost:8000, or `python -m parallel_agents run REPOSITORY "Mend the tests" -n 4`
"""

import signal
import sys

# The kernel delivers no signal to process 1 of a container unless it has a handler.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import asyncio

import uvicorn

from parallel_agents.api import create_app
from parallel_agents.config import read_settings
from parallel_agents.engines import make_engine
from parallel_agents.engines.base import EngineDown
from parallel_agents.gateway import Gateway
from parallel_agents.runs import lock_data_dir
from parallel_agents.server import DrainingServer, RequestContextMiddleware, Shutdown
from parallel_agents.telemetry import configure_logs

CLOSE_SECONDS = 6  # after the drain, for the last events
settings = read_settings()
shutdown = Shutdown()
app = RequestContextMiddleware(create_app(settings, shutdown))


async def find_engine() -> None:
    """Exit with one line if the engine does not answer. Once the server runs, /ready says so instead."""
    engine = make_engine(settings, Gateway(settings))
    try:
        await engine.gateway_host()
    except EngineDown as error:
        sys.exit(f"The engine {settings.engine} cannot be reached ({error}). Is it running?")
    finally:
        await engine.close()


def main() -> int:
    configure_logs(settings.log_level)
    try:
        lock = lock_data_dir(settings)  # held until this process ends
    except OSError:
        sys.exit(f"Another server uses the folder {settings.data_dir}, or it cannot be written to.")
    with lock:
        asyncio.run(find_engine())
        config = uvicorn.Config(
            app, settings.host, settings.port, access_log=False, log_config=None, http="h11"
        )
        config.timeout_graceful_shutdown = int(settings.drain_seconds + CLOSE_SECONDS)
        server = DrainingServer(config, settings.drain_delay_seconds, shutdown)
        server.run()
    return server.exit_code


if __name__ == "__main__":
    sys.exit(main())
