"""Does this container behave? `python tests/test_container.py IMAGE_OR_URL`; under pytest, all images.

The same checks audit any agent: `make audit TARGET=...`. Each failure names the lesson that mends it.
"""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # as a script, its own folder alone is on the path
from course.containers import Container, Image, Surroundings, run, until
from course.processes import Failed, free_port

App = Callable[..., str]  # settings in, address of a server out

QUESTION = "What is graceful shutdown?"
PACED = "offline?tps=150"  # an answer takes a second, so that a stream can be watched, and stopped half-way
GRACE = 30  # seconds to stop in, as an orchestrator gives them
START = 60  # seconds to start in, for a machine that has other things to do
QUICK = ("--health-interval=500ms", "--health-timeout=1s", "--health-retries=2", "--health-start-period=1s")
STRICT = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
SMALL = ("--memory=256m", "--memory-swap=256m", "--cpus=0.5")
# What Dockerfiles say of themselves in their first lines, so that `make smoke` need not say it again.
KNOWN = {
    "research-agent:basic": {"runs_as_nobody", "holds_only_what_runs"},
    "research-agent:multistage": {"holds_only_what_runs"},
}


KNOWN_LAYERS: dict[str, list[tuple[str, bool]]] = {}  # images share layers; each is read once


class Unknown(Exception):
    """A check that this target does not allow; the text says why."""


class Subject:
    """What is examined: an image, from which containers are started as checks need them; or a URL alone."""

    def __init__(self, target: str, around: Surroundings | None) -> None:
        self.target, self.around = target, around
        self.named = Image(target) if around else None

    @property
    def image(self) -> Image:
        if self.named is None:
            raise Unknown("a URL does not show it; give the image")
        return self.named

    def start(self, *options: str, command: tuple[str, ...] = (), **env: str) -> Container:
        assert self.around
        return self.around.start(self.image.name, *options, command=command, **env)

    @cached_property
    def container(self) -> Container:
        """The container that most checks look at."""
        return self.start(f"--publish=127.0.0.1::{self.image.port}", *QUICK, MODEL_NAME=PACED)

    @property
    def url(self) -> str:
        """Its address, when it answers there."""
        if isinstance(self.reached, Unknown):
            raise self.reached
        return self.reached

    @cached_property
    def reached(self) -> str | Unknown:
        """Its address; or why there is none, which is waited for only once."""
        if self.named is None:
            try:
                httpx2.get(self.target)
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                return Unknown(f"nothing answers at {self.target} ({error})")
            return self.target.rstrip("/")
        container, last = self.container, "nothing"
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and container.state["Running"]:
            try:
                if (answer := httpx2.get(f"{container.url(self.image.port)}/health")).status_code == 200:
                    return str(answer.url).removesuffix("/health")
                last = f"status {answer.status_code}"
            except httpx2.TransportError as error:
                last = type(error).__name__
                if container.health == "healthy":  # so it thinks; it will hardly become any better
                    deadline = min(deadline, time.monotonic() + 10)
            time.sleep(0.25)
        return Unknown(f"GET /health on port {self.image.port} gives {last}; {container.last_words}")

    @cached_property
    def route(self) -> str:
        """The route that answers questions."""
        paths = httpx2.get(f"{self.url}/openapi.json").json()["paths"]
        return next((path for path in ("/v1/research", "/v1/invoke") if path in paths), "/v1/research")

    @cached_property
    def files(self) -> list[tuple[str, bool]]:
        """Every file of every layer, and whether a secret stands in it."""
        found: list[tuple[str, bool]] = []
        for name, files in self.image.layers():
            if name not in KNOWN_LAYERS:
                KNOWN_LAYERS[name] = [(path, holds_secret(content)) for path, content in files]
            found += KNOWN_LAYERS[name]
        return found

    @cached_property
    def was_healthy(self) -> bool:
        """Whether its health check turned healthy, in the ten seconds after it began to serve."""
        with suppress(Unknown):
            _ = self.url
        return bool(until(lambda: self.container.health == "healthy", 10))

    def ask(self) -> httpx2.Response:
        return httpx2.post(f"{self.url}{self.route}", json={"query": QUESTION}, timeout=60)

    def stream(self, query: str = QUESTION) -> Iterator[tuple[float, str]]:
        """When each event came, and its name."""
        path = "/v1/stream" if self.route == "/v1/invoke" else f"{self.route}/stream"
        with httpx2.stream("POST", f"{self.url}{path}", json={"query": query}, timeout=60) as response:
            if response.status_code != 200:
                raise AssertionError(f"POST {path} gives status {response.status_code}.")
            for line in response.iter_lines():
                if line.startswith("event:"):
                    yield time.monotonic(), line.removeprefix("event:").strip()

    def answers_within(self, container: Container) -> str:
        """Ask it from the model's container, over their common network; "" when it answers."""
        assert self.around
        model = self.around.model.id
        host = container.inspect()["Config"]["Hostname"]
        script = (
            "import json, sys, urllib.request as u\n"
            "base, route, query = sys.argv[1:]\n"
            "u.urlopen(base + '/health', timeout=5)\n"
            "body = json.dumps({'query': query}).encode()\n"
            "u.urlopen(u.Request(base + route, body, {'Content-Type': 'application/json'}), timeout=60)\n"
        )
        base = f"http://{host}:{self.image.port.split('/')[0]}"
        said = ""

        def answered() -> bool:
            nonlocal said
            try:
                run("exec", model, "python", "-c", script, base, self.route, QUESTION, seconds=90)
            except Failed as failure:
                said = str(failure).splitlines()[-1]
                return not container.state["Running"]
            said = ""
            return True

        until(answered, START)
        return f"{said}; {container.last_words}" if said else ""


