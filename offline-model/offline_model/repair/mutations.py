"""Mutations: small changes of one line of a Python function, found in its syntax tree.

The kinds are those of mutation testing (Jia and Harman 2011), and the kinds of one-line mistakes that are
frequent in real Python programs (PySStuBs, Kamienski et al. 2021). Each mutation keeps the line's own
formatting.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

COMPARISONS = {
    "<": ["<=", ">", ">="],
    "<=": ["<", ">=", ">"],
    ">": [">=", "<", "<="],
    ">=": [">", "<=", "<"],
    "==": ["!=", "<=", ">="],
    "!=": ["=="],
    "in": ["not in"],
    "not in": ["in"],
    "is": ["is not"],
    "is not": ["is"],
}
ARITHMETIC = {
    "+": ["-", "*"],
    "-": ["+"],
    "*": ["+", "/", "//"],
    "/": ["//", "*"],
    "//": ["/", "%"],
    "%": ["//"],
    "**": ["*"],
    "&": ["|"],
    "|": ["&"],
}
SYMBOLS: dict[type[ast.AST], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.BitAnd: "&", ast.BitOr: "|", ast.And: "and", ast.Or: "or",
}  # fmt: skip
OPPOSITE_NAMES = [
    ("min", "max"), ("any", "all"), ("append", "extend"), ("append", "appendleft"), ("pop", "popleft"),
    ("startswith", "endswith"), ("lower", "upper"), ("lstrip", "rstrip"), ("floor", "ceil"),
    ("keys", "values"), ("add", "remove"), ("find", "rfind"), ("union", "intersection"), ("ljust", "rjust"),
    ("split", "rsplit"),
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
    """All mutations of some lines of a file, of which the first has the number `start`.

    Lines that are no Python have none.
    """
    indented = lines[:1] != [] and lines[0].startswith((" ", "\t"))
    try:
        tree = ast.parse("\n".join(["if True:", *lines] if indented else ["", *lines]))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    source = SourceLines(["", *lines], start - 2)
    try:
        found = [each for node in walk_code(tree) for each in mutations_of_node(node, source)]
    except RecursionError:
        return []
    original = dict(enumerate(lines, start))
    return [each for each in dict.fromkeys(found) if each.replacement != original[each.line]]


def walk_code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: no annotations, and no f-strings, whose columns Python 3.11 counts differently."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                    yield from walk_code(child)


class SourceLines:
    """The text that was parsed. `offset` turns its line numbers into those of the file."""

    def __init__(self, lines: list[str], offset: int) -> None:
        self.lines = [line.encode() for line in lines]  # the columns of a syntax tree count bytes
        self.offset = offset

    def text(self, node: ast.expr) -> str:
        """The text of an expression; empty when it stands on several lines."""
        if node.lineno != node.end_lineno:
            return ""
        return self.lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()

    def replace(self, line: int, start: int, end: int | None, text: str, kind: str, change: str) -> Mutation:
        old = self.lines[line - 1]
        new = old[:start] + text.encode() + (b"" if end is None else old[end:])
        return Mutation(line + self.offset, new.decode(), kind, change)

    def replace_node(self, node: ast.expr, text: str, kind: str) -> Iterator[Mutation]:
        if before := self.text(node):
            yield self.replace(
                node.lineno, node.col_offset, node.end_col_offset, text, kind, f"`{before}` becomes `{text}`"
            )

    def replace_between(
        self, left: ast.expr, right: ast.expr, old: str, new: str, kind: str
    ) -> Iterator[Mutation]:
        """Replace the operator between two operands, on whichever of their lines it stands."""
        words = rb"\s+".join(map(re.escape, old.encode().split()))
        operator = re.compile(
            rb"(?<!\w)%b(?!\w)" % words if old[0].isalpha() else rb"(?<![<>=!*/])%b(?![<>=*/])" % words
        )
        for line in range(left.end_lineno or left.lineno, right.lineno + 1):
            start = (left.end_col_offset or 0) if line == left.end_lineno else 0
            end = right.col_offset if line == right.lineno else len(self.lines[line - 1])
            if found := operator.search(self.lines[line - 1], start, end):
                yield self.replace(line, found.start(), found.end(), new, kind, f"`{old}` becomes `{new}`")
                return


def mutations_of_node(node: ast.AST, source: SourceLines) -> Iterator[Mutation]:
    match node:
        case ast.Compare():
            yield from changed_comparisons(node, source)
        case ast.BinOp():
            yield from changed_arithmetic(node, source)
        case ast.BoolOp():
            yield from changed_logic(node, source)
        case ast.AugAssign():
            symbol = SYMBOLS.get(type(node.op), "")
            for other in [*ARITHMETIC.get(symbol, []), ""]:
                yield from source.replace_between(
                    node.target, node.value, f"{symbol}=", f"{other}=", "assignment"
                )
        case ast.For() | ast.While():
            for inner in node.body:
                if isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Name):
                    yield from source.replace_between(inner.targets[0], inner.value, "=", "+=", "assignment")
        case ast.Constant(value=bool(value)):
            yield from source.replace_node(node, str(not value), "constant")
        case ast.Constant(value=int(value)):
            for number in (value + 1, value - 1):
                yield from source.replace_node(node, str(number), "off by one")
        case ast.Subscript(slice=ast.Slice() as part):
            yield from neighbours([part.lower, part.upper], source)
        case ast.Subscript():
            yield from neighbours([node.slice], source)
        case ast.Call():
            yield from changed_call(node, source)
        case ast.Attribute():
            start = (node.end_col_offset or 0) - len(node.attr.encode())
            for other in opposites(node.attr):
                yield source.replace(
                    node.end_lineno or node.lineno, start, node.end_col_offset, other, "name",
                    f"`{node.attr}` becomes `{other}`",
                )  # fmt: skip
        case ast.Break() | ast.Continue():
            old, new = ("break", "continue") if isinstance(node, ast.Break) else ("continue", "break")
            yield source.replace(
                node.lineno, node.col_offset, node.end_col_offset, new, "loop", f"`{old}` becomes `{new}`"
            )
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from missing_returns(node, source)
            yield from other_variables(node, source)
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield from negated(node.test, source)
    if isinstance(node, ast.comprehension):
        for condition in node.ifs:
            yield from negated(condition, source)


def changed_comparisons(node: ast.Compare, source: SourceLines) -> Iterator[Mutation]:
    operands = [node.left, *node.comparators]
    for left, operator, right in zip(operands, node.ops, node.comparators, strict=False):
        symbol = SYMBOLS[type(operator)]
        for other in COMPARISONS[symbol]:
            yield from source.replace_between(left, right, symbol, other, "comparison")
    if not isinstance(node.ops[0], ast.In | ast.NotIn | ast.Is | ast.IsNot):
        yield from neighbours(node.comparators, source)


def changed_arithmetic(node: ast.BinOp, source: SourceLines) -> Iterator[Mutation]:
    symbol = SYMBOLS.get(type(node.op), "")
    for other in ARITHMETIC.get(symbol, []):
        yield from source.replace_between(node.left, node.right, symbol, other, "arithmetic")
    left, right = source.text(node.left), source.text(node.right)
    if not left or not right:
        return
    plain = all(isinstance(operand, Counted | ast.Constant) for operand in (node.left, node.right))
    if plain and isinstance(node.op, NOT_COMMUTATIVE):
        yield from source.replace_node(node, f"{right} {symbol} {left}", "operand order")
    if isinstance(node.right, ast.Constant) and isinstance(node.op, ast.Add | ast.Sub):
        yield from source.replace_node(node, left, "off by one")
    if isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv | ast.Mod):
        for operand in (node.left, node.right):
            if isinstance(operand, Counted):
                for sign in "-+":
                    yield from source.replace_node(
                        operand, f"({source.text(operand)} {sign} 1)", "off by one"
                    )


def changed_logic(node: ast.BoolOp, source: SourceLines) -> Iterator[Mutation]:
    symbol, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    for left, right in zip(node.values, node.values[1:], strict=False):
        yield from source.replace_between(left, right, symbol, other, "logic")
    for kept in node.values:
        if text := source.text(kept):
            yield from source.replace_node(node, text, "condition")


def negated(test: ast.expr, source: SourceLines) -> Iterator[Mutation]:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from source.replace_node(test, source.text(test.operand) or "True", "condition")
    elif not isinstance(test, ast.Compare) and (
        text := source.text(test)
    ):  # a comparison has its own opposites
        plain = isinstance(test, Counted | ast.Constant)
        yield from source.replace_node(test, f"not {text}" if plain else f"not ({text})", "condition")


def neighbours(nodes: Sequence[ast.expr | None], source: SourceLines) -> Iterator[Mutation]:
    """One more and one less than a bound or an index."""
    for node in nodes:
        if isinstance(node, Counted) and (text := source.text(node)):
            for sign in "+-":
                yield from source.replace_node(node, f"{text} {sign} 1", "off by one")


def changed_call(node: ast.Call, source: SourceLines) -> Iterator[Mutation]:
    if isinstance(node.func, ast.Name):
        if node.func.id == "range":
            yield from neighbours([*node.args], source)
        for other in opposites(node.func.id):
            yield from source.replace_node(node.func, other, "name")
    for first, second in zip(node.args, node.args[1:], strict=False):
        left, right = source.text(first), source.text(second)
        if left and right and first.lineno == second.lineno:
            line = source.lines[first.lineno - 1]
            between = line[first.end_col_offset : second.col_offset].decode()
            yield source.replace(
                first.lineno, first.col_offset, second.end_col_offset, f"{right}{between}{left}",
                "argument order", f"`{left}` and `{right}` change places",
            )  # fmt: skip


def opposites(name: str) -> list[str]:
    return [b if name == a else a for a, b in OPPOSITE_NAMES if name in (a, b)]


def missing_returns(node: Function, source: SourceLines) -> Iterator[Mutation]:
    """A return of a last expression, or of a variable, at the end of a function that just ends there."""
    last = node.body[-1]
    end = last.end_lineno or last.lineno
    if isinstance(last, ast.Return | ast.Raise) or node.name == "__init__" or last.lineno == node.lineno:
        return
    if isinstance(last, ast.Expr) and not isinstance(last.value, ast.Constant | ast.Yield | ast.YieldFrom):
        yield source.replace(
            last.lineno,
            last.col_offset,
            last.col_offset,
            "return ",
            "return",
            "the last expression is returned",
        )
    if isinstance(last, ast.Assign | ast.AnnAssign) and last.value:
        yield source.replace(
            last.lineno,
            last.col_offset,
            last.value.col_offset,
            "return ",
            "return",
            "the last value is returned",
        )
    indent = " " * last.col_offset if source.lines[last.lineno - 1][:1] != b"\t" else "\t" * last.col_offset
    stored = [
        name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    ]
    for name in dict.fromkeys([*reversed(stored), *(argument.arg for argument in node.args.args)]):
        line = source.lines[end - 1]
        yield source.replace(
            end, len(line), None, f"\n{indent}return {name}", "return", f"`{name}` is returned"
        )


def other_variables(node: Function, source: SourceLines) -> Iterator[Mutation]:
    """Another variable of the function in place of one that is read."""
    names = [name for name in walk_code(node) if isinstance(name, ast.Name)]
    known = [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]]
    known += [name.id for name in names if isinstance(name.ctx, ast.Store)]
    known = [name for name in known if name not in ("self", "cls", "_")]
    for name in names:
        if isinstance(name.ctx, ast.Load) and name.id in known:
            for other in dict.fromkeys(known):
                if other != name.id:
                    yield from source.replace_node(name, other, "variable")
