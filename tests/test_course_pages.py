"""Pages: every one runs as it stands, and the format is kept."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course import engines
from course.exercises.format import exercises
from course.models import OFFLINE_PORT
from course.pages.format import BadPage, read_page
from course.pages.listings import embed_listings, listing
from course.pages.outputs import matches
from course.paths import ROOT
from course.ports import port_of, port_owner

PageOf = Callable[..., Path]
PAGES = sorted((ROOT / "docs").glob("[0-9][0-9]-*.md"))
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
CHECKLIST = ROOT / "docs" / "best-practice.md"


def marks_of(path: Path) -> list[pytest.MarkDecorator]:
    """The markers of the engines that a page needs. Lesson 09's agents keep the whole machine busy."""
    page = read_page(path)
    names = [name for name in ("docker", "dagger", "dapr", "kubernetes") if name in page.engines]
    return [getattr(pytest.mark, name) for name in (*names, *(["serial"] if page.number == "09" else []))]


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("literal_ports")
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=marks_of(p)) for p in PAGES],
    ids=lambda path: path.stem,
)
def test_every_command_of_the_page_does_what_the_page_says(path: Path) -> None:
    page = read_page(path)
    # A step whose engine is missing is left out on a learner's machine; in CI each must run.
    lacking = [each.name for each in engines.missing(page.engines if os.environ.get("CI") else page.needs)]
    ports = {OFFLINE_PORT} | {port_of(block.argument) for block in page.of_kind("server")}
    taken = [f"port {port} ({taker})" for port in ports if (taker := port_owner(port))]
    if lacking or taken:
        why = f"needs {', '.join(lacking + taken)}; see `make doctor`"
        pytest.skip(why)
    run = subprocess.run(
        [sys.executable, "-m", "course", "lesson", page.number],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.fixture
def page_of(tmp_path: Path) -> PageOf:
    def write(body: str, front: str = 'number: "99"\ntitle: A test') -> Path:
        path = tmp_path / "99-test.md"
        path.write_text(f"---\n{front}\n---\n{body}", encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    "info",
    [
        *["", "bash", "bash runs", "python", "bash server", "text", "bash server ready=no"],
        *[
            "text output needs=docker",
            "bash online needs=docker",
            "bash run needs=",
            "bash run needs=docker x",
        ],
    ],
)
def test_a_fence_of_an_unknown_kind_is_refused(page_of: PageOf, info: str) -> None:
    with pytest.raises(BadPage, match=r"99-test.md:8: no such kind of block"):
        read_page(page_of(f"Text.\n\n```{info}\nx\n```\n", 'number: "99"\ntitle: A test\nneeds: nothing'))


def test_a_step_names_the_engine_that_it_needs(page_of: PageOf) -> None:
    server = "```bash server ready=http://127.0.0.1:1/ needs=redis\nx\n```\n"
    page = read_page(page_of(f"```bash run needs=docker\nx\n```\n```bash run\nx\n```\n{server}"))
    assert [block.needs for block in page.blocks] == ["docker", "", "redis"]
    assert page.blocks[2].argument == "http://127.0.0.1:1/"
    assert page.engines == ["docker", "redis"]
    assert page.needs == [], "What a step needs would keep the whole page from running."


def test_an_unknown_engine_is_refused_with_its_line_in_the_page(page_of: PageOf) -> None:
    with pytest.raises(BadPage, match=r"99-test.md:5: there is no engine dokcer; there are docker, "):
        read_page(page_of("```bash run needs=dokcer\nx\n```\n"))
    with pytest.raises(BadPage, match=r"99-test.md:1: there is no engine dokcer; there are docker, "):
        read_page(page_of("Text.", "title: A test\nneeds: dokcer"))


def test_blocks_come_in_order_with_their_lines(page_of: PageOf) -> None:
    page = read_page(page_of("# T\n\n```bash run\necho 1\n```\n```text output\n1\n```\nEnd.\n"))
    assert [(block.kind, block.line) for block in page.blocks] == [
        ("prose", 5),
        ("run", 7),
        ("output", 10),
        ("prose", 13),
    ]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a ... c", "a b c", True),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("a", "a\n", True),
        ("a", "b", False),
        ("a ... c", "a b d", False),
        ("", "something", False),
    ],
)
def test_output_is_compared_with_wildcards(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same


def test_a_listing_is_the_source_of_its_symbol(page_of: PageOf) -> None:
    reference = "code/01_basic_api.py#AgentRequest"
    path = page_of(f"```python file={reference}\nold\n```\nAfter.\n")
    text = embed_listings(path, path.read_text())
    assert f"```python file={reference}\n{listing(reference)}```\nAfter.\n" in text
    assert listing(reference).startswith("class AgentRequest(BaseModel")
    path.write_text(text)
    assert embed_listings(path, text) == text


def test_a_listing_of_an_unknown_symbol_is_refused() -> None:
    with pytest.raises(BadPage, match="there is no Nothing"):
        listing("code/01_basic_api.py#Nothing")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=200))
def test_any_text_is_a_page_or_refused_as_one(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.md"
    path.write_text(f"---\ntitle: Any\n---\n{text}", encoding="utf-8")
    try:
        page = read_page(path)
    except BadPage:
        return
    assert all(block.kind == "prose" or block.line > 3 for block in page.blocks)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_every_exercise_that_a_page_names_exists(path: Path) -> None:
    there = {name for exercise in exercises() for name in (exercise.lesson, exercise.slug, exercise.slug[3:])}
    named = set(re.findall(r"\bmake exercise-([a-z0-9-]+)", path.read_text(encoding="utf-8")))
    assert named <= there, f"{path.name} names exercises that are not there: {sorted(named - there)}."


def test_every_exercise_about_containers_is_on_the_checklist() -> None:
    commands = set(re.findall(r"`make exercise-([a-z0-9-]+)`", CHECKLIST.read_text(encoding="utf-8")))
    missing = {exercise.slug for lesson in ("05", "06") for exercise in exercises(lesson)} - commands
    assert not missing, f"The checklist leaves out what these exercises teach: {sorted(missing)}."


def test_every_point_of_the_checklist_names_its_proof() -> None:
    points = re.findall(
        r"^- \[ \] .*?(?=\n- |\n\n)", CHECKLIST.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert points
    for point in points:
        assert re.search(r"`make exercise-|tests/|05-images.md#", point), f"No proof is named: {point}"
        for slug, linked in re.findall(r"\[`make exercise-([a-z0-9-]+)`\]\((.*?)\)", point):
            assert linked == f"../exercises/{slug}.toml", f"The link of {slug} leads to {linked}."


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_every_link_to_a_section_has_a_target(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for page, section in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        headings = re.findall(
            r"^#+ (.+)$", (path.parent / page if page else path).read_text("utf-8"), re.MULTILINE
        )
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert section in anchors, f"{path.name}: {page} has no section #{section}."