@dataclass(frozen=True)
class Check:
    name: str
    claim: str
    lesson: str
    made: Callable[[Subject], None]


CHECKS: list[Check] = []


def check(lesson: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """A function that raises AssertionError when its claim (its docstring) is false of a subject."""

    def keep(made: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS.append(Check(made.__name__, str(made.__doc__).strip("."), lesson, made))
        return made

    return keep


# --- The checks, in the order in which they are made ---


@check("01-basic-api.md")
def answers_on_its_port(subject: Subject) -> None:
    """It starts, and answers /health on its port."""
    try:
        assert httpx2.get(f"{subject.url}/health").status_code == 200
    except (Unknown, httpx2.TransportError) as failure:
        advice = " In a container a program must listen on 0.0.0.0: 127.0.0.1 is the container itself."
        raise AssertionError(f"{failure}.{advice if subject.around else ''}") from None


@check("05-images.md")
def turns_healthy(subject: Subject) -> None:
    """Its health check turns healthy."""
    assert subject.container.health != "none", "The image has no HEALTHCHECK."
    healthy = subject.was_healthy
    log = [entry["Output"].strip() for entry in subject.container.state["Health"]["Log"][-1:]]
    assert healthy, f"It serves, but its check says: {' '.join(log)[:300]}."


@check("01-basic-api.md")
def tells_whether_it_is_ready(subject: Subject) -> None:
    """/ready is 200 with its model, 503 without, and 200 again when the model is back."""

    def becomes(status: int) -> bool:
        return bool(until(lambda: httpx2.get(f"{subject.url}/ready").status_code == status, 10))

    assert becomes(200), "/ready is not 200 although the model answers."
    if subject.around is None:
        raise Unknown("with its model it is ready; taking the model away needs the image")
    with subject.around.without_model():
        assert becomes(503), "/ready does not turn 503 when the model is gone: it sends callers to errors."
    assert becomes(200), "/ready stays 503 when the model is back."


@check("01-basic-api.md")
def answers_a_question(subject: Subject) -> None:
    """It answers a question."""
    answer = subject.ask()
    assert answer.status_code == 200, f"POST {subject.route} gives {answer.status_code}: {answer.text[:300]}"
    assert answer.json()["response"], "The answer is empty."


@check("02-production-api.md")
def streams_an_answer(subject: Subject) -> None:
    """It streams an answer: token by token, with a last event."""
    events = list(subject.stream("What is a container?"))  # not what was asked before: no cached answer
    times = [at for at, name in events if name == "token"]
    assert times, f"No token comes; the events are {[name for _, name in events]}."
    assert events[-1][1] == "done", f"The last event is {events[-1][1]}, not done."
    if subject.around:  # whose model takes its time
        assert times[-1] - times[0] > 0.2, "All tokens come at once: something holds them back."


@check("05-images.md")
def notices_a_hang(subject: Subject) -> None:
    """Its health check turns unhealthy when the program hangs, and healthy when it goes on."""
    must_have_been_healthy(subject)
    subject.container.signal("STOP")
    try:
        noticed = until(lambda: subject.container.health == "unhealthy", 20)
    finally:
        subject.container.signal("CONT")
    assert noticed, "The program was stopped by SIGSTOP, and its health check still says healthy."
    assert until(lambda: subject.container.health == "healthy", 20), "It goes on, and is not healthy again."


@check("02-production-api.md")
def logs_json(subject: Subject) -> None:
    """Every line that it logs is a JSON object."""
    _ = subject.image, subject.url
    for line in subject.container.logs().splitlines():
        try:
            assert isinstance(json.loads(line), dict)
        except (ValueError, AssertionError):
            raise AssertionError(f"This line is no JSON object: {line[:200]}") from None


@check("03-graceful-shutdown.md")
def stops_cleanly(subject: Subject) -> None:
    """Asked to stop, it finishes its streams and exits with 0."""
    _ = subject.image, subject.url, subject.route
    ends: list[list[str]] = [[], [], []]
    begun = threading.Semaphore(0)

    def follow(end: list[str], number: int) -> None:
        try:
            for _, name in subject.stream(f"{QUESTION} ({number})"):
                end.append(name)
                if name == "token" and end.count("token") == 1:
                    begun.release()
        except httpx2.TransportError as error:
            end.append(f"cut off ({type(error).__name__})")
        finally:
            begun.release()

    followers = [threading.Thread(target=follow, args=(end, number)) for number, end in enumerate(ends)]
    for follower in followers:
        follower.start()
    for _ in followers:
        begun.acquire()
    code, seconds = subject.container.stop(GRACE)
    del subject.container, subject.reached  # whoever needs one from now on gets another
    for follower in followers:
        follower.join()
    last = [end[-1] if end else "nothing" for end in ends]
    assert code == 0, (
        f"It left with exit code {code} after {seconds:.1f} s; 137 is a kill, 143 an ignored SIGTERM."
    )
    assert set(last) <= {"done", "error"}, f"Streams ended with {', '.join(last)} instead of a last event."


@check("05-images.md")
def runs_as_nobody(subject: Subject) -> None:
    """It runs as a user that is a number, and not root."""
    user = str(subject.image.config.get("User") or "root").partition(":")[0]
    assert user.isdigit(), (
        f"The user is {user!r}: an orchestrator cannot tell from a name that it is not root."
    )
    assert int(user), "The user is 0, which is root."


@check("05-images.md")
def needs_no_writable_root(subject: Subject) -> None:
    """It works with a read-only root, no capability, and /tmp alone to write to."""
    works(subject, *STRICT, named="With a read-only root")


@check("05-images.md")
def needs_little(subject: Subject) -> None:
    """It starts and answers with 256 MB of memory and half a processor."""
    works(subject, *SMALL, named="With 256 MB and half a processor")


@check("05-images.md")
def downloads_nothing(subject: Subject) -> None:
    """It starts and answers where nothing but its model can be reached."""
    _ = subject.image
    assert subject.around
    works(subject, f"--network={subject.around.inside}", named="Where nothing but its model can be reached")


def works(subject: Subject, *options: str, named: str) -> None:
    """It starts and answers with these options."""
    _ = subject.image, subject.route
    container = subject.start("--no-healthcheck", *options)
    try:
        said = subject.answers_within(container)
        killed = container.state["OOMKilled"]
        assert not killed, f"{named} it is killed for want of memory."
        assert not said, f"{named} it does not answer: {said}."
    finally:
        container.remove()


@check("05-images.md")
def notices_a_closed_port(subject: Subject) -> None:
    """Its health check turns unhealthy when nothing listens."""
    must_have_been_healthy(subject)
    asleep = ("-c", "import time; time.sleep(600)")
    container = subject.start("--entrypoint=python", *QUICK, command=asleep)
    try:
        if not container.state["Running"]:
            raise Unknown("it holds no python that could run in the program's place")
        noticed = until(lambda: container.health == "unhealthy", 20)
        assert noticed, "The program does not run at all, and its health check says healthy."
    finally:
        container.remove()


def must_have_been_healthy(subject: Subject) -> None:
    if not subject.was_healthy:
        raise Unknown("its health check does not turn healthy in the first place")


SECRETS = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{36}|\bhf_[A-Za-z0-9]{30,}"
)
BEGINNINGS = (b"-----BEGIN", b"AKIA", b"sk-", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"hf_")
SECRET_FILES = re.compile(
    r"/(?:\.env(?:\.(?!example)[^/]*)?|\.git/config|\.netrc|\.pypirc|\.npmrc|id_(?:rsa|ed25519))$"
)
SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)
NO_SECRETS = {"GPG_KEY"}  # of the Python image: the public key of its release manager


