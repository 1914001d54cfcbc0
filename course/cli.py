"""The commands behind the Makefile: `python -m course lesson 01`."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from course import engines
from course.engines.engine import CACHE
from course.errors import Failed
from course.pages.format import Page, read_page
from course.pages.listings import embed_listings
from course.paths import ROOT
from course.processes import Processes

console = Console(highlight=False)


@click.group()
def cli() -> None:
    """A course that runs. The Makefile is its front door."""


def lessons() -> list[Page]:
    return [read_page(path) for path in sorted((ROOT / "docs").glob("[0-9][0-9]-*.md"))]


@cli.command()
@click.argument("number")
def lesson(number: str) -> None:
    """Run a lesson's page (or any page, by its path)."""
    from course.pages.runner import run_lesson

    path = Path(number)
    found = [read_page(path)] if path.is_file() else [page for page in lessons() if page.number == number]
    if not found:
        there = ", ".join(page.number for page in lessons())
        raise Failed(f"There is no lesson {number}. There are: {there}.")
    if lacking := engines.missing(found[0].needs):
        told = "\n".join(each.advice for each in lacking)
        raise Failed(f"{told}\n`make doctor` says which lessons this machine is ready for.")
    run_lesson(found[0], console)


@cli.command()
def model() -> None:
    """Start the offline model in the foreground."""
    from course import models

    with Processes() as processes:
        models.start_offline_model(processes)()
        console.print("In the terminal of your own program:")
        for name, value in models.OFFLINE.items():
            console.print(f"  export {name}={value}")
        console.print("Ctrl-C stops it.")
        processes.running[0].wait()


@cli.command()
@click.argument("number")
def versus(number: str) -> None:
    """Run a lesson's naive and right programs side by side."""
    from course import versus

    if number != "03":
        raise Failed("There is a versus of lesson 03 only.")
    versus.versus(console)


@cli.command()
@click.argument("name")
def exercise(name: str) -> None:
    """Put a broken copy of a lesson into the workspace."""
    from course.exercises import workspace

    chosen = workspace.choose(name, partial(console.print, markup=False, soft_wrap=True))
    console.print(f"\n{chosen.title} ({chosen.slug})\n", style="bold")
    console.print(" ".join(chosen.story.split()) + "\n", markup=False)
    for path in workspace.workspace_of(chosen):
        console.print(f"{'Write it' if chosen.solution else 'Mend it'} in   {path.relative_to(ROOT)}")
    for test in chosen.tests if chosen.solution else ():
        console.print(f"It is described by   tests/{test.partition('::')[0]}")
    console.print(f"Then         make check-{chosen.lesson}    (stuck? make hint-{chosen.lesson})")


@cli.command()
@click.argument("name")
def check(name: str) -> None:
    """Test a mend."""
    from course.exercises import checks, workspace

    exercise = workspace.current(name)
    with console.status("") as status:
        verdict = checks.check(exercise, status.update, console.print)
    for outcome in verdict.outcomes:
        if outcome.result == "failed":
            console.print(f"✗ {outcome.test}", style="red", markup=False)
            console.print(f"  {outcome.sentence}\n", markup=False, soft_wrap=True)
    skipped = [outcome for outcome in verdict.outcomes if outcome.result == "skipped"]
    for reason in dict.fromkeys(outcome.sentence for outcome in skipped):
        tests = sum(outcome.sentence == reason for outcome in skipped)
        console.print(
            f"· not checked ({tests} tests): {reason}", style="yellow", markup=False, soft_wrap=True
        )
    if verdict.mended:
        console.print(
            f"[green]✓[/green] Solved: {exercise.title}. Go on with: make exercise-{exercise.lesson}"
        )
    elif len(skipped) == len(verdict.outcomes):
        raise Failed(f"{exercise.title}: this machine cannot check it, so it does not count as solved.")
    else:
        raise Failed(f"{exercise.title}: not solved yet. The next hint: make hint-{exercise.lesson}")


@cli.command()
@click.argument("name")
def hint(name: str) -> None:
    """Give the next hint."""
    from course.exercises import workspace

    number, text = workspace.next_hint(workspace.current(name))
    console.print(f"Hint {number} of 3: {text.strip()}", markup=False)


@cli.command()
@click.argument("name")
def solution(name: str) -> None:
    """Show what was broken."""
    from course.exercises import workspace

    difference = workspace.solution(workspace.current(name))
    if console.is_terminal:
        from rich.syntax import Syntax

        console.print(Syntax(difference, "diff", background_color="default"))
    else:
        print(difference)


@cli.command()
@click.argument("names", nargs=-1)
def mends(names: tuple[str, ...]) -> None:
    """Prove exercises: faults, wrong mends and right mends, against all tests of their lesson."""
    from course.exercises import exercises
    from course.exercises.mends import prove

    chosen = [e for e in exercises() if not names or e.slug in names or e.lesson in names]
    wrong = 0
    for exercise in chosen:
        for claim, found in prove(exercise):
            console.print(f"{'✗' if found else '✓'} {exercise.slug}: {claim}", markup=False, soft_wrap=True)
            for line in found:
                console.print(f"    {line}", markup=False, soft_wrap=True)
            wrong += bool(found)
    if wrong or not chosen:
        raise Failed(f"{wrong} claims of {len(chosen)} exercises do not hold.")


