"""The offline model's program repair: it proposes edits for defects that it has never seen."""

import ast
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from offline_model.repair.listings import listings_in
from offline_model.repair.mutations import mutations_of
from openai import OpenAI

from course.paths import ROOT

NULLABLE = {"type": ["string", "null"]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "file": NULLABLE,
        "line": {"type": ["integer", "null"]},
        "replacement": NULLABLE,
        "reason": {"type": "string"},
    },
    "required": ["file", "line", "replacement", "reason"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "edit", "schema": SCHEMA, "strict": True}}
PROPOSALS = 60
Proposal = dict[str, Any]

# A function with a defect, and what it has to do.
DEFECTS = {
    "operator": ("def area(width, height):\n    return width + height", "assert area(3, 4) == 12"),
    "comparison": (
        "def adults(ages):\n    return [age for age in ages if age > 18]",
        "assert adults([17, 18, 19]) == [18, 19]",
    ),
    "index": ("def last(items):\n    return items[len(items)]", "assert last([1, 2, 3]) == 3"),
    "range": (
        "def total(n):\n    found = 0\n    for k in range(1, n):\n        found += k\n    return found",
        "assert total(4) == 10\nassert total(1) == 1",
    ),
    "accumulation": (
        "def length(words):\n    n = 0\n    for word in words:\n        n = len(word)\n    return n",
        "assert length(['a', 'bcd']) == 4",
    ),
    "logic": (
        "def inside(x, low, high):\n    return x >= low or x <= high",
        "assert inside(2, 1, 3)\nassert not inside(4, 1, 3)\nassert not inside(0, 1, 3)",
    ),
    "negation": (
        "def first(items, default):\n    if items:\n        return default\n    return items[0]",
        "assert first([7], 0) == 7\nassert first([], 0) == 0",
    ),
    "missing return": (
        "def shout(text):\n    louder = text.upper()\n    louder += '!'",
        "assert shout('hey') == 'HEY!'",
    ),
    "operand order": ("def change(price, paid):\n    return price - paid", "assert change(3, 5) == 2"),
    "argument order": (
        "def ratio(part, whole):\n    found = divmod(whole, part)\n    return found[0]",
        "assert ratio(9, 3) == 3\nassert ratio(10, 5) == 2",
    ),
    "name": ("def highest(a, b):\n    return min(a, b)", "assert highest(1, 2) == 2"),
    "boundary": (
        "def page(items, n, size):\n    return items[n * size:][:size]",
        "assert page('abcd', 1, 2) == 'ab'\nassert page('abcd', 2, 2) == 'cd'",
    ),
    "constant": (
        "def retries(n):\n    return n * 60 - 2",
        "assert retries(1) == 59\nassert retries(2) == 119",
    ),
    "of a method": (
        "    def pop(self):\n        self.size -= 1\n        return self.items[self.size + 1]",
        "s = Stack()\ns.items, s.size = [5, 6], 2\nassert s.pop() == 6 and s.size == 1",
    ),
    "on several lines": (
        "def ready(a, b):\n    return (\n        a > 0\n        or b > 0\n    )",
        "assert not ready(1, 0)\nassert ready(1, 1)",
    ),
    "after other letters": (
        "def wide(text):\n    return 'größer ä' if len(text) < 3 else ''",
        "assert wide('abcd')",
    ),
}


