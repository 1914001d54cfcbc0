"""Start the research agent: `python main.py`. This file only wires the parts together."""

import signal
import sys

# The kernel delivers no signal to process 1 of a container unless it has a handler. During the imports, which
# take a second or so, there is nothing to finish: exit at once. Later the server handles signals.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import os
import tempfile
from multiprocessing import connection
from socket import socket

import uvicorn

from app.config import read_settings

settings = read_settings()


def configure() -> uvicorn.Config:
    return uvicorn.Config(
        "app:none",
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        http="app.http.protocol:HeaderLimitProtocol",
        ws="none",
        forwarded_allow_ips=settings.forwarded_allow_ips,
        # For clients that do not read their last event. uvicorn's type is int, but asyncio takes any number.
        timeout_graceful_shutdown=settings.drain_seconds + 2,  # type: ignore[arg-type]
    )


def serve(parent: connection.Connection | None = None, sockets: list[socket] | None = None) -> int:
    # Imported only here: PROMETHEUS_MULTIPROC_DIR must be set first, and a parent of workers needs no app.
    from app.api import create_app
    from app.http.server import DrainingServer, Shutdown
    from app.telemetry import configure_logs

    configure_logs(settings.log_level)
    shutdown = Shutdown(settings.drain_delay_seconds, settings.drain_seconds)
    config = configure()
    config.app = create_app(settings, shutdown)
    server = DrainingServer(config, shutdown, parent)
    server.run(sockets)  # exits this process
    return server.exit_code


def main() -> int:
    if settings.web_concurrency == 1:
        return serve()
    from app.http.workers import run_workers

    with tempfile.TemporaryDirectory() as os.environ["PROMETHEUS_MULTIPROC_DIR"]:
        return run_workers(settings.web_concurrency, configure(), serve)


if __name__ == "__main__":
    sys.exit(main())
