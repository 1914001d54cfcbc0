"""Python's language reference, which ships inside Python for help()."""

import re
from collections.abc import Iterator
from pydoc_data.topics import topics

from offline_model.corpus import urls
from offline_model.corpus.passage import Passage
from offline_model.corpus.plain_text import paragraphs, sentences

HEADING = re.compile(r"^([^\n]{3,80})\n([*=\-^~\"]{3,})\n", re.MULTILINE)
SENTENCES_PER_PASSAGE = 8
QUOTED = re.compile(r"\"([^\"\s]+)\"")


def read() -> Iterator[Passage]:
    """All topics. A section that stands in several topics is read once, from the shortest of them."""
    seen: set[tuple[str, ...]] = set()
    for topic, text in sorted(topics.items(), key=lambda each: len(each[1])):
        parts = HEADING.split(text)
        for heading, section in zip([topic, *parts[1::3]], parts[0::3], strict=True):
            for passage in section_passages(topic, heading, section):
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
