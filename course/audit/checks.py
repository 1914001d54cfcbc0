"""The checks of an audit, in the order in which they run."""

import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import httpx2

from course.audit.layers import (
    INSTALLERS,
    LEFTOVERS,
    PUBLIC_NAMES,
    SECRET_FILES,
    SECRET_NAME,
    SECRETS,
    StoredFile,
)
from course.audit.targets import (
    FAST_HEALTH_CHECK,
    LOW_RESOURCE_OPTIONS,
    QUESTION,
    RESTRICTED_OPTIONS,
    NotChecked,
    Target,
)
from course.containers.commands import until

# Seconds until SIGKILL. The streams in flight take one second, and orchestrators allow 10 to 30.
GRACE_SECONDS = 15


@dataclass(frozen=True)
class Check:
    name: str
    claim: str
    page: str  # the section in docs/ that says how to fix it
    test: Callable[[Target], None]
    advice: bool = False  # a failure is no fault: many good images fail it


@dataclass(frozen=True)
class Finding:
    check: Check
    result: Literal["passed", "failed", "advice", "not checked"]
    sentence: str = ""


CHECKS: list[Check] = []


def check(page: str, advice: bool = False) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Register a check: a function that raises AssertionError when its docstring is not true of a target."""

    def register(test: Callable[[Target], None]) -> Callable[[Target], None]:
        CHECKS.append(Check(test.__name__, str(test.__doc__).strip("."), page, test, advice))
        return test

    return register


def run_check(each: Check, target: Target) -> Finding:
    """Run one check, and turn what it raises into a finding."""
    try:
        each.test(target)
    except AssertionError as failure:
        return Finding(each, "advice" if each.advice else "failed", str(failure))
    except NotChecked as why:
        return Finding(each, "not checked", str(why))
    except httpx2.TransportError as error:
        return Finding(each, "failed", f"The connection broke: {error!r}.")
    return Finding(each, "passed")


# --- What it answers ---


@check("05-images.md#the-parts-that-matter")
def answers_on_its_port(target: Target) -> None:
    """It starts, and answers /health on its port."""
    try:
        status = httpx2.get(f"{target.url}/health").status_code
    except (NotChecked, httpx2.TransportError) as failure:
        advice = " In a container a program must listen on 0.0.0.0: 127.0.0.1 is the container itself."
        raise AssertionError(f"{failure}.{advice if target.network else ''}") from None
    assert status == 200, f"GET /health gives status {status}: an orchestrator will restart it."


@check("05-images.md#the-parts-that-matter")
def turns_healthy(target: Target) -> None:
    """Its health check turns healthy."""
    assert target.container.health != "none", "The image has no HEALTHCHECK."
    healthy = target.was_healthy
    log = [entry["Output"].strip() for entry in target.container.state["Health"]["Log"][-1:]]
    assert healthy, f"It serves, but its check says: {' '.join(log)[:300]}."


@check("01-basic-api.md#what-happens-when-the-model-is-down")
def tells_whether_it_is_ready(target: Target) -> None:
    """/ready is 200 with its model, 503 without, and 200 again when the model is back."""
    last = 0

    def becomes(status: int) -> bool:
        nonlocal last
        last = httpx2.get(f"{target.url}/ready").status_code
        return last == status

    def within_ten_seconds(status: int) -> bool:
        return bool(until(lambda: becomes(status), 10))

    assert within_ten_seconds(200), f"/ready gives {last} instead of 200 although the model answers."
    if target.network is None:
        raise NotChecked("with its model it is ready; taking the model away needs the image")
    with target.network.without_model():
        gone = within_ten_seconds(503)
    assert gone, f"/ready gives {last} instead of 503 when the model is gone: it sends callers to errors."
    assert within_ten_seconds(200), f"/ready gives {last} instead of 200 when the model is back."


@check("01-basic-api.md#run-it")
def answers_a_question(target: Target) -> None:
    """It answers a question."""
    assert not target.refusal, target.refusal


@check("01-basic-api.md#run-it")
def streams_an_answer(target: Target) -> None:
    """It streams an answer: token by token, with a last event."""
    target.must_answer()
    events = list(
        target.stream("What is a container?")
    )  # another question than before, so that the answer is not cached
    times = [at for at, name in events if name == "token"]
    assert times, f"No token comes; the events are {[name for _, name in events]}."
    assert events[-1][1] == "done", f"The last event is {events[-1][1]}, not done."
    if target.network:  # its model sends 150 tokens a second
        assert times[-1] - times[0] > 0.2, "All tokens come at once: something holds them back."


@check("05-images.md#run-it")
def notices_a_hang(target: Target) -> None:
    """Its health check turns unhealthy when the program hangs, and healthy when it goes on."""
    must_have_been_healthy(target)
    target.container.signal("STOP")
    try:
        noticed = until(lambda: target.container.health == "unhealthy", 30)
    finally:
        target.container.signal("CONT")
    assert noticed, "The program was stopped by SIGSTOP, and its health check still says healthy."
    assert until(lambda: target.container.health == "healthy", 20), (
        "The program continues, and does not turn healthy again."
    )


@check("02-production-api.md#what-can-you-see-from-outside")
def logs_json(target: Target) -> None:
    """Every line that it logs is a JSON object."""
    _ = target.image, target.url
    for line in target.container.logs().splitlines():
        try:
            is_object = isinstance(json.loads(line), dict)
        except ValueError:
            is_object = False
        assert is_object, f"This line is no JSON object: {line[:200]}."


@check("03-graceful-shutdown.md#who-sends-which-signal-and-when")
def stops_cleanly(target: Target) -> None:
    """Asked to stop, it finishes its streams and exits with 0."""
    _ = target.image, target.url
    begun = [threading.Event() for _ in range(3)]

    def last_event(reader: int) -> str:
        last = "nothing"
        try:
            for _, last in target.stream(f"{QUESTION} ({reader})"):
                if last == "token":
                    begun[reader].set()
        except httpx2.TransportError as error:
            return f"cut off ({type(error).__name__})"
        finally:
            begun[reader].set()
        return last

    with ThreadPoolExecutor(len(begun)) as pool:
        streams = [pool.submit(last_event, reader) for reader in range(len(begun))]
        for each in begun:
            each.wait()
        code, seconds = target.container.stop(GRACE_SECONDS)
    del target.container, target.reached  # later checks start a new container
    assert code == 0, f"It {describe_exit(code, seconds)} instead of exit code 0."
    try:
        last = [stream.result() for stream in streams]
    except AssertionError as failure:
        raise NotChecked(
            f"it exits with 0, but the check could not find out whether it finishes its streams: {failure}"
        ) from None
    assert set(last) <= {"done", "error"}, f"Streams ended with {', '.join(last)} instead of a last event."


def describe_exit(code: int, seconds: float) -> str:
    if code == 137 and seconds >= GRACE_SECONDS:
        return f"went on for {GRACE_SECONDS} s after SIGTERM and was killed, with exit code 137"
    if code == 143:
        return "has no handler for SIGTERM and was ended by it, with exit code 143"
    return f"left {seconds:.1f} s after SIGTERM with exit code {code}"


# --- What it needs ---


@check("05-images.md#the-parts-that-matter")
def runs_as_numeric_non_root(target: Target) -> None:
    """The image's user is a number, and it is not root."""
    user = str(target.image.config.get("User") or "root").partition(":")[0]
    assert user.isdigit(), (
        f"The user is {user!r}: an orchestrator cannot tell from a name that it is not root."
    )
    assert int(user), "The user is 0, which is root."


