"""Each script, run as its tool runs it but on this machine: quick, and without an engine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.tools import load_tools
from modules.tools.core import Tool

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hello": ({"name": "Ada"}, {"greeting": "Hello, Ada!"}),
    "markdown_to_html": ({"markdown": "*a*"}, {"html": "<p><em>a</em></p>\n"}),
    "run_python": ({"code": "print(6 * 7)"}, {"printed": "42\n"}),
    "sign": ({"body": "b", "key": "k"}, {}),
    "summarise_table": ({"table": "a\n1\n3"}, {"rows": 2}),
    "test_qdrant": ({"url": "http://127.0.0.1:1"}, {"reachable": False}),
    "validate_document": ({"document": "{}"}, {"valid": False}),
}


def run(tool: Tool, arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    given = tool.input.model_validate(arguments).model_dump(mode="json", by_alias=True)
    (folder / "input.json").write_text(json.dumps(given | dict.fromkeys(tool.settings, False)))
    script = tool.script.read_text() if isinstance(tool.script, Path) else tool.script
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-I", str(folder / "script.py"), str(folder / "input.json")]
    done = subprocess.run(command, env={"KEY": "k"}, capture_output=True, text=True, check=True)
    return tool.output.model_validate_json(done.stdout).model_dump(by_alias=True)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_script_returns_what_its_tool_declares(name: str, tmp_path: Path) -> None:
    arguments, expected = EXAMPLES[name]
    result = run(load_tools()[name], arguments, tmp_path)
    assert {key: result[key] for key in expected} == expected
