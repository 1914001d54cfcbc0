"""Every package that a folder imports is declared in the folder's dependency group, with a lower bound."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

from course.paths import ROOT

GROUPS = {
    "code": "scripts",
    "code/07_container_tools": "container-tools",
    "code/07_container_tools/modules/scripts": "tool-scripts",
    "code/07_container_tools/tests": "container-tools-ci",
    "code/08_agent_pipelines": "agent-pipelines",
    "code/08_agent_pipelines/src": "agent-pipelines",
    "code/09_parallel_agents": "parallel-agents",
    "code/09_parallel_agents/ci": "parallel-agents-ci",
    "code/09_parallel_agents/tests": "parallel-agents-ci",
    "code/09_parallel_agents/agent": "parallel-agent-image",
    "code/09_parallel_agents/sample": "parallel-agent-image",
    "code/10_dapr_agents": "dapr-agents",
    "code/10_dapr_agents/templates/service": "dapr-service",
    "code/10_dapr_agents/templates/service/tests": "dev",
    "code/10_dapr_agents/templates/sandbox": "dapr-service",
    "code/10_dapr_agents/templates/router": "dapr-workflow-service",
    "code/10_dapr_agents/templates/explainer": "dapr-service",
    "code/10_dapr_agents/templates/debugger": "dapr-service",
    "code/10_dapr_agents/templates/generator": "dapr-service",
    "code/10_dapr_agents/templates/tracker": "dapr-service",
    "research-agent": "research-agent",
    "offline-model": "offline-model",
    "course": "lessons",
    "course/figures": "dev",  # drawing needs matplotlib, which is no part of a learner's set-up
    "bench": "dev",
    "tests": "dev",
}
OF_LEARNERS = ("code/09_parallel_agents/repositories", "code/10_dapr_agents/services")  # what a page makes


def undeclared_imports(root: Path = ROOT) -> list[str]:
    """Imports whose package is not in the group of their folder, and packages without a lower bound."""
    groups = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    brought_by, own = packages_distributions(), own_modules(root)
    found = [
        f"pyproject.toml: {requirement} in the group {group} has no lower bound"
        for group, requirements in groups.items()
        for requirement in requirements
        if isinstance(requirement, str) and not re.search("[>=]=", requirement)
    ]
    for folder, group in GROUPS.items():
        declared = {normal(requirement) for requirement in requirements_of(group, groups)}
        others = [root / other for other in (*GROUPS, *OF_LEARNERS) if other.startswith(f"{folder}/")]
        for module, path in sorted(imports(root / folder, others)):
            packages = {normal(name) for name in brought_by.get(module, [module])}
            if module not in own and not packages & declared:
                told = f"{path.relative_to(root)}: imports {module}, and the group {group} does not declare"
                found.append(f"{told} {' or '.join(sorted(packages))}")
    return found


def own_modules(root: Path) -> set[str]:
    """The top-level modules of the course itself, and those of the standard library."""
    folders = [root, *(root / folder for folder in GROUPS)]
    return {path.stem for folder in folders for path in folder.glob("*")} | sys.stdlib_module_names


def imports(folder: Path, without: list[Path]) -> Iterator[tuple[str, Path]]:
    """The top-level modules that the files of a folder import, each once, with the first file that does."""
    seen: set[str] = set()
    paths = [path for path in folder.rglob("*.py") if not any(map(path.is_relative_to, without))]
    for path in sorted(paths):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for module in {name.partition(".")[0] for name in names} - seen:
                seen.add(module)
                yield module, path


def requirements_of(group: str, groups: Mapping[str, list[str | dict[str, str]]]) -> Iterator[str]:
    """The requirements of a group and of those that it includes."""
    for each in groups[group]:
        if isinstance(each, str):
            yield each
        else:
            yield from requirements_of(each["include-group"], groups)


def normal(requirement: str) -> str:
    """The normalized name of a package or requirement: the rule of PyPA's name normalization, PEP 503."""
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0] if name else requirement).lower()