@cli.command()
def progress() -> None:
    """Say what is mended so far."""
    from course.exercises import exercises
    from course.exercises.workspace import Progress

    done, listed = Progress.load(), exercises()
    for page in lessons():
        of_lesson = [each for each in listed if each.lesson == page.number]
        if of_lesson:
            solved = sum(each.slug in done.solved for each in of_lesson)
            console.print(f"\n{page.number} {page.title}: {solved} of {len(of_lesson)} solved", style="bold")
        for each in of_lesson:
            begun = each.slug in done.current.values()
            mark = "[green]✓[/green]" if each.slug in done.solved else "→" if begun else "·"
            console.print(f"{mark} {each.slug:36} {'*' * each.difficulty:4} {each.title}")
    console.print("\n✓ solved, → begun, * easy to *** hard. Begin one by its name: make exercise-NAME")


@cli.command()
def doctor() -> None:
    """Say what this machine has."""
    engines.doctor(console, {f"{page.number} {page.title}": page.needs for page in lessons()})


@cli.command()
@click.argument("names", nargs=-1)
def engine(names: tuple[str, ...]) -> None:
    """Set up the named engines, or all."""
    engines.set_up(console, names)


@cli.command("engine-down")
def engine_down() -> None:
    """Stop what `engine` started."""
    engines.stop(console)
    if CACHE.exists():
        console.print(f"For the next start its programs and images stay in {CACHE}.")


@cli.command()
def images() -> None:
    """Build the images of the research agent and of the offline model."""
    from course.containers import images

    for image in (images.MODEL, *images.AGENTS):
        with console.status(f"building {image.tag} ..."):
            images.build(image)
        console.print(f"✓ {image.tag}")


@cli.command()
def clean() -> None:
    """Remove what the course keeps outside its folder: images, its own Docker, the offline model's index."""
    from offline_model.corpus.index import cache_folder

    engines.clean(console)
    with console.status("removing what it kept ..."):
        for folder in (CACHE, cache_folder()):
            shutil.rmtree(folder, ignore_errors=True)


@cli.command()
def smoke() -> None:
    """Test each image of the research agent."""
    from course.audit.report import examine, report
    from course.containers import images

    for image in images.AGENTS:
        if report(image.tag, examine(image.tag), image.known_faults):
            raise Failed(f"{image.tag}: see the crosses above.")


@cli.command()
@click.argument("target")
@click.option("--route", envvar="ROUTE", default="", help="its route for questions")
@click.option("--field", envvar="FIELD", default="query", help="the field of the body that asks")
def audit(target: str, route: str, field: str) -> None:
    """Test any agent's image or URL; each failure names the section that mends it."""
    from course.audit.report import examine, report
    from course.audit.targets import Contract
    from course.containers import images

    if not target.startswith(("http://", "https://")):
        with console.status(f"building {images.MODEL.tag}, which the image will talk to ..."):
            images.build(images.MODEL)
    if report(target, examine(target, Contract(route, field))):
        raise Failed(f"{target}: see the crosses above.")


@cli.command()
def lint() -> None:
    """Check style, types, scripts, pages and figures."""
    from course.lint.checks import lint

    if found := lint():
        raise Failed("\n".join(found))
    console.print("lint: clean")


@cli.command()
def docs() -> None:
    """Bring what is generated in the pages up to date."""
    update_pages()


def update_pages() -> None:
    from course.figures import markdown

    for path in sorted((ROOT / "docs").glob("**/*.md")):
        text = path.read_text(encoding="utf-8")
        current = markdown.embed(embed_listings(path, text))
        if current != text:
            path.write_text(current, encoding="utf-8")
            console.print(f"updated {path.relative_to(ROOT)}")


@cli.command("figures")
def draw_figures() -> None:
    """Draw the charts from their records, and show them in the pages."""
    update_figures()


def update_figures() -> None:
    from course.figures import files

    for path in files.draw_all():
        console.print(f"drew {path.relative_to(ROOT)}")
    update_pages()


@cli.command()
def bench() -> None:
    """Run every script in bench/ that measures something."""
    scripts = [path for path in sorted((ROOT / "bench").glob("*.py")) if "__main__" in path.read_text()]
    for script in scripts:
        console.rule(script.name)
        if subprocess.run([sys.executable, script], cwd=ROOT, check=False).returncode:
            raise Failed(f"{script.relative_to(ROOT)} did not succeed")
    update_figures()


@cli.command()
def lock() -> None:
    """Write the locks anew."""
    options = (
        "--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header"
    )
    images = {"research-agent": "research-agent", "scripts": "code", "offline-model": "offline-model"}
    for group in ("installer", "lessons", "dev", *images):
        lock = f"{images[group]}/requirements.txt" if group in images else f"requirements/{group}.txt"
        command = ["uv", "pip", "compile", "--quiet", "--upgrade", "--group", group, *options.split()]
        subprocess.run([sys.executable, "-m", *command, "-o", lock], cwd=ROOT, check=True)
        console.print(f"wrote {lock}")


def main() -> None:
    """Run a command; whatever stops it, it leaves by the same door, so that nothing stays behind."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may know no tick
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, lambda *_: sys.exit(143))
    os.environ.update(engines.environment())  # for what is started from here
    try:
        cli(standalone_mode=False)
    except Failed as failure:
        console.print(f"✗ {failure}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        console.print("\nStopped; nothing is left running.")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
