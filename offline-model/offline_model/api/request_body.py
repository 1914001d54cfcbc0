"""Bodies: read up to a limit and within a deadline, whatever the headers promise."""

import asyncio

from offline_model.api.errors import ApiError
from offline_model.delivery.disconnect import ClientLeft, Receive

MAX_BYTES = 4 * 1024 * 1024
READ_SECONDS = 10.0
LINGER_SECONDS = 1.0


async def read(receive: Receive, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The whole body; 413 as soon as it is known to be too large, 408 when the rest does not come."""
    for name, value in headers:
        if name == b"content-length" and int(value) > MAX_BYTES:
            raise too_large()
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await pieces(receive)
    except TimeoutError:
        message = f"The rest of the request body did not arrive within {READ_SECONDS:g} seconds."
        raise ApiError(408, message, code="request_timeout", headers={"connection": "close"}) from None


async def pieces(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        if len(body) > MAX_BYTES:
            raise too_large()
        if not message.get("more_body", False):
            return bytes(body)


async def discard(receive: Receive) -> None:
    """Let a client that is still sending come to its end, for a moment, so that it sees the answer.

    A connection that is closed on unread data is reset, and many clients then lose the answer too.
    """
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return


def too_large() -> ApiError:
    message = f"The request body is larger than {MAX_BYTES} bytes."
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})
