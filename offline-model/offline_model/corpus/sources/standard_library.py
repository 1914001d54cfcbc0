"""The standard library's docstrings, read from its sources without running them."""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from offline_model.corpus import urls
from offline_model.corpus.passage import Passage
from offline_model.corpus.plain_text import paragraphs, sentences

# Tools and data rather than a library to read about.
LEFT_OUT = {
    "antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "msilib", "pydoc_data",
    "test", "optparse", "asyncore", "asynchat", "imp", "this", "tkinter", "turtle", "turtledemo",
}  # fmt: skip
PER_PASSAGE = 12

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# The submodule that each name of a package comes from; "*" stands for every name of that submodule.
Exports = set[tuple[str, str]]


def read() -> Iterator[Passage]:
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - LEFT_OUT):
        if name.startswith("_"):
            continue
        if (root / name).is_dir():
            yield from package(root / name, name)
        elif (root / f"{name}.py").is_file():
            yield from documented(parse(root / f"{name}.py"), name)


def package(folder: Path, name: str) -> Iterator[Passage]:
    """A package and its modules; what it offers as its own is called by that shorter name."""
    start = folder / "__init__.py"
    if not start.is_file():
        return
    tree = parse(start)
    exports = exported(tree)
    yield from documented(tree, name)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in {"test", "tests", "__pycache__"}:
            yield from package(path, f"{name}.{path.name}")
        elif path.suffix == ".py" and path != start:
            for node in children(module := parse(path)):
                short = (path.stem, node.name) in exports or (path.stem, "*") in exports
                if short:
                    yield from documented(node, f"{name}.{node.name}")
                elif not path.stem.startswith("_"):
                    yield from documented(node, f"{name}.{path.stem}.{node.name}")
            if not path.stem.startswith("_"):
                yield from passages(f"{name}.{path.stem}", ast.get_docstring(module))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def exported(tree: ast.Module) -> Exports:
    """What `from .tasks import *` and `from .decoder import JSONDecoder` give a package."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {(node.module or "", alias.name) for node in imports for alias in node.names}


def children(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for child in node.body:
        if isinstance(child, kinds) and not child.name.startswith("_"):
            yield child


def documented(node: ast.Module | Definition, name: str) -> Iterator[Passage]:
    yield from passages(name, ast.get_docstring(node))
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in children(node):
            yield from documented(child, f"{name}.{child.name}")


def passages(name: str, docstring: str | None) -> Iterator[Passage]:
    if docstring:
        first, *rest = paragraphs(docstring) or [""]
        # `Module(stmt* body)` says how a thing is written, not what it is.
        signature = first.strip().startswith(f"{name.rpartition('.')[2]}(")
        found = [] if signature else sentences(first) or sentences(f"{first.strip()}.")
        found += [sentence for paragraph in rest for sentence in sentences(paragraph)]
        if found:
            told = tuple(dict.fromkeys(found[:PER_PASSAGE]))
            yield Passage(name, f"pydoc {name}", "library", told, urls.of_name(name), docstring)
