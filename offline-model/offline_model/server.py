"""The server: uvicorn with one process, which stops at the first signal."""

import socket
import sys
from types import FrameType

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from offline_model.api.app import create_app
from offline_model.corpus.search import Corpus

SHUTDOWN_SECONDS = 1  # for responses in progress, after a signal


class ClosableProtocol(HttpToolsProtocol):
    """Give routes a function that closes the connection. ASGI has no message for that."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["close_connection"] = self.transport.close


class OfflineServer(Server):
    """Exits with 0 at the first signal. uvicorn would raise the signal again at the end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError when the port is taken or the host is not this machine."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family, backlog=2048)


def serve(corpus: Corpus, listener: socket.socket) -> None:
    config = Config(
        create_app(corpus),
        http=ClosableProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="asyncio" if sys.platform == "win32" else "uvloop",
        access_log=False,
        log_level="critical",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
    )
    OfflineServer(config).run([listener])
