"""The commands for exercises: begin one, check it, get a hint, see the solution, prove it."""

import os
from functools import partial

import click

from course.errors import CourseError
from course.pages.format import lesson_pages
from course.paths import ROOT
from course.terminal import console


@click.command()
@click.argument("name")
def exercise(name: str) -> None:
    """Put a broken copy of a lesson into the workspace."""
    from course.exercises import workspace

    chosen = workspace.choose(name, partial(console.print, markup=False, soft_wrap=True))
    console.print(f"\n{chosen.title} ({chosen.slug})\n", style="bold")
    console.print(" ".join(chosen.story.split()) + "\n", markup=False)
    for path in workspace.workspace_of(chosen):
        console.print(f"{'Write it' if chosen.solution else 'Fix it'} in   {path.relative_to(ROOT)}")
    for file in chosen.acceptance_tests if chosen.solution else ():
        console.print(f"It is described by   tests/{file}")
    console.print(f"Then         make check-{chosen.lesson}    (stuck? make hint-{chosen.lesson})")


@click.command()
@click.argument("name")
def check(name: str) -> None:
    """Test the learner's changes."""
    from course.exercises import checks, workspace

    exercise = workspace.current(name)
    with console.status("") as status:
        verdict = checks.check(exercise, status.update, console.print)
    failed = [outcome for outcome in verdict.outcomes if outcome.result == "failed"]
    for said in dict.fromkeys((outcome.sentence, outcome.details) for outcome in failed):
        for outcome in failed:
            if (outcome.sentence, outcome.details) == said:
                console.print(f"✗ {outcome.test}", style="red", markup=False, soft_wrap=True)
        for line in (said[0], *said[1].splitlines()[-10:], ""):
            console.print(f"  {line}", markup=False, soft_wrap=True)
    skipped = [outcome for outcome in verdict.outcomes if outcome.result == "skipped"]
    for reason in dict.fromkeys(outcome.sentence for outcome in skipped):
        count = sum(outcome.sentence == reason for outcome in skipped)
        tests = "1 test" if count == 1 else f"{count} tests"
        console.print(f"· not checked ({tests}): {reason}", style="yellow", markup=False, soft_wrap=True)
    if verdict.solved:
        console.print(
            f"[green]✓[/green] Solved: {exercise.title}. Go on with: make exercise-{exercise.lesson}"
        )
    elif len(skipped) == len(verdict.outcomes):
        raise CourseError(f"{exercise.title}: this machine cannot check it, so it does not count as solved.")
    else:
        raise CourseError(f"{exercise.title}: not solved yet. The next hint: make hint-{exercise.lesson}")


@click.command()
@click.argument("name")
def hint(name: str) -> None:
    """Give the next hint."""
    from course.exercises import workspace

    number, text = workspace.next_hint(workspace.current(name))
    console.print(f"Hint {number} of 3: {text.strip()}", markup=False)


@click.command()
@click.argument("name")
def solution(name: str) -> None:
    """Show what was broken, as a difference."""
    from course.exercises import workspace

    difference = workspace.solution(workspace.current(name))
    if console.is_terminal:
        from rich.syntax import Syntax

        console.print(Syntax(difference, "diff", background_color="default"))
    else:
        print(difference)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--jobs", default=2 * (os.cpu_count() or 1), help="How many claims to test at a time.")
def mends(names: tuple[str, ...], jobs: int) -> None:
    """Test exercises: the fault, wrong fixes and right fixes, against all tests of their lesson."""
    from course.exercises.format import exercises
    from course.exercises.mends import prove

    chosen = [e for e in exercises() if not names or e.slug in names or e.lesson in names]
    wrong = 0
    for claim, found in prove(chosen, jobs):
        console.print(f"{'✗' if found else '✓'} {claim}", markup=False, soft_wrap=True)
        for line in found:
            console.print(f"    {line}", markup=False, soft_wrap=True)
        wrong += bool(found)
    if wrong or not chosen:
        raise CourseError(f"{wrong} claims of {len(chosen)} exercises do not hold.")


@click.command()
def progress() -> None:
    """List the exercises, and which are solved."""
    from course.exercises.format import exercises
    from course.exercises.workspace import Progress

    done, listed = Progress.load(), exercises()
    for page in lesson_pages():
        of_lesson = [each for each in listed if each.lesson == page.number]
        if of_lesson:
            solved = sum(each.slug in done.solved for each in of_lesson)
            console.print(f"\n{page.number} {page.title}: {solved} of {len(of_lesson)} solved", style="bold")
        for each in of_lesson:
            begun = each.slug in done.current.values()
            mark = "[green]✓[/green]" if each.slug in done.solved else "→" if begun else "·"
            console.print(f"{mark} {each.slug:36} {'*' * each.difficulty:4} {each.title}")
    console.print("\n✓ solved, → begun, * easy to *** hard. Begin one by its name: make exercise-NAME")
