"""Docstrings of builtins and of modules written in C, which have no Python source to parse."""

import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from types import ModuleType
from typing import Any

from offline_model.corpus.passage import Passage
from offline_model.corpus.sources.standard_library import docstring_passages

SKIPPED_PREFIXES = (
    "_test", "_xx", "xx", "_tkinter", "_curses", "_gdbm", "_dbm", "_imp", "readline", "nis", "ossaudiodev",
    "spwd",
)  # fmt: skip


def read() -> Iterator[Passage]:
    """Import each compiled module of the standard library and read its docstrings."""
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
