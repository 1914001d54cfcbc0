"""The lesson runner: runs the commands of a page in order, and compares their output with the page."""

import os
import re
import select
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from typing import IO

from rich.console import Console

from course import engines, models
from course.errors import CourseError
from course.pages.format import Block, Page
from course.pages.outputs import matches
from course.paths import ROOT
from course.ports import port_of, port_owner, require_free
from course.processes import Processes, wait_ready

COMMAND_SECONDS = 300  # the longest time that one command may take
SERVER_SECONDS = 120  # for a server to be ready; one may start a dozen processes
CONTAINERS_GRACE = 90  # seconds for a page's exit trap to stop containers, each of which may drain
COMMAND_END = "\x1e"  # the record separator, printed after each command; no command of a page prints it
# Matches commands that work with the offline model only. It does not match
# ${MODEL_NAME/%offline/offline?tps=15}, which leaves the name of any other model as it is.
OFFLINE_ONLY = re.compile(r"['\"=]offline\?|/debug/")
EXECUTED = ("run", "server", "output")


class Lesson:
    """One run of one page, with the processes that it has started."""

    def __init__(
        self, page: Page, console: Console, processes: Processes, model: models.Model, log: IO[str]
    ) -> None:
        self.page = page
        self.console = console
        self.processes = processes
        self.model = model
        self.servers: dict[int, subprocess.Popen[str]] = {}
        self.log = log  # the output of the servers
        shell = ["bash", "--noprofile", "--norc", "-eu", "-o", "pipefail"]
        self.shell = processes.start(
            shell, env=model.env, cwd=ROOT, stdin=subprocess.PIPE, output=subprocess.PIPE
        )
        self.printed: str | None = ""  # by the last command; None when it was skipped
        self.commands = 0
        needs = {block.needs for block in page.blocks if block.needs} - set(page.needs)
        self.lacking = {each.name: each for each in engines.missing(needs)} if needs else {}
        self.skipped_steps = 0  # steps whose engine is missing

    def run(self) -> None:
        """Run every block in order. Raises `CourseError` at the first whose result differs from the page."""
        blocks = self.page.blocks
        for index, block in enumerate(blocks):
            if not self.model.comparable and block.kind in EXECUTED and OFFLINE_ONLY.search(block.text):
                self.show(
                    "The rest of the page needs the offline model's faults, which your model does not have."
                )
                return
            before = blocks[index - 1].kind if index else ""
            after = blocks[index + 1].kind if index + 1 < len(blocks) else ""
            match block.kind:
                case "prose":
                    self.show_prose(block, before in EXECUTED, after in EXECUTED)
                case "run" | "server" if block.needs in self.lacking:
                    self.skip(block)
                case "run":
                    self.command(block)
                case "server":
                    self.server(block)
                case "output":
                    self.compare(block)

    def show_prose(self, block: Block, first: bool, last: bool) -> None:
        """Show the paragraph after the last output and that before the next command, with headings."""
        text = re.sub(r"<!--.*?-->\n?", "", block.text, flags=re.DOTALL)
        parts = re.split(r"\n\n+", text.strip())
        heading, section = "", ""
        for index, part in enumerate(parts):
            if part.startswith("#"):
                heading = section = part
            elif section == "## Predict" or (first and index == 0) or (last and index == len(parts) - 1):
                self.show(f"{heading}\n\n{part}" if heading else part)
                heading = ""
        if heading and last:
            self.show(heading)

    def show(self, markdown: str) -> None:
        if self.console.is_terminal:
            from rich.markdown import (
                Markdown,
            )  # imported here, so that the first server starts before it loads

            self.console.print(Markdown(markdown), "")
        else:
            print(markdown, end="\n\n", flush=True)

    def echo(self, block: Block) -> None:
        typed = "$ " + block.text.strip().replace("\n", "\n  ")
        self.console.print(typed, style="bold cyan", markup=False, soft_wrap=True)

    def show_command(self, block: Block) -> None:
        self.echo(block)
        if os.environ.get("STEP") and self.console.is_terminal:
            self.console.input("[dim]Enter runs it ...[/dim]")

    def skip(self, block: Block) -> None:
        """Show a step that this machine cannot run, and say which engine is missing."""
        self.echo(block)
        message = f"Not run: {self.lacking[block.needs].missing_message}\n"
        self.console.print(message, style="yellow", markup=False, soft_wrap=True)
        self.skipped_steps += 1
        if block.kind == "run":
            self.printed = None

    def print_duration(self, began: float) -> None:
        self.console.print(f"[green]✓[/green] [dim]{time.monotonic() - began:.2f} s[/dim]\n")

    def command(self, block: Block) -> None:
        self.show_command(block)
        self.model.wait()
        began = time.monotonic()
        assert self.shell.stdin
        try:
            self.shell.stdin.write(f"{{ {block.text}\n}} </dev/null; printf '\\036'\n")
        except BrokenPipeError:
            raise CourseError(self.failure_message(block, "the page's shell has ended")) from None
        self.printed = self.read_until_done(block)
        self.commands += 1
        self.print_duration(began)

    def read_until_done(self, block: Block) -> str:
        """Print the command's output as it comes; returns all of it when the command has ended."""
        assert self.shell.stdout
        pipe = self.shell.stdout.fileno()
        deadline = time.monotonic() + COMMAND_SECONDS
        output = b""
        while not output.endswith(COMMAND_END.encode()):
            waiting = (
                self.console.status(f"waiting for {block.text.split()[0]} ...")
                if not output
                else nullcontext()
            )
            with waiting:
                ready, _, _ = select.select([pipe], [], [], deadline - time.monotonic())
            if not ready:
                raise CourseError(
                    self.failure_message(block, f"the command did not end within {COMMAND_SECONDS} s")
                )
            piece = os.read(pipe, 65536)
            if not piece:
                self.finish_line(output)
                raise CourseError(
                    self.failure_message(block, f"the command failed with exit code {self.shell.wait()}")
                )
            output += piece
            sys.stdout.write(piece.decode("utf-8", "replace").replace(COMMAND_END, ""))
            sys.stdout.flush()
        self.finish_line(output.rstrip(COMMAND_END.encode()))
        return output.decode("utf-8", "replace").rstrip(COMMAND_END)

    def finish_line(self, output: bytes) -> None:
        if output and not output.endswith(b"\n"):
            print(flush=True)

    def server(self, block: Block) -> None:
        self.show_command(block)
        began = time.monotonic()
        port = port_of(block.argument)
        if port in self.servers:  # this page has started it before, and now starts it in another way
            self.processes.stop(self.servers.pop(port))
        require_free(port)
        process = self.processes.start(
            ["bash", "-c", block.text], env=self.model.env, cwd=ROOT, output=self.log
        )
        with self.console.status(f"waiting for {block.argument} ..."):
            try:
                wait_ready(process, block.argument, SERVER_SECONDS)
            except CourseError as failure:
                raise CourseError(self.failure_message(block, str(failure))) from None
        self.servers[port] = process
        assert self.shell.stdin
        self.shell.stdin.write(f"SERVER_PID={process.pid}\n")
        self.commands += 1
        self.print_duration(began)

    def compare(self, block: Block) -> None:
        if self.printed is not None and self.model.comparable and not matches(block.text, self.printed):
            raise CourseError(self.failure_message(block, f"the page expects other output:\n{block.text}"))

    def failure_message(self, block: Block, what: str) -> str:
        self.log.seek(0)
        log = self.log.read()[-2000:]
        message = f"{self.page.name}:{block.line}: {what}"
        return f"{message}\nThe servers' last output:\n{log}" if log else message


