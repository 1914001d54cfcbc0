"""Mutations: small changes of one line of a Python function, found in its syntax tree.

The kinds are those of mutation testing (Jia and Harman 2011), and the one-line mistakes that are frequent in
real Python programs (PySStuBs, Kamienski et al. 2021). A mutation keeps the line's own formatting.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Each operator, and those that may be meant instead.
OPERATORS: dict[type[ast.AST], tuple[str, ...]] = {
    ast.Lt: ("<", "<=", ">", ">="), ast.LtE: ("<=", "<", ">=", ">"), ast.Gt: (">", ">=", "<", "<="),
    ast.GtE: (">=", ">", "<=", "<"), ast.Eq: ("==", "!=", "<=", ">="), ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.Add: ("+", "-", "*"),
    ast.Sub: ("-", "+"), ast.Mult: ("*", "+", "/", "//"), ast.Div: ("/", "//", "*"),
    ast.FloorDiv: ("//", "/", "%"), ast.Mod: ("%", "//"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}  # fmt: skip
OPPOSITE_NAMES = [
    ("min", "max"), ("any", "all"), ("append", "extend"), ("append", "appendleft"), ("pop", "popleft"),
    ("startswith", "endswith"), ("lower", "upper"), ("lstrip", "rstrip"), ("floor", "ceil"),
    ("keys", "values"), ("add", "remove"), ("find", "rfind"), ("union", "intersection"),
]  # fmt: skip
NOT_COMMUTATIVE = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
Counted = ast.Name | ast.Attribute | ast.Call | ast.Subscript
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutation:
    """A new text for one line, which may be several lines, and what it changes."""

    line: int
    replacement: str
    kind: str
    change: str


def mutations_of(lines: list[str], start: int) -> list[Mutation]:
    """All mutations of some lines of a file, the first of which has the number `start`.

    Lines that are no Python have none.
    """
    indented = lines[:1] != [] and lines[0].startswith((" ", "\t"))
    try:
        tree = ast.parse("\n".join(["if True:", *lines] if indented else ["", *lines]))
        source = Source(["", *lines], start - 2)
        found = [each for node in walk_code(tree) for each in mutations_of_node(node, source)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [each for each in dict.fromkeys(found) if each.replacement != lines[each.line - start]]


def walk_code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: no annotations, and no f-strings, whose columns Python 3.11 counts differently."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                    yield from walk_code(child)


class Source:
    """The text that was parsed. `offset` turns its line numbers into those of the file."""

    def __init__(self, lines: list[str], offset: int) -> None:
        self.lines = [line.encode() for line in lines]  # the columns of a syntax tree count bytes
        self.offset = offset

    def text(self, node: ast.expr) -> str:
        """The text of an expression; empty when it stands on several lines."""
        if node.lineno != node.end_lineno:
            return ""
        return self.lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()

    def replaced(self, line: int, start: int, end: int, text: str, kind: str) -> Mutation:
        """The mutation that puts `text` in the place of some bytes of a line."""
        old = self.lines[line - 1]
        new, before = (old[:start] + text.encode() + old[end:]).decode(), old[start:end].decode()
        change = f"`{before}` becomes `{text}`" if before else f"`{text.strip()}` is added"
        return Mutation(line + self.offset, new, kind, change)

    def other_text(self, node: ast.expr, text: str, kind: str) -> Iterator[Mutation]:
        if text and self.text(node):
            yield self.replaced(node.lineno, node.col_offset, node.end_col_offset or 0, text, kind)

    def other_operator(
        self, left: ast.expr, right: ast.expr, old: str, others: Sequence[str], kind: str
    ) -> Iterator[Mutation]:
        """Other operators between two operands, on whichever of their lines the operator stands."""
        words = rb"\s+".join(map(re.escape, old.encode().split()))
        edge = (rb"(?<!\w)", rb"(?!\w)") if old[0].isalpha() else (rb"(?<![<>=!*/])", rb"(?![<>=*/])")
        for line in range(left.end_lineno or left.lineno, right.lineno + 1):
            start = (left.end_col_offset or 0) if line == left.end_lineno else 0
            end = right.col_offset if line == right.lineno else len(self.lines[line - 1])
            if found := re.compile(edge[0] + words + edge[1]).search(self.lines[line - 1], start, end):
                yield from (self.replaced(line, *found.span(), other, kind) for other in others)
                return


def mutations_of_node(node: ast.AST, source: Source) -> Iterator[Mutation]:
    match node:
        case ast.Compare():
            operands = pairwise([node.left, *node.comparators])
            for (left, right), operator in zip(operands, node.ops, strict=True):
                symbol, *others = OPERATORS[type(operator)]
                yield from source.other_operator(left, right, symbol, others, "comparison")
            if not isinstance(node.ops[0], ast.In | ast.NotIn | ast.Is | ast.IsNot):
                yield from neighbours(node.comparators, source)
        case ast.BinOp():
            yield from other_arithmetic(node, source)
        case ast.BoolOp():
            symbol, *others = OPERATORS[type(node.op)]
            for left, right in pairwise(node.values):
                yield from source.other_operator(left, right, symbol, others, "logic")
            for kept in node.values:
                yield from source.other_text(node, source.text(kept), "condition")
        case ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            symbol, *others = [f"{each}=" for each in (*OPERATORS[type(operator)], "")]
            yield from source.other_operator(node.target, node.value, symbol, others, "assignment")
        case ast.For() | ast.While():
            for inner in node.body:
                if isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Name):
                    yield from source.other_operator(inner.targets[0], inner.value, "=", ["+="], "assignment")
        case ast.Constant(value=bool(value)):
            yield from source.other_text(node, str(not value), "constant")
        case ast.Constant(value=int(value)):
            for number in (value + 1, value - 1):
                yield from source.other_text(node, str(number), "off by one")
        case ast.Subscript(slice=part):
            bounds = [part.lower, part.upper] if isinstance(part, ast.Slice) else [part]
            yield from neighbours(bounds, source)
        case ast.Call():
            yield from other_call(node, source)
        case ast.Attribute(end_lineno=int(line), end_col_offset=int(end)):
            for other in opposites(node.attr):
                yield source.replaced(line, end - len(node.attr.encode()), end, other, "name")
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from missing_returns(node, source)
            yield from other_variables(node, source)
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield from negated(node.test, source)
    if isinstance(node, ast.comprehension):
        for condition in node.ifs:
            yield from negated(condition, source)


def other_arithmetic(node: ast.BinOp, source: Source) -> Iterator[Mutation]:
    if type(node.op) not in OPERATORS:
        return
    symbol, *others = OPERATORS[type(node.op)]
    yield from source.other_operator(node.left, node.right, symbol, others, "arithmetic")
    left, right = source.text(node.left), source.text(node.right)
    plain = all(isinstance(operand, Counted | ast.Constant) for operand in (node.left, node.right))
    if left and right and plain and isinstance(node.op, NOT_COMMUTATIVE):
        yield from source.other_text(node, f"{right} {symbol} {left}", "operand order")
    if isinstance(node.right, ast.Constant) and isinstance(node.op, ast.Add | ast.Sub):
        yield from source.other_text(node, left, "off by one")
    if isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv | ast.Mod):
        yield from neighbours([node.left, node.right], source, "(", ")")


def negated(test: ast.expr, source: Source) -> Iterator[Mutation]:
    text = source.text(test)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from source.other_text(test, source.text(test.operand), "condition")
    elif text and not isinstance(test, ast.Compare):  # a comparison has its own opposites
        plain = isinstance(test, Counted | ast.Constant)
        yield from source.other_text(test, f"not {text}" if plain else f"not ({text})", "condition")


def neighbours(
    nodes: Sequence[ast.expr | None], source: Source, before: str = "", after: str = ""
) -> Iterator[Mutation]:
    """One more and one less than a bound, an index or an operand."""
    for node in nodes:
        if isinstance(node, Counted) and (text := source.text(node)):
            for sign in "-+":
                yield from source.other_text(node, f"{before}{text} {sign} 1{after}", "off by one")


def other_call(node: ast.Call, source: Source) -> Iterator[Mutation]:
    if isinstance(node.func, ast.Name):
        for other in opposites(node.func.id):
            yield from source.other_text(node.func, other, "name")
        if node.func.id == "range":
            yield from neighbours(node.args, source)
    for first, second in pairwise(node.args):
        left, right = source.text(first), source.text(second)
        if left and right and first.lineno == second.lineno:
            line, start, end = first.lineno, first.col_offset, second.end_col_offset or 0
            between = source.lines[line - 1][first.end_col_offset : second.col_offset].decode()
            yield source.replaced(line, start, end, f"{right}{between}{left}", "argument order")


def opposites(name: str) -> list[str]:
    return [b if name == a else a for a, b in OPPOSITE_NAMES if name in (a, b)]


def missing_returns(node: Function, source: Source) -> Iterator[Mutation]:
    """A return of the last expression, or of a variable, at the end of a function that just ends there."""
    last = node.body[-1]
    if isinstance(last, ast.Return | ast.Raise) or node.name == "__init__" or last.lineno == node.lineno:
        return
    if isinstance(last, ast.Expr) and not isinstance(last.value, ast.Constant | ast.Yield | ast.YieldFrom):
        yield source.replaced(last.lineno, last.col_offset, last.col_offset, "return ", "return")
    if isinstance(last, ast.Assign | ast.AnnAssign) and last.value:
        yield source.replaced(last.lineno, last.col_offset, last.value.col_offset, "return ", "return")
    line = last.end_lineno or last.lineno
    end, indent = len(source.lines[line - 1]), source.lines[last.lineno - 1][: last.col_offset].decode()
    for name in reversed(variables(node)):
        yield source.replaced(line, end, end, f"\n{indent}return {name}", "return")


def other_variables(node: Function, source: Source) -> Iterator[Mutation]:
    """Another variable of the function in place of one that is read."""
    known = [name for name in variables(node) if name not in ("self", "cls", "_")]
    for name in walk_code(node):
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load) and name.id in known:
            for other in known:
                if other != name.id:
                    yield from source.other_text(name, other, "variable")


def variables(node: Function) -> list[str]:
    """The parameters of a function, and the names that it stores."""
    names = [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]]
    names += [n.id for n in walk_code(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return list(dict.fromkeys(names))
