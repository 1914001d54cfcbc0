"""Groups: the tests of a group run in one worker, in order, and share servers and images."""

import re
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Give each worker whole groups, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """The group of a test: its file, the broken copy of an exercise, or the image under test.

    All of lesson 06 is one group with its faults, so that the Compose project is built and started once.
    So is what needs Dapr, so that Kafka, PostgreSQL and Dapr's services are started once.
    Pages and the tests of their runner are one, because they need the same ports.
    """
    file, _, test = nodeid.partition("::")
    if file.endswith(("test_course_pages.py", "test_course_runner.py")):
        return "pages"
    if Path(file).name in ("test_10_agents.py", "test_10_launcher.py"):
        return "dapr"
    if fault := re.search(r"\b((?:0[0-5789]|1[01])-[a-z-]+)\]$", test):
        return fault[1]
    if file.endswith("test_container.py"):
        return test.partition("-")[0]
    return file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling | None:
    if config.getvalue("dist") == "loadscope":
        return GroupScheduling(config, log)
    return None
