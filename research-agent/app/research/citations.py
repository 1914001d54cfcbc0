"""Filter the citations of an answer while it streams: only numbers of known sources pass."""

import re

from app.models import Checkpoint

# The end of a text that the next piece may turn into a citation, or the first half of a surrogate pair.
PARTIAL_CITATION = r"(\s?\[[\d,\s]*\]?|\s?\[[\d,\s]+\]\([^)\s]*| |[\ud800-\udbff])\Z"
MAX_PARTIAL_CITATION = 300  # characters; longer text is passed on


class CitationFilter:
    """Pass the pieces of an answer on, and drop citations of sources that do not exist."""

    def __init__(self, draft: Checkpoint) -> None:
        self.draft = draft
        self.pending = ""

    def feed(self, text: str) -> str:
        """Return the text received so far, except an end that may still become a citation."""
        received = self.pending + text
        partial = re.search(PARTIAL_CITATION, received)
        self.pending = partial[0] if partial and len(partial[0]) < MAX_PARTIAL_CITATION else ""
        return self.remove_unknown(received.removesuffix(self.pending))

    def flush(self) -> str:
        """Return the pending text: no more will come."""
        pending, self.pending = self.pending, ""
        return self.remove_unknown(pending)

    def remove_unknown(self, text: str) -> str:
        """Remove the numbers that no source has, and links whose label looks like a citation."""
        known = {str(source.n) for source in self.draft.sources}

        def keep_known(citation: re.Match[str]) -> str:
            numbers = [number for number in re.findall(r"\d+", citation[2]) if number in known]
            return f"{citation[1]}[{', '.join(numbers)}]" if numbers else ""

        return replace_surrogates(re.sub(r"(\s?)\[(\d+(?:\s*,\s*\d+)*)\](?:\([^)\s]*\))?", keep_known, text))


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
