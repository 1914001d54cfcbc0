"""A Redis of the tests' own."""

import contextlib
import socket
from pathlib import Path

from course.polling import until
from course.ports import free_port
from course.processes import Processes


class RedisServer:
    """A real Redis, which can be stopped, killed, and started again with the same data on the same port."""

    def __init__(self, processes: Processes, program: str, folder: Path, *more: str) -> None:
        self.processes = processes
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly yes --logfile redis.log --save"
        self.command = [program, *options.split(), "", *more]
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers PING."""
        if self.running():
            return
        self.process = self.processes.start(self.command, cwd=self.folder)
        assert until(self.answers, 30), f"Redis does not answer: {(self.folder / 'redis.log').read_text()}"

    def running(self) -> bool:
        process = getattr(self, "process", None)
        return process is not None and process.poll() is None

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as asking:
            asking.sendall(b"PING\r\n")
            return asking.recv(7) == b"+PONG\r\n"
        return False

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        self.processes.stop(self.process)

    def kill(self) -> None:
        """End it with no time to say goodbye, as a power cut would."""
        self.process.kill()
        self.processes.stop(self.process)
