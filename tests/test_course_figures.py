"""Records, pictures and pages cannot drift apart unnoticed."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course.figures import colours, drawing, files, markdown, records
from course.paths import ROOT

ABOUT = {"title": "A title", "alt": "What is to be seen."}
RECORDS: dict[str, dict[str, Any]] = {
    "rates": ABOUT
    | {
        "kind": "bars",
        "unit": "requests a second",
        "groups": ["GET /health", "POST /v1/invoke"],
        "series": [
            {"name": "bare", "values": [12000, 100], "low": [11000, 90], "high": [13000, 110]},
            {"name": "lesson", "values": [9000, 50], "ratio": [0.75, 0.5]},
        ],
        "target": {"label": "at least", "values": [5000, 10]},
        "measured": {"how": "by hand", "on": "2 cores", "when": "2026-01-02", "versions": {"Python": "3.13"}},
        "values": {"p99": 0.0123},
    },
    "stop": ABOUT
    | {
        "kind": "timeline",
        "lanes": [{"name": "stream", "spans": [{"start": 0, "end": 2, "label": "done"}, {"start": 3}]}],
        "marks": [{"start": 1, "label": "SIGTERM"}],
    },
    "image": ABOUT | {"kind": "layers", "layers": [{"label": "base", "size": 172}, {"label": "code & co"}]},
    "idea": ABOUT
    | {
        "kind": "graph",
        "boxes": [
            {"id": "a", "title": "A", "rows": ["costs $5 or $6"], "at": [0, 0], "size": [4, 2]},
            {"id": "b", "title": "B", "at": [6, 0], "size": [4, 2], "tone": "frame"},
            {"id": "c", "title": "C", "at": [12, 4], "size": [4, 2], "tone": "red"},
        ],
        "arrows": [{"from": "a", "to": "b", "label": "calls"}, {"from": "b", "to": "c", "dashed": True}],
    },
}
PAGE = """Before.

<!-- figure: rates -->
<!-- /figure -->

At p99 <!-- value: rates.values.p99|.3f --><!-- /value --> s.
"""


def write(root: Path, name: str, record: dict[str, Any]) -> None:
    (root / "docs" / "figures" / f"{name}.json").write_text(json.dumps(record))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository in which every record is drawn and the page is current."""
    folder = tmp_path / "docs" / "figures"
    folder.mkdir(parents=True)
    for name, record in RECORDS.items():
        write(tmp_path, name, record)
    assert len(files.draw_all(tmp_path)) == len(RECORDS)
    (tmp_path / "docs" / "page.md").write_text(markdown.embed(PAGE, folder))
    assert files.problems(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize("name", RECORDS)
def test_the_same_record_is_drawn_as_the_same_bytes(name: str) -> None:
    record = records.RECORD.validate_python(RECORDS[name])
    svg = drawing.draw(record)
    assert svg == drawing.draw(record)
    ElementTree.fromstring(svg)  # noqa: S314  # our own XML
    assert "<title>A title</title>" in svg and "prefers-color-scheme: dark" in svg


def test_every_colour_has_a_counterpart_for_dark_pages() -> None:
    known = {pair[0] for pair in colours.DARK}
    for record in RECORDS.values():
        svg = drawing.draw(records.RECORD.validate_python(record))
        used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg.split("</style>", 1)[1]))
        assert used <= known


def test_unchanged_records_are_not_drawn_again(root: Path) -> None:
    assert files.draw_all(root) == []


def test_a_changed_record_is_reported_as_stale(root: Path) -> None:
    write(root, "idea", RECORDS["idea"] | {"title": "Another"})
    assert files.problems(root) == ["docs/figures/idea.svg was drawn from another record: make figures"]


def test_a_number_changed_by_hand_in_a_page_is_reported(root: Path) -> None:
    page = root / "docs" / "page.md"
    for written, by_hand in (("9,000", "9,900"), (">0.012<", ">0.002<")):
        text = page.read_text()
        assert written in text
        page.write_text(text.replace(written, by_hand))
        assert files.problems(root) == ["docs/page.md shows a figure that differs from its record: make docs"]
        page.write_text(text)


def test_a_page_shows_picture_table_and_how_it_was_measured(root: Path) -> None:
    text = (root / "docs" / "page.md").read_text()
    assert "![What is to be seen.](figures/rates.svg)" in text
    assert "| GET /health | 12,000 (11,000–13,000) | 9,000 | 0.75 x | 5,000 |" in text
    assert "*Measured 2026-01-02: by hand. On 2 cores; Python 3.13.*" in text
    assert "At p99 <!-- value: rates.values.p99|.3f -->0.012<!-- /value --> s." in text


