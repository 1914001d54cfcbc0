"""Docstrings of the standard library, from its source where it is Python, else from the compiled modules."""

import ast
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from offline_model.corpus import urls
from offline_model.corpus.pages import Passage
from offline_model.corpus.plain_text import paragraphs, sentences

# Tools, test code, data and graphics are left out of the index.
SKIPPED = {
    "antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "msilib", "pydoc_data",
    "test", "optparse", "asyncore", "asynchat", "imp", "this", "tkinter", "turtle", "turtledemo",
}  # fmt: skip
SENTENCES_PER_PASSAGE = 12

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Pairs of a submodule and a name that the package imports from it; "*" stands for every name.
Exports = set[tuple[str, str]]

SKIPPED_PREFIXES = (
    "_test", "_xx", "xx", "_tkinter", "_curses", "_gdbm", "_dbm", "_imp", "readline", "nis", "ossaudiodev",
    "spwd",
)  # fmt: skip


def source_docstrings() -> Iterator[Passage]:
    """Parse the Python source of the standard library, without importing it."""
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - SKIPPED):
        if name.startswith("_"):
            continue
        if (root / name).is_dir():
            yield from package_passages(root / name, name)
        elif (root / f"{name}.py").is_file():
            yield from node_passages(parse(root / f"{name}.py"), name)


def package_passages(folder: Path, name: str) -> Iterator[Passage]:
    """A package and its modules. A name that the package re-exports is called by the shorter path."""
    init = folder / "__init__.py"
    if not init.is_file():
        return
    tree = parse(init)
    exports = exported_names(tree)
    yield from node_passages(tree, name)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in {"test", "tests", "__pycache__"}:
            yield from package_passages(path, f"{name}.{path.name}")
        elif path.suffix == ".py" and path != init:
            yield from submodule_passages(parse(path), name, path.stem, exports)


def submodule_passages(tree: ast.Module, package: str, stem: str, exports: Exports) -> Iterator[Passage]:
    for node in public_definitions(tree):
        if (stem, node.name) in exports or (stem, "*") in exports:
            yield from node_passages(node, f"{package}.{node.name}")
        elif not stem.startswith("_"):
            yield from node_passages(node, f"{package}.{stem}.{node.name}")
    if not stem.startswith("_"):
        yield from docstring_passages(f"{package}.{stem}", ast.get_docstring(tree))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def exported_names(tree: ast.Module) -> Exports:
    """The names of `from .tasks import *` and `from .decoder import JSONDecoder`."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {(node.module or "", alias.name) for node in imports for alias in node.names}


def public_definitions(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for child in node.body:
        if isinstance(child, kinds) and not child.name.startswith("_"):
            yield child


def node_passages(node: ast.Module | Definition, name: str) -> Iterator[Passage]:
    yield from docstring_passages(name, ast.get_docstring(node))
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in public_definitions(node):
            yield from node_passages(child, f"{name}.{child.name}")


def docstring_passages(name: str, docstring: str | None) -> Iterator[Passage]:
    """The summary line, even if it has no full stop, and the whole sentences after it."""
    if docstring:
        first, *rest = paragraphs(docstring) or [""]
        # `Module(stmt* body)` is a signature, not a summary.
        signature = first.strip().startswith(f"{name.rpartition('.')[2]}(")
        found = [] if signature else sentences(first) or sentences(f"{first.strip()}.")
        found += [sentence for paragraph in rest for sentence in sentences(paragraph)]
        if found:
            unique = tuple(dict.fromkeys(found[:SENTENCES_PER_PASSAGE]))
            yield Passage(name, f"pydoc {name}", "library", unique, urls.object_url(name), docstring)


def compiled_docstrings() -> Iterator[Passage]:
    """Import each module that is compiled from C, and read its docstrings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(sys.stdlib_module_names):
            if not name.startswith(SKIPPED_PREFIXES) and is_compiled(name):
                try:
                    module = importlib.import_module(name)
                except ImportError:
                    continue
                yield from module_passages(module, name)


def is_compiled(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and (spec.origin == "built-in" or isinstance(spec.loader, ExtensionFileLoader))


def module_passages(module: ModuleType, name: str) -> Iterator[Passage]:
    """The public members that a module defines itself, under the module's public name: `os` for `posix`."""
    bare = "os" if name in {"posix", "nt"} else name.removeprefix("_")
    public = bare if bare in sys.stdlib_module_names else name
    for key, value in sorted(vars(module).items()):
        origin = getattr(value, "__module__", None) or name
        own = origin in {name, public} or (name == "builtins" and inspect.isbuiltin(value))
        if key.startswith("_") or not callable(value) or not own:
            continue
        yield from member_passages(value, key if name == "builtins" else f"{public}.{key}")
    if name != "builtins":
        yield from docstring_passages(public, module.__doc__)


def member_passages(value: Any, title: str) -> Iterator[Passage]:
    """A function, or a class and its public methods."""
    yield from docstring_passages(title, docstring(value))
    if inspect.isclass(value):
        for key, member in sorted(vars(value).items()):
            if not key.startswith("_") and callable(member):
                yield from docstring_passages(f"{title}.{key}", docstring(member))


def docstring(value: Any) -> str | None:
    text = getattr(value, "__doc__", None)
    return inspect.cleandoc(text) if isinstance(text, str) else None
