"""Generate an agent: a FastAPI service beside a Dapr sidecar, with its image, manifests and tests.

You learn: what belongs to a service besides its logic, and that it is the same for each.
Run:       python generate_agent.py --name triage --type router
           python generate_agent.py --all services     # the five agents, and what they run with
See:       services/triage/app.py, and `python launch.py services/dapr.yaml`
"""

import json
import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import jinja2
import typer

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE / "templates"
MODEL = "gpt-5.4-mini"


class AgentType(StrEnum):
    router = "router"
    explainer = "explainer"
    debugger = "debugger"
    generator = "generator"
    tracker = "tracker"


# The five agents, in the order of their ports.
AGENTS = {
    "triage": AgentType.router,
    "concepts": AgentType.explainer,
    "debug": AgentType.debugger,
    "exercise": AgentType.generator,
    "progress": AgentType.tracker,
}
SANDBOXED = {AgentType.explainer, AgentType.generator}  # they run code that nobody has read

SUFFIXES = {".j2", ".py", ".toml", ".txt"}


class Refused(Exception):
    """The message says in one line what is wrong."""


@dataclass(frozen=True)
class Service:
    """What the templates know about a service."""

    name: str
    type: AgentType
    port: int = 5000
    dapr_port: int = 3500
    openai_model: str = MODEL

    def __post_init__(self) -> None:
        # A label of RFC 1123: Kubernetes, Dapr and Docker all take it as a name.
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise Refused(
                f"--name {self.name!r}: use at most 40 lower-case letters, digits and dashes, beginning with "
                "a letter and not ending with a dash"
            )
        for flag, port in (("--port", self.port), ("--dapr-port", self.dapr_port)):
            if not 1024 <= port <= 65_535:
                raise Refused(f"{flag} {port}: use a port from 1024 to 65535")
        if self.port == self.dapr_port:
            raise Refused(
                f"--port and --dapr-port are both {self.port}: the app and its sidecar share a network"
            )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/?&=@-]{0,99}", self.openai_model):
            raise Refused(f"--openai-model {self.openai_model!r}: this is no name of a model")

    @property
    def app_id(self) -> str:
        return f"{self.name}-agent"


def templates(service: Service) -> dict[str, Path]:
    """The files of a service by their paths in it. The type's own files replace those of all services."""
    folders = ["service", *(["sandbox"] if service.type in SANDBOXED else []), service.type]
    return {
        str(path.relative_to(TEMPLATES / folder)).removesuffix(".j2"): path
        for folder in folders
        for path in sorted((TEMPLATES / folder).rglob("*"))
        if path.suffix in SUFFIXES and path.name != "cases.py.j2" and path.parent.name[0] != "."
    }


def environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # no HTML: each value is checked above, and quoted by the filters
    )
    found.filters["python"] = found.filters["yaml"] = json.dumps  # a JSON string is one in both languages
    return found


def render(service: Service) -> dict[str, str]:
    """The texts of a service's files by their paths. The same service always gives the same texts."""
    jinja, files = environment(), {}
    paths = templates(service)
    image = {path for path in paths if path.endswith((".py", ".toml")) and "/" not in path} - {
        "pyproject.toml"
    }
    for name, path in sorted(paths.items()):
        if path.suffix == ".j2":
            template = jinja.get_template(path.relative_to(TEMPLATES).as_posix())
            known = {field: getattr(service, field) for field in (*service.__dataclass_fields__, "app_id")}
            files[name] = template.render(known, sources=sorted(image))
        else:
            files[name] = path.read_text("utf-8")
    return files


def render_all(model: str) -> dict[str, str]:
    """The five agents, the components that they share, and the run file that starts them."""
    services = [
        Service(name, kind, 5000 + at, 3500 + at, model) for at, (name, kind) in enumerate(AGENTS.items())
    ]
    files = {f"{each.name}/{path}": text for each in services for path, text in render(each).items()}
    components = sorted((HERE / "components").glob("*.yaml"))
    files |= {f"components/{path.name}": path.read_text("utf-8") for path in components}
    run_file = environment().get_template("dapr.yaml.j2").render(services=services)
    return files | {"dapr.yaml": run_file}


def write(files: dict[str, str], folder: Path, force: bool, dry_run: bool) -> None:
    """Write all files, or none if one is there already."""
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder} is a file")
    there = [path for path in files if (folder / path).exists()]
    if there and not force:
        raise Refused(f"{folder / there[0]} exists already; --force overwrites it")
    for path, text in files.items():
        print(f"{'would write' if dry_run else 'wrote'} {folder / path}")
        if not dry_run:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, "utf-8")


cli = typer.Typer(add_completion=False, rich_markup_mode=None)


@cli.command()
def generate(
    name: Annotated[str | None, typer.Option(help="the agent's name, such as triage")] = None,
    type_: Annotated[AgentType | None, typer.Option("--type", help="what the agent does")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="where to write it  [default: services/NAME]")
    ] = None,
    port: Annotated[int, typer.Option(help="the app's port")] = 5000,
    dapr_port: Annotated[int, typer.Option(help="the sidecar's port for HTTP")] = 3500,
    openai_model: Annotated[str, typer.Option(help="the default of MODEL_NAME")] = MODEL,
    all_: Annotated[
        Path | None, typer.Option("--all", metavar="DIR", help="write all five agents here")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite files")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list the files")] = False,
) -> None:
    """Write an agent's service, or all five."""
    if all_ is not None:
        if name or type_ or output_dir:
            raise Refused("--all has names, types and folders of its own")
        Service("checked", AgentType.router, openai_model=openai_model)
        write(render_all(openai_model), all_, force, dry_run)
        return
    if not name or not type_:
        raise Refused("--name and --type are needed, or --all DIR")
    service = Service(name, type_, port, dapr_port, openai_model)
    write(render(service), output_dir or Path("services") / name, force, dry_run)


def main() -> int:
    try:
        cli(standalone_mode=False)
    except (Refused, OSError, typer.Exit) as error:
        if isinstance(error, typer.Exit):
            return error.exit_code
        print(f"✗ {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of typer's own errors
            raise
        print(f"✗ {error.format_message()}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
