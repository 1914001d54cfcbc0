"""Lesson 10's services: generated from the lesson under test, and their logic as modules."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

FOLDER = Path("code/10_dapr_agents")
TYPES = {
    "triage": "router",
    "concepts": "explainer",
    "debug": "debugger",
    "exercise": "generator",
    "progress": "tracker",
}


def generate(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run generate_agent.py of the lesson in `root`."""
    command = [sys.executable, str(root / FOLDER / "generate_agent.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The modules of a folder can import each other by their names; afterwards nobody else sees them."""
    names = {path.stem for path in folder.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def load(root: Path, name: str) -> ModuleType:
    """A module of a template that needs no engine, such as `debugger/tracebacks`."""
    return load_file(root / FOLDER / "templates" / f"{name}.py")


@cache
def load_file(path: Path) -> ModuleType:
    """A module by its file."""
    with importable(path.parent):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    return module
