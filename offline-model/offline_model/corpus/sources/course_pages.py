"""The course's own pages: Markdown files, one passage for each heading."""

import re
from collections.abc import Iterator
from pathlib import Path

from offline_model.corpus import urls
from offline_model.corpus.passage import Passage
from offline_model.corpus.plain_text import prose_sentences, strip_markup

FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"<!-- figure: .*?<!-- /figure -->", re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.MULTILINE)
TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
# Sections that explain nothing: one asks the reader, the other links the next page.
SKIPPED_HEADINGS = {"Predict", "Next"}


def read(folder: Path) -> Iterator[Passage]:
    for path in sorted(folder.glob("*.md")):
        yield from page_passages(path.read_text("utf-8", "replace"), f"{folder.name}/{path.name}")


def page_passages(text: str, page: str) -> Iterator[Passage]:
    """Split a page by its headings. Each location has the anchor that Markdown renderers give the heading."""
    text = FIGURE.sub("", text)  # the caption of a chart names its subject and explains nothing
    front_matter = FRONT_MATTER.match(text)
    named = TITLE.search(front_matter[1]) if front_matter else None
    title = named[1] if named else ""
    parts = split_sections(text[front_matter.end() if front_matter else 0 :])
    anchor = ""
    for heading, section in zip([title, *parts[2::3]], parts[0::3], strict=True):
        title = title or strip_markup(heading)
        anchor = heading_anchor(heading) if heading != title or anchor else anchor
        found = tuple(prose_sentences(FENCE.sub("", section)))
        if found and heading not in SKIPPED_HEADINGS:
            name = strip_markup(heading)
            full = name if name == title or not title else f"{title}: {name}"
            location = f"{page}#{anchor}" if anchor else page
            yield Passage(full, location, "course", found, urls.page_url(location), section)


def split_sections(body: str) -> list[str]:
    """The text before the first heading, then the marks, the words and the section of each heading.

    A comment in a code block looks like a heading. Code blocks are therefore blanked for the search.
    """
    blanked = FENCE.sub(lambda fence: "\0" * len(fence[0]), body)
    parts, start = [], 0
    for heading in HEADING.finditer(blanked):
        parts += [body[start : heading.start()], heading[1], heading[2]]
        start = heading.end()
    return [*parts, body[start:]]


def heading_anchor(heading: str) -> str:
    """The anchor of a heading by GitHub's rule."""
    return re.sub(r"[^\w\- ]", "", strip_markup(heading).lower()).replace(" ", "-")
