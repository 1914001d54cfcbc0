"""A process that imports the lessons' libraries once, and forks for each program that it is asked to start.

`python fork_server.py SOCKET` listens on a Unix socket. A request is one line of JSON; the answers are the
program's process id and, when it has ended, its exit code.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

# Not prometheus_client: it reads PROMETHEUS_MULTIPROC_DIR when it is imported.
LIBRARIES = [
    "fastapi.sse",
    "httpx2",
    "langchain.agents",
    "langchain_openai",
    "limits.aio",
    "pydantic_settings",
    "redis.asyncio",
    "structlog",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.h11_impl",
]


def serve(path: str) -> None:
    """Fork two processes for each connection: the program, and its parent, which waits for the exit code."""
    for library in LIBRARIES:
        import_module(library)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the parents of programs leave no zombies
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = json.loads(connection.makefile().readline())
        if pid := os.fork():
            connection.sendall(f"{pid}\n".encode())
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with suppress(BrokenPipeError):
                connection.sendall(f"{code}\n".encode())
            os._exit(0)
        connection.close()
        return run(**request)


def run(arguments: list[str], env: dict[str, str], cwd: str, log: str) -> None:
    """Run a program as `python ARGUMENTS` would, as the leader of a session, with its output in a log."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).parent)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
