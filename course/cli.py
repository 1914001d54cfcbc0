"""The commands behind the Makefile: `python -m course lesson 01`."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import click

from course import engines
from course.engines.engine import CACHE
from course.errors import CourseError
from course.exercises import commands
from course.pages.format import lesson_pages, read_page
from course.pages.listings import embed_listings
from course.paths import ROOT
from course.processes import Processes
from course.terminal import console


@click.group()
def cli() -> None:
    """The commands of the course. `make` lists the targets that call them."""


@cli.command()
@click.argument("number")
def lesson(number: str) -> None:
    """Run a lesson's page (or any page, by its path)."""
    from course.pages.runner import run_lesson

    path = Path(number)
    found = (
        [read_page(path)] if path.is_file() else [page for page in lesson_pages() if page.number == number]
    )
    if not found:
        there = ", ".join(page.number for page in lesson_pages())
        raise CourseError(f"There is no lesson {number}. There are: {there}.")
    if lacking := engines.missing(found[0].needs):
        told = "\n".join(each.missing_message for each in lacking)
        raise CourseError(f"{told}\n`make doctor` says which lessons this machine is ready for.")
    node = engines.KUBERNETES.used(console) if "kubernetes" in found[0].engines else nullcontext()
    with node:
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
        raise CourseError("Only lesson 03 has one: make versus-03")
    versus.versus(console)


for command in (commands.exercise, commands.check, commands.hint, commands.solution, commands.mends):
    cli.add_command(command)
cli.add_command(commands.progress)


@cli.command()
def doctor() -> None:
    """Say which engines this machine has, and which lessons it can run."""
    engines.doctor(console, {f"{page.number} {page.title}": page.needs for page in lesson_pages()})


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
        console.print(f"Its programs and images stay in {CACHE} for the next start.")


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

    from course.containers import images

    images.remove()
    engines.clean(console)
    with console.status("removing cached files ..."):
        for folder in (CACHE, cache_folder()):
            shutil.rmtree(folder, ignore_errors=True)


@cli.command()
def smoke() -> None:
    """Test each image of the research agent."""
    from course.audit.report import examine, report
    from course.containers import images

    for image in images.AGENTS:
        if report(image.tag, examine(image.tag), image.known_faults):
            raise CourseError(f"{image.tag} failed the checks that are marked ✗ above.")


@cli.command()
@click.argument("target")
@click.option("--route", envvar="ROUTE", default="", help="its route for questions")
@click.option("--field", envvar="FIELD", default="query", help="the field of the body that asks")
def audit(target: str, route: str, field: str) -> None:
    """Test any agent's image or URL; each failure names the section that says how to fix it."""
    from course.audit.report import examine, report
    from course.audit.targets import Contract
    from course.containers import images

    if not target.startswith(("http://", "https://")):
        with console.status(f"building {images.MODEL.tag}, which the image will talk to ..."):
            images.build(images.MODEL)
    if report(target, examine(target, Contract(route, field))):
        raise CourseError(f"{target} failed the checks that are marked ✗ above.")


@cli.command()
def lint() -> None:
    """Check style, types, scripts, pages and figures."""
    from course.lint.checks import lint

    if found := lint():
        raise CourseError("\n".join(found))
    console.print("lint: clean")


@cli.command()
def docs() -> None:
    """Bring the listings, tables and numbers in the pages up to date."""
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
            raise CourseError(f"{script.relative_to(ROOT)} failed")
    update_figures()


@cli.command()
def lock() -> None:
    """Write the lock files anew."""
    options = (
        "--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header"
    )
    images = {"research-agent": "research-agent", "scripts": "code", "offline-model": "offline-model"}
    tools = "code/07_container_tools"
    images |= {"container-tools": tools, "tool-scripts": f"{tools}/modules/scripts"}
    images |= {"container-tools-ci": f"{tools}/ci", "agents": "code/08_agent_pipelines"}
    agents = "code/09_parallel_agents"
    images |= {"parallel-agents-ci": f"{agents}/ci", "parallel-agent-image": f"{agents}/agent"}
    services = "code/10_dapr_agents/templates"
    images |= {"dapr-service": f"{services}/service", "dapr-workflow-service": f"{services}/router"}
    for group in ("installer", "lessons", "dev", *images):
        lock = f"{images[group]}/requirements.txt" if group in images else f"requirements/{group}.txt"
        command = ["uv", "pip", "compile", "--quiet", "--upgrade", "--group", group, *options.split()]
        subprocess.run([sys.executable, "-m", *command, "-o", lock], cwd=ROOT, check=True)
        console.print(f"wrote {lock}")


def main() -> None:
    """Run a command. SIGTERM and SIGHUP end it by an exception, so that every `with` block cleans up."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # the terminal's encoding may have no tick
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, lambda *_: sys.exit(143))
    os.environ.update(engines.environment())  # for the programs that commands start
    try:
        cli(standalone_mode=False)
    except CourseError as failure:
        console.print(f"✗ {failure}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        console.print("\nStopped; nothing is left running.")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