@check("05-images.md#run-it")
def needs_no_writable_root(target: Target) -> None:
    """It works with a read-only root, no capability, and /tmp alone to write to."""
    assert_answers_with(target, "With a read-only root", *RESTRICTED_OPTIONS)


@check("05-images.md#what-is-special-to-images-of-agents")
def runs_in_256_mb(target: Target) -> None:
    """It starts and answers with 256 MB of memory and half a processor."""
    assert_answers_with(target, "With 256 MB and half a processor", *LOW_RESOURCE_OPTIONS)


@check("05-images.md#what-is-special-to-images-of-agents")
def downloads_nothing(target: Target) -> None:
    """It starts and answers where nothing but its model can be reached."""
    _ = target.image
    assert_answers_with(target, "Where nothing but its model can be reached", *target.internal_network)


def assert_answers_with(target: Target, where: str, *options: str) -> None:
    """Raise AssertionError, beginning with `where`, if a container with these options does not answer."""
    _ = target.image
    target.must_answer()
    if not target.answers_restricted:
        failure = target.fails_with(*options)
        assert not failure, f"{where} {failure}."


@check("05-images.md#the-parts-that-matter")
def notices_a_closed_port(target: Target) -> None:
    """Its health check turns unhealthy when nothing listens."""
    must_have_been_healthy(target)
    asleep = ("-c", "import time; time.sleep(600)")
    container = target.start("--entrypoint=python", *FAST_HEALTH_CHECK, command=asleep)
    if not container.state["Running"]:
        raise NotChecked("the image has no python to run in place of the program")
    until(lambda: container.health != "starting", 60)
    noticed = container.health == "unhealthy"
    container.remove()
    assert noticed, "The program does not run at all, and its health check says healthy."


def must_have_been_healthy(target: Target) -> None:
    if not target.was_healthy:
        raise NotChecked("its health check never turned healthy")


# --- What it holds ---


@check("05-images.md#the-parts-that-matter")
def no_secret_in_env_or_history(target: Target) -> None:
    """No secret stands in its environment or its history."""
    for variable in target.image.config.get("Env") or []:
        name, _, value = variable.partition("=")
        assert not (SECRET_NAME.search(name) and value and name not in PUBLIC_NAMES), (
            f"ENV {name} is set: anyone who has the image can read it."
        )
    for line in target.image.history():
        found = SECRETS.search(line.encode())
        assert not found, f"Its history holds a secret: {line[:100]}."


@check("05-images.md#break-it")
def holds_no_secret(target: Target) -> None:
    """No secret stands in any of its layers, deleted or not."""
    for file in target.files:
        assert not SECRET_FILES.search(file.path), (
            f"{file.description}: anyone who has the image can read it."
        )
        assert not file.secret, (
            f"{file.description}, with a secret in it: anyone who has the image can read it."
        )


@check("05-images.md#what-is-in-them")
def contains_no_build_leftovers(target: Target) -> None:
    """It holds no compiler, no cache and no history of its source."""
    found = [file for file in target.files if LEFTOVERS.search(file.path)]
    assert not found, f"{summarize(found)}; a running agent needs none of it."


@check("05-images.md#what-is-in-them", advice=True)
def holds_no_installer(target: Target) -> None:
    """It holds no installer."""
    found = [file for file in target.files if INSTALLERS.search(file.path)]
    assert not found, f"{summarize(found)}: an intruder could use it."


def summarize(files: Iterable[StoredFile]) -> str:
    """Name one file, a visible one if there is any, and say how many more there are."""
    first, *others = sorted(files, key=lambda file: (file.hidden, file.path))
    return f"{first.description}{f' (and {len(others)} more such files)' if others else ''}"
