"""The command line: start a run on a server, and watch its variations in a live table.

export PARALLEL_AGENTS_KEY=$(python -m parallel_agents key ada --register)
python -m parallel_agents run ./my-repository "Make the tests pass" -n 4
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

IDLE_SECONDS = 45  # the server pings every 15 s, so a connection that is silent for longer is dead
RETRIES = 6  # attempts to connect again, each after twice the time
Rows = dict[int, dict[str, Any]]  # the variations by their number

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Server = Annotated[str, typer.Option(envvar="PARALLEL_AGENTS_SERVER", help="Where the server is.")]
Key = Annotated[str, typer.Option(envvar="PARALLEL_AGENTS_KEY", help="An API key, as `key` makes it.")]
Password = Annotated[str, typer.Option(prompt=True, hide_input=True, envvar="PARALLEL_AGENTS_PASSWORD")]
LOCAL = "http://127.0.0.1:8000"


def connect(server: str, **headers: str) -> httpx2.Client:
    return httpx2.Client(base_url=f"{server.rstrip('/')}/api/v1", headers=headers, timeout=30)


def call(http: httpx2.Client, method: str, path: str, **options: Any) -> Any:
    """Call the server. Exit with one line if it refuses."""
    answer = http.request(method, path, **options)
    if answer.is_error:
        sys.exit(
            printable(f"{answer.status_code}: {answer.json()['detail']} {answer.json().get('errors', '')}")
        )
    return answer.json()


def printable(text: object) -> str:
    """One line without control characters: an agent's output must not steer the terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text)).strip()


def follow(http: httpx2.Client, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A run's events until the last, over as many connections as it takes."""
    last_id, attempt = "0", 0
    while True:
        try:
            headers = {"Last-Event-ID": last_id}
            with http.stream("GET", url, headers=headers, timeout=IDLE_SECONDS) as answer:
                if answer.status_code == 204:  # there is nothing after the last event
                    return
                for event in httpx2.EventSource(answer.raise_for_status()):
                    last_id, attempt = event.id, 0
                    yield event.event, event.json()  # type: ignore[misc]  # an object
                    if event.event == "done":
                        return
        except httpx2.HTTPError:
            if attempt == RETRIES:
                raise
        if attempt == RETRIES:
            sys.exit("The stream of the run ends before the run does.")
        time.sleep(0.25 * 2**attempt)
        attempt += 1


def update(row: dict[str, Any], event: str, data: dict[str, Any]) -> str:
    """Change a variation's row by an event. Returns the event as one line."""
    get = data.get
    if event == "state":
        row |= data | {"state": data["name"], "began": time.monotonic()}
        return f"state: {data['name']}"
    if event == "usage":
        row |= data
        return ""
    if event == "tests":
        row |= {"tests_passed": get("passed"), "tests_failed": get("failed")}
        said = f"{get('passed')} tests pass, {get('failed')} fail"
    elif event == "edit":
        said = f"{'helps' if get('helps') else 'no help'}: {get('file')}:{get('line')} {get('after')}"
    elif event == "command":
        said = f"$ {get('command')} ({get('seconds')} s)"
    else:
        said = get("text") or get("summary") or get("reason") or ""
    line = row["now"] = printable(said)
    return line


def table(rows: list[dict[str, Any]], title: str = "") -> Table:
    shown = Table(
        "", "strategy", "state", "tests ✓ / ✗", "lines", "tokens", "s", "", title=title, expand=True
    )
    for column in shown.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    shown.columns[-1].ratio = 1
    for row in rows:
        seconds = row["seconds"] or (time.monotonic() - row["began"] if "began" in row else 0)
        cells = [
            row["n"],
            row["strategy"],
            row["state"],
            "",
            f"+{row['lines_added']} -{row['lines_removed']}",
        ]
        if row["tests_passed"] is not None:
            cells[3] = f"{row['tests_passed']} / {row['tests_failed']}"
        cells += [f"{row['prompt_tokens'] + row['completion_tokens']:,}", f"{seconds:.1f}"]
        style = {"passed": "green", "running": "cyan", "queued": "dim"}.get(row["state"], "yellow")
        shown.add_row(*map(printable, [*cells, row["summary"] or row.get("now", "")]), style=style)
    return shown


@app.command()
def run(
    repository: Annotated[str, typer.Argument(help="The address of a git repository, or its folder.")],
    prompt: Annotated[str, typer.Argument(help="What the agents are to do.")],
    variations: Annotated[int, typer.Option("-n", "--variations", min=1)] = 3,
    seed: int = 0,
    server: Server = LOCAL,
    key: Key = "",
) -> None:
    """Run variations of an agent on a repository, each in its own container. Exit with 0 if one passed."""
    if Path(repository).is_dir():
        repository = str(Path(repository).resolve())
    body = {"repository": repository, "prompt": prompt, "variations": variations, "seed": seed}
    console = Console(soft_wrap=not sys.stdout.isatty(), markup=False, highlight=False)
    with connect(server, **{"X-API-Key": key}) as http:
        started = call(http, "POST", "/runs", json=body)
        rows: Rows = {each["n"]: each for each in started["variations"]}
        try:
            with Live(get_renderable=lambda: table(list(rows.values())), console=console, transient=True):
                for event, data in follow(http, f"/runs/{started['id']}/stream"):
                    n = data.get("variation")
                    line = update(rows[n], event, data) if n in rows else ""
                    if line and not console.is_terminal:
                        console.print(f"[{n}] {line}")
        except KeyboardInterrupt:
            call(http, "POST", f"/runs/{started['id']}/cancel")
            console.print("Cancelled.")
            raise typer.Exit(130) from None
        best = call(http, "GET", f"/runs/{started['id']}/results")["rows"]
    console.print(table(best, "Results, the best first"))
    console.print(f"Patches: {server}/api/v1/runs/{started['id']}/variations/N/patch")
    raise typer.Exit(0 if any(row["state"] == "passed" for row in best) else 1)


@app.command()
def key(
    username: str,
    password: Password,
    register: Annotated[bool, typer.Option(help="Make the user first.")] = False,
    server: Server = LOCAL,
) -> None:
    """Log in, and print a new API key."""
    credentials = {"username": username, "password": password}
    with connect(server) as http:
        if register:
            call(http, "POST", "/auth/register", json=credentials)
        token = call(http, "POST", "/auth/login", json=credentials)["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        print(call(http, "POST", "/auth/keys", json={"name": "command line"}, headers=bearer)["key"])


def main() -> None:
    try:
        app()
    except httpx2.HTTPError as error:
        sys.exit(f"The server does not answer: {type(error).__name__}.")
