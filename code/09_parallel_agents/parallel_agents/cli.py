"""The command line: start a run on a server, and watch its variations in a live table.

export PARALLEL_AGENTS_KEY=$(python -m parallel_agents key ada --register)
python -m parallel_agents run ./my-repository "Make the tests pass" -n 4
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

MAX_WAIT = 10.0  # seconds between attempts to connect
IDLE_SECONDS = 45  # the server pings every 15 s, so a connection that is silent for longer is dead
SUCCESS, INTERRUPTED = "passed", 130
STYLES = {
    "passed": "green",
    "running": "cyan",
    "queued": "dim",
    "cancelled": "yellow",
    "interrupted": "yellow",
}

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Server = Annotated[str, typer.Option(envvar="PARALLEL_AGENTS_SERVER", help="Where the server is.")]
Key = Annotated[
    str, typer.Option(envvar="PARALLEL_AGENTS_KEY", help="An API key, as the command `key` makes it.")
]
LOCAL = "http://127.0.0.1:8000"


class ServerProblem(Exception):
    """What the server or the connection to it says, in one line."""


def printable(text: object) -> str:
    """One line without control characters: an agent's output must not steer the terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text)).strip()


def call(http: httpx2.Client, method: str, path: str, **options: Any) -> Any:
    try:
        answer = http.request(method, path, **options)
    except httpx2.TransportError as error:
        raise ServerProblem(f"No server answers at {http.base_url}: {type(error).__name__}.") from error
    if answer.is_error:
        problem = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        errors = "".join(f" {each}" for each in problem.get("errors", []))
        raise ServerProblem(
            f"{answer.status_code} {problem.get('title', '')}: {problem.get('detail', '')}{errors}"
        )
    return answer.json()


@dataclass
class Variation:
    """What is known of a variation: the server's fields, and the last thing its agent said."""

    fields: dict[str, Any]
    said: str = ""
    started: float | None = None

    def update(self, event: str, data: dict[str, Any]) -> None:
        if event == "state":
            self.fields |= {name: value for name, value in data.items() if name != "name"} | {
                "state": data["name"]
            }
            if data["name"] == "running":
                self.started = time.monotonic()
        elif event == "usage":
            self.fields |= data
        elif event == "tests":
            self.fields |= {"tests_passed": data.get("passed"), "tests_failed": data.get("failed")}
        if said := summary(event, data):
            self.said = said

    def row(self) -> list[Text]:
        get = self.fields.get
        state, seconds = str(get("state")), get("seconds")
        if seconds is None and self.started is not None:
            seconds = time.monotonic() - self.started
        tests = "" if get("tests_passed") is None else f"{get('tests_passed')} / {get('tests_failed')}"
        tokens = (get("prompt_tokens") or 0) + (get("completion_tokens") or 0)
        cells = [
            get("n"),
            get("strategy"),
            get("seed"),
            state,
            tests,
            f"{tokens:,}",
            "" if seconds is None else f"{seconds:.1f}",
        ]
        said = get("summary") or self.said
        row = [Text(printable(cell)) for cell in [*cells, said]]
        row[3].stylize(STYLES.get(state, "red"))
        return row


def summary(event: str, data: dict[str, Any]) -> str:
    """An event as one line."""
    get = data.get
    if event == "edit":
        outcome = "helps" if get("helps") else "no help"
        return printable(f"{outcome}: {get('file')}:{get('line')} {str(get('after')).strip()}")
    if event == "tests":
        return printable(f"{get('passed')} tests pass, {get('failed')} fail")
    if event == "command":
        return printable(f"$ {get('command')} ({get('seconds')} s)")
    if event == "model":
        return printable(get("reason"))
    return printable(get("text") or get("summary") or "") if event in ("plan", "say", "log", "result") else ""


