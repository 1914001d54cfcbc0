"""The checks of `make lint`. Each returns its findings, one line each."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import yaml

from course import engines
from course.containers.installations import copy_manifests, generate_dapr_agents
from course.engines.kubernetes import pinned_version
from course.errors import CourseError
from course.exercises.format import exercises
from course.figures import files
from course.lint.imports import undeclared_imports
from course.pages.format import BadPage, read_page
from course.pages.listings import embed_listings
from course.paths import ROOT


def commands() -> list[list[str]]:
    """The commands of other linters, run in the course's folder. mypy checks each lesson on its own."""
    tools = Path(sys.executable).parent
    folders = [ROOT / folder for folder in ("code", "offline-model", "research-agent", "tools")]
    scripts = [str(path) for folder in folders for path in sorted(folder.glob("**/*.sh"))]
    # The Dockerfiles in tests/images are bad on purpose.
    dockerfiles = [
        str(path)
        for folder in folders
        for path in sorted(folder.glob("**/Dockerfile*"))
        if path.suffix != ".j2"
    ]
    compose = [path for path in ROOT.glob("research-agent/**/*.yml") if "services:" in path.read_text()]
    compose += ROOT.glob("code/*/docker-compose.yml")
    workflows = [each for path in (".", "code/*") for each in ROOT.glob(f"{path}/.github/workflows/*.yml")]
    schema = [str(tools / "check-jsonschema"), "--builtin-schema"]
    lessons = [[str(path)] for path in sorted((ROOT / "code").iterdir()) if path.suffix == ".py"]
    typed = [["course", "bench", "tests"], ["offline-model/offline_model"], ["research-agent"], *lessons]
    return [
        [str(tools / "ruff"), "check", "--quiet"],
        [str(tools / "ruff"), "format", "--check", "--quiet"],
        *[[str(tools / "mypy"), "--no-error-summary", *paths] for paths in typed],
        [str(tools / "shellcheck"), str(ROOT / ".ci/run"), *scripts],
        [str(tools / "hadolint"), "--no-color", *dockerfiles],
        [*schema, "vendor.compose-spec", *map(str, compose)],
        [
            *schema,
            "vendor.gitlab-ci",
            *map(str, [ROOT / ".gitlab-ci.yml", *ROOT.glob("code/*/.gitlab-ci.yml")]),
        ],
        [*schema, "vendor.github-workflows", *map(str, workflows)],
        *actionlint(workflows),
    ]


def actionlint(workflows: list[Path]) -> list[list[str]]:
    """Its command, where there is Go, with which it is built; in CI it must be there."""
    if not (shutil.which("go") or os.environ.get("CI")):
        return []
    shellcheck = str(Path(sys.executable).parent / "shellcheck")
    command = ["go", "-C", str(ROOT / "tools/actionlint"), "tool", "actionlint", "-shellcheck", shellcheck]
    return [[*command, *map(str, workflows)]]


def packages() -> list[tuple[list[str], Path]]:
    """The commands that check the types of lessons that are folders, each with the folder to run it in."""
    mypy = [str(Path(sys.executable).parent / "mypy"), "--no-error-summary"]
    config = ["--config-file", str(ROOT / "pyproject.toml")]
    mains = sorted([*ROOT.glob("code/*/main.py"), *ROOT.glob("code/*/launch.py")])
    checks = [([*mypy, *config, "."], main.parent) for main in mains]
    modules = sorted(ROOT.glob("code/*/src/main.py"))  # of Dagger, whose folder has examples beside src
    return checks + [([*mypy, *config, ".", "../examples"], main.parent) for main in modules]


