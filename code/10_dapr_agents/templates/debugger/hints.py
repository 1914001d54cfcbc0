"""Hints in three levels: where to look, what the error means, how to find out. None of them is a solution."""

import ast
import re

from tracebacks import Raised

MEANING = {
    "SyntaxError": "Python could not read this line, or the one before it. Nothing of the file has run.",
    "IndentationError": "The spaces before a line say to which block it belongs, and these fit no block.",
    "NameError": "At that moment no variable or function has this name. Names differ by case and by scope.",
    "UnboundLocalError": "A name that a function assigns is its own, and this one has no value yet.",
    "TypeError": "An operation met a value of a type that it does not work with.",
    "ValueError": "The type of the value is right, but the value is not one that the operation accepts.",
    "IndexError": "The position is outside of the sequence. Positions begin at zero.",
    "KeyError": "The dictionary has no such key at that moment.",
    "AttributeError": "The object has no such attribute. Often it is another than you expect.",
    "ZeroDivisionError": "The divisor is zero in at least one case.",
    "RecursionError": "The function calls itself again and again and never arrives at the case that ends it.",
    "ModuleNotFoundError": "No module of this name is installed, or it is in another folder.",
    "ImportError": "The module was found, but not the name in it; perhaps two modules import each other.",
    "FileNotFoundError": "There is no such file, as seen from the folder in which the program runs.",
}
STRATEGY = {
    "SyntaxError": "Cover the lines from this one on, and uncover them one by one. When does it fail?",
    "NameError": "Find the place where the name should get its value. Does it run before this one?",
    "TypeError": "Print the type of each value in the line just before it runs. Which one surprises you?",
    "ValueError": "Print the value just before the line. Where does it come from, and what did you expect?",
    "IndexError": "Print the position and the length before the line. Which is the largest position?",
    "KeyError": "Print all keys before the line. Is the key missing, or written in another way?",
    "AttributeError": "Print the type of the object just before the line. Which line made it so?",
    "ZeroDivisionError": "Print the divisor before the line. For which input is it zero, and what then?",
    "RecursionError": "Write down the arguments of three calls. Do they come closer to the end?",
}
DEFAULT_MEANING = "The message after the colon is what the program wanted to say about this error."
DEFAULT_STRATEGY = (
    "Make the program shorter until the error is gone. The last thing that you took out has to do with it."
)
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
    table, default = (MEANING, DEFAULT_MEANING) if level == 2 else (STRATEGY, DEFAULT_STRATEGY)
    return table.get(root.type, default)


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
