"""Pages: the Markdown of this course, and the language reference that ships inside Python for help()."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from textwrap import dedent
from typing import Literal

from offline_model.corpus import urls
from offline_model.corpus.plain_text import paragraphs, prose_sentences, sentences, strip_markup

FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"<!-- figure: .*?<!-- /figure -->", re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
MARKDOWN_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
# Sections that explain nothing: one asks the reader, the other links the next page.
SKIPPED_HEADINGS = {"Predict", "Next"}

UNDERLINED_HEADING = re.compile(r"^([^\n]{3,80})\n([*=\-^~\"]{3,})\n", re.MULTILINE)
# In Python 3.11.2, the topic `types` is a list of terms with indented definitions; later, it has headings.
DEFINED_TERM = re.compile(r"(?<=\n\n)( *)([A-Z][^\n.:]{2,59})\n(?=\1 {3}\S)")
QUOTED = re.compile(r"\"([^\"\s]+)\"")
SENTENCES_PER_PASSAGE = 8

SourceKind = Literal["course", "reference", "library"]


@dataclass(frozen=True, slots=True)
class Passage:
    """A few sentences of one source under one title.

    `location` is what a reader opens: `docs/01-basic-api.md#run-it` or `pydoc json.dumps`. `url` is the same
    section on the web. `text` is the whole section as it is written. A long section becomes several passages,
    and only the first of them has the text.
    """

    title: str
    location: str
    kind: SourceKind
    sentences: tuple[str, ...]
    url: str
    text: str


def course_pages(folder: Path) -> Iterator[Passage]:
    """The Markdown files of a folder, one passage for each heading."""
    for path in sorted(folder.glob("*.md")):
        yield from page_passages(path.read_text("utf-8", "replace"), f"{folder.name}/{path.name}")


def page_passages(text: str, page: str) -> Iterator[Passage]:
    """Split a page by its headings. Each location has the anchor that Markdown renderers give the heading."""
    text = FIGURE.sub("", text)  # the caption of a chart names its subject and explains nothing
    front_matter = FRONT_MATTER.match(text)
    named = TITLE.search(front_matter[1]) if front_matter else None
    title = named[1] if named else ""
    anchor = ""
    for heading, section in split_sections(title, text[front_matter.end() if front_matter else 0 :]):
        title = title or strip_markup(heading)
        anchor = heading_anchor(heading) if heading != title or anchor else anchor
        found = tuple(prose_sentences(FENCE.sub("", section)))
        if found and heading not in SKIPPED_HEADINGS:
            name = strip_markup(heading)
            full = name if name == title or not title else f"{title}: {name}"
            location = f"{page}#{anchor}" if anchor else page
            yield Passage(full, location, "course", found, urls.page_url(location), section)


def split_sections(title: str, body: str) -> Iterator[tuple[str, str]]:
    """Each heading with its section; the text before the first heading has the title.

    A comment in a code block looks like a heading. Code blocks are therefore blanked for the search.
    """
    blanked = FENCE.sub(lambda fence: "\0" * len(fence[0]), body)
    heading, start = title, 0
    for found in MARKDOWN_HEADING.finditer(blanked):
        yield heading, body[start : found.start()]
        heading, start = found[1], found.end()
    yield heading, body[start:]


def heading_anchor(heading: str) -> str:
    """The anchor of a heading by GitHub's rule."""
    return re.sub(r"[^\w\- ]", "", strip_markup(heading).lower()).replace(" ", "-")


def language_reference() -> Iterator[Passage]:
    """All topics. A section that stands in several topics is read once, from the shortest of them."""
    seen: set[tuple[str, ...]] = set()
    for topic, text in sorted(topics.items(), key=lambda each: len(each[1])):
        if len(UNDERLINED_HEADING.findall(text)) == 1:
            text = DEFINED_TERM.sub(r"\2\n---\n", text)
        parts = UNDERLINED_HEADING.split(text)
        for heading, section in zip([topic, *parts[1::3]], parts[0::3], strict=True):
            for passage in section_passages(topic, heading, dedent(section)):
                if passage.sentences not in seen:
                    seen.add(passage.sentences)
                    yield passage


def section_passages(topic: str, heading: str, section: str) -> Iterator[Passage]:
    found: list[str] = []
    for paragraph in paragraphs(section):
        found += sentences(QUOTED.sub(r"\1", paragraph))
    title = QUOTED.sub(r"\1", heading)
    url = urls.topic_url(topic, title)
    for start in range(0, len(found), SENTENCES_PER_PASSAGE):
        part = tuple(found[start : start + SENTENCES_PER_PASSAGE])
        yield Passage(title, f"pydoc {topic}", "reference", part, url, "" if start else section)
