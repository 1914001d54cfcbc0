"""The standard library's docstrings, read from its sources without running them."""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from offline_model.books.markup import paragraphs, sentences
from offline_model.books.passage import Passage

# Tools and data rather than a library to read about.
LEFT_OUT = {
    "antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "this",
    "turtledemo", "venv", "msilib", "tkinter", "turtle",
}  # fmt: skip
PER_PASSAGE = 10


def read() -> Iterator[Passage]:
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - LEFT_OUT):
        if name.startswith("_"):
            continue
        if (root / name).is_dir():
            for path in sorted((root / name).rglob("*.py")):
                relative = path.relative_to(root).with_suffix("")
                if "test" not in relative.parts and "tests" not in relative.parts:
                    yield from module(path, ".".join(relative.parts).removesuffix(".__init__"))
        elif (root / f"{name}.py").is_file():
            yield from module(root / f"{name}.py", name)


def module(path: Path, name: str) -> Iterator[Passage]:
    tree = ast.parse(path.read_bytes())
    yield from documented(tree, name)


def documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[Passage]:
    yield from passages(name, ast.get_docstring(node))
    if isinstance(node, ast.Module | ast.ClassDef):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for child in node.body:
            if isinstance(child, kinds) and not child.name.startswith("_"):
                yield from documented(child, f"{name}.{child.name}")


def passages(name: str, docstring: str | None) -> Iterator[Passage]:
    if docstring:
        found = [sentence for paragraph in paragraphs(docstring) for sentence in sentences(paragraph)]
        if found:
            yield Passage(name, f"pydoc {name}", "library", tuple(found[:PER_PASSAGE]))
