"""Lesson 08: the pipelines in a Dagger engine, as a script runs them, and the types of the module.

The lesson's page runs the others: each workflow, the load test, and the deployment.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from course.models import base_environment

pytestmark = [pytest.mark.dagger, pytest.mark.timeout(240)]

Pipeline = Callable[..., str]  # called with a program and its arguments; returns what it prints


@pytest.fixture(scope="module")
def lesson(lesson_root: Path) -> Path:
    return lesson_root / "code" / "08_agent_pipelines"


@pytest.fixture(scope="module")
def pipeline(dagger_engine: None, lesson: Path, offline_model: str) -> Pipeline:
    """A function that runs a program of the lesson with the offline model of this machine."""

    def run(program: str, *arguments: str, model: str = "offline?ttft=1") -> str:
        named = {"OPENAI_BASE_URL": f"{offline_model}/v1", "OPENAI_API_KEY": "offline", "MODEL_NAME": model}
        done = subprocess.run(
            [sys.executable, program, *arguments],
            env=base_environment() | named | {"PYTHONPATH": "src"},
            cwd=lesson,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            pytest.fail(f"{program} {' '.join(arguments)} failed: {last}")
        return done.stdout

    return run


@pytest.fixture(scope="module")
def two_runs(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The output of two runs of the same fan-out."""
    options = ("--composition", "fan-out", "--agent-count", "4", "--as-json")
    return [json.loads(pipeline("src/main.py", "orchestrate-workflow", *options)) for _ in range(2)]


def test_a_fan_out_runs_at_once_in_the_engine(two_runs: list[dict[str, Any]]) -> None:
    results = two_runs[0]["results"]
    assert len(results) == 4, f"A fan-out to four agents has {len(results)} results."
    assert max(result["started"] for result in results) < min(result["ended"] for result in results), (
        "The agents of a fan-out worked one after the other."
    )


def test_two_runs_of_a_workflow_are_two_runs(two_runs: list[dict[str, Any]]) -> None:
    first, second = two_runs
    assert first["began"] != second["began"], "The engine answered the second run from its cache."


def test_the_coordination_test_passes(pipeline: Pipeline) -> None:
    said = pipeline("src/main.py", "test-agent-coordination", "--agent-count", "3", "--task-count", "6")
    assert said.splitlines() == [
        "✓ 6 tasks have a result",
        "✓ each took effect once",
        "✓ another agent has done the task of the one that died",
    ], f"The output of the coordination test is not its three passed checks: {said!r}"


