"""Open exercise of lesson 09: the agent ends in time, with what it has mended so far."""

from pathlib import Path

from support.repairs import RunAgent, make_repository, run_agent  # noqa: F401  # a fixture, too

PROGRAM = """
def area(width, height):
    return width + height


def code(text, base, shift):
    total = 0
    for sign in text:
        total = total * base + shift - len(sign)
    return total
"""
TESTS = """
import time
from shop import area, code

def test_area():
    assert area(3, 4) == 12

def test_code():
    time.sleep(1)
    assert code("abc", 2, 3) == 123456
"""


def test_the_agent_ends_in_time_with_what_it_has(tmp_path: Path, run_agent: RunAgent) -> None:  # noqa: F811
    folder = make_repository(tmp_path, {"shop.py": PROGRAM, "test_shop.py": TESTS})
    done = run_agent(folder, AGENT_SECONDS="15")
    edits = len(done.of("edit"))
    assert edits <= 16, f"Its 15 seconds were over, and the agent went on to its edit number {edits}."
    assert done.events and done.result["type"] == "result", "The agent ended without a result."
    passed = done.result["tests_passed"]
    assert passed == 1, f"The agent mended one test in its time, and its result counts {passed} that pass."
    assert "+    return width * height" in done.patch, "What it had mended by then is lost."
