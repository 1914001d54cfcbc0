"""What a container prints becomes events, in order and bounded."""

import json
from typing import Any

from parallel_agents.agent_output import LINE, OutputParser

RESULT = {"type": "result", "status": "passed", "tests_passed": 1, "tests_failed": 0, "summary": "ok"}


def events(*pieces: bytes, limit: int = 100_000) -> tuple[OutputParser, list[tuple[str, dict[str, Any]]]]:
    parser = OutputParser(limit)
    found = [event for piece in pieces for event in parser.feed("stdout", piece)]
    return parser, found + list(parser.end())


def text(found: list[tuple[str, dict[str, Any]]]) -> str:
    return "\n".join(data["text"] for kind, data in found if kind == "log")


def test_lines_and_characters_may_be_cut_anywhere() -> None:
    whole = ("größe\n" + json.dumps({"type": "say", "text": "hi"}) + "\nend").encode()
    expected = [
        ("log", {"stream": "stdout", "text": "größe"}),
        ("say", {"text": "hi"}),
        ("log", {"stream": "stdout", "text": "end"}),
    ]
    for at in range(len(whole)):
        assert events(whole[:at], whole[at:])[1] == expected


def test_what_is_no_event_is_text() -> None:
    lines = [
        '{"type": "say", "text": NaN}',
        '{"type": "say", "text": 1e999}',
        "{",
        "{}",
        '{"type": "done"}',
        '{"type": ["say"]}',
        '{"type": "result"}',
        "[" * 50_000,
    ]
    _, found = events("\n".join(lines).encode())
    assert {kind for kind, _ in found} == {"log"}
    assert text(found).splitlines()[:7] == lines[:7]


def test_an_agent_cannot_speak_for_another_variation() -> None:
    _, found = events(b'{"type": "say", "text": "x", "variation": 7}\n')
    assert found == [("say", {"text": "x"})]


def test_a_line_without_end_is_cut_into_pieces() -> None:
    _, found = events(*[b"x" * 1000] * 100)
    assert all(len(data["text"]) <= LINE for _, data in found)
    assert "".join(data["text"] for _, data in found) == "x" * 100_000


def test_output_over_the_limit_is_left_out_and_the_result_is_not() -> None:
    parser, found = events(b"a\n" * 600, b"b\n" * 600, json.dumps(RESULT).encode() + b"\n", limit=1300)
    assert "b\n" not in text(found)
    assert sum("truncated" in data for _, data in found) == 1
    assert parser.result is not None
    assert parser.result.status == "passed"


def test_results_over_the_limit_are_bounded_too() -> None:
    _, found = events(b"a\n" * 1000, (json.dumps(RESULT).encode() + b"\n") * 1000, limit=1000)
    assert len(found) < 20
