"""Lesson 09's web page, in a real browser with a real server and containers."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from support.browsers import (  # fixtures, too
    FlakyProxy,
    Visits,
    assert_accessible,
    browser,  # noqa: F401
    flaky_proxies,  # noqa: F401
    visit,  # noqa: F401
)
from support.parallel_agents import PASSWORD, Lesson, StartLesson, User

from course.polling import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

# The prompt is the code that the agent of the tests' image runs.
REPORT = """
import json, os, sys
def say(type, **fields):
    print(json.dumps({"type": type, **fields}), flush=True)
n = int(os.environ["AGENT_SEED"])
say("plan", strategy="s", text=f"plan of {n}")
say("command", command="pytest", exit_code=1, seconds=0.5, timed_out=False)
say("tests", passed=3, failed=2, failing=[])
say("model", file="a.txt", line=1, replacement="two", reason="an operator")
say("edit", file="a.txt", line=1, before="one", after="two", helps=True)
print("<img src=x onerror=\\"document.title='executed'\\">", flush=True)
print("on stderr", file=sys.stderr, flush=True)
open("a.txt", "w").write(f"two {n}\\n")
"""
RESULT = 'say("result", status="passed", tests_passed=5, tests_failed=0, summary=f"summary of {n}")\n'
FINISHES = REPORT + RESULT
LASTS = REPORT + "import time\nwhile True:\n    say('say', text='still here')\n    time.sleep(1)\n"


@pytest.fixture
def lesson(lesson_09: StartLesson) -> Lesson:
    return lesson_09()


@pytest.fixture
def user(lesson: Lesson) -> User:
    return lesson.user()


def open_run(visit: Visits, url: str, user: User, run_id: str, **options: Any) -> Page:
    page = visit(f"{url}/#run={run_id}", **options)
    page.fill("#username", user.name)
    page.fill("#password", PASSWORD)
    page.click("button[value=login]")
    return page


def finished(page: Page) -> None:
    expect(page.locator("#state"), "The run does not finish.").to_contain_text("Finished")
    expect(page.locator("#results tr").first).to_be_visible()


def lines(page: Page, n: int) -> list[str]:
    return page.locator("#columns article").nth(n - 1).locator(".lines > div").all_inner_texts()


def test_a_run_is_started_and_watched_to_its_result(visit: Visits, lesson: Lesson, repository: Path) -> None:
    page = visit(lesson.server)
    page.fill("#username", lesson.user().name + "x")
    page.fill("#password", PASSWORD)
    page.click("button[value=register]")
    page.fill("#repository", str(repository))
    page.fill("#prompt", textwrap.dedent(FINISHES))
    page.fill("#variations", "2")
    page.click("#send")
    finished(page)
    expect(page.locator("#state")).to_have_text("Finished: 2 of 2 variations passed.")
    for n in (1, 2):
        told = " ".join(lines(page, n))
        for part in (
            f"plan of {n}",
            "$ pytest",
            "3 tests pass, 2 fail",
            "Helps.",
            "on stderr",
            f"summary of {n}",
        ):
            assert part in told, f"Column {n} lacks {part!r}: {told}"
        assert f"plan of {3 - n}" not in told, "Output of one variation is in the column of another."
    assert page.title() != "executed", "Output of an agent was run as a script."
    assert page.locator("#columns img").count() == 0, "Output of an agent became HTML."
    expect(page.locator("#results tr").first).to_contain_text("5")


def test_a_reload_in_the_middle_shows_everything_once(
    visit: Visits,
    lesson: Lesson,
    user: User,
    repository: Path,
) -> None:
    run_id = user.start(repository, LASTS, 2)
    page = open_run(visit, lesson.server, user, run_id)
    expect(page.locator("#columns article").first).to_contain_text("still here")
    page.reload()
    expect(page.locator("#columns article").nth(1)).to_contain_text("still here")
    assert [text for text in lines(page, 1) if "plan of" in text] == ["plan of 1"], (
        "After a reload the page does not show each event once."
    )
    page.click("#cancel")
    expect(page.locator("#state")).to_contain_text("cancelled")
    expect(page.locator("#columns .badge").first).to_have_text("cancelled")
    assert until(lambda: user.get(run_id)["state"] == "cancelled"), "The page says so, but the run goes on."


def test_a_lost_connection_is_resumed_after_the_last_event(
    visit: Visits,
    lesson: Lesson,
    user: User,
    repository: Path,
    flaky_proxies: Callable[[str], FlakyProxy],
) -> None:
    proxy = flaky_proxies(str(lesson.server))
    visit.expected += ["net::ERR_"]
    run_id = user.start(repository, LASTS, 1)
    page = open_run(visit, proxy.url, user, run_id)
    asked_from: list[str] = []
    page.on("request", lambda request: asked_from.append(request.headers.get("last-event-id", "")))
    expect(page.locator("#columns article")).to_contain_text("still here")
    proxy.cut()
    expect(page.locator("#state")).to_have_text("Connection lost, trying again …")
    proxy.repair()
    expect(page.locator("#state")).to_have_text("Connected again.")
    page.click("#cancel")
    expect(page.locator("#state")).to_contain_text("cancelled")
    assert any(re.fullmatch(r"\d+", each) for each in asked_from), "The page began again instead of resuming."
    assert sum("plan of" in text for text in lines(page, 1)) == 1, "Events were shown twice."


def test_the_patch_is_shown(visit: Visits, lesson: Lesson, user: User, repository: Path) -> None:
    run_id = user.start(repository, FINISHES, 2)
    user.events(run_id)
    page = open_run(visit, lesson.server, user, run_id)
    finished(page)
    page.get_by_label("Show the patch of variation 2").click()
    expect(page.locator("#patch-title")).to_be_focused()
    removed = page.locator("#patch .removed").all_inner_texts()
    assert removed and removed[0].endswith("-one"), (
        f"The first line that the page shows as removed is not '-one': {removed}"
    )
    added = page.locator("#patch .added").all_inner_texts()
    assert added and added[0].endswith("+two 2"), (
        f"The first line that the page shows as added is not '+two 2': {added}"
    )
    with page.expect_download() as downloaded:
        page.click("#patch >> text=Download")
    name = downloaded.value.suggested_filename
    assert name == "variation-2.patch", f"The patch of variation 2 is downloaded as {name}."
    with page.expect_download() as downloaded:
        page.get_by_label("Download the log of variation 1").click()
    log = downloaded.value.path().read_text()
    assert "plan of 1" in log, "The downloaded log of variation 1 lacks the plan of its agent."


def test_another_users_run_is_not_shown(visit: Visits, lesson: Lesson, user: User, repository: Path) -> None:
    visit.expected += ["404"]
    run_id = user.start(repository, FINISHES)
    page = open_run(visit, lesson.server, lesson.user(), run_id)
    expect(page.locator("#problem")).to_contain_text("There is no such run.")
    user.events(run_id)


def test_a_wrong_password_is_told(visit: Visits, lesson: Lesson, user: User) -> None:
    visit.expected += ["401"]
    page = visit(lesson.server)
    page.fill("#username", user.name)
    page.fill("#password", "another long password")
    page.click("button[value=login]")
    expect(page.locator("#problem")).to_be_visible()
    expect(page.locator("#sign-in")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_accessibility_violation(
    visit: Visits,
    lesson: Lesson,
    user: User,
    repository: Path,
    scheme: Any,
) -> None:
    run_id = user.start(repository, FINISHES, 3)
    page = visit(lesson.server, color_scheme=scheme, viewport={"width": 1280, "height": 900})
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = max(map(int, re.findall(r"\d+", ground)[:3])) < 60
    assert dark is (scheme == "dark"), f"The page does not follow the system's {scheme} mode: {ground}"
    assert_accessible(page)
    page.fill("#username", user.name)
    page.fill("#password", PASSWORD)
    page.click("button[value=login]")
    expect(page.locator("#runs li")).to_have_count(1)
    assert_accessible(page)
    page.click("#runs a")
    expect(page).to_have_url(re.compile(run_id))
    finished(page)
    page.get_by_label("Show the patch of variation 1").click()
    expect(page.locator("#patch .added").first).to_be_visible()
    assert_accessible(page)


def test_everything_can_be_done_from_the_keyboard(
    visit: Visits,
    lesson: Lesson,
    user: User,
    repository: Path,
) -> None:
    page = visit(lesson.server)
    press, typed = page.keyboard.press, page.keyboard.type
    expect(page.locator("#username")).to_be_focused()
    typed(user.name)
    press("Tab")
    typed(PASSWORD)
    press("Enter")
    expect(page.locator("#repository")).to_be_focused()
    typed(str(repository))
    press("Tab")
    expect(page.locator("#prompt")).to_be_focused()
    page.locator("#prompt").fill(FINISHES)
    for wanted in ("#variations", "#seed", "#send"):
        press("Tab")
        expect(page.locator(wanted)).to_be_focused()
    outline = page.locator("*:focus").evaluate("node => getComputedStyle(node).outlineStyle")
    assert outline != "none", "Nobody sees that the button has the focus."
    press("Enter")
    expect(page.locator("#title"), "The reader is not led to the run.").to_be_focused()
    finished(page)


@pytest.mark.parametrize("width", [320, 640])
def test_nothing_is_wider_than_the_screen(
    visit: Visits,
    lesson: Lesson,
    user: User,
    repository: Path,
    width: int,
) -> None:
    run_id = user.start(repository, FINISHES + f"\nprint('long' * 500)\n# {'x' * 500}", 2)
    user.events(run_id)
    page = open_run(visit, lesson.server, user, run_id, viewport={"width": width, "height": 740})
    finished(page)
    wider = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wider) <= 0, "The run scrolls sideways."
    page.get_by_label("Show the patch of variation 1").click()
    expect(page.locator("#patch .added").first).to_be_visible()
    assert page.evaluate(wider) <= 0, "The patch makes the page scroll sideways."


def test_reduced_motion_stops_animations(
    visit: Visits,
    lesson: Lesson,
    user: User,
    repository: Path,
) -> None:
    run_id = user.start(repository, LASTS)
    page = open_run(visit, lesson.server, user, run_id, reduced_motion="reduce")
    expect(page.locator("#columns article")).to_contain_text("still here")
    assert page.evaluate("document.getAnimations().length") == 0, "Something moves all the same."
    page.click("#cancel")
    expect(page.locator("#state")).to_contain_text("cancelled")


def test_the_page_loads_nothing_from_other_hosts(visit: Visits, lesson: Lesson) -> None:
    page = visit(lesson.server)
    expect(page.locator("#sign-in")).to_be_visible()
    loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(address.startswith(lesson.server) for address in loaded), (
        f"Something comes from elsewhere: {loaded}"
    )