def holds_secret(content: bytes) -> bool:
    """A plain search first: it takes a hundredth of the time, and nearly all files end there."""
    return any(begin in content for begin in BEGINNINGS) and bool(SECRETS.search(content))


@check("05-images.md")
def tells_no_secret(subject: Subject) -> None:
    """No secret stands in its environment or its history."""
    for variable in subject.image.config.get("Env") or []:
        name, _, value = variable.partition("=")
        assert not (SECRET_NAME.search(name) and value and name not in NO_SECRETS), f"ENV {name} is set."
    for line in subject.image.history():
        found = SECRETS.search(line.encode())
        assert not found, f"Its history holds a secret: {line[:100]}"


@check("05-images.md")
def holds_no_secret(subject: Subject) -> None:
    """No secret stands in any of its layers, deleted or not."""
    for path, secret in subject.files:
        assert not SECRET_FILES.search(path), f"A layer holds {path}."
        assert not secret, f"A layer holds a secret in {path}."


# What installs, builds or was left over, none of which a running agent needs.
IDLE = re.compile(
    r"/(?:pip3?|uv|gcc|cc|make|apt-get)$|/(?:site|dist)-packages/pip/__init__\.py$"
    r"|^/root/\.cache/.|^/var/lib/apt/lists/.|/\.pytest_cache/|/\.git/"
)


