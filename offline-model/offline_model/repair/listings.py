"""Listings: the numbered source, the suspicion of its lines, and the failed proposals in a prompt."""

import re
from dataclasses import dataclass

from offline_model.conversation import parse_json

FILE = re.compile(r"^[ \t]*File:[ \t]*`?(?P<file>[^\s`]+)", re.MULTILINE)
# `0.71   12 | code`, with the line's suspicion from 0 to 1, or `12 | code` without it.
NUMBERED = re.compile(r"^[ \t]*(?:(?P<suspicion>[01]\.\d+)[ \t]+)?(?P<number>\d+)[ \t]*\|(?: (?P<code>.*))?$")
# A frame of a traceback, as pytest (`shop.py:12: TypeError`) or Python (`File "shop.py", line 12`) prints it.
FRAME = re.compile(
    r'^(?P<file>[^\s:"]+\.py):(?P<line>\d+):|File "(?P<path>[^"]+)", line (?P<at>\d+)', re.MULTILINE
)
MAX_LINES = 1_000


@dataclass(frozen=True)
class Listing:
    """Consecutive lines of a file, the first of which has the number `start`.

    `suspicion` is from 0 to 1 by line number, for the lines that have one.
    """

    file: str
    start: int
    lines: list[str]
    suspicion: dict[int, float]


def listings_in(text: str) -> list[Listing]:
    """Every block of numbered lines below a line `File: NAME`."""
    found = []
    heads = [*FILE.finditer(text)]
    ends = [*(head.start() for head in heads), len(text)][1:]
    for head, end in zip(heads, ends, strict=True):
        rows = [row for line in text[head.end() : end].splitlines() if (row := NUMBERED.match(line))]
        numbers = [int(row["number"]) for row in rows]
        if rows and len(rows) <= MAX_LINES and numbers == [*range(numbers[0], numbers[0] + len(rows))]:
            suspicion = {int(row["number"]): float(row["suspicion"]) for row in rows if row["suspicion"]}
            found.append(Listing(head["file"], numbers[0], [row["code"] or "" for row in rows], suspicion))
    return found


def frames_in(text: str) -> set[tuple[str, int]]:
    """File names (without folders) and lines in the tracebacks of a text."""
    frames = [(m["file"] or m["path"], m["line"] or m["at"]) for m in FRAME.finditer(text)]
    return {(re.split(r"[/\\]", file)[-1], int(line)) for file, line in frames}


def failed_proposals_in(text: str) -> set[tuple[str, int, str]]:
    """The proposals that a prompt lists as failed: one JSON object a line."""
    values = [parse_json(line) for line in text.splitlines() if line.startswith('{"')]
    return {
        (value["file"], value["line"], value["replacement"].rstrip())
        for value in values
        if isinstance(value, dict)
        and [type(value.get(name)) for name in ("file", "line", "replacement")] == [str, int, str]
    }
