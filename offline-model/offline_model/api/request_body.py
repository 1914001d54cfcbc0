"""Read a request's body, up to a size limit and a deadline."""

import asyncio

from offline_model.api.errors import ApiError
from offline_model.delivery.disconnect import ClientDisconnected, Receive

MAX_BYTES = 4 * 1024 * 1024
READ_SECONDS = 10.0  # for the whole body to arrive
DISCARD_SECONDS = 1.0  # for reading what a client still sends after an error


async def read(receive: Receive, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The whole body; 413 as soon as it is too large, 408 when it is not complete in time."""
    for name, value in headers:
        if name == b"content-length" and int(value) > MAX_BYTES:
            raise too_large()
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await read_all(receive)
    except TimeoutError:
        message = f"The rest of the request body did not arrive within {READ_SECONDS:g} seconds."
        raise ApiError(408, message, code="request_timeout", headers={"connection": "close"}) from None


async def read_all(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body += message.get("body", b"")
        if len(body) > MAX_BYTES:
            raise too_large()
        if not message.get("more_body", False):
            return bytes(body)


async def discard(receive: Receive) -> None:
    """Read and drop the rest of a body for a moment.

    Closing a connection with unread data resets it, and many clients then lose the response as well.
    """
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return


def too_large() -> ApiError:
    message = f"The request body is larger than {MAX_BYTES} bytes."
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})
