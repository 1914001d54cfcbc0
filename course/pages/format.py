"""The format of a page: a Markdown file whose code blocks are run or checked.

Front matter gives `number`, `title`, `needs` (nothing, or the engines without which the page does not run),
`files`, and `model: page` when the page starts the model itself. The info string of a fence gives its kind:

    bash run                a command; all commands of a page run in order, in one shell
    bash server ready=URL   a server: started, waited for, and stopped at the page's end
    text output             what the command before it prints; `...` matches anything
    python file=PATH#NAME   a listing: a function, class or assignment of that file, put here by `make docs`
    bash online             needs the internet or a key: shown, never run

A `run` or `server` that ends in `needs=ENGINE`, such as `needs=docker`, runs where that engine is. Elsewhere
it is shown with one line that says what is missing, and its output is not compared.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.front_matter import front_matter_plugin

from course.engines import ENGINES
from course.errors import CourseError
from course.paths import ROOT

KINDS = ("prose", "run", "server", "output", "listing", "online")
LISTING = re.compile(r"file=(?P<path>[\w./-]+)(#(?P<symbol>\w+(\.\w+)?))?$")
NEEDS = re.compile(r" needs=(?P<engine>[\w-]+)$")
MARKDOWN = MarkdownIt("commonmark").use(front_matter_plugin)


class BadPage(CourseError):
    """A page breaks the format; the message names the page and the line."""


@dataclass
class Block:
    """A piece of a page: prose or a fence, with the line it begins on (from 1)."""

    kind: str
    text: str
    line: int
    argument: str = ""  # a server's readiness URL, a listing's PATH#NAME
    needs: str = ""  # an engine; without it the step is left out


@dataclass
class Page:
    """The front matter of a page, and its blocks in order."""

    path: Path
    number: str
    title: str
    needs: list[str]
    files: list[str]
    starts_model: bool
    blocks: list[Block]

    @property
    def name(self) -> str:
        """The path, relative to the course's folder."""
        return str(self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path)

    @property
    def engines(self) -> list[str]:
        """The engines that the page or one of its steps needs."""
        return list(dict.fromkeys(self.needs + [block.needs for block in self.blocks if block.needs]))

    def of_kind(self, kind: str) -> list[Block]:
        return [block for block in self.blocks if block.kind == kind]


def read_page(path: Path) -> Page:
    """Parse a page. Raises `BadPage` for a fence of an unknown kind."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    tokens = MARKDOWN.parse(text)
    if not tokens or tokens[0].type != "front_matter":
        raise BadPage(f"{path.name}: the front matter is missing")
    front: dict[str, Any] = yaml.safe_load(tokens[0].content)
    blocks: list[Block] = []
    shown = tokens[0].map[1] if tokens[0].map else 0
    for token in tokens:
        if token.type != "fence" or token.map is None or token.level:
            continue
        begin, end = token.map
        blocks += prose(lines[shown:begin], shown)
        blocks.append(fence(path, token, begin + 1))
        shown = end
    blocks += prose(lines[shown:], shown)
    needs = [need for need in str(front.get("needs", "nothing")).split() if need != "nothing"]
    for need in needs:
        require_known(need, f"{path.name}:1")
    return Page(
        path=path,
        number=str(front.get("number", "")),
        title=front["title"],
        needs=needs,
        files=front.get("files", []),
        starts_model=front.get("model") == "page",
        blocks=blocks,
    )


def lesson_pages() -> list[Page]:
    """The pages of all lessons, in order."""
    return [read_page(path) for path in sorted((ROOT / "docs").glob("[0-9][0-9]-*.md"))]


def prose(lines: list[str], before: int) -> list[Block]:
    text = "".join(lines)
    return [Block("prose", text.strip("\n"), before + 1)] if text.strip() else []


def fence(path: Path, token: Token, line: int) -> Block:
    """The block of a fence, by its info string."""
    info = token.info.strip()
    step = NEEDS.search(info)
    needs = step["engine"] if step else ""
    match NEEDS.sub("", info).split():
        case ["bash", "run"]:
            block = Block("run", token.content, line, needs=needs)
        case ["bash", "server", ready] if ready.startswith("ready=http"):
            block = Block("server", token.content, line, ready.removeprefix("ready="), needs)
        case ["text", "output"] if not needs:
            block = Block("output", token.content, line)
        case ["bash", "online"] if not needs:
            block = Block("online", token.content, line)
        case [_, source] if LISTING.match(source) and not needs:
            block = Block("listing", token.content, line, source.removeprefix("file="))
        case _:
            raise BadPage(f"{path.name}:{line}: no such kind of block: ```{info}")
    if needs:
        require_known(needs, f"{path.name}:{line}")
    return block


def require_known(engine: str, where: str) -> None:
    if engine not in ENGINES:
        raise BadPage(f"{where}: there is no engine {engine}; there are {', '.join(ENGINES)}")
