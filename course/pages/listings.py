"""Listings: code blocks in a page that are copies of source files, and are kept equal to them."""

import ast
from pathlib import Path

from course.pages.format import BadPage, read_page
from course.paths import ROOT


def listing(reference: str) -> str:
    """The source of `PATH#NAME`, where NAME may be `Class.method`; without `#NAME` the whole file."""
    path, _, symbol = reference.partition("#")
    source = (ROOT / path).read_text(encoding="utf-8")
    if not symbol:
        return source
    node: ast.AST = ast.parse(source)
    for name in symbol.split("."):
        node = definition_of(node, name, reference)
    assert isinstance(node, ast.stmt)
    begin = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    lines = source.splitlines(keepends=True)[begin - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "".join(line[indent:] if line.strip() else "\n" for line in lines)


def definition_of(node: ast.AST, name: str, reference: str) -> ast.AST:
    """The statement in a module or class that defines `name`."""
    for child in getattr(node, "body", []):
        targets = getattr(child, "targets", [getattr(child, "target", None)])
        if getattr(child, "name", None) == name or name in [getattr(t, "id", None) for t in targets]:
            return child  # type: ignore[no-any-return]
    raise BadPage(f"{reference}: there is no {name}")


def embed_listings(path: Path, text: str) -> str:
    """The page's text with every listing brought up to date."""
    lines = text.splitlines(keepends=True)
    for block in reversed(read_page(path).of_kind("listing")):
        end = block.line + len(block.text.splitlines())
        lines[block.line : end] = [listing(block.argument).strip("\n") + "\n"]
    return "".join(lines)