def manifest_problems() -> list[str]:
    """Manifests of Kubernetes that do not fit its schema: each file, and what Kustomize makes of them.

    kubernetes-validate has the schemas. kubeconform uses them too, and finds keys that occur twice.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        lesson = copy_manifests(ROOT, Path(folder))
        generate_dapr_agents(lesson)
        parts = {"kustomization.yaml", "sidecar.yaml", "components.yaml", "configuration.yaml"}
        files = [path for path in lesson.glob("*/*.yaml") if path.name not in parts]
        files += [*lesson.glob("*.yaml"), *ROOT.glob("tools/kubernetes/manifests/*.yaml")]
        kubectl = engines.KUBERNETES.program() or shutil.which("kubectl")
        for overlay in ("overlays/local", "overlays/production", "smoke", "dapr") if kubectl else ():
            built = Path(folder) / f"{Path(overlay).name}.yaml"
            run = subprocess.run(
                [str(kubectl), "kustomize", lesson / overlay], capture_output=True, text=True
            )
            built.write_text(run.stdout)
            if run.returncode:
                found.append(f"code/11_kubernetes/{overlay}: {run.stderr.strip()}")
            files.append(built)
        if not kubectl and os.environ.get("CI"):
            found.append("kubectl is missing: `make engine kubernetes`")
        schemas = Path(str(resources.files("kubernetes_validate"))) / "kubernetes-json-schema"
        version = f"{pinned_version().rpartition('.')[0]}.0"
        validate = [str(Path(sys.executable).parent / "kubernetes-validate"), "--strict", "--quiet"]
        commands = [[*validate, "--kubernetes-version", version, *map(str, sorted(files))]]
        if shutil.which("go") or os.environ.get("CI"):
            for path in (schemas / f"v{version}-local-strict").iterdir():
                schema = json.loads(path.read_text())
                schema.pop("$id", None)  # else kubeconform asks the web for references
                (Path(folder) / path.name).write_text(json.dumps(schema).replace('"/api/', '"'))
            places = f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
            conform = ["go", "-C", str(ROOT / "tools/kubeconform"), "tool", "kubeconform", "-strict"]
            commands.append([*conform, "-schema-location", places, *map(str, sorted(files))])
        for command in commands:
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                found.append((run.stdout + run.stderr).strip())
    return found


def page_problems() -> list[str]:
    """Pages that break the format, or whose listings differ from the code."""
    found = []
    for path in sorted((ROOT / "docs").glob("**/*.md")):
        try:
            if embed_listings(path, text := path.read_text(encoding="utf-8")) != text:
                found.append(f"{path.name}: a listing differs from the code; `make docs` updates it")
            prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
            for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
                if not (path.parent / link).exists():
                    found.append(f"{path.name}: the link {link} has no target")
            for file in read_page(path).files:
                if not (ROOT / file).exists():
                    found.append(f"{path.name}: the file {file} of its front matter does not exist")
        except BadPage as bad:
            found.append(str(bad))
    return found


def unparsable_config_files() -> list[str]:
    """YAML and JSON files without a schema that do not parse."""
    found = []
    for pattern in (
        "code/**/*.yml",
        "code/**/*.json",
        "research-agent/**/*.yml",
        "tools/**/*.yml",
        "tools/**/*.json",
        ".devcontainer/*.json",
    ):
        for path in sorted(ROOT.glob(pattern)):
            try:
                yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML as well
            except yaml.YAMLError as bad:
                found.append(f"{path.relative_to(ROOT)}: {' '.join(str(bad).split())}")
    return found


def broken_exercises() -> list[str]:
    """Exercises that do not parse, or whose changes do not fit the lesson any more."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for exercise in exercises():
                exercise.put_into(Path(folder) / exercise.slug)
        except (CourseError, ValueError) as bad:
            found.append(f"exercises: {bad}")
    return found


def lock_files_with_index_url() -> list[str]:
    """Lock files must not name a package index, because a learner may use another one."""
    locks = sorted([*ROOT.glob("requirements/*.txt"), *ROOT.glob("*/requirements.txt")])
    return [
        f"{lock.relative_to(ROOT)}: names a package index; run `make lock`"
        for lock in locks
        if re.search(r"index-url|://", lock.read_text())
    ]


def lint() -> list[str]:
    """The findings of all checks; those of other linters as they print them."""
    found = []
    for command, folder in [*((command, ROOT) for command in commands()), *packages()]:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if run.returncode:
            found.append((run.stdout + run.stderr).strip() or f"{Path(command[0]).name} failed")
    found += manifest_problems() + unparsable_config_files() + page_problems() + broken_exercises()
    found += lock_files_with_index_url() + undeclared_imports()
    return found + files.problems()
