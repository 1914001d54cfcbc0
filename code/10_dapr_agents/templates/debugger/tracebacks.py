"""Read a Python traceback by its structure: frames, chains, syntax errors, recursion, exception groups."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_LINES = 2_000
FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
REPEATED = re.compile(r"^\s*\[Previous line repeated (\d+) more times?\]$")
HEADER = re.compile(r"^\s*(?:Exception Group )?Traceback \(most recent call last\):$")
EXCEPTION = re.compile(r"^(?:(?:\w+|<locals>)\.)*(?P<type>[A-Za-z_]\w*)(?:: (?P<message>.*))?$")
NAMED = re.compile(r"(?:Error|Exception|Warning|Exit|Interrupt|Iteration|Group)$")
CHAINED = {
    "The above exception was the direct cause of the following exception:": "cause",
    "During handling of the above exception, another exception occurred:": "context",
}
LIBRARY = re.compile(r"site-packages|dist-packages|[/\\]lib[/\\]python|<frozen ", re.IGNORECASE)
# In a group each line has a margin, drawn by traceback.py: "  | text", "  +-+---- 1 ----", "    +--------".
MARGIN = re.compile(
    r"^(?P<margin> *)(?:\| ?(?P<text>.*)|\+ (?P<first>Exception Group Traceback.*)|(?P<rule>\+-.*))$"
)


@dataclass
class Frame:
    file: str
    line: int
    function: str | None  # None: the place of a syntax error, which is in no function yet
    code: str = ""

    @property
    def is_library(self) -> bool:
        return bool(LIBRARY.search(self.file))


@dataclass
class Raised:
    """One exception. `earlier` was raised before it: as its direct cause, or while it was handled."""

    type: str
    message: str = ""
    frames: list[Frame] = field(default_factory=list)
    repeated: int = 0
    relation: str = ""
    earlier: "Raised | None" = None
    members: list["Raised"] = field(default_factory=list)

    @property
    def place(self) -> Frame | None:
        """The innermost frame of the learner's own code."""
        own = [frame for frame in self.frames if not frame.is_library]
        frames = own or self.frames
        return frames[-1] if frames else None

    @property
    def root_cause(self) -> "Raised":
        """What went wrong first: the earliest of a chain, the first of a group."""
        if self.earlier:
            return self.earlier.root_cause
        return self.members[0].root_cause if self.members else self

    def all(self) -> Iterator["Raised"]:
        yield self
        for each in [*([self.earlier] if self.earlier else []), *self.members]:
            yield from each.all()


Line = tuple[int, str, str]  # the column of its margin, its text, and the rule if it is one


def parse(text: str) -> Raised | None:
    """The exception that a traceback reports last, with those before it. None without a traceback."""
    lines = [split_margin(line.rstrip()) for line in text.replace("\t", "    ").splitlines()[-MAX_LINES:]]
    return parse_level(lines)


def split_margin(line: str) -> Line:
    found = MARGIN.match(line)
    if not found:
        return -1, line, ""
    return len(found["margin"]), found["text"] or found["first"] or "", found["rule"] or ""


def parse_level(lines: list[Line]) -> Raised | None:
    """The lines of one exception, or of a chain. Deeper lines between rules are members of a group."""
    done: Raised | None = None
    body: list[str] = []
    members: list[Raised] = []
    relation, at = "", 0
    while at < len(lines):
        column, text, rule = lines[at]
        if rule.startswith("+-+"):
            inner, at = members_from(lines, at + 1, column + 2)
            members += [found for found in map(parse_level, inner) if found]
            continue
        if text.strip() in CHAINED:
            done = parse_one(body, members, done, relation) or done
            body, members, relation = [], [], CHAINED[text.strip()]
        elif not rule:
            body.append(text)
        at += 1
    return parse_one(body, members, done, relation) or done


def members_from(lines: list[Line], at: int, column: int) -> tuple[list[list[Line]], int]:
    """The lines of each member of a group, and where the group ends."""
    members: list[list[Line]] = [[]]
    while at < len(lines):
        margin, _, rule = lines[at]
        if margin < column:
            break
        if margin == column and rule and not rule.startswith("+-+"):
            if not re.search(r"\d", rule):
                return members, at + 1
            members.append([])
        else:
            members[-1].append(lines[at])
        at += 1
    return members, at


def parse_one(body: list[str], members: list[Raised], earlier: Raised | None, relation: str) -> Raised | None:
    frames: list[Frame] = []
    repeated, found = 0, None
    for line in body:
        if HEADER.match(line):
            frames, repeated, found = [], 0, None  # an older traceback of the same log ends here
        elif match := FRAME.match(line):
            frames.append(Frame(match["file"], int(match["line"]), match["function"]))
        elif match := REPEATED.match(line):
            repeated += int(match[1])
        elif line.startswith(" ") and not found:
            if frames and not frames[-1].code:
                frames[-1].code = line.strip()
        elif (match := EXCEPTION.match(line)) and not found and (frames or NAMED.search(match["type"])):
            found = Raised(match["type"], match["message"] or "")
        elif found and line:
            found.message += f"\n{line}"
    if found is None:
        return None
    found.frames, found.repeated, found.members = frames, repeated, members
    found.earlier, found.relation = earlier, relation if earlier else ""
    return found
