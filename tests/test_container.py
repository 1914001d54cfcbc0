"""Audit a container image or a URL: `python tests/test_container.py IMAGE_OR_URL`. Under pytest: all images.

The checks are those of `make audit TARGET=...` (course/audit). Each failure links to a section with the fix.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # as a script, its own folder alone is on the path
from course.audit.checks import CHECKS, Check, Finding, run_check
from course.audit.layers import merge_layers
from course.audit.report import examine, faults, report
from course.audit.targets import Contract, NotChecked, Target
from course.containers.commands import run
from course.containers.images import AGENTS
from course.containers.network import TestNetwork
from course.errors import CourseError
from course.paths import ROOT
from course.processes import Processes, wait_listening

StartAgent = Callable[
    ..., str
]  # called with settings as keyword arguments; returns the URL of a research agent

KNOWN_FAULTS = {image.tag: image.known_faults for image in AGENTS}
# Text that the section linked by a check must contain.
REQUIRED_TEXT = {
    "answers_on_its_port": "`HOST` is 0.0.0.0",
    "turns_healthy": "health check uses the image's own Python",
    "tells_whether_it_is_ready": "`/ready` is about the next request",
    "answers_a_question": "The answer comes whole",
    "streams_an_answer": "Every stream ends with `done` or with `error`",
    "notices_a_hang": "see its health check turn red",
    "logs_json": "Every line of the log is a JSON object",
    "stops_cleanly": "makes a shell process 1, which passes nothing on",
    "runs_as_numeric_non_root": "The user is a number",
    "needs_no_writable_root": "a root that cannot be written to",
    "runs_in_256_mb": "counts against the container's memory",
    "downloads_nothing": "Downloads at run time",
    "notices_a_closed_port": "refused connection",
    "no_secret_in_env_or_history": "`ARG` and `ENV` stay in the history",
    "holds_no_secret": "In the image it is as it was",
    "contains_no_build_leftovers": "caches",
    "holds_no_installer": "No installer",
}


# --- Every image of the agent ---


@pytest.fixture(scope="module", params=["basic", "multistage", "latest"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def target(kind: str, build: Callable[[str], str], network: TestNetwork) -> Iterator[Target]:
    with Target(build(kind), network) as target:
        yield target


@pytest.mark.docker
@pytest.mark.timeout(600)
@pytest.mark.parametrize("each", CHECKS, ids=lambda check: check.name)
def test_image_passes_each_check_except_known_faults(target: Target, kind: str, each: Check) -> None:
    known = each.name in KNOWN_FAULTS[f"research-agent:{kind}"]
    try:
        each.test(target)
    except AssertionError:
        if not known:
            raise
    except NotChecked as why:
        pytest.fail(f"{each.claim}: {why}.")
    else:
        # pip caches packages only if the package index allows it.
        told = "A fault that its Dockerfile tells of is gone."
        assert not known or each.name == "contains_no_build_leftovers", told


# --- Images that are bad on purpose ---


BAD_IMAGES = {
    path.name.removesuffix(".Dockerfile"): path for path in Path(__file__).parent.glob("images/*.Dockerfile")
}

# One does not answer, one has a misleading health check, one has another route.
FULLY_AUDITED = {"loopback", "port-is-open", "other-route"}


@pytest.fixture
def bad(build: Callable[[str], str]) -> Iterator[Callable[[str], str]]:
    """Return a function that builds an image of tests/images on this process's research-agent:latest."""
    base, built = build("latest"), []

    def build_bad(name: str) -> str:
        tag = f"{base}-{name}"
        instead = f"--build-context=research-agent:latest=docker-image://{base}"
        built.append(tag)
        run(
            "build",
            "-q",
            instead,
            f"-t={tag}",
            f"-f={BAD_IMAGES[name]}",
            str(BAD_IMAGES[name].parent),
            seconds=300,
        )
        return tag

    yield build_bad
    for tag in built:
        run("rmi", "--force", tag)