def run_lesson(page: Page, console: Console) -> None:
    """Run a page from start to end, and stop all that it started unless KEEP=1 is set."""
    began = time.monotonic()
    console.rule(f"Lesson {page.number}: {page.title}")
    grace = CONTAINERS_GRACE if "docker" in page.engines else 5
    with tempfile.TemporaryFile("w+") as log, Processes(grace) as processes:
        model = models.choose_model(processes, log, page.starts_model)
        console.print(f"{model.notice}\n", style="dim", highlight=False)
        lesson = Lesson(page, console, processes, model, log)
        try:
            lesson.run()
        except KeyboardInterrupt:
            console.print("\nStopping the servers and commands of the page ...")
            raise
        finally:
            if os.environ.get("KEEP"):
                keep(lesson)
    seconds = time.monotonic() - began
    console.print(f"[green]✓[/green] Lesson {page.number} done: {lesson.commands} steps in {seconds:.1f} s.")
    if lesson.skipped_steps:
        console.print(
            f"Steps that were not run: {lesson.skipped_steps} (missing: {', '.join(lesson.lacking)})."
        )
    console.print(f"Read {page.name} beside {' and '.join(page.files) or 'your own program'}.")


def keep(lesson: Lesson) -> None:
    """Leave the servers running, and print their URLs and how to stop them."""
    lesson.processes.stop(lesson.shell)
    groups = " ".join(f"-{process.pid}" for process in lesson.processes.running if process.poll() is None)
    for port in (*lesson.servers, models.OFFLINE_PORT):
        if owner := port_owner(port):
            lesson.console.print(f"Still running: {owner} on http://127.0.0.1:{port}")
    lesson.console.print(f"Stop them with: kill -- {groups}\n")
    lesson.processes.release()
