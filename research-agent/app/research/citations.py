"""Citations in an answer: only those pass that name a source."""

import re

from app.models import Notebook

HALF = r"(\s?\[[\d,\s]*\]?|\s?\[[\d,\s]+\]\([^)\s]*| |[\ud800-\udbff])\Z"
"""What may still become a citation, or the second half of a character."""


class Citations:
    """Lets an answer through piece by piece, but for citations of sources that do not exist."""

    def __init__(self, draft: Notebook) -> None:
        self.draft = draft
        self.held = ""

    def feed(self, text: str) -> str:
        """The text so far, without what might still become a citation."""
        whole = self.held + text
        self.held = half[0] if (half := re.search(HALF, whole)) and len(half[0]) < 300 else ""
        return self.checked(whole.removesuffix(self.held))

    def rest(self) -> str:
        rest, self.held = self.held, ""
        return self.checked(rest)

    def checked(self, text: str) -> str:
        """Without numbers that no source has, and without links that pose as citations."""
        known = {str(source.n) for source in self.draft.sources}

        def keep(found: re.Match[str]) -> str:
            numbers = [number for number in re.findall(r"\d+", found[2]) if number in known]
            return f"{found[1]}[{', '.join(numbers)}]" if numbers else ""

        return sound(re.sub(r"(\s?)\[(\d+(?:\s*,\s*\d+)*)\](?:\([^)\s]*\))?", keep, text))


def sound(text: str) -> str:
    """Unicode, whatever came: JSON can carry half a surrogate pair, and nothing else can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