@pytest.mark.docker
@pytest.mark.of_the_course
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(BAD_IMAGES))
def test_bad_image_fails_exactly_its_check(
    name: str, bad: Callable[[str], str], network: TestNetwork
) -> None:
    """Three images are tested with all checks, for half a minute each; the others with their own check."""
    header = dict(re.findall(r"^# (fails|says): (.*)$", BAD_IMAGES[name].read_text(), re.MULTILINE))
    checks = [each for each in CHECKS if name in FULLY_AUDITED or each.name == header["fails"]]
    with Target(bad(name), network) as target:
        failed = faults(run_check(each, target) for each in checks)
    assert set(failed) == {header["fails"]}, (
        f"The image {name} is to fail {header['fails']} alone, and it fails {sorted(failed)}:\n{failed}"
    )
    said = failed[header["fails"]]
    says = ".*".join(map(re.escape, header["says"].split("...")))
    assert re.fullmatch(says, said, re.DOTALL), (
        f"The check {header['fails']} of the image {name} does not say {header['says']!r}, but this:\n{said}"
    )


# --- Audits of a learner's own agent ---

OWN_AGENT = """
import json, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

async def well(request):
    return PlainTextResponse("well")

async def ask(request):
    return JSONResponse({"answer": (await request.json())["question"]})

async def stream(request):
    words = (await request.json())["question"].split()
    events = [f"event: token\\ndata: {json.dumps(word)}\\n\\n" for word in words]
    return StreamingResponse(iter([*events, "event: done\\ndata: {}\\n\\n"]), media_type="text/event-stream")

routes = [Route("/health", well), Route("/ready", well)]
routes += [Route("/ask", ask, methods=["POST"]), Route("/ask/stream", stream, methods=["POST"])]
uvicorn.run(Starlette(routes=routes), port=0, log_level="warning")
"""


@pytest.fixture
def own_agent(processes: Processes, tmp_path: Path) -> str:
    """Start an agent with another route and another field, and without an OpenAPI document."""
    (tmp_path / "agent.py").write_text(OWN_AGENT)
    process = processes.start([sys.executable, "agent.py"], cwd=tmp_path)
    return wait_listening(process)


def test_an_audit_takes_the_route_and_the_field_of_ones_own_agent(own_agent: str) -> None:
    found = {each.check.name: each for each in examine(own_agent, Contract(route="/ask", field="question"))}
    for name in ("answers_a_question", "streams_an_answer"):
        assert found[name].result == "passed", (
            f"In an audit with the agent's own route and field, {name} is {found[name].result!r}:\n"
            f"{found[name].sentence}"
        )


