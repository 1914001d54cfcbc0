"""What did langchain-community cost the research agent? `python bench/community_cost.py`, two minutes."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from bench.records import measured, save
from course.models import base_environment

ROUNDS = 11
UV = Path(sys.executable).parent / "uv"
SERVER = ["fastapi", "uvicorn", "pydantic-settings"]  # the same for all
HERE = ["langchain", "langchain-openai", "httpx2", "lxml", "ddgs", "cachetools"]

# The packages of each agent besides the server, and its imports up to the point where it could search.
# After 0.3.27 langchain-community needs ddgs in place of duckduckgo-search; langchain 1 has no AgentExecutor.
AGENTS = {
    "as first written": (
        ["langchain<1", "langchain-openai<1", "langchain-community<=0.3.27", "duckduckgo-search"],
        """from langchain.agents import AgentExecutor, create_openai_tools_agent
from langchain_community.tools import DuckDuckGoSearchRun
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
DuckDuckGoSearchRun()""",
    ),
    "the same with today's packages": (
        ["langchain-classic", "langchain-openai", "langchain-community", "ddgs"],
        """from langchain_classic.agents import AgentExecutor, create_openai_tools_agent
from langchain_community.tools import DuckDuckGoSearchRun
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
DuckDuckGoSearchRun()""",
    ),
    "as it is here": (
        [f"{name}=={version(name)}" for name in HERE],
        """import cachetools, httpx2, lxml.etree
from ddgs import DDGS
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
DDGS()""",
    ),
}
IMPORTS = "import fastapi, uvicorn, pydantic_settings\n"


def install(folder: Path, packages: list[str]) -> dict[str, str]:
    """Make a virtual environment in the folder; returns the version of each package in it."""
    python, pinned = str(folder / "bin/python"), [f"{name}=={version(name)}" for name in SERVER]
    command = ["pip", "install", "--quiet", "--compile-bytecode", "--python", python, *pinned, *packages]
    for arguments in (["venv", "--quiet", "--python", sys.executable, str(folder)], command):
        subprocess.run([UV, *arguments], env=base_environment(), check=True)
    told = subprocess.check_output(
        [UV, "pip", "list", "--format", "json", "--python", python], env=base_environment()
    )
    return {package["name"]: package["version"] for package in json.loads(told)}


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("lib/**/*") if path.is_file()) / 1e6


def import_seconds(folder: Path, code: str) -> float:
    """Seconds of processor time, which vary less on a busy machine than those of the clock."""
    command = [str(folder / "bin/python"), "-W", "ignore", "-c", IMPORTS + code]
    before = os.times()
    subprocess.run(command, cwd=folder, check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])  # user and system, of children that have ended


def main() -> None:
    found: dict[str, dict[str, str]] = {}
    sizes: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in AGENTS}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (packages, _)) in enumerate(AGENTS.items()):
            found[name] = install(Path(folder) / str(number), packages)
            sizes[name] = megabytes(Path(folder) / str(number))
            print(f"{name}: {sizes[name]:.0f} MB, {len(found[name])} packages", flush=True)
        for round_number in range(ROUNDS + 1):
            for number, (name, (_, code)) in enumerate(AGENTS.items()):
                took = import_seconds(Path(folder) / str(number), code)
                if round_number:  # the first one fills the disk's cache
                    seconds[name].append(took)
    first = next(iter(AGENTS))
    imports = {name: statistics.median(rounds) for name, rounds in seconds.items()}
    old, today, here = found.values()
    how = (
        "a virtual environment each, with the same fastapi, uvicorn and pydantic-settings, and beside them "
        "only the packages of the agent and its search (no logs, metrics or traces); size with compiled "
        "bytecode, without the interpreter; import until the search could be asked, a fresh process, "
        f"seconds of the processor, {ROUNDS} rounds in turn, median and spread; as first written means "
        "langchain-community with duckduckgo-search and AgentExecutor, in the newest versions that work "
        "together"
    )
    save(
        "community_cost",
        {
            "title": "The research agent with langchain-community and without",
            "kind": "bars",
            "alt": "Size, packages and import time of the agent as first written, with newer packages, "
            "and here.",
            "measured": measured(
                how,
                "fastapi",
                "uvicorn",
                "langchain",
                "langchain-openai",
                "ddgs",
                **{
                    "langchain-community": f"{old['langchain-community']} and {today['langchain-community']}",
                    "duckduckgo-search": old["duckduckgo-search"],
                    "langchain as first written": old["langchain"],
                    "langchain-openai as first written": old["langchain-openai"],
                },
            ),
            "values": {
                "import_seconds_first": round(imports[first], 2),
                "import_seconds_here": round(imports["as it is here"], 2),
                "packages_gone": len(old.keys() - here.keys()),
            },
            "unit": "each in its own unit",
            "groups": ["installed, MB", "packages", "import, hundredths of a second"],
            "series": [
                {
                    "name": name,
                    "values": [round(sizes[name], 1), len(found[name]), round(imports[name] * 100, 1)],
                    "low": [round(sizes[name], 1), len(found[name]), round(min(seconds[name]) * 100, 1)],
                    "high": [round(sizes[name], 1), len(found[name]), round(max(seconds[name]) * 100, 1)],
                    "ratio": [
                        round(sizes[name] / sizes[first], 3),
                        round(len(found[name]) / len(found[first]), 3),
                        round(
                            statistics.median(
                                a / b for a, b in zip(seconds[name], seconds[first], strict=True)
                            ),
                            3,
                        ),
                    ],
                }
                for name in AGENTS
            ],
        },
    )


if __name__ == "__main__":
    main()
