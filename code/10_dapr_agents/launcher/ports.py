"""TCP ports on 127.0.0.1: free ones, and who has one that is taken."""

import asyncio
import random
import socket

import httpx2
import psutil

from launcher.processes import Failure

# Linux takes ports of outgoing connections from 32768 upwards. A port below stays free until it is used.
FREE = random.sample(range(20_000, 32_000), 2_000)


def free_port() -> int:
    """A port that nobody listens on, and that no earlier call has given."""
    while FREE:
        if is_free(port := FREE.pop()):
            return port
    raise Failure("There is no free port.")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def require_free(port: int, purpose: str) -> None:
    """Raise `Failure` when a program has the port; the message names that program."""
    if not is_free(port):
        raise Failure(f"Port {port} ({purpose}) is taken by {owner(port)}. Stop it, or change the port.")


def owner(port: int) -> str:
    for process in psutil.process_iter(["name"]):
        try:
            found = process.net_connections(kind="tcp")
        except psutil.Error:  # it belongs to another user, or has just ended
            continue
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in found):
            return f"{process.info['name']} (pid {process.pid})"
    return "another program"


async def listens(port: int) -> bool:
    """Whether a program accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def answers(url: str) -> bool:
    """Whether GET gives a status that means success."""
    try:
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            return (await client.get(url)).is_success
    except httpx2.TransportError:
        return False
