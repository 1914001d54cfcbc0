"""The course's own pages: Markdown, one passage a heading."""

import re
from collections.abc import Iterator
from pathlib import Path

from offline_model.corpus import urls
from offline_model.corpus.passage import Passage
from offline_model.corpus.plain_text import inline, paragraphs, sentences

FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"<!-- figure: .*?<!-- /figure -->", re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.MULTILINE)
TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
# Sections that ask the reader, or send them on, and explain nothing.
POINTING = {"Predict", "Next"}
BLOCK = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+|^\s*>\s?", re.MULTILINE)


def read(folder: Path) -> Iterator[Passage]:
    for path in sorted(folder.glob("*.md")):
        yield from passages(path.read_text("utf-8", "replace"), f"{folder.name}/{path.name}")


def passages(text: str, place: str) -> Iterator[Passage]:
    """Split one page by its headings; the place of each is the anchor that Markdown renderers give it."""
    text = FIGURE.sub("", text)  # a chart's caption explains nothing, yet has all the words of its subject
    front = FRONT_MATTER.match(text)
    page = TITLE.search(front[1]) if front else None
    title = page[1] if page else ""
    parts = sections(text[front.end() if front else 0 :])
    anchor = ""
    for heading, section in zip([title, *parts[2::3]], parts[0::3], strict=True):
        title = title or inline(heading)
        anchor = slug(heading) if heading != title or anchor else anchor
        found = tuple(prose(FENCE.sub("", section)))
        if found and heading not in POINTING:
            name = inline(heading)
            full = name if name == title or not title else f"{title}: {name}"
            spot = f"{place}#{anchor}" if anchor else place
            yield Passage(full, spot, "page", found, urls.of_page(spot), section)


def sections(body: str) -> list[str]:
    """What stands before the first heading, then of each heading its signs, its text and what follows.

    A comment in a listing looks like a heading, so headings are sought where the listings are struck out.
    """
    struck = FENCE.sub(lambda fence: "\0" * len(fence[0]), body)
    parts, start = [], 0
    for heading in HEADING.finditer(struck):
        parts += [body[start : heading.start()], heading[1], heading[2]]
        start = heading.end()
    return [*parts, body[start:]]


def prose(section: str) -> Iterator[str]:
    # An item of a list is a paragraph of its own.
    for paragraph in paragraphs(BLOCK.sub("\n\n", section)):
        if not paragraph.lstrip().startswith("|"):
            yield from sentences(paragraph)


def slug(heading: str) -> str:
    """The anchor of a heading, by GitHub's rule."""
    return re.sub(r"[^\w\- ]", "", inline(heading).lower()).replace(" ", "-")
