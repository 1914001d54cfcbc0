"""The research agent: `python main.py`. This file only wires."""

import signal
import sys

# Process 1 of a container gets no signal that it does not handle. Until the server listens to them, after a
# second or so of imports, there is nothing that could be finished.
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
        http="app.http.server:BoundedProtocol",
        ws="none",
        forwarded_allow_ips=settings.forwarded_allow_ips,
        # For those who do not even read their last event; uvicorn says int, asyncio takes any number.
        timeout_graceful_shutdown=settings.drain_seconds + 2,  # type: ignore[arg-type]
    )


def serve(parent: connection.Connection | None = None, sockets: list[socket] | None = None) -> int:
    # Not before now: prometheus_client must find its folder, and a parent of workers needs none of it.
    from app.api import create_app
    from app.http.server import DrainingServer, Stop
    from app.telemetry import configure_logs

    configure_logs(settings.log_level)
    stop = Stop(settings.drain_delay_seconds, settings.drain_seconds)
    config = configure()
    config.app = create_app(settings, stop)
    server = DrainingServer(config, stop, parent)
    server.run(sockets)  # ends this process
    return server.exit_code


def main() -> int:
    if settings.web_concurrency == 1:
        return serve()
    from app.http.server import supervise

    with tempfile.TemporaryDirectory() as os.environ["PROMETHEUS_MULTIPROC_DIR"]:
        return supervise(settings.web_concurrency, configure(), serve)


if __name__ == "__main__":
    sys.exit(main())
