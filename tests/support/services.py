"""Lesson 10's services: generated from the lesson under test, run alone, and their logic as modules."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2

from course.models import base_environment
from course.polling import until
from course.ports import free_port
from course.processes import Processes

FOLDER = Path("code/10_dapr_agents")
TYPES = {
    "triage": "router",
    "concepts": "explainer",
    "debug": "debugger",
    "exercise": "generator",
    "progress": "tracker",
}


def generate(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run generate_agent.py of the lesson in `root`."""
    command = [sys.executable, str(root / FOLDER / "generate_agent.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The modules of a folder can import each other by their names; afterwards nobody else sees them."""
    names = {path.stem for path in folder.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def load(root: Path, name: str) -> ModuleType:
    """A module of a template that needs no engine, such as `debugger/tracebacks`."""
    return load_file(root / FOLDER / "templates" / f"{name}.py")


@cache
def load_file(path: Path) -> ModuleType:
    """A module by its file."""
    with importable(path.parent):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    return module


class Sidecar:
    """The stand-in of the generated tests, behind HTTP, with the requests that came."""

    def __init__(self, root: Path) -> None:
        folder = root / FOLDER / "templates/service/tests"
        self.stand_in: Any = load_file(folder / "sidecar_stand_in.py").StandIn()
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        response: httpx2.Response = self.stand_in(request)
        return response

    def published(self) -> list[httpx2.Request]:
        return [each for each in self.requests if each.url.path.startswith("/v1.0/publish/")]


@contextmanager
def http_server(answer: Callable[[httpx2.Request], httpx2.Response]) -> Iterator[int]:
    """A server that answers as the function says; gives its port. Afterwards the port refuses connections."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            url, headers = f"http://127.0.0.1{self.path}", dict(self.headers.items())
            response = answer(httpx2.Request(self.command, url, headers=headers, content=body))
            self.send_response(response.status_code)
            for name in {"content-type", "etag"} & set(response.headers):
                self.send_header(name, response.headers[name])
            self.end_headers()
            with suppress(BrokenPipeError):  # the client has gone
                self.wfile.write(response.content)

        do_POST = do_GET  # the base class has these names

        def log_message(self, *_: object) -> None:
            """Tests print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def running(processes: Processes, folder: Path, sidecar: int, **env: str) -> Iterator[httpx2.Client]:
    """A generated service as a process beside that sidecar; gives a client for it."""
    port = free_port()
    known = {"APP_PORT": str(port), "DAPR_HTTP_PORT": str(sidecar), "OPENAI_API_KEY": "test"}
    nowhere = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "DAPR_GRPC_PORT": "9"}
    process = processes.start(
        [sys.executable, "app.py"], cwd=folder, env=base_environment() | known | nowhere | env
    )
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        def answers() -> bool:
            try:
                return client.get("/metrics").is_success
            except httpx2.TransportError:
                return False

        try:
            assert until(answers, 60), "The service does not start."
            yield client
        finally:
            processes.stop(process)
