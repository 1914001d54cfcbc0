"""Servers under test: start one on a free port, and read its log, its metrics and the model's calls."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from course.errors import CourseError
from course.processes import wait_listening, wait_ready
from support.forked_programs import StartPython

HUNG = "offline?fault=hang"


class Server(str):
    """The base URL of a running server, with its process and the path of its log."""

    process: subprocess.Popen[str]
    log: Path


StartServer = Callable[..., Server]  # called with settings as keyword arguments; returns the started server

Servers = dict[tuple[Path, frozenset[tuple[str, str]]], Server]


def start_server(
    start_python: StartPython, program: Path, env: dict[str, str], folder: Path, log: Path
) -> Server:
    """Start a lesson on a port that the system chooses, and wait until it answers."""
    process = start_python([str(program)], {"PORT": "0"} | env, folder, log)
    try:
        url = wait_listening(process)
        wait_ready(process, f"{url}/health", 120)
    except CourseError as failure:
        said = log.read_text()
        told = CourseError(f"{failure} Its last output: {' '.join(said.split()[-40:])}")
        told.add_note(said)
        raise told from None
    server = Server(url)
    server.process, server.log = process, log
    return server


def forget_calls(model: str) -> None:
    """Clear the offline model's log of calls."""
    httpx2.delete(f"{model}/debug/requests").raise_for_status()


def calls(model: str, text: str) -> list[dict[str, Any]]:
    """The calls of the offline model whose body contains `text`, the oldest first."""
    found: list[dict[str, Any]] = httpx2.get(f"{model}/debug/requests", params={"contains": text}).json()
    return found


def log_lines(server: Server) -> list[dict[str, Any]]:
    lines = []
    for line in server.log.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            pytest.fail(f"This line of the log is not JSON, and no machine will find it: {line!r}.")
    return lines


def metrics(url: str) -> dict[tuple[str, ...], float]:
    """Every sample, by name and label values such as ("agent_requests_total", "GET", "/health", "200")."""
    text = httpx2.get(f"{url}/metrics").text
    order = ("method", "endpoint", "status", "outcome", "tool", "model", "le")
    return {
        (sample.name, *(sample.labels[label] for label in order if label in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def assert_ends_with_zero(server: Server, seconds: float = 20) -> None:
    try:
        code = server.process.wait(seconds)
    except subprocess.TimeoutExpired:
        pytest.fail(f"The server was told to stop, and has not ended {seconds:g} seconds later.")
    assert code == 0, f"The server was told to stop, and its exit code is {code}, which stands for a failure."


def assert_sigterm_works_during_imports(program: Path, folder: Path) -> None:
    """SIGTERM ends a program during its imports. Process 1 of a container has no default action for it."""
    (folder / "uvicorn.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    env = os.environ | {"OPENAI_API_KEY": "x", "PYTHONPATH": str(folder)}
    with subprocess.Popen(
        [sys.executable, program.name], env=env, cwd=program.parent, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"importing\n", (
            "The program ended, or printed something, before it imported uvicorn."
        )
        process.terminate()
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(
                "SIGTERM during the imports is ignored, so the container is killed after its grace period."
            )
    assert code == 0, f"SIGTERM during the imports ends the program with exit code {code}, not 0."