def test_ratios_follow_from_their_row_unless_the_page_explains_them(root: Path) -> None:
    assert "ratio is the median" not in (root / "docs" / "page.md").read_text()
    for path in (ROOT / "docs" / "figures").glob("*.json"):
        record = records.load(path.stem, path.parent)
        if not isinstance(record, records.Bars) or markdown.has_rounds(record):
            continue
        for series in record.series:
            for value, first, ratio in zip(
                series.values, record.series[0].values, series.ratio, strict=False
            ):
                assert ratio == pytest.approx(value / first, abs=0.01), f"{path.name}: {series.name}"
    rounds = markdown.embed("<!-- figure: lesson_05_builds --><!-- /figure -->")
    assert "a ratio is the median of the rounds' own ratios" in rounds


def test_the_shutdown_timeline_shows_503_only_after_sigterm() -> None:
    record = records.load("shutdown_timeline", ROOT / "docs" / "figures")
    assert isinstance(record, records.Timeline)
    signalled = next(mark.start for mark in record.marks if mark.label == "SIGTERM")
    ready = next(lane for lane in record.lanes if lane.name == "/ready")
    assert next(span.start for span in ready.spans if span.label == "503") >= signalled


def test_pictures_and_records_without_each_other_are_reported(root: Path) -> None:
    folder = root / "docs" / "figures"
    (folder / "image.json").unlink()
    (folder / "stop.svg").unlink()
    assert files.problems(root) == [
        "docs/figures/stop.svg is not drawn yet: make figures",
        "docs/figures/image.svg has no record image.json",
    ]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("rates", {"groups": ["one"]}, "bars: Value error, every list of numbers needs 1, one a group"),
        ("rates", {"title": "a | b"}, "bars.title: String should match"),
        ("idea", {"arrows": [{"from": "a", "to": "z"}]}, "graph: Value error, no box is called z"),
        ("idea", {"kind": "pie"}, "the record: Input tag 'pie'"),
        ("stop", {"colour": "red"}, "timeline.colour: Extra inputs are not permitted"),
    ],
)
def test_a_record_that_does_not_validate_is_one_clear_line(
    root: Path, name: str, change: dict[str, Any], said: str
) -> None:
    write(root, name, RECORDS[name] | change)
    line = files.problems(root)[0]
    assert line.startswith(f"docs/figures/{name}.json is not a record: {said}") and "\n" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- figure: nowhere --><!-- /figure -->", "there is no record docs/figures/nowhere.json"),
        ("<!-- figure: rates -->\n", "is misspelt or has no"),
        ("<!-- value: rates.values.p99 -->1", "is misspelt or has no"),
        ("<!-- value: rates.values.p50 -->1<!-- /value -->", "has no such number: values.p50"),
        ("<!-- value: rates.title -->1<!-- /value -->", "has no such number: title"),
    ],
)
def test_a_marker_for_an_unknown_record_or_number_is_refused(root: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        markdown.embed(text, root / "docs" / "figures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("figures")
    for name, record in RECORDS.items():
        (made / f"{name}.json").write_text(json.dumps(record))
    return made


pieces = st.sampled_from(
    [
        *(f"<!-- figure: {name} -->" for name in RECORDS),
        "<!-- /figure -->",
        "<!-- value: rates.series.1.ratio.0 -->",
        "<!-- value: rates.values.p99|.1f -->",
        "<!-- /value -->",
        "\n\n",
        "| a | 1 |",
    ]
)


@given(st.lists(pieces | st.text(), max_size=12).map("".join))
def test_embedding_twice_changes_nothing_more(folder: Path, text: str) -> None:
    try:
        once = markdown.embed(text, folder)
    except ValueError:  # markers that do not fit together
        return
    assert markdown.embed(once, folder) == once


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "figures").glob("*.json")), ids=lambda path: path.stem
)
def test_every_record_of_the_course_validates(path: Path) -> None:
    records.load(path.stem, path.parent)


def test_records_pictures_and_pages_of_the_course_agree() -> None:
    assert files.problems() == []


@pytest.mark.parametrize("command", ["figures", "docs"])
def test_make_finds_pictures_and_pages_up_to_date(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "course", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