@check("05-images.md")
def holds_only_what_runs(subject: Subject) -> None:
    """It holds no installer, no compiler, and no cache of either."""
    found = sorted({path for path, _ in subject.files if IDLE.search(path)})
    assert not found, f"It holds {', '.join(found[:4])}{' and more' if len(found) > 4 else ''}."


# --- Making them ---


@dataclass(frozen=True)
class Outcome:
    check: Check
    result: Literal["passed", "failed", "unknown"]
    sentence: str = ""


def examine(target: str, *aliases: str) -> Iterator[Outcome]:
    """Make every check of an image or a URL."""
    with surroundings(target, *aliases) as around:
        subject = Subject(target, around)
        for each in CHECKS:
            try:
                each.made(subject)
            except AssertionError as failure:
                yield Outcome(each, "failed", str(failure).splitlines()[0])  # pytest adds lines of its own
            except Unknown as why:
                yield Outcome(each, "unknown", str(why))
            except httpx2.TransportError as error:
                yield Outcome(each, "failed", f"The connection broke off: {error!r}.")
            else:
                yield Outcome(each, "passed")


@contextmanager
def surroundings(target: str, *aliases: str) -> Iterator[Surroundings | None]:
    if target.startswith(("http://", "https://")):
        yield None
    else:
        with Surroundings(*aliases) as around:
            yield around


