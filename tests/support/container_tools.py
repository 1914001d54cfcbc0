"""Lesson 07: calls of tools, the processes of their containers, and a server that speaks Qdrant's REST."""

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import psutil

from course.polling import until
from support.servers import metrics

SECONDS = 200  # for a call on a busy machine whose engine has nothing cached


def call(server: str, tool: str, **arguments: Any) -> httpx2.Response:
    return httpx2.post(f"{server}/tools/{tool}", json=arguments, timeout=SECONDS)


def result(server: str, tool: str, **arguments: Any) -> dict[str, Any]:
    response = call(server, tool, **arguments)
    assert response.status_code == 200, f"The tool {tool} failed: {response.text}"
    answer: dict[str, Any] = response.json()
    return answer


def printed(server: str, code: str) -> str:
    return str(result(server, "run_python", code=code)["printed"])


def unique() -> str:
    """A word that no other test uses."""
    return f"w{uuid.uuid4().hex}"


def renamed_sleep(word: str, seconds: int = 300) -> str:
    """Python code that becomes a process whose command line has the word, so that the host can see it."""
    return f"import os; os.execv('/bin/sleep', ['sleep-{word}', '{seconds}'])"


def runs(word: str) -> bool:
    """Whether a process of this machine, in a container or not, has the word in its command line."""
    return any(
        word in " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    )


def ends(word: str) -> bool:
    return bool(until(lambda: not runs(word), 20))


def cancelled_calls(server: str) -> float:
    """How many calls of run_python the server has counted as cancelled."""
    return metrics(server).get(("tool_calls_total", "cancelled", "run_python"), 0)


def own_address() -> str:
    """An address of this machine that containers can reach. Nothing is sent to 192.0.2.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))
        return str(asking.getsockname()[0])


class QdrantHandler(BaseHTTPRequestHandler):
    """Answers the two REST calls that the tool makes, as Qdrant 1.15 does."""

    key = ""
    asked, answer = threading.Event(), threading.Event()

    def do_GET(self) -> None:
        if self.path == "/hang/":
            self.asked.set()
            self.answer.wait(60)
        if self.key and self.headers["api-key"] != self.key:
            self.send_error(401, "Unauthorized")
            return
        told: Any = {"title": "qdrant - vector search engine", "version": "1.15.0"}
        if self.path == "/collections":
            told = {"result": {"collections": [{"name": "papers"}]}, "status": "ok", "time": 0.0001}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def qdrant(
    key: str = "", asked: threading.Event | None = None, answer: threading.Event | None = None
) -> Iterator[str]:
    """A server that speaks Qdrant's REST calls; gives its URL, at an address that containers reach.

    A request to URL/hang sets `asked`, and waits for `answer`.
    """
    asked, answer = asked or threading.Event(), answer or threading.Event()
    handler = type("Handler", (QdrantHandler,), {"key": key, "asked": asked, "answer": answer})
    with ThreadingHTTPServer(("0.0.0.0", 0), handler) as server:  # noqa: S104  # containers must reach it
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{own_address()}:{server.server_port}"
        finally:
            answer.set()
            server.shutdown()
            thread.join()