@dataclass
class Session:
    """Proposals for one function, until one mends it."""

    client: OpenAI
    source: str
    check: str
    seed: int = 0
    strategy: str = ""
    tried: list[Proposal] = field(default_factory=list)

    def run(self, source: str) -> str:
        """The output of the check; empty when it passes."""
        head = "class Stack:\n" if source.startswith(" ") else ""
        done = subprocess.run(
            [sys.executable, "-c", f"{head}{source}\n{self.check}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stderr

    def propose(self, output: str = "", suspicion: dict[int, float] | None = None) -> Proposal:
        lines = [
            f"{(suspicion or {}).get(n, 0):.2f} {n:4} | {line}" if suspicion else f"{n:4} | {line}"
            for n, line in enumerate(self.source.split("\n"), 11)
        ]
        failed = "\n".join(json.dumps(each, ensure_ascii=False) for each in self.tried)
        prompt = (
            f"Task: Make the tests pass.\nStrategy: {self.strategy}\n\nFile: shop/stock.py\n"
            + "\n".join(lines)
            + f"\n\nOutput of the failing tests:\n{output}\n\nEdits that did not help:\n{failed}\n"
        )
        answer = self.client.chat.completions.create(
            model="offline",
            seed=self.seed,
            messages=[{"role": "user", "content": prompt}],
            response_format=FORMAT,
        )
        proposal: Proposal = json.loads(answer.choices[0].message.content or "")
        return proposal

    def apply(self, proposal: Proposal) -> str:
        lines = self.source.split("\n")
        lines[proposal["line"] - 11] = proposal["replacement"]
        return "\n".join(lines)

    def all_proposals(self) -> list[Proposal]:
        while (proposal := self.propose())["file"] is not None:
            self.tried.append(proposal)
            assert len(self.tried) < 500, "The proposals do not end."
        return self.tried


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_mended(client: OpenAI, defect: str) -> None:
    source, check = DEFECTS[defect]
    session = Session(client, source, check)
    output = session.run(source)
    assert "Error" in output, "The check passes before the repair, so that it proves nothing."
    for _ in range(PROPOSALS):
        proposal = session.propose(output)
        assert proposal["file"] == "shop/stock.py", f"Nothing is left to propose: {proposal['reason']}"
        if not session.run(session.apply(proposal)):
            return
        session.tried.append(proposal)
    pytest.fail(f"None of {PROPOSALS} proposals mends it, the last is {session.tried[-1]}.")


def test_a_defect_of_another_kind_is_not_mended_and_the_model_says_so(client: OpenAI) -> None:
    session = Session(
        client, "def greet(name):\n    return 'Hello ' + name", "assert greet('Ada') == 'Good day, Ada!'"
    )
    output = session.run(session.source)
    while (proposal := session.propose(output))["file"] is not None:
        assert session.run(session.apply(proposal)), "The check proves nothing."
        session.tried.append(proposal)
    assert session.tried, "It gave up before the first proposal."
    assert proposal["line"] is None and proposal["replacement"] is None
    assert "no other change" in proposal["reason"]


def test_no_proposal_is_repeated_or_changes_nothing(client: OpenAI) -> None:
    source, check = DEFECTS["range"]
    session = Session(client, source, check)
    proposals = [(each["line"], each["replacement"]) for each in session.all_proposals()]
    assert len(set(proposals)) == len(proposals) > 10
    assert source not in {session.apply(each) for each in session.tried}, "A proposal changes nothing."


def test_equal_seeds_give_equal_proposals_and_others_another_order(client: OpenAI) -> None:
    source, check = DEFECTS["range"]
    orders = [Session(client, source, check, seed).all_proposals() for seed in (1, 1, 2)]
    assert orders[0] == orders[1], "The same request has another answer."
    assert orders[0] != orders[2], "The seed has no effect."

    def proposals(order: list[Proposal]) -> list[tuple[int, str]]:
        return sorted((each["line"], each["replacement"]) for each in order)

    assert proposals(orders[0]) == proposals(orders[2]), (
        "The seed changes what is proposed, not only the order."
    )


def test_the_most_suspicious_line_is_changed_first(client: OpenAI) -> None:
    source, check = DEFECTS["range"]
    session = Session(client, source, check, strategy="most suspicious line first")
    lines = []
    while (proposal := session.propose("", {12: 0.3, 13: 0.5, 14: 0.9, 15: 0.4}))["file"] is not None:
        session.tried.append(proposal)
        lines.append(proposal["line"])
    assert lines == [*sorted(lines, key=lambda n: -{14: 0.9, 13: 0.5, 15: 0.4, 12: 0.3}.get(n, 0))]
    assert lines[0] == 14


def test_the_smallest_edit_comes_first(client: OpenAI) -> None:
    source, check = DEFECTS["logic"]
    session = Session(client, source, check, strategy="smallest edit first")
    longer = [abs(len(session.apply(each)) - len(source)) for each in session.all_proposals()]
    assert longer[0] <= 1, "The first edit is not small."
    assert longer[-1] == max(longer) > 10


def test_a_missing_return_is_tried_first_when_a_test_got_none(client: OpenAI) -> None:
    source, check = DEFECTS["missing return"]
    proposal = Session(client, source, check).propose("E   AssertionError: assert None == 'HEY!'")
    assert "return" in proposal["replacement"], f"The output says None, and the proposal is {proposal}."


def test_the_line_in_the_traceback_is_changed_first(client: OpenAI) -> None:
    source = "def mean(a, b):\n    both = a + b\n    half = 2 - 2\n    return both / half"
    proposal = Session(client, source, "").propose("shop/stock.py:14: ZeroDivisionError: division by zero")
    assert proposal["line"] == 14


def test_a_listing_that_is_no_python_has_no_mutations(client: OpenAI) -> None:
    proposal = Session(client, "def broken(:\n    return 1 <", "").propose()
    assert proposal["file"] is None and "no other change" in proposal["reason"]


def test_a_request_without_a_listing_is_an_ordinary_request_for_json(client: OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "Which file has line 3? The file is shop.py."}]
    answer = client.chat.completions.create(model="offline", messages=asked, response_format=FORMAT)
    assert json.loads(answer.choices[0].message.content or "").keys() == set(SCHEMA["required"])


@pytest.mark.parametrize("folder", ["course", "offline-model", "research-agent/app"])
def test_every_mutation_of_real_programs_is_python(folder: str) -> None:
    mutated = 0
    for path in sorted((ROOT / folder).rglob("*.py"))[::4]:
        lines = path.read_text("utf-8").split("\n")
        nodes = ast.walk(ast.parse("\n".join(lines)))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for node in functions[:6]:
            for each in mutations_of(lines[node.lineno - 1 : node.end_lineno], node.lineno):
                changed = [*lines[: each.line - 1], each.replacement, *lines[each.line :]]
                ast.parse("\n".join(changed))
                assert changed != lines
                mutated += 1
                if mutated > 1_500:
                    return
    assert mutated > 100, "The folder has too few mutations to prove anything."


def test_listings_are_told_apart() -> None:
    text = (
        "File: a.py\n0.50   1 | def f():\n0.00   2 | \n1.00   3 |     pass\n\nFile: b.py\n   7 | x = 1 | 2\n"
    )
    first, second = listings_in(text)
    assert (first.file, first.start, first.lines) == ("a.py", 1, ["def f():", "", "    pass"])
    assert first.suspicion == {1: 0.5, 2: 0.0, 3: 1.0}
    assert (second.file, second.start, second.lines, second.suspicion) == ("b.py", 7, ["x = 1 | 2"], {})