def faults(found: Iterable[Outcome]) -> dict[str, str]:
    """What failed, and the sentence that tells why."""
    return {each.check.name: each.sentence for each in found if each.result == "failed"}


def main(target: str, audit: bool) -> int:
    """Print what was found; the exit code. An audit takes no fault for granted."""
    known: set[str] = set() if audit else KNOWN.get(target, set())
    print(f"\n{target}")
    failed = unknown = 0
    for outcome in examine(target):
        unknown += outcome.result == "unknown"
        expected = outcome.check.name in known
        wrong = (outcome.result == "failed") != expected and outcome.result != "unknown"
        mark = {"passed": "✓", "failed": "✗", "unknown": "?"}[outcome.result]
        print(f"{'–' if expected and not wrong else mark} {outcome.check.claim}", flush=True)
        if outcome.sentence:
            print(f"    {outcome.sentence}")
        if wrong:
            failed += 1
            print(
                f"    Mended in docs/{outcome.check.lesson}"
                if not expected
                else "    No longer a known fault."
            )
    told = f"{failed} of {len(CHECKS)} checks failed" if failed else "Nothing failed"
    print(f"{told}, {unknown} could not be made." if unknown else f"{told}.")
    if known:
        print("– is a fault that its Dockerfile tells of.")
    return 1 if failed else 0


# --- Under pytest: every image, and images that are bad on purpose ---


@pytest.fixture(scope="module", params=["basic", "multistage", "latest"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def subject(kind: str, build: Callable[[str], str]) -> Iterator[Subject]:
    with surroundings(tag := build(kind)) as around:
        yield Subject(tag, around)


@pytest.mark.docker
@pytest.mark.timeout(600)
@pytest.mark.parametrize("each", CHECKS, ids=lambda check: check.name)
def test_image(subject: Subject, kind: str, each: Check) -> None:
    known = each.name in KNOWN.get(f"research-agent:{kind}", ())
    try:
        each.made(subject)
    except AssertionError:
        if not known:
            raise
    except Unknown as why:
        pytest.fail(f"{each.claim}: {why}")
    else:
        assert not known, "A fault that its Dockerfile tells of is gone."


BAD = {
    path.name.removesuffix(".Dockerfile"): path for path in Path(__file__).parent.glob("images/*.Dockerfile")
}


@pytest.mark.docker
@pytest.mark.of_the_course
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_image_fails_exactly_its_check(name: str, build: Callable[[str], str]) -> None:
    build("latest")
    tag, expected = f"bad:{name}", BAD[name].read_text().splitlines()[0].removeprefix("# fails: ")
    run("build", "--quiet", f"--tag={tag}", f"--file={BAD[name]}", str(BAD[name].parent), seconds=300)
    try:
        failed = faults(examine(tag, "downloads"))
    finally:
        run("rmi", "--force", tag)
    assert set(failed) == {expected}, failed
    assert failed[expected].endswith("."), f"It does not say what is wrong in a sentence: {failed[expected]}"


def test_audit_of_a_url_where_nobody_answers_says_so() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    failed = faults(examine(url))
    assert set(failed) == {"answers_on_its_port"}
    assert failed["answers_on_its_port"].startswith(f"nothing answers at {url}")


def test_audit_of_a_url_says_what_it_cannot_check(research_agent: App, offline_model: str) -> None:
    results = {each.check.name: each.result for each in examine(research_agent(RATE_LIMIT_RPM="1000"))}
    assert [results[name] for name in ("answers_a_question", "streams_an_answer")] == ["passed"] * 2
    assert [results[name] for name in ("holds_no_secret", "stops_cleanly")] == ["unknown"] * 2
    assert "failed" not in results.values()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[-1], audit="--audit" in sys.argv))
    except Failed as failure:
        sys.exit(f"✗ {failure}")
