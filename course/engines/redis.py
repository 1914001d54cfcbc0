"""Redis: the store that replicas of the research agent share, and a server of one's own for tests."""

import contextlib
import socket
from pathlib import Path

from course.engines.engine import Program
from course.errors import CourseError
from course.polling import until
from course.ports import free_port
from course.processes import Processes

REDIS = Program(
    name="redis",
    purpose="runs and tasks that processes share",
    install_hint="`make engine redis` on Debian, `brew install redis` on macOS",
    programs=("redis-server",),
    tests=("04", "08"),
    package="redis-server",
    size="10 MB of disk and a few seconds",
)

IN_USE = "Address already in use"


class RedisServer:
    """A real Redis, which can be stopped, killed, and started again with the same data on the same port."""

    def __init__(self, processes: Processes, program: str, folder: Path, *more: str) -> None:
        self.processes = processes
        self.folder = folder
        options = "--bind 127.0.0.1 --appendonly yes --logfile redis.log --save"
        self.command = [program, *options.split(), "", *more, "--port"]
        while True:
            self.port = free_port()  # Redis cannot be told to let the system choose
            try:
                self.start()
                break
            except CourseError as failure:
                if IN_USE not in str(failure):
                    raise
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers PING."""
        if self.running():
            return
        log = self.folder / "redis.log"
        log.unlink(missing_ok=True)
        self.process = self.processes.start([*self.command, str(self.port)], cwd=self.folder)
        until(lambda: not self.running() or self.answers(), 30)
        if not (self.running() and self.answers()):
            raise CourseError(
                f"Redis does not answer: {log.read_text() if log.exists() else 'it logged nothing'}"
            )

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
        """End it by SIGKILL, as a power cut would."""
        self.process.kill()
        self.processes.stop(self.process)