def test_the_command_takes_them_as_make_gives_them(own_agent: str) -> None:
    command = [sys.executable, "-m", "course", "audit", own_agent]
    names = {"ROUTE": "/ask", "FIELD": "question"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | names, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (
        f"An audit with the agent's own route and field ends with exit code {done.returncode}:\n"
        f"{done.stdout}{done.stderr}"
    )
    assert "✓ It answers a question" in done.stdout, (
        f"The audit does not say that the agent answers a question:\n{done.stdout}"
    )
    assert "Traceback" not in done.stderr, f"The audit prints a traceback:\n{done.stderr}"


def test_checks_that_need_an_answer_are_skipped_without_one(own_agent: str) -> None:
    found = {each.check.name: each for each in examine(own_agent)}
    failed = faults(found.values())
    assert set(failed) == {"answers_a_question"}, (
        f"An agent that has another route fails {sorted(failed)}, and not answers_a_question alone."
    )
    said = failed["answers_a_question"]
    assert said.startswith(
        "POST /v1/research gives status 404: Not Found. (If your agent uses another route"
    ), f"The finding does not begin with the status of the route and the advice to set another: {said}"
    streaming = found["streams_an_answer"]
    assert streaming.result == "not checked", (
        f"The agent answers no question, and the check of its stream is {streaming.result!r}, not skipped."
    )
    assert "does not answer a question in the first place" in streaming.sentence, (
        f"The check of the stream does not say why it was skipped: {streaming.sentence!r}."
    )


def test_audit_of_an_unreachable_url_says_so(closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    failed = faults(examine(url))
    assert set(failed) == {"answers_on_its_port"}, (
        f"A URL that refuses connections fails {sorted(failed)}, and not answers_on_its_port alone."
    )
    said = failed["answers_on_its_port"]
    assert said.startswith(f"nothing answers at {url}"), (
        f"The finding does not begin by saying that nothing answers at {url}: {said}"
    )


def test_audit_of_a_url_says_what_it_cannot_check(research_agent: StartAgent) -> None:
    results = {each.check.name: each.result for each in examine(research_agent(RATE_LIMIT_RPM="1000"))}
    answers = [results[name] for name in ("answers_a_question", "streams_an_answer")]
    assert answers == ["passed"] * 2, f"The checks of an answer and of a stream do not both pass: {answers}."
    skipped = [results[name] for name in ("holds_no_secret", "stops_cleanly")]
    assert skipped == ["not checked"] * 2, (
        f"Two checks need an image, and they are not both skipped for a URL: {skipped}."
    )
    failed = [name for name, result in results.items() if result == "failed"]
    assert not failed, f"An audit of the agent's URL says that it fails {', '.join(failed)}."


def test_a_file_that_a_later_layer_removes_is_still_in_a_lower_layer() -> None:
    lower = [("/app/.env", True), ("/app/main.py", False), ("/cache/pip/wheel", False), ("/var/log", False)]
    upper = [("/app/.wh..env", False), ("/cache/.wh..wh..opq", False), ("/app/main.py", False)]
    found = [(file.path, file.hidden) for file in merge_layers([lower, upper])]
    assert found == [
        ("/app/.env", True),
        ("/app/main.py", True),
        ("/cache/pip/wheel", True),
        ("/var/log", False),
        ("/app/main.py", False),
    ], f"The audit lists the files of the two layers, or which of them are hidden, wrongly: {found}."


def test_an_installer_is_advice_in_an_audit_and_a_fault_if_not_listed_as_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check = next(each for each in CHECKS if each.name == "holds_no_installer")
    found = [Finding(check, "advice", "The image holds /usr/local/bin/pip.")]
    code = report("own:latest", found)
    assert code == 0, f"An installer is advice in an audit, and yet the exit code is {code}."
    said = capsys.readouterr().out
    assert f"! {check.claim}\n    The image holds /usr/local/bin/pip.\n    Advice: docs/" in said, (
        f"The report does not show the installer as advice, with its path and a page that helps:\n{said}"
    )
    assert said.endswith("Nothing failed, 1 with advice.\n"), (
        f"The report does not end by saying that nothing failed and one check has advice:\n{said}"
    )
    code = report("research-agent:latest", found, known=frozenset())
    assert code == 1, f"An installer is no known fault of this image, and yet the exit code is {code}, not 1."
    code = report("research-agent:multistage", found, known={check.name})
    assert code == 0, f"An installer is a known fault of this image, and yet the exit code is {code}, not 0."


@pytest.mark.parametrize("each", CHECKS, ids=lambda check: check.name)
def test_each_check_links_to_a_section_that_says_how_to_mend_it(each: Check) -> None:
    page, _, anchor = each.page.partition("#")
    sections = re.split(r"^## ", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)[1:]
    named = {
        re.sub(r"[^\w -]", "", text.partition("\n")[0]).lower().replace(" ", "-"): text for text in sections
    }
    assert anchor in named, f"{page} has no section #{anchor}."
    assert REQUIRED_TEXT[each.name] in " ".join(named[anchor].split()), (
        f"#{anchor} of {page} does not say it."
    )


def test_the_page_names_everything_that_an_audit_expects() -> None:
    page = (ROOT / "docs/05-images.md").read_text()
    section = page.partition("## The test for all of them")[2].partition("\n## ")[0]
    for word in ("ROUTE=", "FIELD=", "/health", "/ready", "/stream", '{"query": "..."}', "OPENAI_BASE_URL"):
        assert word in section, f"{word} is not named where `make audit` is described."


if __name__ == "__main__":
    try:
        sys.exit(report(sys.argv[-1], examine(sys.argv[-1]), KNOWN_FAULTS.get(sys.argv[-1])))
    except CourseError as failure:
        sys.exit(f"✗ {failure}")
