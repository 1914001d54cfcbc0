"""The package of the offline model: its folders, its class names, and an intent that is added in one file."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from offline_model.intents.registry import INTENTS
from openai import OpenAI

from course.models import base_environment
from course.paths import ROOT
from course.processes import Processes, wait_listening, wait_ready

PACKAGE = ROOT / "offline-model" / "offline_model"
PAGE = (ROOT / "docs" / "reference" / "offline-model.md").read_text("utf-8")
EXAMPLE = ROOT / "tests" / "support" / "example_intent.py"
# From the table of folders on the page, the first on top.
FOLDERS = re.findall(r"^\| `(\w+)/` \|", PAGE, re.MULTILINE)

pytestmark = pytest.mark.of_the_course


def imported_folders(module: Path) -> set[str]:
    nodes = ast.walk(ast.parse(module.read_text("utf-8")))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[1] for name in names if name.count(".") > 1 and name.startswith("offline_model.")}


def test_the_page_lists_every_folder() -> None:
    assert set(FOLDERS) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_a_folder_imports_only_folders_below_it() -> None:
    for at, folder in enumerate(FOLDERS):
        for module in (PACKAGE / folder).rglob("*.py"):
            upwards = imported_folders(module) & set(FOLDERS[:at])
            assert not upwards, (
                f"{folder}/{module.name} imports {upwards}: whoever changes HTTP must then know all below it."
            )


def test_a_conversation_knows_no_folder_but_the_corpus() -> None:
    assert imported_folders(PACKAGE / "conversation.py") == {"corpus"}, "Every folder above builds on it."


def test_no_two_classes_have_the_same_name() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")]
    names = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert not [name for name, count in names.items() if count > 1]


def test_the_page_lists_the_intents_in_their_order() -> None:
    listed = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert listed == [
        (str(intent.ORDER), getattr(intent, "__name__").rpartition(".")[2])  # noqa: B009
        for intent in INTENTS
    ]


def test_the_intent_of_the_page_needs_one_file(processes: Processes, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "offline_model", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE, tmp_path / "offline_model" / "intents" / "temperature.py")
    env = base_environment() | {"PYTHONPATH": str(tmp_path), "OFFLINE_MODEL_BOOKS": str(ROOT / "docs")}
    command = [sys.executable, "-m", "offline_model", "--port", "0"]
    model = processes.start(command, env=env, output=subprocess.DEVNULL)
    url = wait_listening(model)
    wait_ready(model, f"{url}/health")
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        for question, answer in [
            ("What is 20 C in Fahrenheit?", "20 °C are 68 °F."),
            ("What is graceful shutdown?", "Graceful shutdown means"),
        ]:
            reply = client.chat.completions.create(
                model="offline", messages=[{"role": "user", "content": question}]
            )
            assert answer in str(reply.choices[0].message.content)
