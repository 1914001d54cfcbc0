"""Ports: who holds one, and which one a URL names."""

import socket
from urllib.parse import urlsplit

from course.errors import Failed


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def holder(port: int) -> str | None:
    """Who listens on the port, such as "python3 (pid 4711)"; None when nobody does."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return None
    import psutil  # here, because a free port is the rule, and each import delays a lesson

    for process in psutil.process_iter(["name"]):
        try:
            sockets = process.net_connections(kind="tcp")
        except psutil.Error:  # another user's process, or one that has just ended
            continue
        if any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets):
            return f"{process.info['name']} (pid {process.pid})"
    return "another program"


def require_free(port: int) -> None:
    """Raise `Failed` with one clear line when the port is taken."""
    if taker := holder(port):
        raise Failed(f"Port {port} is taken by {taker}. Stop it and try again.")


def port_of(url: str) -> int:
    """The TCP port of a URL."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
