"""A run that is interrupted, by Ctrl-C or CI's time limit, names the tests that had begun and not ended.

Then it waits for the workers. They remove their containers and networks, which can take longer than the ten
seconds after which pytest-xdist kills them.
"""

import time
from contextlib import suppress
from typing import Any

import pytest

CLEAN_UP_SECONDS = 60
BEGAN: dict[str, float] = {}  # when each running test began
WORKERS: list[Any] = []


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    WORKERS.append(node)


def pytest_runtest_logstart(nodeid: str) -> None:
    BEGAN[nodeid] = time.monotonic()


def pytest_runtest_logfinish(nodeid: str) -> None:
    del BEGAN[nodeid]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus != pytest.ExitCode.INTERRUPTED or not reporter:  # workers have no reporter
        return
    reporter.ensure_newline()
    reporter.section("tests that did not end")
    for nodeid, began in BEGAN.items():
        reporter.write_line(f"{time.monotonic() - began:.0f} s: {nodeid}")
    deadline = time.monotonic() + CLEAN_UP_SECONDS
    for worker in WORKERS:
        worker.shutdown()
        with suppress(worker.channel.TimeoutError):
            worker.channel.waitclose(max(0, deadline - time.monotonic()))
