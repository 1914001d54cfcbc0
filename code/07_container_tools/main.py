"""Container tools: an agent whose tools run in containers, by Dagger. This file only wires the parts.

You learn: how to run code that you do not trust for an agent: one declared function for each tool,
           one container for each call, with limits, without a shell, and without network unless it needs one.
Run:       `make model`, and in a second terminal `python main.py` in this folder
See:       curl 'localhost:8000/hello?name=Ada'
"""

import signal
import sys

# The kernel delivers no signal to process 1 of a container unless it has a handler.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from modules.chat import Chat
from modules.config import read_settings
from modules.problems import HANDLERS
from modules.routes import router
from modules.server import DrainingServer, RequestContextMiddleware, Shutdown
from modules.session import Session
from modules.tools.calls import Toolbox

settings = read_settings()
shutdown = Shutdown()


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[dict[str, Any]]:
    session = Session(settings.dagger_log, settings.connect_seconds)
    session.start_check()  # connects in the background: the engine's first start can take minutes
    toolbox = Toolbox(settings, session)
    yield {"toolbox": toolbox, "chat": Chat(settings, toolbox), "shutdown": shutdown}
    await session.stop()


api = FastAPI(
    title="Container tools",
    version=settings.app_version,
    lifespan=lifespan,
    responses={"default": {"description": "A problem", "content": {"application/problem+json": {}}}},
    exception_handlers=HANDLERS,
)
api.include_router(router)
app = RequestContextMiddleware(api, settings.max_body_bytes)


def main() -> int:
    options: dict[str, Any] = {"http": "h11", "h11_max_incomplete_event_size": 65_536, "access_log": False}
    options["timeout_graceful_shutdown"] = settings.drain_seconds
    config = uvicorn.Config(app, settings.host, settings.port, **options)
    server = DrainingServer(config, settings.drain_delay_seconds, shutdown)
    server.run()
    return server.exit_code


if __name__ == "__main__":
    sys.exit(main())
