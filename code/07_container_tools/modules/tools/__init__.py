"""The tools: each module whose name ends with `_tool` declares one as TOOL."""

from importlib import import_module
from pkgutil import iter_modules

from modules.tools.core import Tool


def load_tools() -> dict[str, Tool]:
    """Return the tools by name, in the order of their modules' names."""
    names = [module.name for module in iter_modules(__path__) if module.name.endswith("_tool")]
    tools: list[Tool] = [import_module(f"{__name__}.{name}").TOOL for name in names]
    return {tool.name: tool for tool in tools}