@dataclass
class Watch:
    """A run's event stream, read to its last event over as many connections as it takes."""

    http: httpx2.Client
    url: str
    last_id: str = ""
    ended: str = ""
    retries: int = field(default=0)

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        while not self.ended:
            try:
                headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
                with self.http.stream("GET", self.url, headers=headers, timeout=IDLE_SECONDS) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code not in (200, 429, 503):
                        raise ServerProblem(f"The event stream answers {answer.status_code}.")
                    yield from self.read(answer.iter_lines() if answer.status_code == 200 else iter(()))
            except httpx2.TransportError:
                pass  # connect again, after the last event that was read
            if not self.ended:
                self.retries += 1
                time.sleep(min(MAX_WAIT, 0.25 * 2**self.retries))

    def read(self, lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of one connection (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
        event = identity = ""
        data: list[str] = []
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                event = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                identity = value
            if line:
                continue
            if data:
                self.last_id, self.retries = identity or self.last_id, 0
                found: dict[str, Any] = json.loads("\n".join(data))
                if event in ("done", "error"):
                    self.ended = str(found.get("reason", "failed"))
                yield event, found
            event, data = "", []


@app.command()
def run(
    repository: Annotated[
        str, typer.Argument(help="The address of a git repository, or a folder that has one.")
    ],
    prompt: Annotated[str, typer.Argument(help="What the agents are to do.")],
    variations: Annotated[int, typer.Option("-n", "--variations", min=1)] = 3,
    seed: int = 0,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Of the variations in turn; may be repeated.")
    ] = None,
    server: Server = LOCAL,
    key: Key = "",
) -> None:
    """Run variations of an agent on a repository, each in its own container. Exit with 0 if one passed."""
    if Path(repository).is_dir():
        repository = str(Path(repository).resolve())
    body = {"repository": repository, "prompt": prompt, "variations": variations, "seed": seed}
    console = Console(soft_wrap=not sys.stdout.isatty())
    with httpx2.Client(
        base_url=f"{server.rstrip('/')}/api/v1", headers={"X-API-Key": key}, timeout=30
    ) as http:
        started = call(http, "POST", "/runs", json=body | ({"strategies": strategy} if strategy else {}))
        try:
            watch(http, started, console)
        except KeyboardInterrupt:
            call(http, "POST", f"/runs/{started['id']}/cancel")
            console.print("Cancelled.")
            raise typer.Exit(INTERRUPTED) from None
        rows = call(http, "GET", f"/runs/{started['id']}/results")["rows"]
    console.print(comparison(rows))
    console.print(f"Patches: {server}/api/v1/runs/{started['id']}/variations/N/patch", highlight=False)
    raise typer.Exit(0 if any(row["state"] == SUCCESS for row in rows) else 1)


def watch(http: httpx2.Client, started: dict[str, Any], console: Console) -> None:
    """Show a run's events until the last: in a live table, or as lines where there is no terminal."""
    shown = {each["n"]: Variation(dict(each)) for each in started["variations"]}
    live = Live(
        get_renderable=lambda: live_table(shown), console=console, refresh_per_second=4, transient=True
    )
    stream = Watch(http, f"/runs/{started['id']}/stream")
    with live if console.is_terminal else nullcontext():
        for event, data in stream.events():
            n = data.get("variation")
            if n in shown:
                shown[n].update(event, data)
                line = f"state: {data['name']}" if event == "state" else summary(event, data)
                if line and not console.is_terminal:
                    console.print(f"[{n}] {line}", markup=False, highlight=False)


def live_table(shown: dict[int, Variation]) -> Table:
    table = Table("", "strategy", "seed", "state", "tests ✓ / ✗", "tokens", "s", "now", expand=True)
    for column in table.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    table.columns[-1].ratio = 1
    for variation in shown.values():
        table.add_row(*variation.row())
    return table


def comparison(rows: list[dict[str, Any]]) -> Table:
    """The variations, the best first."""
    table = Table(
        "", "strategy", "state", "tests ✓ / ✗", "lines", "tokens", "s", title="Results, the best first"
    )
    for row in rows:
        tests = "" if row["tests_passed"] is None else f"{row['tests_passed']} / {row['tests_failed']}"
        lines = "" if row["lines_added"] is None else f"+{row['lines_added']} -{row['lines_removed']}"
        tokens = f"{(row['prompt_tokens'] or 0) + (row['completion_tokens'] or 0):,}"
        state = Text(printable(row["state"]), STYLES.get(row["state"], "red"))
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        table.add_row(str(row["n"]), printable(row["strategy"]), state, tests, lines, tokens, seconds)
    return table


@app.command()
def key(
    username: str,
    password: Annotated[str, typer.Option(prompt=True, hide_input=True, envvar="PARALLEL_AGENTS_PASSWORD")],
    register: Annotated[bool, typer.Option(help="Make the user first.")] = False,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "command line",
    server: Server = LOCAL,
) -> None:
    """Log in, and print a new API key."""
    credentials = {"username": username, "password": password}
    with httpx2.Client(base_url=f"{server.rstrip('/')}/api/v1", timeout=30) as http:
        if register:
            call(http, "POST", "/auth/register", json=credentials)
        token = call(http, "POST", "/auth/login", json=credentials)["access_token"]
        made = call(
            http, "POST", "/auth/keys", json={"name": name}, headers={"Authorization": f"Bearer {token}"}
        )
    print(made["key"])


def main() -> None:
    try:
        app()
    except ServerProblem as problem:
        sys.exit(printable(problem))
