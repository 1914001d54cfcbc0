"""The commands behind the Makefile: `python -m course lesson 01`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from course import models
from course.pages import ROOT, BadPage, embed_listings, read_page
from course.processes import Failed, Processes

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
console = Console(highlight=False)
Number = Annotated[str, typer.Argument(help="A lesson's number, such as 01")]


def page_path(number: str) -> Path:
    """The page of a lesson."""
    found = sorted((ROOT / "docs").glob(f"{number}-*.md"))
    if not found:
        there = ", ".join(sorted(p.name[:2] for p in (ROOT / "docs").glob("[0-9][0-9]-*.md")))
        raise Failed(f"There is no lesson {number}. There are: {there}.")
    return found[0]


@cli.command()
def lesson(number: Number) -> None:
    """Run a lesson's page."""
    from course.runner import run_lesson

    run_lesson(read_page(page_path(number)), console)


@cli.command()
def model() -> None:
    """Start the offline model in the foreground."""
    with Processes() as processes:
        models.start_offline_model(processes)
        console.print("The offline model answers. In the terminal of your own program:")
        for name, value in models.OFFLINE.items():
            console.print(f"  export {name}={value}")
        console.print("Ctrl-C stops it.")
        processes.running[0].wait()


def main() -> None:
    """Run a command; whatever stops it leaves by the same door, so that nothing stays behind."""
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, lambda *_: sys.exit(143))
    try:
        cli(standalone_mode=False)
    except (Failed, BadPage) as failure:
        console.print(f"[red]✗[/red] {failure}", markup=True)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        console.print("\nStopped. Nothing is left running.")
        sys.exit(130)
    except typer.TyperException as error:
        error.show()
        sys.exit(2)


if __name__ == "__main__":
    main()