def test_prometheus_tells_what_each_agent_did(pipeline: Pipeline, tmp_path: Path) -> None:
    options = ("--agent-count", "2", "--task-count", "6", "--report", str(tmp_path))
    said = pipeline("src/main.py", "collect-pipeline-metrics", *options)
    tasks = re.findall(r"^agent-\d +(\d+) +([\d.]+) +0  █+$", said, re.MULTILINE)
    assert sum(int(count) for count, _ in tasks) == 6, f"The summary does not count six tasks:\n{said}"
    assert all(float(seconds) >= 1 for _, seconds in tasks), f"A task took less time than its model:\n{said}"
    assert re.search(r"^held .*at most 2$", said, re.MULTILINE), f"The queue was not watched:\n{said}"
    assert re.search(r"^done .*at most 6$", said, re.MULTILINE), f"The queue was not watched:\n{said}"
    chart = ElementTree.parse(tmp_path / "chart.svg")  # noqa: S314  # the lesson's own
    lines = [each.attrib["points"].split() for each in chart.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 3, "The chart does not have a line for each state of a task."
    assert all(len(points) >= 4 for points in lines), "The chart shows less time than the tasks took."
    assert lines[2][-1].endswith(",20"), "The line of the tasks that are done does not end at the top."


def test_failure_recovery_loses_nothing_and_does_nothing_twice(pipeline: Pipeline) -> None:
    found = json.loads(pipeline("examples/failure_recovery.py", "--tasks", "12"))
    assert found["kills"] > 0, "No agent was killed."
    assert (found["lost"], found["done_twice"]) == (0, 0), f"Kills have cost or doubled tasks: {found}"
    assert found["deliveries"] == 4, "The task that kills its agents was not given up after three."
    assert found["poison"], "The task that kills its agents has a result that says nothing of it."


def test_the_basic_deployment_prints_answers(pipeline: Pipeline) -> None:
    said = pipeline("examples/basic_deployment.py", model="offline")
    named = said.count("agent-")
    assert named == 3, f"Three questions were asked, and the output names an agent {named} times."
    assert "A container is a process" in said, (
        f"The deployment does not print the answer to the question about containers: {said!r}"
    )


# --- The module ---

DESCRIBE = """
import asyncio, json, sys
import dagger
from dagger import dag
from dagger.mod import default_module
import main

async def describe():
    async with dagger.connection(dagger.Config()):
        module = dag.load_module_from_id(await default_module()._typedefs())
        objects = [each.as_object() for each in await module.objects()]
        [found] = [each for each in objects if await each.name() == "AgentPipelines"]
        functions = {}
        for each in await found.functions():
            arguments = {await a.name(): (await a.type_def().kind()).value for a in await each.args()}
            functions[await each.name()] = {
                "returns": (await each.return_type().kind()).value,
                "arguments": arguments,
                "about": await each.description(),
            }
        constructor = [await a.name() for a in await found.constructor().args()]
        print(json.dumps({"functions": functions, "constructor": constructor}))

asyncio.run(describe())
"""


def test_the_script_is_also_a_dagger_module(dagger_engine: None, lesson: Path) -> None:
    """The engine accepts the module's types, which is what `dagger functions` would ask it first."""
    env = base_environment() | {"DAGGER_MAIN_OBJECT": "AgentPipelines", "PYTHONPATH": "src"}
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE], env=env, cwd=lesson, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (
        f"The lesson's module cannot be loaded and described; the script that tries ends with exit code "
        f"{done.returncode}:\n{done.stderr[-2000:]}"
    )
    module = json.loads(done.stdout)
    assert set(module["functions"]) == {
        "deployAgents",
        "orchestrateWorkflow",
        "testAgentCoordination",
        "collectPipelineMetrics",
    }, f"The module offers the functions {list(module['functions'])}, not the four pipelines."
    for name, function in module["functions"].items():
        kind = "OBJECT_KIND" if name == "collectPipelineMetrics" else "STRING_KIND"  # a folder, or a text
        assert function["returns"] == kind, f"{name} returns {function['returns']}, not {kind}."
        count = function["arguments"]["agentCount"]
        assert count == "INTEGER_KIND", f"{name} takes agentCount as {count}, not as an integer."
        assert function["about"], f"{name} has no description for `dagger functions`."
    composition = module["functions"]["orchestrateWorkflow"]["arguments"]["composition"]
    assert composition == "ENUM_KIND", (
        f"orchestrateWorkflow takes composition as {composition}, not as an enum."
    )
    assert set(module["constructor"]) >= {"source", "model", "apiKey"}, (
        f"The module does not take all of source, model and apiKey; it takes {module['constructor']}."
    )


def test_versions_and_entry_point_of_the_module_agree(lesson: Path, lesson_root: Path) -> None:
    from course.engines.dagger import VERSION

    engine = json.loads((lesson / "dagger.json").read_text())["engineVersion"]
    assert engine == f"v{VERSION}", (
        f"dagger.json names the engine {engine}, and the course starts v{VERSION}."
    )
    project = tomllib.loads((lesson / "pyproject.toml").read_text())["project"]
    found = project["entry-points"]["dagger.mod"]["main_object"]
    assert found == "main:AgentPipelines", (
        f"pyproject.toml names {found} as the main object, not main:AgentPipelines."
    )


def test_ci_calls_the_pipelines_of_the_script(lesson: Path) -> None:
    files = (".github/workflows/agent-pipelines.yml", ".gitlab-ci.yml")
    texts = [(lesson / file).read_text() for file in files]
    for file, text in zip(files, texts, strict=True):
        assert yaml.safe_load(text), f"{file} is empty."
        commands = set(re.findall(r"python src/main\.py ([a-z-]+)", text))
        assert commands == {"deploy-agents", "test-agent-coordination"}, f"{file} calls {commands}."
