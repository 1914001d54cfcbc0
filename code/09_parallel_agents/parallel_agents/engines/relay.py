"""The relay's program: copies bytes between the internal networks and one address, the model gateway."""

import asyncio
import sys
from collections import Counter
from contextlib import suppress

PER_PEER = 16  # connections of one container, so that it cannot take all
peers: Counter[str] = Counter()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):  # one side has left; closing tells the other
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("peername")[0]
    peers[peer] += 1
    with suppress(OSError):  # the server has died; its containers are removed when it starts again
        if peers[peer] <= PER_PEER:
            there, back = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
            await asyncio.gather(copy(reader, back), copy(there, writer))
    writer.close()
    peers[peer] -= 1


async def main() -> None:
    server = await asyncio.start_server(connect, "0.0.0.0", 8080)  # noqa: S104  # inside of its container
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
