"""Hints in three levels: where to look, what the error means, how to find out. None of them is a solution."""

import ast
import re
import tomllib
from pathlib import Path

from tracebacks import Raised

HINTS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("hints.toml").read_text("utf-8"))
# Code inside a sentence: an assignment, a call with arguments, a statement with a block.
CODE = re.compile(
    r"```|\w\s*(?<![=!<>])=(?!=)\s*\S|\b\w+\([^)\s][^)]*\)|\b(?:def|class|if|for|while|try)\b[^.?!]*:\s*$",
    re.M,
)


def hint(raised: Raised, level: int) -> str:
    """A hint about the root cause. Level 1 says where to look, 2 what it means, 3 how to find out."""
    root = raised.root_cause
    if level == 1:
        return where(root)
    kind = "meaning" if level == 2 else "strategy"
    return HINTS.get(root.type, {}).get(kind) or HINTS["default"][kind]


def where(root: Raised) -> str:
    place = root.place
    if place is None:
        return f"The traceback names no line. Look for what can cause a {root.type}."
    inside = f" in {place.function}" if place.function and place.function != "<module>" else ""
    again = f" The same line was reached {root.repeated} more times." if root.repeated else ""
    at = f"line {place.line} of {place.file}{inside}"
    return f"Look at {at}: there the first error, a {root.type}, began.{again}"


def gives_away(text: str) -> bool:
    """Whether a hint has code in it: a learner could copy that instead of finding it."""
    if CODE.search(text):
        return True
    quoted = re.findall(r"`([^`\n]+)`", text)
    return any(is_statement(part) for part in [*quoted, *text.splitlines()])


def is_statement(text: str) -> bool:
    """Whether a text is Python that does something: more than a name or a value."""
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    plain = (ast.Name, ast.Constant, ast.Attribute, ast.Tuple)
    return any(not (isinstance(each, ast.Expr) and isinstance(each.value, plain)) for each in body)
