"""uvicorn's HTTP/1.1 protocol with a size limit and a timeout for request headers."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 65_536
PIECE_BYTES = 16_384


class HeaderLimitProtocol(HttpToolsProtocol):
    """Limits a request's headers, for which uvicorn has neither a size limit nor a timeout.

    At most MAX_HEADER_BYTES may arrive as the request line and headers, and again as trailers or chunk
    extensions between two pieces of the body. The complete headers must arrive within `timeout_keep_alive`
    seconds. uvicorn's own timer would stop at the first byte.
    """

    header_bytes = 0  # received since the last complete headers or piece of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        seconds, close = self.timeout_keep_alive, self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(seconds, close)

    def _unset_keepalive_if_required(self) -> None:
        if self.cycle and not self.cycle.response_complete:  # the complete headers have arrived
            super()._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            self.header_bytes += len(piece)
            super().data_received(piece)
            if self.header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                if self.cycle is None or self.cycle.response_complete:
                    refusal = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n"
                    self.transport.write(refusal)
                self.transport.close()
            if self.transport.is_closing():
                return

    def on_headers_complete(self) -> None:
        self.header_bytes = 0
        super().on_headers_complete()
        self._unset_keepalive_if_required()

    def on_body(self, body: bytes) -> None:
        self.header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.header_bytes = 0
        super().on_message_complete()
