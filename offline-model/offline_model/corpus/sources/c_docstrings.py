"""Docstrings of what is written in C: the builtins and the compiled modules have no source to read."""

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
from offline_model.corpus.sources.standard_library import passages

LEFT_OUT = (
    "_test", "_xx", "xx", "_tkinter", "_curses", "_gdbm", "_dbm", "_imp", "readline", "nis", "ossaudiodev",
    "spwd",
)  # fmt: skip


def read() -> Iterator[Passage]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(sys.stdlib_module_names):
            if not name.startswith(LEFT_OUT) and is_compiled(name):
                try:
                    module = importlib.import_module(name)
                except ImportError:
                    continue
                yield from of_module(module, name)


def is_compiled(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and (spec.origin == "built-in" or isinstance(spec.loader, ExtensionFileLoader))


def of_module(module: ModuleType, name: str) -> Iterator[Passage]:
    bare = "os" if name in {"posix", "nt"} else name.removeprefix("_")
    public = bare if bare in sys.stdlib_module_names else name
    for key, value in sorted(vars(module).items()):
        home = getattr(value, "__module__", None) or name
        own = home in {name, public} or (name == "builtins" and inspect.isbuiltin(value))
        if key.startswith("_") or not callable(value) or not own:
            continue
        title = key if name == "builtins" else f"{public}.{key}"
        yield from of_member(value, title)
    if name != "builtins":
        yield from passages(public, module.__doc__)


def of_member(value: Any, title: str) -> Iterator[Passage]:
    yield from passages(title, described(value))
    if inspect.isclass(value):
        for key, member in sorted(vars(value).items()):
            if not key.startswith("_") and callable(member):
                yield from passages(f"{title}.{key}", described(member))


def described(value: Any) -> str | None:
    text = getattr(value, "__doc__", None)
    return inspect.cleandoc(text) if isinstance(text, str) else None
