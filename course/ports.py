"""TCP ports on 127.0.0.1: which process listens on one, and which one a URL names."""

import random
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from course.errors import CourseError

# Systems take the ports of outgoing connections, and of programs that ask for port 0, from 32768 upwards.
LEFT_ALONE = range(10_000, 20_000)


def free_port() -> int:
    """A port on which no program listens, and that the system gives to no program by itself.

    Prefer port 0 and `wait_listening` where a program allows it.
    """
    for port in random.sample(LEFT_ALONE, len(LEFT_ALONE)):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise CourseError(f"All ports from {LEFT_ALONE.start} to {LEFT_ALONE.stop - 1} are taken.")


def port_owner(port: int) -> str | None:
    """The program that listens on the port, such as "python3 (pid 4711)"; None when there is none."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return None
    import psutil  # imported here, because it is rarely needed and slows the start of a lesson

    for process in psutil.process_iter(["name"]):
        try:
            sockets = process.net_connections(kind="tcp")
        except psutil.Error:  # it belongs to another user, or has just ended
            continue
        if any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets):
            return f"{process.info['name']} (pid {process.pid})"
    return "another program"


def require_free(port: int) -> None:
    """Raise `CourseError` when a program listens on the port; the message names that program."""
    if owner := port_owner(port):
        raise CourseError(f"Port {port} is taken by {owner}. Stop it and try again.")


def port_of(url: str) -> int:
    """The TCP port of a URL."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
