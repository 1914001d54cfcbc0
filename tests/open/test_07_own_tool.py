"""An open exercise: a tool of your own.

Nothing is broken. The tool `word_frequencies` takes `prose`, a text of at most 100,000 characters, and
`most`, from 1 to 100, or 5 if it is not given. It returns `words`: the most frequent words in
lower case, with their counts.
"""

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from support.container_tools import call, result
from support.problems import assert_problem
from support.servers import Server, StartServer

from course.models import base_environment

pytestmark = [pytest.mark.dagger, pytest.mark.timeout(300)]
TOOL = "word_frequencies"


def with_tool(container_tools: StartServer) -> Server:
    """The lesson's server, once it has the tool."""
    server = container_tools()
    if TOOL not in [tool["name"] for tool in httpx2.get(f"{server}/tools").json()]:
        pytest.fail(f"There is no tool {TOOL} at /tools.")
    return server


def test_the_tool_is_listed_with_its_schema(container_tools: StartServer) -> None:
    server = with_tool(container_tools)
    tools = {tool["name"]: tool for tool in httpx2.get(f"{server}/tools").json()}
    given = tools[TOOL]["input"]
    assert set(given["properties"]) == {"prose", "most"}, "The tool takes other inputs than prose and most."
    assert given.get("required") == ["prose"], "Not only prose is required."


def test_words_are_counted_in_a_container(container_tools: StartServer, lesson_root: Path) -> None:
    server = with_tool(container_tools)
    prose = "The cat and the dog, and the bird. THE END"
    answer = result(server, TOOL, prose=prose, most=2)
    assert "words" in answer, f"The tool returns {answer}, and no words."
    words = answer["words"]
    assert words.get("the") == 4, "'The' and 'the' are counted as two words."
    assert words == {"the": 4, "and": 2}, f"The two most frequent words are the and and, and not {words}."
    assert len(result(server, TOOL, prose="a b c d e f g")["words"]) == 5, "most is 5 if it is not given."
    words = result(server, TOOL, prose="")["words"]
    assert words == {}, f"An empty text has no words, and the tool returns {words}."
    own = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=lesson_root / "code/07_container_tools",
        env=base_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert own.returncode == 0, f"The lesson's own tests fail: {own.stdout[-300:]}"


def test_what_does_not_fit_is_refused(container_tools: StartServer) -> None:
    server = with_tool(container_tools)
    for arguments in ({}, {"prose": "a", "most": 0}, {"prose": "a", "most": 101}, {"prose": "x" * 100_001}):
        assert_problem(call(server, TOOL, **arguments), 422)
